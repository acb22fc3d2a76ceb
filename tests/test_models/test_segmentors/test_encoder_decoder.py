"""Inference in sliding windows and training losses against mmseg's."""

import pytest
import torch
from benchmarks import measure
from helpers import tiny
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.models import EncoderDecoder
from mmmaskdistill.models.segmentors import encoder_decoder, windows
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
    options = dict(backbone=BACKBONE, decode_head=HEAD, test_cfg=TEST) | options
    model = MODELS.build(dict(options, type=kind))
    model.init_weights()
    return model.eval()


SIZES = [(32, 48), (33, 95), (70, 20), (16, 16)]


@pytest.mark.parametrize('size', SIZES)
@torch.no_grad()
def test_logits_equal_mmsegs(size):
    segmentor = build('mmmaskdistill.EncoderDecoder')
    reference = build('mmseg.EncoderDecoder')
    assert type(segmentor) is EncoderDecoder
    assert type(reference).__module__.startswith('mmseg.')
    images = torch.randn(2, 3, *size)
    expected = reference.inference(images, [dict(ori_shape=size)] * 2)
    assert expected.shape == (2, 5, *size)
    for batch in (None, 1, 2, 3, 100):
        segmentor.test_cfg = ConfigDict(TEST, window_batch=batch)
        torch.testing.assert_close(
            segmentor.inference(images, [dict(ori_shape=size)] * 2), expected
        )


@torch.no_grad()
def test_numbers_of_windows_in_a_batch(monkeypatch):
    """12 windows of 2 images, and the batches that they are computed in."""
    segmentor = build('mmmaskdistill.EncoderDecoder')
    images, sizes = torch.randn(2, 3, 70, 95), []
    encode_decode = segmentor.encode_decode
    limit = 10**9

    def counted(crops, metas):
        assert metas[0]['img_shape'] == (32, 48)
        if len(crops) > limit:
            raise torch.OutOfMemoryError('no memory')
        sizes.append(len(crops))
        return encode_decode(crops, metas)

    def infer(**options):
        sizes.clear()
        segmentor.test_cfg = ConfigDict(TEST, **options)
        return segmentor.inference(images, [dict(ori_shape=(70, 95))] * 2)

    monkeypatch.setattr(segmentor, 'encode_decode', counted)
    one_by_one = infer()
    assert sizes == [2] * 12
    assert torch.equal(infer(window_batch=1), one_by_one) and sizes == [2] * 12
    torch.testing.assert_close(infer(window_batch=5), one_by_one)
    assert sizes == [10, 10, 4]

    # A GPU of which half can hold three windows, by the measure of the first batch
    monkeypatch.setattr(windows, 'free_memory', lambda device: 600)
    monkeypatch.setattr(windows, 'FIRST_BATCH', 2)
    monkeypatch.setattr(windows, 'start_peak', lambda device: 1000)
    monkeypatch.setattr(
        windows, 'read_peak', lambda device: 1000 + 100 * sizes[-1] // 2
    )
    torch.testing.assert_close(infer(), one_by_one)
    assert sizes == [4, 6, 6, 6, 2]
    infer(window_batch=7)
    assert sizes == [14, 10]
    # Without memory for the batch that was chosen, its halves are computed.
    limit = 4
    torch.testing.assert_close(infer(window_batch=7), one_by_one)
    assert sizes == [2] * 12
    limit = 1
    with pytest.raises(torch.OutOfMemoryError):
        infer()


@torch.no_grad()
def test_logits_that_do_not_fit_on_a_gpu_are_on_the_cpu(monkeypatch):
    segmentor = build('mmmaskdistill.EncoderDecoder')
    images = torch.randn(1, 3, 70, 95)
    expected = segmentor.inference(images, [dict(ori_shape=(70, 95))])
    made, new_zeros = [], torch.Tensor.new_zeros

    def recorded(tensor, *args, device=None, **kwargs):
        made.append(device)
        return new_zeros(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, 'new_zeros', recorded)
    needed = 3 * expected.numel() * 4
    for free in (needed, needed - 1):
        monkeypatch.setattr(encoder_decoder, 'free_memory', lambda device: free)  # noqa: B023
        logits = segmentor.inference(images, [dict(ori_shape=(70, 95))])
        assert torch.equal(logits, expected)
    assert [device for device in made if device] == [images.device, torch.device('cpu')]


@pytest.mark.parametrize(
    'test_cfg, message',
    [
        (
            dict(TEST, window_batch=0),
            'test_cfg has window_batch=0: expected a number of windows, at least 1, or '
            'None to choose it by the free memory',
        ),
        (
            dict(TEST, window_batch='auto'),
            "test_cfg has window_batch='auto': expected a number of windows, at least "
            '1, or None to choose it by the free memory',
        ),
        (
            dict(mode='whole', window_batch=4),
            "test_cfg has window_batch=4 but mode='whole': set mode='slide' with "
            'crop_size and stride, or remove window_batch',
        ),
    ],
)
def test_wrong_numbers_of_windows_are_refused(test_cfg, message):
    with pytest.raises(ConfigError) as error:
        build('mmmaskdistill.EncoderDecoder', test_cfg=test_cfg)
    assert str(error.value) == message


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
