"""Errors that the user who starts a run can correct, and help to phrase them.

The tools print the message of such an error as a single line without a traceback.
"""

from collections.abc import Sequence


class ConfigError(ValueError):
    """A setting is wrong, or it does not fit other settings or the data.

    torch raises the error of a data loader's worker again with a message that begins
    with the worker's traceback. Only the original message is kept.

    Args:
        message (str): The message.
    """

    def __init__(self, message: str = ''):
        if message.startswith('Caught ') and '\nOriginal Traceback' in message:
            # The last error is the one that was raised, others led to it.
            message = message.rpartition(f'{type(self).__name__}: ')[2].strip()
        super().__init__(message)


class ConfigErrors(ConfigError):
    """Several settings are wrong.

    Args:
        messages (Sequence[str]): One message for each of them.

    Attributes:
        messages (list[str]): The messages.
    """

    def __init__(self, messages: Sequence[str]):
        self.messages = list(messages)
        super().__init__('\n'.join(self.messages))


class CheckpointError(RuntimeError):
    """A checkpoint is missing, unreadable or from another model."""


def first_few(items: list[str], count: int = 3) -> str:
    """Join the first items of a list for a message, and count the others.

    Args:
        items (list[str]): The list.
        count (int): How many items to name. Defaults to 3.

    Returns:
        str: Such as ``'a, b, c and 2 more'``.
    """
    more = f' and {len(items) - count} more' if len(items) > count else ''
    return ', '.join(items[:count]) + more


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or else the name of its type.

    Args:
        error (Exception): The error. What torch puts before the message of its
            ``WeightsUnpickler`` is left out.
    """
    message = str(error).split('WeightsUnpickler error:')[-1].strip()
    return message.split('\n')[0] or type(error).__name__
