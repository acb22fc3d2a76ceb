"""Sliding windows against mmseg's."""
import pytest
import torch
from mmengine.config import ConfigDict

from mmmaskdistill.models import EncoderDecoder
from mmmaskdistill.registry import MODELS

BACKBONE = dict(
    type='mmmaskdistill.MaskDistillViT',
    arch=dict(
        embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
    img_size=32)
HEAD = dict(
    type='mmseg.FCNHead',
    in_channels=16,
    channels=8,
    num_convs=1,
    num_classes=5,
    norm_cfg=dict(type='BN'))
TEST = ConfigDict(mode='slide', crop_size=(32, 48), stride=(21, 20))


def build(kind):
    torch.manual_seed(0)
    model = MODELS.build(
        dict(type=kind, backbone=BACKBONE, decode_head=HEAD, test_cfg=TEST))
    model.init_weights()
    return model.eval()


@pytest.mark.parametrize('size', [(32, 48), (33, 95), (70, 20), (16, 16)])
@torch.no_grad()
def test_logits_are_mmseg_s(size, monkeypatch):
    ours, theirs = build('mmmaskdistill.EncoderDecoder'), build(
        'mmseg.EncoderDecoder')
    assert type(ours) is EncoderDecoder
    assert type(theirs).__module__.startswith('mmseg.')
    images = torch.randn(2, 3, *size)
    expected = theirs.inference(images, [dict(ori_shape=size)] * 2)
    assert expected.shape == (2, 5, *size)
    torch.testing.assert_close(
        ours.inference(images, [dict(ori_shape=size)] * 2), expected)
    # What a GPU does: all windows at once.
    monkeypatch.setattr(torch.Tensor, 'is_cuda', True)
    torch.testing.assert_close(
        ours.inference(images, [dict(ori_shape=size)] * 2), expected)
