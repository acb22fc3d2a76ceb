"""What whoever wrote a config can put right."""


class ConfigError(ValueError):
    """A setting that is wrong, or does not fit the others or the data.

    The tools show its message, one line, without a traceback.
    """
