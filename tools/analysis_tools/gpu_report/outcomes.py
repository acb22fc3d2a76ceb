"""A plugin of pytest that writes the outcomes of tests whenever one has ended.

Tests that are killed, or end the process, leave the outcomes of those before them.
"""

import json
import os
from collections import Counter
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for the file.

    Args:
        parser (pytest.Parser): pytest's parser.
    """
    parser.addoption('--outcomes', type=Path, help='JSON file of the outcomes')


def pytest_configure(config: pytest.Config) -> None:
    """Register what writes the file.

    Args:
        config (pytest.Config): pytest's configuration.
    """
    config.pluginmanager.register(Outcomes(config.getoption('--outcomes')))


class Outcomes:
    """Write the outcomes of tests.

    The file has ``counts`` of passed, failed and skipped tests; ``failed``, the names
    of failed tests with the first line of their message; ``skipped``, the reasons with
    the number of tests, among them the tests that fail as expected; ``seconds`` of each
    test; and ``running``, the name of the test that runs, or None.

    Args:
        path (Path): The file.
    """

    def __init__(self, path: Path):
        self.path, self.running = path, None
        self.outcomes, self.seconds = {}, {}
        self.failed, self.skipped = {}, Counter()

    def pytest_sessionstart(self) -> None:
        """Write the file before the first test."""
        self.write()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note the test that begins.

        Args:
            nodeid (str): pytest's name of the test.
        """
        self.running = name_of(nodeid)
        self.write()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the outcome of a test's setup, of the test itself or of its teardown.

        Args:
            report (pytest.TestReport): pytest's report.
        """
        name = name_of(report.nodeid)
        self.seconds[name] = self.seconds.get(name, 0.0) + report.duration
        if report.failed:
            crash = getattr(report.longrepr, 'reprcrash', None)
            text = crash.message if crash else str(report.longrepr)
            self.failed[name] = text.strip().split('\n')[0]
            # A test whose teardown fails has not passed.
            self.outcomes[name] = 'failed'
        elif report.skipped:
            if hasattr(report, 'wasxfail'):
                reason = f'expected to fail: {report.wasxfail}'
            else:
                *_, reason = report.longrepr
            self.skipped[reason.removeprefix('Skipped: ')] += 1
            self.outcomes[name] = 'skipped'
        elif report.when == 'call':
            self.outcomes[name] = 'passed'

    def pytest_runtest_logfinish(self) -> None:
        """Write the file after a test."""
        self.running = None
        self.write()

    def write(self) -> None:
        """Write the file in one go."""
        content = dict(
            counts=dict(passed=0, failed=0, skipped=0)
            | Counter(self.outcomes.values()),
            failed=self.failed,
            skipped=self.skipped,
            seconds=self.seconds,
            running=self.running,
        )
        draft = self.path.with_name(self.path.name + '.tmp')
        draft.write_text(json.dumps(content))
        os.replace(draft, self.path)


def name_of(nodeid: str) -> str:
    """Shorten pytest's name of a test to that of its file without its folders.

    Args:
        nodeid (str): The name, such as ``tests/test_gpu/test_a.py::test_b[c/d]``.

    Returns:
        str: Such as ``test_a::test_b[c/d]``.
    """
    file, _, test = nodeid.partition('::')
    return f'{Path(file).stem}::{test}'
