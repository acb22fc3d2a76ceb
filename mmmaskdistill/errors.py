"""Errors that the user who starts a run can correct.

The tools print the message of such an error as a single line without a traceback.
"""


class ConfigError(ValueError):
    """A setting is wrong, or it does not fit other settings or the data."""


class CheckpointError(RuntimeError):
    """A checkpoint is missing, unreadable or from another model."""
