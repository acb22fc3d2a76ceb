import pytest

from mmmaskdistill.apis.checks import check_data, check_weights
from mmmaskdistill.errors import ConfigError


def error_message(check, *args):
    """Return the one-line message of the ConfigError that a check raises."""
    with pytest.raises(ConfigError) as error:
        check(*args)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_data_paths_are_joined_as_mmengine_joins_them(tmp_path):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'list.txt').touch()
    root = str(tmp_path)
    good = dict(
        data_root=root,
        ann_file='list.txt',
        data_prefix=dict(img_path='images', seg_map_path=None),
    )
    check_data(dict(a=dict(dataset=good), c=None), ['a', 'b', 'c'])
    check_data(dict(a=dict(dataset=dict(data_prefix=f'{root}/images'))), ['a'])
    check_data(dict(a=dict(dataset=dict(data_root='s3://b', ann_file='c'))), ['a'])

    for change, path, option in [
        (dict(data_root='nowhere'), 'nowhere', 'data_root'),
        (dict(ann_file='no.txt'), f'{root}/no.txt', 'ann_file'),
        (dict(data_prefix='no'), f'{root}/no', 'data_prefix'),
        (dict(data_prefix=dict(img_path='no')), f'{root}/no', 'data_prefix.img_path'),
    ]:
        text = error_message(
            check_data, dict(a=dict(dataset={**good, **change})), ['a']
        )
        assert f"'{path}' (a.dataset.{option}, " in text


def test_imagenet_is_checked_in_the_folder_of_its_split(tmp_path):
    (tmp_path / 'train').mkdir()
    imagenet = dict(type='ImageNet', data_root=str(tmp_path), split='train')
    cfg = dict(default_scope='mmpretrain', a=dict(dataset=imagenet))
    check_data(cfg, ['a'])
    imagenet['split'] = 'val'
    assert error_message(check_data, cfg, ['a']).startswith(
        f"data not found: '{tmp_path}/val' (a.dataset.data_prefix, "
    )
    check_data(
        {
            'a': {'dataset': {**imagenet, 'data_prefix': 'train'}},
            'default_scope': 'mmpretrain',
        },
        ['a'],
    )
    # Packed images are next to the folder, not in it.
    packed = dict(imagenet, type='mmmaskdistill.ImageNet', storage='shards')
    cfg['a']['dataset'] = packed
    assert error_message(check_data, cfg, ['a']).startswith(
        f"data not found: '{tmp_path}/val_shards' (a.dataset.data_prefix, "
    )
    (tmp_path / 'val_shards').mkdir()
    check_data(cfg, ['a'])
    # For other datasets, the split does not name a folder.
    check_data({'a': {'dataset': {**imagenet, 'type': 'mmpretrain.CUB'}}}, ['a'])


def test_missing_data_of_wrapped_datasets_is_reported():
    bad = dict(data_root='nowhere')
    for dataset, option in [
        (dict(type='RepeatDataset', dataset=bad), 'dataset.data_root'),
        (dict(type='ConcatDataset', datasets=[dict(), bad]), 'datasets.1.data_root'),
    ]:
        text = error_message(check_data, dict(a=dict(dataset=dataset)), ['a'])
        assert f'--cfg-options a.dataset.{option}=PATH' in text


def test_datasets_that_download_their_data_are_not_checked():
    cifar = dict(type='CIFAR10', data_prefix='nowhere')
    check_data(dict(default_scope='mmpretrain', a=dict(dataset=cifar)), ['a'])
    cifar = dict(type='mmpretrain.CIFAR10', data_prefix='no', download=False)
    assert "'no'" in error_message(check_data, dict(a=dict(dataset=cifar)), ['a'])
    assert "'no'" in error_message(
        check_data,
        dict(
            default_scope='mmseg',
            a=dict(dataset=dict(type='ADE20KDataset', data_root='no')),
        ),
        ['a'],
    )


def test_missing_weights_are_reported(tmp_path):
    (tmp_path / 'a.pth').touch()
    existing = str(tmp_path / 'a.pth')
    check_weights(
        dict(
            load_from=existing,
            model=dict(
                teacher=dict(checkpoint=existing),
                backbone=dict(init_cfg=dict(checkpoint='https://b/c.pth')),
            ),
        )
    )
    check_weights(dict(model=dict(init_cfg=dict(checkpoint=None))))
    text = error_message(
        check_weights,
        dict(model=dict(parts=[dict(init_cfg=dict(checkpoint='no.pth'))])),
    )
    assert "'no.pth' (model.parts.0.init_cfg.checkpoint, " in text
    assert 'load_from' in error_message(check_weights, dict(load_from='no.pth'))
