"""Settings of all tests: one thread, no window for plots, no network."""

import os

os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('MPLBACKEND', 'Agg')
os.environ.setdefault('HF_HUB_OFFLINE', '1')

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer
from packaging.version import Version

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fixed_seed():
    """Make a test's random numbers independent of the tests before it."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def no_leftover_scope():
    """Remove the default scope that the Runner of an earlier test has set.

    Registries would look names up in it.
    """
    DefaultScope._instance_dict.clear()


@pytest.fixture(autouse=True)
def no_leftover_visualizer():
    """Remove the visualizers that the Runner of an earlier test has made.

    A Runner whose visualizer has the same name would write to the folder of that test.
    """
    kinds = [Visualizer]
    for kind in kinds:
        kind._instance_dict.clear()
        kinds += kind.__subclasses__()


@pytest.fixture(autouse=True)
def restored_log_levels():
    """Undo what a test does to the levels of mmengine's loggers."""
    levels = {logger: logger.level for logger in MMLogger._instance_dict.values()}
    yield
    for logger in MMLogger._instance_dict.values():
        logger.setLevel(levels.get(logger, 'NOTSET'))


@pytest.fixture
def fake_gpu():
    """A GPU without values, to be used as ``with fake_gpu:``, see ``FakeGPU``."""
    from helpers.fake_gpu import FakeGPU

    # torch 2.9 cannot make all fake tensors on a machine without a driver, and aborts.
    if Version(torch.__version__) < Version('2.14'):
        pytest.skip('the fake GPU is only tested with torch 2.14 and later')
    return FakeGPU()
