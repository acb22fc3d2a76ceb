import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A Python without distutils that has not read the .pth file of setuptools.
REMOVE = """
import sys

class NoDistutils:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == 'distutils':
            raise ModuleNotFoundError("No module named 'distutils'")

finders = [f for f in sys.meta_path if type(f).__name__ != 'DistutilsMetaFinder']
sys.meta_path[:] = [NoDistutils, *finders]
sys.stdlib_module_names -= {'distutils'}
"""

LOG_ENVIRONMENT = """
from mmengine.utils.dl_utils import collect_env
assert collect_env()['Python']
"""


def run(code):
    return subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_unpatched_mmengine_needs_distutils():
    unpatched = run(REMOVE + LOG_ENVIRONMENT)
    assert unpatched.returncode != 0
    assert "No module named 'distutils'" in unpatched.stderr


def test_patched_mmengine_logs_the_environment():
    pytest.importorskip('_distutils_hack', reason='there is no setuptools')
    patched = run(REMOVE + 'import mmmaskdistill.compat' + LOG_ENVIRONMENT)
    assert patched.returncode == 0, patched.stderr
