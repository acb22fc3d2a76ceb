"""Names of files: what is missing, left out, or in two data sets."""

from helpers.image_files import labels, picture, save


def test_good_data_has_no_findings(pairs, classes, segment, classify, found):
    pairs()
    assert found(segment) == ([], [])
    classes()
    assert found(classify) == ([], [])


def test_a_suffix_that_matches_nothing_is_named_with_what_is_there(
    pairs, segment, found
):
    root = pairs(suffix='.png')
    save(picture(), root / 'img/train/below/x.bmp')
    errors, _ = found(
        segment, dict(val_dataloader=None, val_cfg=None, val_evaluator=None)
    )
    assert errors == [
        "no image in 'DATA/img/train' (train_dataloader.dataset.data_prefix.img_path) "
        "whose name ends in '.jpg' (train_dataloader.dataset.img_suffix): there are 2 "
        ".png, 1 .bmp (such as '0.png'). Set train_dataloader.dataset.img_suffix to "
        'the ending of the images'
    ]


def test_images_with_another_ending_are_named(pairs, segment, found):
    root = pairs()
    save(picture(), root / 'img/train/2.png')
    errors, warnings = found(segment)
    assert errors == []
    assert warnings == [
        '1 image in the folders of train_dataloader.dataset left out, because '
        "train_dataloader.dataset.img_suffix='.jpg': DATA/img/train/2.png"
    ]


def test_an_empty_folder_and_an_empty_list_are_named(pairs, segment, found):
    root = pairs()
    for path in (root / 'img/val').iterdir():
        path.unlink()
    (root / 'list.txt').write_text('')
    errors, _ = found(segment, {'train_dataloader.dataset.ann_file': 'list.txt'})
    assert errors[0].startswith(
        "'DATA/list.txt' (train_dataloader.dataset.ann_file) lists no image"
    )
    assert errors[1].startswith("no image in 'DATA/img/val' (")
    assert 'the folder is empty' in errors[1]


def test_missing_labels_and_images_are_named(pairs, segment, found):
    root = pairs()
    (root / 'ann/train/1.png').unlink()
    (root / 'list.txt').write_text('0\n7\n')
    errors, _ = found(segment, {'val_dataloader.dataset.ann_file': 'list.txt'})
    assert errors[0] == (
        '1 of 2 labels of train_dataloader.dataset does not exist: '
        "DATA/ann/train/1.png. The label of an image has its name, with '.png' "
        "(train_dataloader.dataset.seg_map_suffix) instead of '.jpg'; in "
        "'DATA/ann/train' there are 1 .png (such as '0.png'). Add the labels, or leave "
        'out their images with train_dataloader.dataset.ann_file'
    )
    assert errors[1] == (
        '1 of 2 images of val_dataloader.dataset does not exist: DATA/img/val/7.jpg. '
        'Add them, or remove them from val_dataloader.dataset.ann_file'
    )
    assert errors[2].startswith('1 of 2 labels of val_dataloader.dataset does not')
    assert len(errors) == 3


def test_labels_are_not_missed_if_they_are_not_loaded(pairs, segment, found):
    root = pairs()
    for path in (root / 'ann/val').iterdir():
        path.unlink()
    segment.val_dataloader.dataset.pipeline.pop(1)
    assert found(segment) == ([], [])


def test_a_label_without_an_image_is_named(pairs, segment, found):
    root = pairs()
    save(labels(), root / 'ann/train/alone.png')
    assert found(segment) == (
        [],
        [
            '1 label without an image in train_dataloader.dataset, which are left '
            'out: DATA/ann/train/alone.png. The image of a label has its name, with '
            "'.jpg' instead of '.png'"
        ],
    )
    # A list of files chooses some of them, and that is no mistake.
    (root / 'list.txt').write_text('0\n1\n')
    option = {'train_dataloader.dataset.ann_file': 'list.txt'}
    assert found(segment, option) == ([], [])


def test_an_image_to_train_and_to_evaluate_on_is_named(pairs, segment, found):
    pairs()
    option = {'val_dataloader.dataset.data_prefix': dict(img_path='img/train')}
    segment.val_dataloader.dataset.data_prefix.seg_map_path = 'ann/train'
    errors, (warning,) = found(segment, option)
    assert errors == []
    assert warning.startswith(
        '2 of the 2 images to evaluate on are also trained on: DATA/img/train/0.jpg, '
        'DATA/img/train/1.jpg (train_dataloader.dataset and val_dataloader.dataset)'
    )


def test_data_sets_inside_of_others_are_checked(pairs, segment, found):
    root = pairs()
    (root / 'ann/train/1.png').unlink()
    part = segment.train_dataloader.dataset
    for wrapped, option in (
        (dict(type='RepeatDataset', dataset=part, times=2), 'dataset'),
        (dict(type='ConcatDataset', datasets=[part]), 'datasets.0'),
    ):
        segment.train_dataloader.dataset = wrapped
        errors, _ = found(segment)
        assert len(errors) == 1
        assert errors[0].startswith(
            f'1 of 2 labels of train_dataloader.dataset.{option} does not exist'
        )


def test_a_folder_without_class_folders_is_named(classes, classify, found):
    root = classes()
    save(picture(), root / 'flat/0.jpg')
    option = {'train_dataloader.dataset.data_prefix': 'flat'}
    errors, _ = found(classify, option)
    assert errors[0].startswith(
        "'DATA/flat' (train_dataloader.dataset.data_prefix) has no folder for each "
        "class: there are 1 .jpg (such as '0.jpg'). "
    )
    option['train_dataloader.dataset.extensions'] = ('.png',)
    errors, _ = found(classify, option)
    assert errors[0].startswith("no image in 'DATA/flat' (") and '.jpg' in errors[0]


def test_a_data_set_that_cannot_be_built_is_named(pairs, segment, found):
    pairs()
    option = {'train_dataloader.dataset.type': 'NoDataset'}
    errors, _ = found(segment, option)
    assert errors[0].startswith(
        'train_dataloader.dataset (NoDataset) cannot be built: '
    )


def test_images_that_a_folder_data_set_leaves_out_are_named(classes, classify, found):
    root = classes()
    save(picture(), root / 'train/cat/x.webp')
    save(picture(), root / 'train/alone.jpg')
    save(picture(), root / 'val/owl/deep/x.tiff')
    errors, warnings = found(classify)
    assert errors == []
    endings = '.bmp, .jpeg, .jpg, .pgm, .png, .ppm, .tif'
    part = 'train_dataloader.dataset'
    assert warnings[-2] == (
        "2 of 8 images in 'DATA/train' are left out: DATA/train/alone.jpg, "
        f'DATA/train/cat/x.webp. Images end in {endings} ({part}.extensions) and lie '
        'in the folder of a class'
    )
    assert warnings[-1].startswith("1 of 7 images in 'DATA/val' are left out: ")
    option = {f'{part}.with_label': False}
    option[f'{part}.extensions'] = ('.jpg', '.webp')
    warnings = found(classify, option)[1]
    assert not any(f'({part}.extensions)' in text for text in warnings)


def test_links_to_nowhere_are_missing(pairs, segment, found):
    root = pairs()
    (root / 'ann/train/1.png').unlink()
    (root / 'ann/train/1.png').symlink_to(root / 'nowhere.png')
    (root / 'ann/train/0.png').rename(root / 'real.png')
    (root / 'ann/train/0.png').symlink_to(root / 'real.png')
    errors, _ = found(segment)
    assert errors[0].startswith(
        '1 of 2 labels of train_dataloader.dataset does not exist: DATA/ann/train/1.png'
    )


def test_what_makes_all_files_missing_is_named(pairs, segment, found):
    root, option = pairs(), 'train_dataloader.dataset'
    for text, advice in (
        ('0.jpg\n1.jpg\n', f'Each line of {option}.ann_file is the name of an image'),
        ('0\n\n1\n', f'Remove the empty lines from {option}.ann_file'),
        ('\ufeff0\n1\n', f'Save {option}.ann_file without the byte order mark'),
    ):
        (root / 'list.txt').write_text(text, encoding='utf-8')
        errors, _ = found(segment, {f'{option}.ann_file': 'list.txt'})
        assert advice in errors[0]
    errors, _ = found(segment, {f'{option}.seg_map_suffix': '.tif'})
    assert f'Set {option}.seg_map_suffix to what follows the name' in errors[0]
    errors, _ = found(segment, {f'{option}.img_suffix': 'jpg'})
    assert errors[0].endswith(f"Set {option}.img_suffix='.jpg', with the dot")
