"""Pictures of the job ``data`` of tools/analysis_tools/benchmark.py on the device."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from benchmarks import device_crop

from mmmaskdistill.datasets import RandomJitteredCrop

SCALE = (40, 48)
CPU = torch.device('cpu')


def make_batches(images, **options):
    """Return functions that make the pictures of the CPU and the packed crops."""

    def batch_of(transform, collate):
        return lambda: collate(
            [transform.transform(dict(img=image)) for image in images]
        )

    return (
        batch_of(RandomJitteredCrop(SCALE, **options), device_crop.stack),
        batch_of(device_crop.RandomCropForDevice(SCALE, **options), device_crop.pack),
    )


def make_images(sizes):
    generator = np.random.default_rng(0)
    images = []
    for height, width in sizes:
        # Smooth images with noise, like photographs, have values of all sizes.
        image = generator.integers(0, 256, (height // 9 + 1, width // 9 + 1, 3))
        image = image.repeat(9, 0).repeat(9, 1)[:height, :width]
        noise = generator.integers(-20, 20, image.shape)
        images.append((image + noise).clip(0, 255).astype(np.uint8))
    return images


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(brightness=1, contrast=1, saturation=1),
        dict(brightness=0, saturation=0),
        dict(brightness=0, contrast=0, saturation=0, flip_prob=1),
    ],
    ids=str,
)
def test_pictures_of_crops_of_different_sizes_equal_those_of_the_cpu(options):
    sizes = [(20, 30), (40, 48), (90, 70), (75, 100), (33, 95), (60, 9)]
    whole, cut = make_batches(make_images(8 * sizes), **options)
    result = device_crop.compare_values(whole, cut, SCALE, CPU)
    assert result == dict(levels=0, differing=0)


def test_large_crops_rarely_differ():
    whole, cut = make_batches(make_images(8 * [(1100, 900), (60, 70)]))
    result = device_crop.compare_values(whole, cut, SCALE, CPU)
    assert result['levels'] <= 3 and result['differing'] < 1e-4


@pytest.mark.parametrize('new', [1, 7, 16])
def test_an_axis_of_each_size_is_resized_as_torch_does(new):
    sizes = torch.arange(1, 40)
    matrices = device_crop.resizing_matrices(sizes, 45, new)
    assert matrices.shape == (39, new, 45)
    for size, matrix in zip(sizes.tolist(), matrices, strict=True):
        assert not matrix[:, size:].any()
        columns = torch.eye(size, dtype=torch.float64)[None, None]
        expected = F.interpolate(columns, (new, size), mode='bicubic', antialias=True)
        # The weights are integers of 16 bits.
        torch.testing.assert_close(
            matrix[:, :size].double(), expected[0, 0], rtol=0, atol=2**-15
        )


def test_other_pictures_than_those_of_the_cpu_are_not_timed(monkeypatch, capsys):
    whole, cut = make_batches(make_images([(60, 70), (90, 80)]), flip_prob=0)
    wrong = device_crop.pictures
    monkeypatch.setattr(device_crop, 'pictures', lambda *args: wrong(*args).flip(3))
    with pytest.raises(SystemExit) as error:
        device_crop.compare_values(whole, cut, SCALE, CPU)
    message = f'{error.value}{capsys.readouterr().err}'
    assert 'the pictures that cpu computes differ from those of the CPU by' in message
    assert 'expected at most 5/255, in 0.10%; nothing was timed' in message
