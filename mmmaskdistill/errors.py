"""What whoever starts a run can put right.

The tools show such an error's message, one line, without a traceback.
"""


class ConfigError(ValueError):
    """A setting that is wrong, or does not fit the others or the data."""


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, unreadable or of another model."""
