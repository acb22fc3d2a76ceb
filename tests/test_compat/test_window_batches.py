import pytest
import torch
from mmpretrain.models.utils.attention import ShiftWindowMSA
from mmseg.models.backbones import swin

import mmmaskdistill  # noqa: F401


def build(library):
    options = dict(embed_dims=8, num_heads=2, window_size=2, shift_size=1)
    if library == 'mmpretrain':
        return ShiftWindowMSA(**options)
    return swin.ShiftWindowMSA(**options)


@pytest.mark.parametrize('library', ['mmpretrain', 'mmseg'])
def test_traces_take_batches_of_any_size(library):
    attention = build(library).eval().requires_grad_(False)
    grid = (5, 6)  # is padded to whole windows

    def run(x):
        return attention(x, grid)

    x = torch.randn(6, 30, 8)
    with torch.no_grad():
        traced = torch.jit.trace(run, x[:2], check_trace=False)
        for batch in (x[:1], x[:2], x):
            torch.testing.assert_close(traced(batch), attention(batch, grid))


@pytest.mark.parametrize('library', ['mmpretrain', 'mmseg'])
def test_windows_are_joined_as_they_were_split(library):
    attention = build(library)
    maps = torch.randn(3, 4, 6, 8)
    if library == 'mmpretrain':
        windows = attention.window_partition(maps, 2)
        joined = attention.window_reverse(windows, 4, 6, 2)
    else:
        joined = attention.window_reverse(attention.window_partition(maps), 4, 6)
    assert torch.equal(joined, maps)
