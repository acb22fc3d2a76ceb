import mmcv
import numpy as np
import pytest
import torch
from mmcv.image import photometric
from mmengine.registry import TRANSFORMS
from mmpretrain.evaluation import RetrievalAveragePrecision, RetrievalRecall
from PIL import Image
from torchvision.transforms import functional

import mmmaskdistill  # noqa: F401


@pytest.fixture
def picture():
    """A picture [H, W, 3] with the channels blue, green and red."""
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.mark.parametrize('backend', ['cv2', 'pillow', None])
@pytest.mark.parametrize('factor', [-0.5, -0.3, -0.1, -0.002, 0.0, 0.1, 0.5])
def test_hue_is_that_of_torchvision(picture, factor, backend):
    ours = mmcv.adjust_hue(picture, factor, backend)
    rgb = Image.fromarray(picture[..., ::-1].copy())
    expected = np.array(functional.adjust_hue(rgb, factor))[..., ::-1]
    difference = np.abs(ours.astype(int) - expected.astype(int))
    assert ours.dtype == np.uint8 and ours.shape == picture.shape
    if backend == 'pillow':
        assert difference.max() == 0
    else:
        # OpenCV rounds the three channels of the other color space differently.
        assert difference.mean() < 1.5 and difference.max() <= 16


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_negative_shifts_equal_positive_ones(picture, backend):
    """A turn by -k parts of 256 is a turn by 256 - k parts."""
    shift = photometric.adjust_hue(picture, -0.5, backend)
    half = photometric.adjust_hue(picture, 0.5, backend)
    # -127 and 127 of 256 differ by 2 parts of the circle.
    assert np.abs(shift.astype(int) - half).mean() < 6
    assert np.abs(shift.astype(int) - picture).mean() > 30


def test_color_jitter_of_mmpretrain_runs_at_every_draw(picture):
    jitter = TRANSFORMS.build(dict(type='mmpretrain.ColorJitter', hue=0.1))
    for _ in range(30):
        assert jitter(dict(img=picture))['img'].shape == picture.shape


def test_arguments_of_hue_are_still_checked(picture):
    with pytest.raises(ValueError, match='hue_factor'):
        mmcv.adjust_hue(picture, -0.6)
    with pytest.raises(ValueError, match='backend'):
        mmcv.adjust_hue(picture, -0.1, 'turbojpeg')
    with pytest.raises(TypeError, match='ndarray'):
        mmcv.adjust_hue('a.png', -0.1)


def test_retrieval_metrics_run():
    scores = torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.8, 0.1]])
    recall = RetrievalRecall.calculate(
        scores, [[0], [2]], topk=(1, 2), target_indices=True
    )
    assert [float(value) for value in recall] == [50.0, 50.0]
    precision = RetrievalAveragePrecision.calculate(
        scores, [[0], [2]], topk=3, target_indices=True
    )
    assert float(precision) == pytest.approx(100 * (1 + 1 / 3) / 2)
