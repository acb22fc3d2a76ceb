"""Inference in sliding windows and training losses against mmseg's."""

import pytest
import torch
from benchmarks import measure
from helpers import tiny
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmmaskdistill.models import EncoderDecoder
from mmmaskdistill.registry import MODELS

BACKBONE = dict(tiny.STUDENT, img_size=32)
HEAD = dict(
    type='mmseg.FCNHead',
    in_channels=24,
    channels=8,
    num_convs=1,
    num_classes=5,
    norm_cfg=dict(type='BN'),
)
TEST = ConfigDict(mode='slide', crop_size=(32, 48), stride=(21, 20))


def build(kind, **options):
    torch.manual_seed(0)
    model = MODELS.build(
        dict(type=kind, backbone=BACKBONE, decode_head=HEAD, test_cfg=TEST, **options)
    )
    model.init_weights()
    return model.eval()


@pytest.mark.parametrize('size', [(32, 48), (33, 95), (70, 20), (16, 16)])
@torch.no_grad()
def test_logits_equal_mmsegs(size, monkeypatch):
    segmentor = build('mmmaskdistill.EncoderDecoder')
    reference = build('mmseg.EncoderDecoder')
    assert type(segmentor) is EncoderDecoder
    assert type(reference).__module__.startswith('mmseg.')
    images = torch.randn(2, 3, *size)
    expected = reference.inference(images, [dict(ori_shape=size)] * 2)
    assert expected.shape == (2, 5, *size)
    torch.testing.assert_close(
        segmentor.inference(images, [dict(ori_shape=size)] * 2), expected
    )
    # On a GPU, all windows are computed at once.
    monkeypatch.setattr(torch.Tensor, 'is_cuda', True)
    torch.testing.assert_close(
        segmentor.inference(images, [dict(ori_shape=size)] * 2), expected
    )


@pytest.mark.parametrize(
    'auxiliary',
    [
        dict(HEAD, channels=4),
        [dict(HEAD, channels=4), HEAD],
    ],
)
def test_losses_and_gradients_equal_mmsegs(auxiliary):
    segmentor, reference = (
        build(f'{scope}.EncoderDecoder', auxiliary_head=auxiliary).train()
        for scope in ('mmmaskdistill', 'mmseg')
    )
    images = torch.randn(2, 3, 32, 48)
    samples = [
        SegDataSample(gt_sem_seg=PixelData(data=torch.randint(5, (1, 32, 48))))
        for _ in images
    ]
    kept = []
    for model in (segmentor, reference):
        torch.manual_seed(1)  # so that both use the same dropout
        losses = model.loss(images, samples)
        sum(v for k, v in losses.items() if 'loss' in k).backward()
        model.losses = losses
        kept.append(
            measure.kept_bytes(
                lambda model=model: model.loss(images, samples), model.parameters()
            )
        )
    assert segmentor.losses == reference.losses and len(segmentor.losses) >= 4
    for (name, p), q in zip(segmentor.named_parameters(), reference.parameters()):
        if q.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, msg=name)
    # No head keeps its softmax over the five classes.
    heads = 1 + (len(auxiliary) if isinstance(auxiliary, list) else 1)
    assert kept[1] - kept[0] >= heads * 4 * 2 * 5 * 32 * 48
