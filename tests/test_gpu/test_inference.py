"""Inference of UperNet, with sliding windows and on whole images."""

from argparse import Namespace

import pytest
import torch
from benchmarks.segment import segmentors
from mmseg.structures import SegDataSample


@pytest.mark.parametrize(
    'mode, shape', [('slide', (64, 85)), ('slide', (150, 100)), ('whole', (64, 64))]
)
def test_logits_equal_those_of_the_cpu(device, mode, shape, assert_close):
    args = Namespace(arch='tiny', depth=5, against=[])
    model = segmentors(args, 64, drop_path=0.0)['ours'].eval()
    model.test_cfg.mode = mode
    images = torch.randn(2, 3, *shape)

    @torch.no_grad()
    def logits(device):
        meta = dict(img_shape=shape, ori_shape=shape, pad_shape=shape)
        samples = [SegDataSample(metainfo=meta) for _ in images]
        results = model.to(device).predict(images.to(device), samples)
        return torch.stack([result.seg_logits.data for result in results])

    expected = logits('cpu')
    assert expected.shape == (2, 150, *shape)
    # Of convolutions too, which every device sums up in another order.
    assert_close(logits(device), expected, tolerance=1e-4)
