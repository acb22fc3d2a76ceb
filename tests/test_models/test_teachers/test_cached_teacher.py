import pytest
import torch
from helpers import tiny
from mmpretrain.structures import DataSample

from mmmaskdistill.models import CachedTeacher
from mmmaskdistill.models.checkpoints import write_weights
from mmmaskdistill.models.teachers import cached_teacher as cached_teacher_module

IMAGES = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))


def samples(*indices):
    return [DataSample(metainfo=dict(sample_idx=i)) for i in indices]


def cached_teacher():
    return CachedTeacher(dict(tiny.TEACHER, img_size=96))


def test_cached_teacher_computes_each_sample_once():
    cached = cached_teacher()
    batch_sizes = []
    forward = cached.teacher.forward
    cached.teacher.forward = lambda x: batch_sizes.append(len(x)) or forward(x)
    expected = cached.teacher(IMAGES)
    first = cached(IMAGES, samples(7, 3))
    second = cached(IMAGES.flip(0), samples(3, 7))
    for features in (first, second.flip(0)):
        torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-2)
    cached(IMAGES, samples(7, 3))
    # The teacher runs for `expected`, for the first batch, and to check the second
    # batch. It does not run for the third batch.
    assert batch_sizes == [2, 2, 2]


def test_features_are_computed_in_float32_in_a_run_of_mixed_precision():
    plain, cached = cached_teacher(), cached_teacher()
    cached.teacher.load_state_dict(plain.teacher.state_dict())
    expected = plain(IMAGES, samples(7, 3))
    for _ in range(2):  # The second batch is checked against the first one.
        with torch.autocast('cpu', torch.bfloat16):
            assert torch.equal(cached(IMAGES, samples(7, 3)), expected)


def test_cached_teacher_checks_the_first_repeated_sample():
    """The check does not wait for a batch of known samples only.

    With shuffling and several ranks, such batches are rare.
    """
    cached = cached_teacher()
    cached(IMAGES, samples(0, 1))
    batch = torch.cat([torch.randn(1, 3, 96, 96), IMAGES[1:].flip(3)])
    with pytest.raises(ValueError, match='sample 1 no longer'):
        cached(batch, samples(2, 1))
    batch = torch.cat([torch.randn(1, 3, 96, 96), IMAGES[1:]])
    new = cached.teacher(batch)[:1]
    features = cached(batch, samples(2, 1))
    torch.testing.assert_close(features[:1], new, rtol=1e-3, atol=1e-2)
    cached.teacher.forward = None  # The teacher must not run again.
    assert torch.equal(cached(torch.zeros(1), samples(2)), features[:1])


def test_cached_teacher_notices_random_crops():
    cached = cached_teacher()
    cached(IMAGES, samples(0, 1))
    with pytest.raises(ValueError, match='take random crops'):
        cached(torch.randn_like(IMAGES), samples(0, 1))
    with pytest.raises(ValueError, match='sample_idx'):
        cached(IMAGES, [DataSample(), DataSample()])


def test_features_are_kept_in_a_file_for_later_runs(tmp_path):
    file = str(tmp_path / 'below' / 'features.pth')
    config = dict(tiny.TEACHER, img_size=96)
    first = CachedTeacher(config, file=file)
    expected = first(IMAGES, samples(7, 3))
    assert not (tmp_path / 'below').exists()
    first(IMAGES, samples(7, 3))
    second = CachedTeacher(config, file=file)
    # The file's features are compared with the teacher's once.
    with pytest.raises(ValueError, match=r'(?s)sample [37] no longer has.*remove it'):
        second(torch.randn_like(IMAGES), samples(3, 7))
    second.teacher.load_state_dict(first.teacher.state_dict())
    second(IMAGES, samples(7, 3))
    second.teacher.forward = None  # The teacher must not run again.
    assert torch.equal(second(IMAGES.flip(0), samples(3, 7)), expected.flip(0).half())


def test_features_of_another_width_are_refused(tmp_path):
    file = str(tmp_path / 'features.pth')
    write_weights(dict(keys=torch.arange(2), features=torch.zeros(2, 36, 5)), file)
    with pytest.raises(ValueError, match=f'{file!r} does not hold features of 64'):
        CachedTeacher(dict(tiny.TEACHER, img_size=96), file=file)


def test_one_of_several_processes_writes_no_features(tmp_path, monkeypatch):
    monkeypatch.setattr(cached_teacher_module, 'get_world_size', lambda: 2)
    file = tmp_path / 'features.pth'
    cached = CachedTeacher(dict(tiny.TEACHER, img_size=96), file=str(file))
    for _ in range(2):
        cached(IMAGES, samples(0, 1))
    assert not file.exists()
