"""Settings that change during a training run."""

from mmmaskdistill.errors import ConfigError


class Ramp:
    """A value that changes linearly with the progress of the run.

    The progress p is the share of the run's iterations that lie behind, from 0 to
    1. The value is::

        start + (end - start) * clip((p - begin) / (until - begin), 0, 1)

    Args:
        start (float): Value at the beginning of the run.
        end (float): Value at the end of the run.
        begin (float): Progress up to which the value is ``start``. Defaults to 0.
        until (float): Progress from which on the value is ``end``. Defaults to 1.

    Raises:
        ConfigError: If not ``0 <= begin < until <= 1``.
    """

    def __init__(
        self, start: float, end: float, begin: float = 0.0, until: float = 1.0
    ):
        if not 0 <= begin < until <= 1:
            raise ConfigError(
                f'a value that goes from {start} to {end} has begin={begin} and '
                f'until={until}: expected shares of the run with '
                '0 <= begin < until <= 1'
            )
        self.start, self.end, self.begin, self.until = start, end, begin, until

    def __call__(self, progress: float) -> float:
        """Return the value at a progress of 0 to 1."""
        share = (progress - self.begin) / (self.until - self.begin)
        return self.start + (self.end - self.start) * min(max(share, 0.0), 1.0)

    def __repr__(self) -> str:
        if self.start == self.end:
            return repr(self.start)
        return (
            f'Ramp(start={self.start}, end={self.end}, begin={self.begin}, '
            f'until={self.until})'
        )


def parse_ramp(value: float | dict, name: str) -> Ramp:
    """Turn a setting of a config into a :class:`Ramp`.

    Args:
        value (float | dict): A number, which stays the same during the run, or the
            arguments of a :class:`Ramp`.
        name (str): The setting's name, for the message of an error.

    Returns:
        Ramp: The setting as a function of the progress.

    Raises:
        ConfigError: If the value is something else, or a number of it is negative.
    """
    if isinstance(value, dict):
        try:
            ramp = Ramp(**value)
        except TypeError:
            raise ConfigError(
                f'{name}={dict(value)}: expected a number, or a dict with start and '
                'end, and perhaps begin and until'
            ) from None
    else:
        ramp = Ramp(value, value)
    for number in (ramp.start, ramp.end):
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise ConfigError(f'{name}={value!r}: {number!r} is not a number')
        if not 0 <= number < float('inf'):
            raise ConfigError(f'{name}={value!r}: expected 0 or more')
    return ramp
