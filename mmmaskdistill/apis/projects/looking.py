"""Look at the images and labels of a new project."""

import os.path as osp
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from mmmaskdistill.apis.checks import (
    ImageFile,
    LabelFile,
    ProgressLine,
    inspect_images,
    inspect_labels,
    mean_and_std,
)
from mmmaskdistill.datasets import (
    ClassTable,
    find_images,
    pair_labels,
    read_palette,
)
from mmmaskdistill.datasets.folders import LIST_ENDINGS
from mmmaskdistill.errors import ConfigError, first_few

TRAIN_NAMES = ('train', 'training')
VAL_NAMES = ('val', 'valid', 'validation', 'dev')
TEST_NAMES = ('test', 'testing')
# Formats whose second or fourth channel is transparency, and not another band.
WITH_ALPHA = ('PNG', 'WEBP', 'GIF')


class Images(NamedTuple):
    """The images of a project.

    Attributes:
        paths (list[str]): The folders, images and lists that were given, absolute.
        files (list[ImageFile]): The images that can be used.
        left_out (dict[str, str]): Why other images are not used, by their path.
        plain (bool): Whether they are pictures of 8 bits that every loader reads as
            red, green and blue.
        channels (int): Number of channels that the model sees.
        mean (list[float]): Mean of each channel; empty if they are plain.
        std (list[float]): Standard deviation of each channel, likewise.
        fill (float | None): What stands for pixels that are no number, if there are
            any.
        endings (str): What was found, and how many other files there are.
    """

    paths: list[str]
    files: list[ImageFile]
    left_out: dict[str, str]
    plain: bool
    channels: int
    mean: list[float]
    std: list[float]
    fill: float | None
    endings: str

    @property
    def short_side(self) -> int:
        """Median of the images' shorter sides, in pixels."""
        return int(median(min(file.size) for file in self.files))

    @property
    def are_photographs(self) -> bool:
        """Whether most of the images are JPEG files."""
        count = sum(file.format in ('JPEG', 'MPO') for file in self.files)
        return 2 * count > len(self.files)


class Split(NamedTuple):
    """Where the images for training and those for validation are.

    Attributes:
        train (str): Folder of the images for training.
        val (str): Folder of the images for validation.
        share (float | None): Share of the images for validation, if both are in the
            same folder.
        train_labels (str): Folder of the labels for training. Empty if the folders'
            names are the classes.
        val_labels (str): Folder of the labels for validation, likewise.
    """

    train: str
    val: str
    share: float | None
    train_labels: str = ''
    val_labels: str = ''


class Labels(NamedTuple):
    """The labels of a project.

    Attributes:
        split (Split): The folders.
        table (ClassTable): The classes.
        is_draft (bool): Whether the table was made from the values of the files.
        files (list[LabelFile]): The labels that can be used.
        train (list[str]): Labeled images for training.
        val (list[str]): Labeled images for validation; empty with a share.
        left_out (dict[str, str]): Why other labels or images are not used, by their
            path.
    """

    split: Split
    table: ClassTable
    is_draft: bool
    files: list[LabelFile]
    train: list[str]
    val: list[str]
    left_out: dict[str, str]


class ClassFolders(NamedTuple):
    """Images in folders whose names are the classes.

    Attributes:
        split (Split): The folders.
        names (list[str]): The classes.
        counts (dict[str, int]): Number of images of each class.
    """

    split: Split
    names: list[str]
    counts: dict[str, int]


def look_at_images(paths: Sequence[str], cache: str | None) -> Images:
    """Read all images of a project.

    Images of another kind than most of them (the number of channels, the type) are left
    out, and so are those that cannot be read.

    Args:
        paths (Sequence[str]): Folders of any layout, images, and lists of them.
        cache (str | None): JSON file that keeps what was read.

    Returns:
        Images: The images.

    Raises:
        ConfigError: If a path does not exist, or no image can be used.
    """
    paths = [osp.abspath(osp.expanduser(path)) for path in paths]
    found = find_images(paths)
    names = found.files
    files = inspect_images(names, cache=cache, progress=ProgressLine('images'))
    left_out = {file.path: file.error for file in files if file.error}
    files = [file for file in files if not file.error]
    if not files:
        raise ConfigError(
            f'none of the {len(names)} images in {_quoted(paths)} can be read, such as '
            f"'{names[0]}': {left_out[names[0]]}"
        )
    ((kind, _),) = Counter(map(_kind, files)).most_common(1)
    for file in files:
        if _kind(file) != kind:
            left_out[file.path] = f'{_describe(_kind(file))}, not {_describe(kind)}'
    files = [file for file in files if file.path not in left_out]
    channels = kind[0]
    plain = kind == PLAIN
    mean, std = ([], []) if plain else mean_and_std(files)
    fill = None
    if any(file.has_gaps for file in files):
        fill = sum(mean) / len(mean)
    return Images(
        paths, files, left_out, plain, channels, mean, std, fill, found.describe()
    )


# What mmcv's loader makes of pictures of 8 bits, with or without color and alpha
PLAIN = (3, 'uint8')


def _kind(file: ImageFile) -> tuple[int, str]:
    """Return the number of channels and the type with which an image is loaded."""
    has_alpha = file.channels in (2, 4) and file.format in WITH_ALPHA
    if file.dtype == 'uint8' and (file.channels in (1, 3) or has_alpha):
        return PLAIN
    return file.channels, file.dtype


def _describe(kind: tuple[int, str]) -> str:
    return f'{kind[0]} channels of {kind[1]}'


def look_at_labels(
    images: Sequence[str],
    labels: str,
    classes: str | None,
    val: tuple[str, str] | None,
    share: float,
    usable: Sequence[ImageFile],
    cache: str | None,
) -> Labels:
    """Read all labels of a project, and find the images that they belong to.

    Args:
        images (Sequence[str]): Folders of images. The labels belong to one of them.
        labels (str): Folder of the labels.
        classes (str | None): CSV file of the classes. None drafts a table.
        val (tuple[str, str] | None): Folders of images and labels for validation.
        share (float): Share of the images for validation if there is no such folder.
        usable (Sequence[ImageFile]): Images that can be used.
        cache (str | None): JSON file that keeps what was read.

    Returns:
        Labels: The labels.

    Raises:
        ConfigError: If no image has a label, a file cannot be read, or the table lacks
            a value.
    """
    root = _folder_of(images, labels)
    split = find_split(root, labels, val, share)
    known = {file.path: file for file in usable}
    left_out, pairs = {}, []
    for part, label_folder in (
        (split.train, split.train_labels),
        *([] if split.share else [(split.val, split.val_labels)]),
    ):
        found = pair_labels(
            find_images(part).files, part, find_images(label_folder).files, label_folder
        )
        left_out |= dict.fromkeys(found.images_without_label, 'has no label')
        left_out |= dict.fromkeys(found.labels_without_image, 'has no image')
        if not found.pairs:
            raise ConfigError(
                f"no image in '{part}' has a label in '{label_folder}': an image and "
                'its label have the same path below these folders, such as '
                f"'{osp.relpath(find_images(part).files[0], part)}' here and "
                f"'{osp.relpath(find_images(label_folder).files[0], label_folder)}' "
                'there'
            )
        pairs.append(found.pairs)
    names = [label for part in pairs for _, label in part]
    files = inspect_labels(names, cache=cache, progress=ProgressLine('labels'))
    by_path = {file.path: file for file in files}
    for image, label in (pair for part in pairs for pair in part):
        file, of = by_path[label], known.get(image)
        if file.error:
            left_out[label] = file.error
        elif of is not None and sorted(of.size) != sorted(file.size):
            left_out[label] = (
                f'{file.width} x {file.height} pixels, its image has {of.width} x '
                f'{of.height}'
            )
    files = [file for file in files if file.path not in left_out]
    if not files:
        raise ConfigError(
            f"no label in '{labels}' can be used, such as '{names[0]}': "
            f'{left_out[names[0]]}'
        )
    files = [_as_values(file) for file in files]
    if all(_is_gray(file) for file in files):
        files = [_without_color(file) for file in files]
    table = ClassTable.read(classes) if classes else draft_table(files)
    good = [
        [image for image, label in part if label not in left_out and image in known]
        for part in pairs
    ]
    return Labels(
        split,
        table,
        not classes,
        files,
        good[0],
        [] if split.share else good[1],
        left_out,
    )


def _as_values(file: LabelFile) -> LabelFile:
    """Return a label whose gray values with transparency are numbers."""
    if all(isinstance(value, tuple) and len(value) == 2 for value in file.values):
        values = Counter()
        for value, count in file.values.items():
            values[value[0]] += count
        file.values = dict(values)
    return file


def _is_gray(file: LabelFile) -> bool:
    return not file.colored or all(
        isinstance(value, tuple) and len(set(value)) == 1 for value in file.values
    )


def _without_color(file: LabelFile) -> LabelFile:
    """Return a label whose colors are all gray as one with values."""
    if file.colored:
        file.values = {value[0]: count for value, count in file.values.items()}
    return file


def draft_table(files: Sequence[LabelFile]) -> ClassTable:
    """Make a table of classes from the values of labels.

    Args:
        files (Sequence[LabelFile]): The labels.

    Returns:
        ClassTable: The table.

    Raises:
        ConfigError: If there are more values than classes can be.
    """
    values = set().union(*(file.values for file in files))
    colors = {value for value in values if isinstance(value, tuple)}
    # A gray pixel of a file without color is the color of three equal values.
    values = {(v,) * 3 if colors and not isinstance(v, tuple) else v for v in values}
    if len(values) > 255:
        kind = 'colors' if colors else 'values'
        example = max(files, key=lambda file: len(file.values))
        raise ConfigError(
            f"the labels have {len(values)} different {kind}, '{example.path}' alone "
            f'{len(example.values)}: expected one for each class, at most 255. Labels '
            'must not be JPEG files, which change values; if there are numbers of '
            'instances in the files, map them to classes with --classes FILE'
        )
    palette = {}
    for file in files:
        if file.mode == 'P' and not palette:
            palette = read_palette(file.path)
    return ClassTable.draft(values, palette)


def unknown_values(labels: Labels) -> dict:
    """Find values of labels that the table of classes lacks.

    Args:
        labels (Labels): The labels.

    Returns:
        dict: For each such value or color the first file with it.
    """
    known = set(labels.table.colours if labels.table.by_colour else labels.table.values)
    unknown = {}
    for file in labels.files:
        for value in file.values:
            if labels.table.by_colour and not isinstance(value, tuple):
                value = (value,) * 3
            one_bit = file.mode == '1' and value in (0, 1) and 255 in known
            if value not in known and not one_bit:
                unknown.setdefault(value, file.path)
    return unknown


def names_of_values(table: ClassTable) -> dict:
    """Return the name of each value or color of a table.

    Args:
        table (ClassTable): The table.

    Returns:
        dict: The names, and ``ignored`` in front of those that do not count.
    """
    return {
        row.colour if table.by_colour else row.value: f'{row.name} (ignored)'.strip()
        if row.ignore
        else row.name
        for row in table.rows
    }


def look_at_class_folders(
    images: Sequence[str], val: str | None, share: float
) -> ClassFolders | None:
    """Tell whether a folder has folders of images whose names are classes.

    Args:
        images (Sequence[str]): The paths of the images.
        val (str | None): Folder of the images for validation.
        share (float): Share of the images for validation if there is no such folder.

    Returns:
        ClassFolders | None: The classes; None if the folder looks otherwise.

    Raises:
        ConfigError: If the folders for training and for validation have different
            classes.
    """
    if len(images) != 1 or not osp.isdir(images[0]):
        return None
    split = find_split(osp.abspath(images[0]), '', (val, '') if val else None, share)
    train, others = _classes(split.train), _classes(split.val)
    if train is None or (others is None and not split.share):
        return None
    if not set(train) & set(others or train):
        return None  # Folders of days, for example, have other names in each part.
    if not split.share and set(train) != set(others):
        absent = sorted(set(train) ^ set(others))
        raise ConfigError(
            f"'{split.train}' has {len(train)} class folders, '{split.val}' has "
            f'{len(others)}: only one of them has {first_few(list(map(repr, absent)))}'
            '. Each class needs images for training and for validation, in folders of '
            'the same name'
        )
    counts = Counter(train)
    if not split.share:
        counts.update(others)
    return ClassFolders(split, sorted(train), dict(counts))


def _classes(folder: str) -> dict[str, int] | None:
    """Count the images of each folder; None if these cannot be classes."""
    entries = [e for e in Path(folder).iterdir() if not e.name.startswith('.')]
    folders = [entry for entry in entries if entry.is_dir()]
    if len(folders) < 2 or len({name.name.lower() for name in folders} & SPLITS):
        return None
    try:
        counts = {entry.name: len(find_images(entry).files) for entry in folders}
        if any(entry.is_file() for entry in entries) and find_images(
            [entry for entry in entries if entry.is_file()]
        ):
            return None
    except ConfigError:  # A folder without an image is no class.
        return None
    return counts if min(counts.values()) > 1 else None


SPLITS = {*TRAIN_NAMES, *VAL_NAMES, *TEST_NAMES, 'images', 'labels'}


def find_split(
    images: str, labels: str, val: tuple[str, str] | None, share: float
) -> Split:
    """Find the folders for training and validation.

    Args:
        images (str): Folder of the images.
        labels (str): Folder of the labels. Empty if there are only images.
        val (tuple[str, str] | None): Folders of images and labels for validation.
        share (float): Share of the images for validation if no folder is for it.

    Returns:
        Split: The folders. Without ``val``, folders ``train`` and ``val`` in both
        folders are used. What is in a folder ``test`` next to ``train`` is for neither.
    """
    labels = osp.abspath(osp.expanduser(labels)) if labels else ''
    if val is not None:
        val = [osp.abspath(osp.expanduser(path)) if path else '' for path in val]
        return Split(images, val[0], None, labels, val[1])
    roots = [images, labels] if labels else [images]
    train, val, test = (
        [subfolder(root, names) for root in roots]
        for names in (TRAIN_NAMES, VAL_NAMES, TEST_NAMES)
    )
    if all(train) and all(val):
        return Split(train[0], val[0], None, *_second(train), *_second(val))
    if all(train) and any(test):
        return Split(train[0], train[0], share, *_second(train) * 2)
    return Split(images, images, share, labels, labels)


def _second(folders: list[str]) -> list[str]:
    return folders[1:] or ['']


def subfolder(root: str, names: Sequence[str]) -> str | None:
    """Find a folder in another one.

    Args:
        root (str): The other folder.
        names (Sequence[str]): Names that the folder may have, in lower case.

    Returns:
        str | None: The folder; None if there is none.
    """
    if not osp.isdir(root):
        return None
    for entry in sorted(Path(root).iterdir()):
        if entry.is_dir() and entry.name.lower() in names:
            return str(entry)
    return None


def _folder_of(images: Sequence[str], labels: str) -> str:
    """Return the one of several folders of images that labels belong to."""
    folders = [osp.abspath(osp.expanduser(path)) for path in images]
    wrong = [path for path in folders if path.lower().endswith(LIST_ENDINGS)]
    folders = [path for path in folders if osp.isdir(path)]
    if not folders:
        raise ConfigError(
            f'--labels {labels!r} goes with a folder of images, which has the same '
            f'layout, not with {_quoted(wrong or images)}'
        )
    if len(folders) == 1:
        return folders[0]
    files = find_images(labels).files
    counts = {
        folder: len(pair_labels(find_images(folder).files, folder, files, labels).pairs)
        for folder in folders
    }
    return max(folders, key=counts.get)


def held_out(images: Sequence[str]) -> list[str]:
    """Find folders for validation and test, which pre-training must not see.

    Args:
        images (Sequence[str]): The paths of the images.

    Returns:
        list[str]: Folders named ``val`` or ``test`` next to one named ``train``.
    """
    folders = []
    for path in images:
        path = osp.abspath(osp.expanduser(path))
        if subfolder(path, TRAIN_NAMES):
            others = (subfolder(path, (name,)) for name in (*VAL_NAMES, *TEST_NAMES))
            folders += [folder for folder in others if folder]
    return folders


def is_below(path: str, folders: Sequence[str]) -> bool:
    """Tell whether a file is in one of some folders.

    Args:
        path (str): The file.
        folders (Sequence[str]): The folders.
    """
    return any(path.startswith(osp.join(folder, '')) for folder in folders)


def _quoted(paths: Sequence[str]) -> str:
    return first_few([repr(str(path)) for path in paths])
