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
    IMAGE_ENDINGS,
    ClassTable,
    FoundImages,
    common_suffixes,
    find_images,
    find_images_and_labels,
    find_labels,
    for_validation,
    pair_labels,
    read_palette,
    separate_labels,
)
from mmmaskdistill.datasets.folders import SYSTEM_FOLDERS, name_below
from mmmaskdistill.datasets.label_maps import TURNED
from mmmaskdistill.errors import ConfigError, first_few

TRAIN_NAMES = ('train', 'training')
VAL_NAMES = ('val', 'valid', 'validation', 'dev')
TEST_NAMES = ('test', 'testing')
# Formats whose second or fourth channel is transparency, and not another band.
WITH_ALPHA = ('PNG', 'WEBP', 'GIF')

# How many folders above images are tried to find the layout that their labels have
PARENTS = 4


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

    @property
    def folders(self) -> list[tuple[str, str]]:
        """The folders of images and labels; one pair if there is a share."""
        train = (self.train, self.train_labels)
        return [train] if self.share else [train, (self.val, self.val_labels)]


class Labels(NamedTuple):
    """The labels of a project.

    Attributes:
        split (Split): The folders.
        table (ClassTable): The classes.
        is_draft (bool): Whether the table was made from the values of the files.
        suffix (str | None): What the names of the labels end with, if that is needed to
            find them.
        files (list[LabelFile]): The labels that can be used.
        train (list[str]): Labeled images for training.
        val (list[str]): Labeled images for validation.
        all_used (bool): Whether these are all images in their folders.
        left_out (dict[str, str]): Why other labels or images are not used, by their
            path.
        notes (list[str]): What the user should know of them.
    """

    split: Split
    table: ClassTable
    is_draft: bool
    suffix: str | None
    files: list[LabelFile]
    train: list[str]
    val: list[str]
    all_used: bool
    left_out: dict[str, str]
    notes: list[str]


class ClassFolders(NamedTuple):
    """Images in folders whose names are the classes.

    Attributes:
        split (Split): The folders.
        names (list[str]): The classes.
        counts (dict[str, int]): Number of images of each class.
        empty (list[str]): Folders without an image, which are no classes.
    """

    split: Split
    names: list[str]
    counts: dict[str, int]
    empty: list[str]


def look_at_images(
    paths: Sequence[str],
    cache: str | None,
    labels: Sequence[str] = (),
    suffix: str | None = None,
) -> Images:
    """Read all images of a project.

    Images of another kind than most of them (the number of channels, the type) are left
    out, and so are those that cannot be read.

    Args:
        paths (Sequence[str]): Folders of any layout, images, and lists of them.
        cache (str | None): JSON file that keeps what was read.
        labels (Sequence[str]): Folders of labels, which are no images even if they lie
            in a folder of images. Defaults to none.
        suffix (str, optional): What the names of the labels end with. Defaults to None,
            any common suffix.

    Returns:
        Images: The images.

    Raises:
        ConfigError: If a path does not exist, or no image can be used.
    """
    paths = [osp.abspath(osp.expanduser(path)) for path in paths]
    found = _without_labels(find_images(paths), paths, labels, suffix)
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


def _without_labels(
    found: FoundImages, paths: list[str], labels: Sequence[str], suffix: str | None
) -> FoundImages:
    """Take the labels out of the images, if they lie in a folder of images."""
    taken = set()
    for label_root in map(_absolute, labels):
        for path in filter(osp.isdir, paths):
            below = [file for file in found.files if is_below(file, [path])]
            if osp.realpath(label_root) == osp.realpath(path):
                taken |= set(separate_labels(below, path, suffix)[1])
            elif is_below(label_root, [path]):
                taken |= {file for file in below if is_below(file, [label_root])}
    files = [file for file in found.files if file not in taken]
    if not files:
        raise ConfigError(
            f'all images in {_quoted(paths)} are labels: give the folder of the images '
            'first, and that of the labels behind --labels'
        )
    return found._replace(files=files)


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
    suffix: str | None = None,
) -> Labels:
    """Read all labels of a project, and find the images that they belong to.

    Args:
        images (Sequence[str]): Folders, images and lists of them.
        labels (str): Folder of the labels.
        classes (str | None): CSV file of the classes. None drafts a table.
        val (tuple[str, str] | None): Folders of images and labels for validation.
        share (float): Share of the images for validation if there is no such folder.
        usable (Sequence[ImageFile]): Images that can be used.
        cache (str | None): JSON file that keeps what was read.
        suffix (str, optional): What the names of the labels end with. Defaults to None,
            any common suffix.

    Returns:
        Labels: The labels.

    Raises:
        ConfigError: If no image has a label, or no label can be used.
    """
    labels = _absolute(labels)
    if not osp.isdir(labels):
        what = 'is a file' if osp.isfile(labels) else 'does not exist'
        raise ConfigError(f"--labels '{labels}' {what}: expected a folder")
    split, suffix, notes = _find_folders(images, labels, val, share, suffix)
    known = {file.path: file for file in usable}
    paths = [_absolute(path) for path in (*images, *([val[0]] if val else []))]
    given = find_images(paths).files
    left_out, parts, everything = {}, [], set()
    for part, label_folder in split.folders:
        names = find_labels(part, label_folder, suffix)
        own = _images_below(given, part, names)
        pairs = pair_labels(own, part, names, label_folder, suffix)
        left_out |= dict.fromkeys(pairs.images_without_label, 'has no label')
        left_out |= dict.fromkeys(pairs.labels_without_image, 'has no image')
        if not pairs.pairs:
            raise ConfigError(_nothing_paired(own, part, names, label_folder))
        parts.append(pairs.pairs)
        if any(part == path or is_below(part, [path]) for path in paths):
            everything |= set(find_images_and_labels(part, label_folder, suffix)[0][0])
        else:  # images of several folders, or of a list
            everything.add(None)
    table = ClassTable.read(classes) if classes else None
    files = inspect_labels(
        [label for part in parts for _, label in part],
        cache=cache,
        progress=ProgressLine('labels'),
        colours=table is not None and table.by_colour,
    )
    by_path = {file.path: file for file in files}
    for image, label in (pair for part in parts for pair in part):
        problem = _problem(by_path[label], known.get(image))
        if problem:
            left_out[label] = problem
    good = [
        [(i, label) for i, label in part if label not in left_out and i in known]
        for part in parts
    ]
    files = [by_path[label] for part in good for _, label in part]
    if not files:
        label = parts[0][0][1]
        raise ConfigError(
            f"no label in '{labels}' can be used, such as '{label}': "
            f'{left_out.get(label, "its image cannot be used")}'
        )
    if split.share:
        (pairs,) = good
        names = [name_below(image, split.train) for image, _ in pairs]
        held_out = for_validation(names, split.share)
        good = [[p for p, v in zip(pairs, held_out) if v == val] for val in (0, 1)]
    if table is None:
        _refuse_lossy(files)
        table = draft_table(files)
        notes += _soft_edges(files)
    notes += _classes_missing(table, good, by_path)
    train, val = ([image for image, _ in part] for part in good)
    return Labels(
        split,
        table,
        not classes,
        suffix,
        files,
        train,
        val,
        everything == {*train, *val},
        left_out,
        notes,
    )


def _problem(label: LabelFile, image: ImageFile | None) -> str:
    """Say why a label cannot be used; nothing if it can."""
    if label.error or image is None or image.size == label.size:
        return label.error
    problem = (
        f'{label.width} x {label.height} pixels, its image has {image.width} x '
        f'{image.height}'
    )
    if label.size == image.size[::-1]:
        return problem + TURNED
    return f'{problem}: resize the labels, without interpolation (nearest neighbor)'


def _nothing_paired(
    images: Sequence[str], part: str, labels: Sequence[str], label_folder: str
) -> str:
    """Say how the names of images and labels differ if no two belong together."""
    if not images or not labels:
        lacks, folder = ('image', part) if not images else ('label', label_folder)
        return (
            f"no {lacks} in '{folder}': labels in a folder of images have the names of "
            'the images and a suffix, such as a.jpg and a_mask.png. Give another one '
            'with --label-suffix, or give separate folders'
        )
    return (
        f"no image in '{part}' has a label in '{label_folder}': an image and its "
        'label have the same path below these folders, such as '
        f"'{osp.relpath(images[0], part)}' here and "
        f"'{osp.relpath(labels[0], label_folder)}' there. If the names of the labels "
        'have a further suffix, give it with --label-suffix'
    )


def _refuse_lossy(files: Sequence[LabelFile]) -> None:
    """Refuse to take all values of JPEG files for classes."""
    lossy = [repr(file.path) for file in files if file.format in ('JPEG', 'MPO')]
    if lossy:
        count = len(set().union(*(file.values for file in files)))
        raise ConfigError(
            f'{len(lossy)} of {len(files)} labels are JPEG files, whose compression '
            f'changes values, so that there are {count} of them: {first_few(lossy)}. '
            'Save labels as PNG, and masks of black and white only after a threshold'
        )


def _soft_edges(files: Sequence[LabelFile]) -> list[str]:
    """Recognize masks whose edges were smoothed, in which every gray is a value."""
    pixels = Counter()
    for file in files:
        pixels.update(file.values)
    others = [value for value in pixels if value not in (0, 255)]
    share = sum(pixels[value] for value in others) / pixels.total()
    if len(others) < 3 or share > 0.1 or 0 not in pixels or 255 not in pixels:
        return []
    return [
        f'{100 * (1 - share):.1f} % of the pixels of the labels are 0 or 255, and '
        f'{len(others)} other values have the rest: if the labels are masks with soft '
        'edges, apply a threshold to them, or in classes.csv give the lines of the '
        'other values a name that they share with 0 or 255'
    ]


def _classes_missing(
    table: ClassTable, good: Sequence[list[tuple[str, str]]], files: dict
) -> list[str]:
    """Name classes that no label for training, or none for validation, has."""
    notes = []
    for part, pairs in zip(('training', 'validation'), good):
        values = set().union(*(files[label].values for _, label in pairs))
        present = {index_of(value, table) for value in values}
        absent = [name for k, name in enumerate(table.names) if k not in present]
        if absent and pairs:
            meaning = dict(
                training='cannot be learned', validation='have no IoU in validations'
            )[part]
            notes.append(
                f'{len(absent)} of {len(table.names)} classes {meaning}, since they '
                f'have no pixel in the labels for {part} ({len(pairs)}): '
                f'{first_few(absent, 8)}'
            )
    return notes


def index_of(value: int | tuple, table: ClassTable) -> int | None:
    """Return the index of a value or color of a label file, None if it has none.

    Args:
        value (int | tuple[int, int, int]): The value or color.
        table (ClassTable): The table of classes.
    """
    if table.by_colour or isinstance(value, tuple):
        colour = value if isinstance(value, tuple) else (value,) * 3
        return table.colours.get(colour)
    return table.values.get(value)


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
    table, unknown = labels.table, {}
    for file in labels.files:
        for value in file.values:
            one_bit = file.mode == '1' and value in (0, 1) and 255 in table.values
            if index_of(value, table) is None and not one_bit:
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
    counts = _classes(split.train)
    if counts is None:
        return None
    names = sorted(name for name, count in counts.items() if count)
    empty = sorted(name for name, count in counts.items() if not count)
    if split.share:
        return ClassFolders(split, names, counts, empty)
    others = _classes(split.val)
    if others is None or not set(names) & set(others):
        return None  # Folders of days, for example, have other names in each part.
    wrong = set(names) - set(others) | {n for n in others if others[n]} - set(names)
    if wrong:
        raise ConfigError(
            f"'{split.train}' has {len(counts)} class folders, '{split.val}' has "
            f'{len(others)}: only one of them has {first_few(sorted(map(repr, wrong)))}'
            '. Each class needs images for training, and a folder of the same name in '
            'both; it may be empty for validation'
        )
    counts = {name: counts[name] + others[name] for name in names}
    return ClassFolders(split, names, counts, sorted({*empty, *others} - set(names)))


def _classes(folder: str) -> dict[str, int] | None:
    """Count the images of each folder; None if these cannot be classes."""
    entries = [e for e in Path(folder).iterdir() if not e.name.startswith('.')]
    entries = [entry for entry in entries if entry.name not in SYSTEM_FOLDERS]
    folders = [entry for entry in entries if entry.is_dir()]
    if len(folders) < 2 or len({name.name.lower() for name in folders} & SPLITS):
        return None
    if any(
        entry.suffix.lower() in IMAGE_ENDINGS for entry in set(entries) - {*folders}
    ):
        return None
    counts = {}
    for entry in folders:
        try:
            counts[entry.name] = len(find_images(entry).files)
        except ConfigError:
            counts[entry.name] = 0
    filled = [count for count in counts.values() if count]
    # Folders of a single image, for example of each patient, are no classes.
    return counts if len(filled) > 1 and sum(filled) >= 2 * len(filled) else None


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


def _find_folders(
    images: Sequence[str],
    labels: str,
    val: tuple[str, str] | None,
    share: float,
    suffix: str | None,
) -> tuple[Split, str | None, list[str]]:
    """Find the folder below which images have the same paths as their labels.

    Returns:
        tuple[Split, str | None, list[str]]: The folders for training and validation,
        the suffix of the labels, and what the user should know.
    """
    paths = [_absolute(path) for path in images]
    given = find_images(paths).files
    folders = [path for path in paths if osp.isdir(path)]
    candidates = {folder: find_split(folder, labels, val, share) for folder in folders}
    # Images of several folders, or of a list, may have a common folder, which the
    # layout of the labels is that of.
    common = Path(osp.commonpath([*folders, *map(osp.dirname, given)]))
    for folder in map(str, [common, *common.parents][:PARENTS]):
        ends = (folder, share, labels, labels)
        if val:
            ends = (_absolute(val[0]), None, labels, _absolute(val[1]))
        candidates.setdefault(folder, Split(folder, *ends))
    found = {}
    for folder, split in candidates.items():
        if folder not in folders and any(count for count, *_ in found.values()):
            continue
        names = find_labels(split.train, split.train_labels, suffix)
        own = _images_below(given, split.train, names)
        try:
            pairs = pair_labels(own, split.train, names, split.train_labels, suffix)
        except ConfigError as error:  # An image has two labels, or a label two images.
            if folder in folders:
                raise
            problem = error
            continue
        found[folder] = (len(pairs.pairs), split, own, names)
    if not found:
        raise problem
    best = max(found, key=lambda folder: found[folder][0])
    count, split, own, names = found[best]
    if not count and not suffix:
        rest = common_suffixes(own, split.train, names, split.train_labels)
        if len(rest) == 1:
            (suffix,) = rest
            return split, suffix, []
        if rest:
            counts = [f'{suffix!r} ({n})' for suffix, n in rest.items()]
            raise ConfigError(
                f"the names of the labels in '{labels}' end with {first_few(counts)}: "
                'choose one with --label-suffix'
            )
    notes = [
        f"'{folder}' has {other[0]} labels, too, but images of a single folder are "
        f"segmented, '{best}': to use both, bring the images into one folder with the "
        'layout of the labels'
        for folder, other in found.items()
        if other[0] and folder != best
    ]
    return split, suffix, notes


def _images_below(
    files: Sequence[str], folder: str, labels: Sequence[str]
) -> list[str]:
    """Return the files in a folder that are no labels."""
    labels = set(labels)
    return [file for file in files if is_below(file, [folder]) and file not in labels]


def _absolute(path: str) -> str:
    return osp.abspath(osp.expanduser(path))


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
