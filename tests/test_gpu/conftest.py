"""What a GPU changes is tested on the CPU too, where this is meaningful.

``tools/analysis_tools/gpu_report.sh`` runs these tests on a machine with a GPU. All of
them have the marker ``gpu``. Devices are compared with the CPU in full precision: the
difference of two tensors is their distance, relative to the length of the expected one.
"""

import os

# Without it, products of matrices on a GPU are not reproducible. It must be set before
# the first of them.
os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')

from pathlib import Path

import pytest
import torch

# Largest difference of values and gradients, for each precision: some rounding errors,
# of 2**-24, 2**-11 and 2**-8.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(params=['cpu', 'cuda'])
def device(request):
    if request.param == 'cuda' and not torch.cuda.is_available():
        pytest.skip('needs a GPU')
    return torch.device(request.param)


@pytest.fixture
def gpu():
    if not torch.cuda.is_available():
        pytest.skip('needs a GPU')
    return torch.device('cuda')


@pytest.fixture(autouse=True)
def no_tf32(monkeypatch):
    """By default, cuDNN rounds what it convolves in float32 to TF32."""
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)


@pytest.fixture
def assert_close():
    """Assert that a tensor of any device is as close as its precision allows."""

    def assert_close(got, expected, dtype=torch.float32, name='', tolerance=None):
        got, expected = got.detach().cpu().double(), expected.detach().cpu().double()
        assert got.isfinite().all(), name
        difference = (got - expected).norm() / expected.norm().clamp(min=1e-12)
        assert difference <= (tolerance or TOLERANCES[dtype]), (name, difference)

    return assert_close
