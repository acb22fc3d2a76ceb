"""Tests share small machines: one thread each, no window, no network."""

import os

os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('MPLBACKEND', 'Agg')
os.environ.setdefault('HF_HUB_OFFLINE', '1')

import pytest
import torch
from mmengine.registry import DefaultScope

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_numbers_in_any_order():
    """A test's random numbers do not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_scope_of_an_earlier_run():
    """A Runner leaves its default scope behind, where names are looked up."""
    DefaultScope._instance_dict.clear()
