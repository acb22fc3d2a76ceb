"""What a check found: errors that stop a run, and warnings that are shown twice."""

import textwrap
from collections.abc import Iterable

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmmaskdistill.errors import ConfigErrors

WIDTH = 88


class Findings:
    """The findings of a check, each of which is one line.

    An error makes training impossible. A warning says that training works, but that
    its result is useless or not the one that was meant.

    Attributes:
        errors (list[str]): The errors.
        warnings (list[str]): The warnings.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def error(self, *texts: str) -> None:
        """Add errors. A text that is already there is not added again."""
        _add(self.errors, texts)

    def warn(self, *texts: str) -> None:
        """Add warnings. A text that is already there is not added again."""
        _add(self.warnings, texts)

    def add(self, text: str, fatal: bool) -> None:
        """Add one finding.

        Args:
            text (str): The finding.
            fatal (bool): Whether it is an error.
        """
        (self.error if fatal else self.warn)(text)

    def raise_errors(self) -> None:
        """Raise all errors at once.

        Raises:
            ConfigErrors: If there is an error.
        """
        if self.errors:
            raise ConfigErrors(self.errors)

    def framed(self) -> str:
        """Return the warnings in a frame, or an empty string without warnings."""
        return frame(self.warnings)


def frame(warnings: Iterable[str]) -> str:
    """Draw a frame around warnings.

    Args:
        warnings (Iterable[str]): The warnings. Long lines are wrapped at blanks, but
            paths are kept whole.

    Returns:
        str: Several lines, or an empty string without warnings.
    """
    warnings = list(warnings)
    if not warnings:
        return ''
    lines = []
    for text in warnings:
        lines += textwrap.wrap(
            text,
            WIDTH - 2,
            initial_indent='* ',
            subsequent_indent='  ',
            break_long_words=False,
            break_on_hyphens=False,
        )
    title = f' {len(warnings)} warning{"s" * (len(warnings) > 1)} '
    return '\n'.join([title.center(WIDTH, '='), *lines, '=' * WIDTH])


class WarningHook(Hook):
    """Write warnings to the log directly before the first iteration.

    What was printed before the model was built has scrolled away by then, and it is
    not in the log file.

    Args:
        warnings (list[str]): The warnings.
    """

    priority = 'LOWEST'

    def __init__(self, warnings: list[str]):
        self.warnings = warnings

    def before_train(self, runner: Runner) -> None:
        """Write the warnings.

        Args:
            runner (Runner): The runner of the training.
        """
        runner.logger.warning('\n' + frame(self.warnings))


def _add(to: list[str], texts: Iterable[str]) -> None:
    to.extend(text for text in dict.fromkeys(texts) if text not in to)
