"""The packages that a machine without a network needs."""

import re
from collections import deque
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement

PROJECT = 'mmmaskdistill'
EXTRAS = ('lite', 'demo')
# pytest runs the tests of step 1; the others install the checkout.
OTHERS = ('pytest', 'pip', 'setuptools', 'wheel')

HEAD = """\
# The packages of this environment that the report needs. On a machine with the same
# Python and platform and with a network, save this list as wheels.txt and run
#   pip download --dest wheels -r wheels.txt
# torch and torchvision must be built for a CUDA version that the driver of the GPU
# supports: PyTorch's own index has other builds than the package index. Copy the folder
# and the checkout to the machine with the GPU, and run there, in a new environment,
#   pip install --no-index --find-links wheels -r wheels.txt
#   pip install --no-index --no-deps --no-build-isolation -e CHECKOUT
#   bash CHECKOUT/tools/analysis_tools/gpu_report.sh
# torch.compile also needs a C compiler (gcc) and the header files of Python
# (python3-dev); without them, what is compiled is missing in the report.\
"""


def needed(project: str = PROJECT, extras: tuple[str, ...] = EXTRAS) -> dict[str, str]:
    """Find the installed packages that a project requires, directly or not.

    Args:
        project (str): Name of the installed project.
        extras (tuple[str, ...]): Its extras.

    Returns:
        dict[str, str]: Versions by name, in alphabetical order, without the project.

    Raises:
        PackageNotFoundError: If the project is not installed.
    """
    versions, todo, seen = {}, deque(), set()
    todo.append((project, frozenset(extras)))
    todo.extend((name, frozenset()) for name in OTHERS)
    while todo:
        name, wanted = todo.popleft()
        key = re.sub('[-_.]+', '-', name).lower(), wanted
        if key in seen:
            continue
        seen.add(key)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            # Of another platform, or an alternative that is installed otherwise.
            if name == project:
                raise
            continue
        if name != project:
            # Versions such as 2.9.0+cpu are not on the package index.
            versions[key[0]] = found.version.split('+')[0]
        for text in found.requires or ():
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is None or any(
                marker.evaluate(dict(extra=extra)) for extra in ('', *wanted)
            ):
                todo.append((requirement.name, frozenset(requirement.extras)))
    return dict(sorted(versions.items()))


def text() -> str:
    """Return the list of packages and the commands that use it."""
    lines = [f'{name}=={version}' for name, version in needed().items()]
    return '\n'.join([HEAD, *lines])
