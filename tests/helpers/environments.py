"""Helpers of the tests that use an environment of their own."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*command, cwd: Path, **kwargs) -> str:
    """Run a command in a folder and return what it printed."""
    result = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        **kwargs,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def new_environment(place: Path, wheel: Path) -> Path:
    """Make an environment with a wheel and with the packages of the tests.

    Args:
        place (Path): Folder of the environment.
        wheel (Path): Installed without its requirements.

    Returns:
        Path: The environment's interpreter.
    """
    venv.create(place, with_pip=False, symlinks=True)
    (packages,) = place.glob('lib/python*/site-packages')
    # A folder that a .pth file names is searched after the environment's own one, and
    # its own .pth files, which lead to the checkout, are not read.
    (packages / 'packages_of_the_tests.pth').write_text(
        sysconfig.get_paths()['purelib'] + '\n'
    )
    install(packages, '--no-deps', '--no-index', wheel)
    return place / 'bin/python'


def install(packages: Path, *arguments: str | Path) -> None:
    """Call pip of the tests to install into the site-packages of an environment."""
    pip = (sys.executable, '-m', 'pip', '--disable-pip-version-check', 'install')
    run(*pip, '--target', packages, *arguments, cwd=packages)
