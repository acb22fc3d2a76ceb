"""The recipes' pipelines against those of timm and torchvision, on a photograph.

configs/finetune/README.md quotes the numbers that are checked here.
"""

import random

import numpy as np
import pytest
import timm.data.auto_augment
import torch
from mmcv.transforms import Compose
from mmengine.registry import TRANSFORMS, init_default_scope
from mmpretrain.models.losses import LabelSmoothLoss
from PIL import Image
from timm.data.mixup import mixup_target
from timm.data.random_erasing import RandomErasing
from torch.nn.functional import log_softmax
from torchvision import transforms
from torchvision.transforms import functional

skimage_data = pytest.importorskip('skimage.data')
FINETUNING = 'vit-b16_maskdistill-300e_8xb128-amp-coslr-100e_in1k'
PRETRAINING = 'maskdistill_vit-b16_clip-b16_8xb256-amp-coslr-300e_in1k'
BICUBIC = transforms.InterpolationMode.BICUBIC


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


@pytest.fixture(scope='module')
def photograph():
    return Image.fromarray(skimage_data.astronaut()[:400])


def bgr(image):
    return np.ascontiguousarray(np.asarray(image)[..., ::-1])


def step(cfg, kind):
    (config,) = (s for s in cfg.train_dataloader.dataset.pipeline if s.type == kind)
    return TRANSFORMS.build(config)


def test_test_images_equal_torchvisions(recipe, photograph):
    pipeline = recipe(FINETUNING).test_dataloader.dataset.pipeline
    result = Compose(pipeline[1:-1])(dict(img=bgr(photograph)))['img']
    expected = transforms.Compose(
        [transforms.Resize(256, BICUBIC), transforms.CenterCrop(224)]
    )(photograph)
    np.testing.assert_array_equal(result, bgr(expected))


def test_random_crops_equal_torchvisions(recipe, photograph):
    crop = step(recipe(FINETUNING), 'RandomResizedCrop')
    np.random.seed(0)
    box = crop.rand_crop_params(np.asarray(photograph))
    np.random.seed(0)
    result = crop(dict(img=bgr(photograph)))['img']
    expected = functional.resized_crop(photograph, *box, [224, 224], BICUBIC)
    np.testing.assert_array_equal(result, bgr(expected))


def test_rand_augment_operations_equal_timms(recipe, photograph, monkeypatch):
    """The operations differ from timm's only by interpolation and rounding."""
    small = photograph.resize((224, 224), Image.BICUBIC)
    operations = list(step(recipe(FINETUNING), 'RandAugment'))
    timm_operations = timm.data.auto_augment.rand_augment_transform(
        'rand-m9-mstd0.5-inc1',
        dict(
            translate_const=100, img_mean=(124, 116, 104), interpolation=Image.BICUBIC
        ),
    ).ops
    assert len(operations) == len(timm_operations) == 15
    monkeypatch.setattr(timm.data.auto_augment, '_randomly_negate', lambda value: value)
    distance = {}
    for operation, timm_operation in zip(operations, timm_operations):
        assert (operation.prob, timm_operation.prob) == (0.5, 0.5)
        operation.prob = timm_operation.prob = 1
        operation.magnitude_std = timm_operation.magnitude_std = 0
        # OpenCV uses the opposite sign for angles, shears and offsets.
        reversed_sign = type(operation).__name__ in ('Rotate', 'Shear', 'Translate')
        operation.random_negative_prob = float(reversed_sign)
        picture = operation(dict(img=bgr(small)))['img']
        difference = picture.astype(float) - bgr(timm_operation(small))
        distance[timm_operation.name] = np.abs(difference).mean()
    geometric = ('Rotate', 'ShearX', 'ShearY', 'TranslateXRel', 'TranslateYRel')
    for name in geometric:
        assert distance.pop(name) < 2
    assert distance.pop('ColorIncreasing') < 0.5
    assert distance.pop('SharpnessIncreasing') < 0.5
    assert max(distance.values()) < 0.01


def test_random_erasing_equals_timms_except_for_clipping(recipe):
    erase = step(recipe(FINETUNING), 'RandomErasing')
    erase.erase_prob = 1.0
    mean = np.array(erase.fill_color)
    std = np.array(erase.fill_std)
    values, areas = [], []
    np.random.seed(0)
    for _ in range(500):
        top, left, height, width = erase.random_patch(224, 224)
        areas.append(height * width / 224**2)
        erased = erase._fill_pixels(
            np.zeros((224, 224, 3), np.uint8), top, left, height, width
        )
        noise = erased[top : top + height, left : left + width]
        values.append(((noise - mean) / std).ravel()[::50])
    values = np.concatenate(values)
    assert abs(values.mean()) < 0.02
    # timm does not clip, so its standard deviation is 1.
    assert values.std() == pytest.approx(0.97, abs=0.01)
    assert values.min() > -2.2 and values.max() < 2.7

    random.seed(0)
    timm_erase = RandomErasing(1.0, mode='pixel', device='cpu')
    shares = [
        (timm_erase(torch.full((3, 224, 224), 9.0)) < 9).float().mean()
        for _ in range(500)
    ]
    assert np.mean(areas) == pytest.approx(np.mean(shares), abs=0.01)


def test_label_smoothing_equals_timms():
    """The loss also equals timm's for labels that mixup or cutmix has mixed."""
    scores = torch.randn(4, 1000)
    labels = torch.tensor([3, 999, 0, 17])
    one_hot = torch.nn.functional.one_hot(labels, 1000).float()
    mixed = 0.3 * one_hot + 0.7 * one_hot.flip(0)
    targets = mixup_target(labels, 1000, lam=0.3, smoothing=0.1)
    expected = -(targets * log_softmax(scores, 1)).sum(1).mean()
    result = LabelSmoothLoss(0.1, mode='original')(scores, mixed)
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=0)
