"""Batches: enough images, of one size, with values for batch norm."""

import pytest
from helpers.image_files import labels, picture, save
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS

TRAIN, VAL = 'train_dataloader', 'val_dataloader'


def test_fewer_images_than_a_batch_are_named(pairs, segment, found, monkeypatch):
    pairs()
    option = {
        f'{TRAIN}.drop_last': True,
        f'{TRAIN}.batch_size': 3,
        f'{TRAIN}.sampler.type': 'DefaultSampler',
    }
    assert found(segment, option)[0] == [
        f'{TRAIN}: 2 images do not fill a batch of 3, and drop_last=True drops what is '
        f'not full, so that there is none. Set {TRAIN}.batch_size to 2 or less, or '
        f'{TRAIN}.drop_last=False'
    ]
    option[f'{TRAIN}.batch_size'] = 2
    assert found(segment, option) == ([], [])
    monkeypatch.setenv('WORLD_SIZE', '2')
    (error, *_) = found(segment, option)[0]
    assert error.startswith(f'{TRAIN}: 2 images (1 for each process) do not fill a')
    # An endless sampler fills any batch.
    option[f'{TRAIN}.sampler.type'] = 'InfiniteSampler'
    assert found(segment, option) == ([], [])


def test_one_image_per_batch_with_batch_norm_is_named(
    pairs, segment, found, monkeypatch
):
    pairs()
    option = {f'{TRAIN}.batch_size': 1}
    assert found(segment, option)[0] == [
        f'{TRAIN}.batch_size=1, but model.decode_head.norm_cfg='
        "{'type': 'BN'} normalizes a map of one pixel, and needs two images: set "
        f"{TRAIN}.batch_size=2 or more, or norm_cfg=dict(type='GN', num_groups=32) of "
        'all heads'
    ]
    norm = 'model.decode_head.norm_cfg.type'
    assert len(found(segment, {**option, norm: 'SyncBN'})[0]) == 1
    monkeypatch.setenv('WORLD_SIZE', '2')
    (error,) = found(segment, option)[0]
    assert error.startswith(f'{TRAIN}.batch_size=1 for each process, but')
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    assert found(segment, {**option, norm: 'SyncBN'}) == ([], [])
    assert found(segment, {**option, norm: 'GN'}) == ([], [])
    assert found(segment, {**option, 'model.decode_head.type': 'FCNHead'}) == ([], [])
    scales = {'model.decode_head.pool_scales': (2, 3)}
    assert found(segment, {**option, **scales}) == ([], [])


def test_a_last_batch_of_one_image_is_named(classes, classify, found):
    classes()
    classify.model.neck = dict(type='ClsBatchNormNeck', input_features=192)
    assert found(classify) == ([], [])
    option = {f'{TRAIN}.batch_size': 5}
    assert found(classify, option)[0] == [
        f'the last batch of an epoch has 1 of 6 images ({TRAIN}.batch_size=5), but '
        'model.neck=ClsBatchNormNeck needs two: set train_dataloader.drop_last=True'
    ]
    assert found(classify, {**option, f'{TRAIN}.drop_last': True}) == ([], [])


def test_images_of_different_sizes_in_a_batch_are_named(
    pairs, segment, found, monkeypatch
):
    root = pairs(count=4)
    save(picture(40, 50), root / 'img/val/1.jpg')
    save(labels(40, 50), root / 'ann/val/1.png')
    assert found(segment) == ([], [])
    option = {f'{VAL}.batch_size': 2}
    text = (
        f'{VAL}.batch_size=2, but images of {VAL}.dataset have different sizes after '
        'the pipeline: 64 x 48 and 50 x 40 (from files of 64 x 48 and 50 x 40 pixels). '
        f'Set {VAL}.batch_size=1, or resize all images to one size'
    )
    assert found(segment, option) == ([text], [])
    # In this order, no batch has both sizes.
    save(picture(40, 50), root / 'img/val/0.jpg')
    save(labels(40, 50), root / 'ann/val/0.png')
    errors, (warning,) = found(segment, option)
    assert errors == [] and 'different sizes' in warning
    # Two processes take every second image each: 0 and 2, 1 and 3.
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert len(found(segment, option)[0]) == 1
    segment[VAL].dataset.pipeline.insert(
        2, dict(type='Resize', scale=(32, 32), keep_ratio=False)
    )
    assert found(segment, option) == ([], [])


def test_images_of_different_sizes_cannot_be_stacked_for_training(
    classes, classify, segment, pairs, found
):
    root = classes()
    save(picture(40, 50), root / 'train/cat/0.jpg')
    assert found(classify) == ([], [])
    classify[TRAIN].dataset.pipeline.pop(1)
    (error,) = found(classify)[0]
    assert error.startswith(f'{TRAIN}.batch_size=2, but images of {TRAIN}.dataset have')
    # mmseg pads the images up to a size, but does not crop them.
    pairs()
    segment[TRAIN].dataset.pipeline.pop(3)
    (error,) = found(segment)[0]
    assert error.endswith(
        'Set model.data_preprocessor.size to the size of the crop, or add a crop'
    )


def test_padding_that_is_neither_a_class_nor_ignored_is_named(pairs, segment, found):
    pairs()
    option = {f'model.{head}_head.ignore_index': 11 for head in ('decode', 'auxiliary')}
    option['val_evaluator.ignore_index'] = 11
    option['model.data_preprocessor.size'] = (64, 64)
    segment[TRAIN].dataset.pipeline[3].crop_size = (64, 64)
    heads = 'model.decode_head and model.auxiliary_head ignore'
    assert found(segment, option)[0] == [
        f'model.data_preprocessor.seg_pad_val=255 is neither a class nor what {heads} '
        f'(num_classes=3, ignore_index=11), and images of {TRAIN}.dataset are padded: '
        'set model.data_preprocessor.seg_pad_val=11'
    ]
    pad = 'model.data_preprocessor.seg_pad_val'
    assert found(segment, {**option, pad: 11}) == ([], [])
    (warning,) = found(segment, {**option, pad: 0})[1]
    assert warning.startswith(f'{pad}=0 is a class, so that padding is trained as')
    # Without padding, nothing has to follow.
    segment[TRAIN].dataset.pipeline[2:4] = [dict(type='Resize', scale=(64, 64))]
    assert found(segment, option) == ([], [])


def test_labels_that_a_step_writes_are_named(pairs, segment, found):
    pairs()
    option = {f'model.{head}_head.ignore_index': 11 for head in ('decode', 'auxiliary')}
    option.update({'val_evaluator.ignore_index': 11})
    option['model.data_preprocessor.seg_pad_val'] = 11
    steps = segment[TRAIN].dataset.pipeline
    steps.insert(4, dict(type='RandomRotate', prob=1.0, degree=30))
    errors, _ = found(segment, option)
    assert errors[0] == (
        f'the pipeline of {TRAIN}.dataset writes label 255 where it moves an image, '
        'but model.decode_head has num_classes=3 and ignore_index=11: set seg_pad_val '
        'of its steps to 11'
    )
    steps[4]['seg_pad_val'] = 11
    assert found(segment, option) == ([], [])


def test_metrics_that_ignore_another_label_are_named(pairs, segment, found):
    pairs()
    _, (warning,) = found(segment, {'val_evaluator.ignore_index': 0})
    assert warning.startswith('val_evaluator.ignore_index=0, but the heads ignore 255')


def test_input_that_is_mostly_padding_is_named(pairs, segment, found):
    pairs()
    option = {'model.data_preprocessor.size': (128, 128)}
    _, (warning,) = found(segment, option)
    assert warning.startswith('94 % of the training input is padding: ')
    assert 'images such as 64 x 48 pixels become 32 x 32. ' in warning


def test_a_preprocessor_without_a_size_is_named(pairs, segment, found):
    pairs()
    segment.model.data_preprocessor.pop('size')
    (error,) = found(segment)[0]
    assert error.startswith(
        'model.data_preprocessor.size=None and size_divisor=None: mmseg needs one of'
    )


def test_channels_are_compared(pairs, segment, found):
    pairs()
    errors, _ = found(segment, {'model.data_preprocessor.mean': [1, 2, 3, 4]})
    assert errors[0] == (
        f'the images of {TRAIN}.dataset have 3 channels after its pipeline, '
        'model.data_preprocessor.mean has 4 values: set mean, std and in_channels of '
        'the backbone for these channels'
    )


def test_a_step_that_fails_is_named(pairs, segment, found):
    pairs()
    segment[TRAIN].dataset.pipeline[0].color_type = 'grayscale'
    segment[TRAIN].dataset.pipeline.insert(2, dict(type='PhotoMetricDistortion'))
    (error,) = found(segment)[0]
    assert error.startswith(
        f'{TRAIN}.dataset.pipeline.2 (PhotoMetricDistortion) fails on '
        "'DATA/img/train/0.jpg': "
    )


class Foreign(BaseTransform):
    """A step that is known to nobody, and that needs what only training has."""

    def transform(self, results):
        raise RuntimeError('no training')


@pytest.fixture
def foreign():
    TRANSFORMS.register_module(module=Foreign)
    yield dict(type='mmengine.Foreign')
    TRANSFORMS.module_dict.pop('Foreign')


def test_steps_of_others_do_not_stop_the_training(pairs, segment, found, foreign):
    pairs(lambda: labels(classes=5))
    segment[TRAIN].dataset.pipeline.insert(2, foreign)
    errors, warnings = found(segment)
    assert errors == []
    assert 'has label 3 ' in warnings[0]
    assert any('(Foreign) fails on' in text for text in warnings)


def test_three_bands_in_reverse_order_are_named(pairs, segment, found):
    """LoadImage loads three channels in reverse order, as mmcv's loader does."""
    pairs()
    option, flag = 'model.data_preprocessor', 'bgr_to_rgb'
    segment[TRAIN].dataset.pipeline[0] = dict(type='mmmaskdistill.LoadImage')
    _, (warning,) = found(segment, {f'{option}.{flag}': False})
    assert warning.startswith(f'LoadImage of {TRAIN}.dataset loads three channels in r')
    assert f'set {option}.{flag}=True, and give mean and std in the order' in warning
    assert found(segment, {f'{option}.{flag}': True}) == ([], [])
    # One number for all channels has no order.
    same = {f'{option}.mean': [9] * 3, f'{option}.std': [1] * 3, f'{option}.{flag}': 0}
    assert found(segment, same) == ([], [])


@pytest.mark.parametrize(
    'option, value, message',
    [
        ('batch_size', 0, 'batch_size=0: expected a whole number of at least 1'),
        ('batch_size', '2', "batch_size='2': expected a whole number of at least 1"),
        (
            'sampler',
            None,
            'sampler is missing: set train_dataloader.sampler=',
        ),
        (
            'num_batch_per_epoch',
            2,
            'num_batch_per_epoch=2: 2 images have only 1 batches of 2',
        ),
    ],
)
def test_settings_that_make_no_batches_are_named(
    pairs, segment, found, option, value, message
):
    pairs()
    segment.train_dataloader[option] = value
    errors, _ = found(segment)
    assert len(errors) == 1
    assert errors[0].startswith(f'train_dataloader.{message}')


def test_an_infinite_sampler_of_epochs_drops_what_is_not_full(pairs, segment, found):
    pairs()
    segment.train_dataloader.update(batch_size=4, drop_last=True)
    assert found(segment) == ([], [])
    segment.train_cfg = dict(by_epoch=True, max_epochs=1)
    errors, _ = found(segment)
    assert errors[0].startswith('train_dataloader: 2 images do not fill a batch of 4')


def test_heads_that_ignore_different_labels_are_named_together(pairs, segment, found):
    pairs()
    segment.train_dataloader.dataset.pipeline[2].scale = (20, 20)
    segment.model.decode_head.ignore_index = 11
    segment.model.auxiliary_head.ignore_index = 12
    errors, _ = found(segment)
    assert errors == [
        'images of train_dataloader.dataset are padded with one label, and the heads '
        'ignore different ones (model.decode_head 11, model.auxiliary_head 12): set '
        'ignore_index of all heads to model.data_preprocessor.seg_pad_val=255'
    ]
