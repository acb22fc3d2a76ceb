"""Classes of the data against heads, losses, metrics and other data sets."""

import shutil

import numpy as np
import pytest
from helpers.image_files import picture, save

TRAIN, VAL = 'train_dataloader.dataset', 'val_dataloader.dataset'


def test_heads_of_another_width_are_named_in_one_line(pairs, segment, found):
    pairs()
    option = {f'{part}.metainfo.classes': ['a', 'b', 'c', 'd'] for part in (TRAIN, VAL)}
    errors, warnings = found(segment, option)
    assert errors == []
    assert warnings[0] == (
        f'the data has 4 classes (a, b, c, d, from {TRAIN}), which does not agree with '
        'model.decode_head.num_classes=3 (set 4); model.auxiliary_head.num_classes=3 '
        '(set 4)'
    )
    assert warnings[1].startswith('1 class without a pixel') and ': d. ' in warnings[1]


def test_heads_in_lists_and_in_other_heads_are_found(pairs, segment, found):
    pairs()
    model = segment.model
    model.decode_head = [model.decode_head, dict(type='PointHead', num_classes=19)]
    model.auxiliary_head = dict(
        type='IterativeDecodeHead',
        kernel_generate_head=dict(type='FCNHead', num_classes=19),
        kernel_update_head=[],
    )
    _, (warning,) = found(segment)
    assert warning.endswith(
        'model.decode_head.1.num_classes=19 (set 3); '
        'model.auxiliary_head.kernel_generate_head.num_classes=19 (set 3)'
    )


@pytest.mark.parametrize('kind', ['STDCHead', 'mmdet.FCNMaskHead', 'MyHead'])
def test_heads_that_cannot_be_judged_are_left_alone(pairs, segment, found, kind):
    pairs()
    segment.model.auxiliary_head = dict(type=kind, num_classes=1, loss_decode=[3])
    assert found(segment) == ([], [])


def test_all_settings_of_another_number_of_classes_are_named(
    classes, classify, found, tmp_path
):
    classes()
    for loader, split in (('train', 'train'), ('val', 'val')):
        part = classify[f'{loader}_dataloader'].dataset
        part.update(type='ImageNet', split=split)
        part.pop('data_prefix')
    model = classify.model
    model.head.num_classes = model.data_preprocessor.num_classes = 1000
    model.head.loss.num_classes = 1000
    errors, warnings = found(classify, {'val_evaluator.topk': (1, 5)})
    assert warnings == []
    names = "metainfo=dict(classes=['cat', 'dog', 'owl']), or type='CustomDataset' with"
    assert errors == [
        "the data has 3 classes (cat, dog, owl, from the folders in 'DATA/train'), "
        f'which does not agree with {TRAIN}.type=ImageNet with 1000 classes (set '
        f'{TRAIN}.{names} data_prefix); {VAL}.type=ImageNet with 1000 classes (set '
        f'{VAL}.{names} data_prefix); model.head.num_classes=1000 (set 3); '
        'model.data_preprocessor.num_classes=1000 (set 3); '
        'model.head.loss.num_classes=1000 (set 3); val_evaluator.topk=(1, 5) (set 1)'
    ]


def test_an_option_that_only_imagenet_has_is_named(classes, classify, found):
    classes()
    classify.train_dataloader.dataset.update(split='train')
    classify.train_dataloader.dataset.pop('data_prefix')
    (error,) = found(classify, {'model.head.num_classes': 5})[0]
    assert error == (
        "the data has 3 classes (cat, dog, owl, from the folders in 'DATA/train'), "
        f"which does not agree with {TRAIN}.split='train' (no option of CustomDataset: "
        "remove it, and set data_prefix='train'); model.head.num_classes=5 (set 3)"
    )


@pytest.mark.parametrize(
    'option, fatal',
    [
        (('model.head.num_classes', 1000), False),
        (('model.head.num_classes', 2), True),
        (('model.data_preprocessor.num_classes', 4), True),
        (('model.data_preprocessor.num_classes', None), True),
        (('model.head.loss.num_classes', 4), True),
        (('val_evaluator.topk', (1, 4)), True),
        (('val_evaluator.topk', 5), True),
    ],
)
def test_what_stops_the_training_is_an_error(classes, classify, found, option, fatal):
    classes()
    errors, warnings = found(classify, dict([option]))
    assert (len(errors), len(warnings)) == ((1, 0) if fatal else (0, 1))
    name, value = option
    text = (errors or warnings)[0]
    assert f'{name}={value} (set ' in text or (
        value is None and f'{name}, which is missing (set 3' in text
    )


def test_class_names_that_are_too_many_are_named(classes, classify, found):
    classes()
    option = {f'{TRAIN}.metainfo': dict(classes=['cat', 'dog'])}
    errors, _ = found(classify, option)
    assert f'{TRAIN}.metainfo.classes with 2 names (set the names' in errors[0]
    # The names are in a file, which is not read here.
    root = classes()
    (root / 'names.txt').write_text('cat\ndog\n')
    option = {f'{TRAIN}.metainfo': dict(classes=str(root / 'names.txt'))}
    errors, _ = found(classify, option)
    assert len(errors) == 1 and errors[0].startswith(
        f"{TRAIN}.type='CustomDataset' expects a folder for each of its classes, "
        "'DATA/train' has 3 (cat, dog, owl). Set the names of the folders in "
        f'{TRAIN}.metainfo.classes, or remove it. '
    )


def test_lists_of_classes_are_compared(classes, classify, found):
    root = classes()
    shutil.rmtree(root / 'val/dog')
    errors, warnings = found(classify)
    assert warnings == []
    assert errors == [
        f'{TRAIN} has the classes cat, dog, owl, {VAL} has cat, owl: '
        "'owl' is label 2 in the first and 1 in the second. Make a folder for each "
        'class in both, an empty one for a class without images'
    ]
    (root / 'val/dog').mkdir()
    assert found(classify) == ([], [])
    # The labels of the others stay the same.
    save(picture(), root / 'val/yak/0.jpg')
    errors, (warning,) = found(classify)
    assert errors == [] and 'has cat, dog, owl, yak' in warning
    # The names of the classes are given, but the folders decide the labels.
    shutil.rmtree(root / 'val/dog')
    option = {f'{k}.metainfo': dict(classes=['a', 'b', 'c']) for k in (TRAIN, VAL)}
    errors, _ = found(classify, option)
    assert "'owl' is label 2 in the first and 1 in the second" in errors[0]


def test_class_lists_of_segmentation_are_compared(pairs, segment, found):
    pairs()
    errors, _ = found(segment, {f'{VAL}.metainfo.classes': ['b', 'a', 'c']})
    assert errors == [
        f"{TRAIN} has the classes a, b, c, {VAL} has b, a, c: 'a' is label 0 in the "
        f'first and 1 in the second. Set {VAL}.metainfo.classes to those of {TRAIN}'
    ]


def test_a_class_without_an_image_is_named(classes, classify, found):
    root = classes()
    for path in (root / 'train/dog').iterdir():
        path.unlink()
    assert found(classify) == ([], [f'1 of 3 classes of {TRAIN} without an image: dog'])


def test_class_weights_need_an_entry_for_each_class(pairs, segment, found):
    pairs()
    option = 'model.auxiliary_head.loss_decode.class_weight'
    assert found(segment, {option: [1.0, 2.0, 3.0]}) == ([], [])
    assert found(segment, {option: [1.0, 2.0]}) == (
        [
            f'{option} has 2 entries, model.auxiliary_head.num_classes=3: give one '
            'weight for each class'
        ],
        [],
    )
    segment.model.auxiliary_head.loss_decode = [
        dict(type='DiceLoss'),
        dict(type='CrossEntropyLoss', class_weight=[1.0]),
    ]
    errors, _ = found(segment)
    assert 'loss_decode.1.class_weight has 1 entries' in errors[0]


def test_a_metric_needs_class_names(pairs, segment, found):
    pairs()
    segment.val_dataloader.dataset.pop('metainfo')
    assert found(segment)[0] == [
        f'val_evaluator (IoUMetric) needs the names of the classes, and {VAL} has '
        f"none: set {VAL}.metainfo=dict(classes=['NAME', ...])"
    ]


@pytest.mark.parametrize('name', ['val_dataloader', 'val_evaluator', 'train_cfg'])
def test_a_part_of_a_loop_that_is_missing_is_named(pairs, segment, found, name):
    pairs()
    segment[name] = None
    (error,) = found(segment)[0]
    assert f', {name} missing or None: mmengine needs all of ' in error


def test_pretraining_from_a_folder_without_classes_says_how(tmp_path, found):
    save(picture(), tmp_path / 'flat/0.jpg')
    save(picture(), tmp_path / 'flat/below/1.jpg')
    dataset = dict(
        type='mmmaskdistill.ImageNet', data_root=str(tmp_path / 'flat'), pipeline=[]
    )
    cfg = dict(
        default_scope='mmpretrain',
        model=dict(type='mmmaskdistill.MaskDistill'),
        train_dataloader=dict(batch_size=2, dataset=dataset),
        train_cfg=dict(by_epoch=True),
        optim_wrapper=dict(optimizer=dict(type='SGD')),
    )
    from mmengine.config import Config

    (error,) = found(Config(cfg))[0]
    assert error.startswith(
        f"{TRAIN}.type='mmmaskdistill.ImageNet' expects a folder for each of its "
        "classes, 'DATA/flat/' has 1 (below). Set the names of the folders in "
        f'{TRAIN}.metainfo.classes, or remove it. If no labels are needed, set '
        f"{TRAIN}.type='CustomDataset', data_prefix to the folder and with_label=False"
    )


def test_what_only_training_needs_does_not_stop_a_test(
    pairs, segment, classes, classify, found
):
    pairs()
    segment.train_dataloader.update(batch_size=1)
    segment.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='none.pth')
    segment.model.decode_head.loss_decode.class_weight = [1.0]
    assert len(found(segment)[0]) == 3
    assert found(segment, loaders=['val_dataloader']) == ([], [])
    classes()
    classify.model.data_preprocessor.pop('num_classes')
    classify.model.head.loss.num_classes = 7
    assert found(classify, loaders=['val_dataloader']) == ([], [])


def test_files_of_class_weights_are_read(pairs, segment, found, tmp_path):
    pairs()
    option = 'model.decode_head.loss_decode.class_weight'
    np.save(tmp_path / 'three.npy', np.ones(3))
    (tmp_path / 'two.json').write_text('[1.0, 2.0]')
    assert found(segment, {option: str(tmp_path / 'three.npy')}) == ([], [])
    (error,), _ = found(segment, {option: str(tmp_path / 'two.json')})
    assert error.startswith(f'{option} has 2 entries, model.decode_head.num_classes=3')
    (error,), _ = found(segment, {option: str(tmp_path / 'none.npy')})
    assert error.startswith(f"{option}='DATA/none.npy' cannot be read (") and (
        error.endswith('.npy, .json or .yaml file with one weight for each class')
    )


def test_labels_of_a_list_are_compared_with_the_head(
    classes, classify, found, tmp_path
):
    classes()
    part = classify.train_dataloader.dataset
    part.update(ann_file='list.txt', data_prefix='', metainfo=dict(classes=list('abc')))
    classify.val_dataloader = classify.val_cfg = classify.val_evaluator = None
    for label in (3, -1):
        (tmp_path / 'list.txt').write_text(
            f'train/cat/0.jpg {label}\ntrain/dog/0.jpg 1\n'
        )
        errors, _ = found(classify)
        assert errors == [
            f"1 labels of {TRAIN}.ann_file are beyond the classes: 'DATA/train/cat/"
            f"0.jpg' has label {label}, and the head num_classes=3, so that labels are "
            '0 to 2. Correct the labels, which begin at 0, or num_classes'
        ]


@pytest.mark.parametrize('line', ['train/dog/0.jpg', '', 'a,1', 'a.jpg dog', 'a\t1'])
def test_lines_of_a_list_that_cannot_be_read_are_named(
    classes, classify, found, tmp_path, line
):
    classes()
    (tmp_path / 'list.txt').write_text(f'train/cat/0.jpg 0\n{line}\nb 0\n')
    classify.train_dataloader.dataset.update(ann_file='list.txt', data_prefix='')
    errors, _ = found(classify)
    assert errors[0] == (
        f"line 2 of 'DATA/list.txt' ({TRAIN}.ann_file) is {line!r}: expected the path "
        'of an image, a space, and the number of its class, such as cats/1.jpg 0'
    )


def test_folders_that_programs_make_are_not_classes(classes, classify, found, tmp_path):
    classes()
    (tmp_path / 'train/.ipynb_checkpoints').mkdir()
    errors, _ = found(classify)
    assert errors[0].endswith(
        "Remove the folder '.ipynb_checkpoints', which a program has made"
    )


def test_labels_that_are_reduced_in_one_data_set_only_are_named(pairs, segment, found):
    pairs()
    option = {f'{TRAIN}.reduce_zero_label': True}
    segment.train_dataloader.dataset.pipeline[1].reduce_zero_label = True
    _, warnings = found(segment, option)
    assert warnings[0].startswith(
        f'{TRAIN}.reduce_zero_label=True and {VAL}.reduce_zero_label=False, so that '
    )


@pytest.mark.parametrize('value', [0, -1, 'abc', 2.5])
def test_lengths_that_are_no_numbers_are_named(pairs, segment, found, value):
    pairs()
    errors, _ = found(segment, {'train_cfg.max_iters': value})
    assert errors == [
        f'train_cfg.max_iters={value!r}: expected a whole number of at least 1'
    ]
