"""Find images in folders of any layout, and the label that belongs to each image."""

import os
import os.path as osp
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mmengine.logging import print_log
from mmpretrain.datasets import BaseDataset

from mmmaskdistill.errors import ConfigError, first_few
from mmmaskdistill.registry import DATASETS

from .image_files import IMAGE_ENDINGS, LABEL_ENDINGS
from .unreadable import ReplacesUnreadable

LIST_ENDINGS = ('.txt', '.lst', '.list')
# Folders that systems make for themselves: macOS's archives, Synology's thumbnails.
SYSTEM_FOLDERS = ('__MACOSX', '@eaDir')
# What the names of images and of labels begin and end with where the rest is the same.
IMAGE_PREFIXES = ('image_', 'images_', 'img_', 'rgb_', 'sat_')
LABEL_PREFIXES = (
    'label_',
    'labels_',
    'mask_',
    'masks_',
    'annotation_',
    'segmentation_',
    'seg_',
    'gt_',
)
IMAGE_SUFFIXES = (
    '_leftImg8bit',
    '_image',
    '_img',
    '_rgb',
    '_sat',
    '_training',
    '_test',
)
LABEL_SUFFIXES = (
    '_gtFine_labelTrainIds',
    '_gtFine_labelIds',
    '_gtCoarse_labelIds',
    '_labelTrainIds',
    '_labelIds',
    '_labels',
    '_label',
    '_segmentation',
    '_segmap',
    '_masks',
    '_mask',
    '_annotation',
    '_anno',
    '_ann',
    '_manual1',
    '_seg',
    '_gt',
    '_L',
)


# Folders of images and of labels next to each other, in lower case
IMAGE_FOLDERS = ('images', 'image', 'imgs', 'img', 'images_png', 'rgb')
LABEL_FOLDERS = (
    'labels',
    'label',
    'labels_png',
    'masks',
    'mask',
    'masks_png',
    'annotations',
    'annotation',
    'ann',
    'gt',
    'seg',
    'segmentation',
)


class _Extras(NamedTuple):
    """What is left out of the names of images or labels, in lower case or capitals.

    Attributes:
        prefixes (Sequence[str]): What the last part of a name begins with.
        suffixes (Sequence[str]): What it ends with.
        folders (Sequence[str]): Folders in it.
    """

    prefixes: Sequence[str] = ()
    suffixes: Sequence[str] = ()
    folders: Sequence[str] = ()


IMAGE_EXTRAS = _Extras(IMAGE_PREFIXES, IMAGE_SUFFIXES)
LABEL_EXTRAS = _Extras(LABEL_PREFIXES, (*LABEL_SUFFIXES, *IMAGE_ENDINGS))


class FoundImages(NamedTuple):
    """The images in some folders.

    Attributes:
        files (list[str]): The images, sorted within each folder.
        left_out (dict[str, int]): How many files of each other ending there are.
    """

    files: list[str]
    left_out: dict[str, int]

    def describe(self) -> str:
        """Say in one line how many images there are and what was left out."""
        count = len(self.files)
        counts = _counts(count_endings(self.files))
        line = f'{count} image{"s" * (count != 1)} ({counts})'
        if self.left_out:
            line += f'; left out: {_counts(self.left_out)}'
        return line


class Pairs(NamedTuple):
    """Images and their labels.

    Attributes:
        pairs (list[tuple[str, str]]): An image and its label each.
        images_without_label (list[str]): The other images.
        labels_without_image (list[str]): The other labels.
    """

    pairs: list[tuple[str, str]]
    images_without_label: list[str]
    labels_without_image: list[str]


def find_images(
    paths: str | os.PathLike | Sequence[str | os.PathLike],
    endings: Sequence[str] = IMAGE_ENDINGS,
    what: str = 'images',
) -> FoundImages:
    """Find all images in folders of any layout and depth.

    Links to folders are followed, and one that leads back to a folder around it is
    not. Hidden files and folders, and those that systems make for themselves, are
    skipped.

    Args:
        paths (str | PathLike | Sequence[str | PathLike]): Folders, images, or text
            files (``.txt``, ``.lst`` or ``.list``) with one such path a line,
            relative to the text file's folder. Empty lines and those that start with
            ``#`` are skipped.
        endings (Sequence[str]): Endings of the images, in lower case; those of the
            files may have capitals. Defaults to :data:`.image_files.IMAGE_ENDINGS`.
        what (str): What the files are, for the message. Defaults to ``'images'``.

    Returns:
        FoundImages: The images, and how many other files there are.

    Raises:
        ConfigError: If a path does not exist or cannot be read, or there is no image.
    """
    paths = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    endings = tuple(ending.lower() for ending in endings)
    files, left_out = {}, Counter()
    for path in _resolved(paths):
        if osp.isfile(path):
            files[path] = None
            continue
        for file in _files_below(path):
            ending = osp.splitext(file)[1].lower()
            if not osp.isfile(file):
                left_out['broken links'] += 1
            elif ending in endings:
                files[file] = None
            else:
                left_out[ending or 'without an ending'] += 1
    found = FoundImages(list(files), dict(left_out))
    if not found.files:
        there = f'only {_counts(left_out)}' if left_out else 'no file'
        raise ConfigError(
            f'no {what} in {first_few([repr(str(p)) for p in paths])}: expected files '
            f'that end with {", ".join(endings)}, and there is {there}'
        )
    return found


def count_endings(files: Sequence[str]) -> dict[str, int]:
    """Count how many files have each ending, the most frequent first.

    Args:
        files (Sequence[str]): Names of files.
    """
    return dict(Counter(osp.splitext(f)[1].lower() for f in files).most_common())


def pair_labels(
    images: Sequence[str],
    image_root: str,
    labels: Sequence[str],
    label_root: str,
    label_suffix: str | None = None,
) -> Pairs:
    """Find the label of each image.

    An image and its label have the same path below their folders, apart from the
    ending. For those that have no such partner, what their names commonly begin and
    end with is left out: ``a_leftImg8bit.png`` and ``a_gtFine_labelIds.png``, ``a.jpg``
    and ``a_mask.png`` or ``a.jpg.png``, ``img_1.jpg`` and ``mask_1.png``. At last, so
    are folders that are named after what
    they hold: ``street/images/a.jpg`` and ``street/labels/a.png``.

    Args:
        images (Sequence[str]): The images.
        image_root (str): The images' folder.
        labels (Sequence[str]): The labels.
        label_root (str): The labels' folder.
        label_suffix (str, optional): What the labels' names end with, before the
            ending of the file. Other labels do not count. Defaults to None, any of
            :data:`LABEL_SUFFIXES` or nothing.

    Returns:
        Pairs: The pairs in the order of the images, and what is left over.

    Raises:
        ConfigError: If an image has two labels, or a label two images.
    """
    of_images, of_labels = IMAGE_EXTRAS, LABEL_EXTRAS
    if label_suffix:
        labels = [f for f in labels if osp.splitext(f)[0].endswith(label_suffix)]
        of_labels = _Extras(suffixes=(label_suffix,))
    of_image = {}
    lone_images, lone_labels = list(images), list(labels)
    for extras, extras_of_labels in (
        (_Extras(), _Extras()),
        (of_images, of_labels),
        (
            of_images._replace(folders=IMAGE_FOLDERS),
            of_labels._replace(folders=LABEL_FOLDERS),
        ),
    ):
        by_name = _by_name(lone_images, image_root, extras)
        labels_by_name = _by_name(lone_labels, label_root, extras_of_labels)
        for name in sorted(by_name.keys() & labels_by_name.keys()):
            found, theirs = by_name[name], labels_by_name[name]
            if len(theirs) > 1:
                raise ConfigError(
                    f"the image '{found[0]}' has {len(theirs)} labels, "
                    f'{first_few([repr(file) for file in theirs])}: expected one. Move '
                    'the others elsewhere, or say what the names of the right ones end '
                    'with (label_suffix of the data set, or --label-suffix of '
                    'start_project.py)'
                )
            if len(found) > 1:
                raise ConfigError(
                    f"the label '{theirs[0]}' belongs to {len(found)} images, "
                    f'{first_few([repr(file) for file in found])}: expected one. Move '
                    'the others elsewhere'
                )
            of_image[found[0]] = theirs[0]
        used = set(of_image.values())
        lone_images = [image for image in images if image not in of_image]
        lone_labels = [label for label in labels if label not in used]
    pairs = [(image, of_image[image]) for image in images if image in of_image]
    return Pairs(pairs, lone_images, lone_labels)


def name_below(path: str, root: str) -> str:
    """Return a file's path below a folder, with slashes and without its ending.

    Args:
        path (str): The file.
        root (str): The folder.
    """
    return Path(osp.splitext(osp.relpath(path, root))[0]).as_posix()


def read_list(path: str) -> list[str]:
    """Read the lines of a text file that are neither empty nor a comment.

    Args:
        path (str): The text file, in UTF-8.

    Raises:
        ConfigError: If there is no such file, or it is no text.
    """
    try:
        lines = Path(path).read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the list '{path}': {error}") from error
    lines = [line.strip() for line in lines]
    return [line for line in lines if line and not line.startswith('#')]


def find_images_and_labels(
    image_root: str, label_root: str, label_suffix: str | None = None
) -> tuple[FoundImages, list[str]]:
    """Find the images and the labels below two folders.

    The folders may be the same, see :func:`separate_labels`, or one may lie in the
    other one.

    Args:
        image_root (str): Folder of the images.
        label_root (str): Folder of the labels.
        label_suffix (str, optional): See :func:`pair_labels`. Defaults to None.

    Returns:
        tuple[FoundImages, list[str]]: The images, and the labels.

    Raises:
        ConfigError: If a folder does not exist, or there is no image in it.
    """
    found = find_images(image_root)
    labels = find_labels(image_root, label_root, label_suffix)
    taken = set(labels)
    if _is_inside(label_root, image_root):  # what else is there is no image, either
        taken |= {file for file in found.files if _is_inside(file, label_root)}
    images = [file for file in found.files if file not in taken]
    return found._replace(files=images), labels


def find_labels(
    image_root: str, label_root: str, label_suffix: str | None = None
) -> list[str]:
    """Find the labels below a folder, in which there may also be images.

    Args:
        image_root (str): Folder of the images.
        label_root (str): Folder of the labels.
        label_suffix (str, optional): See :func:`pair_labels`. Defaults to None.

    Returns:
        list[str]: The labels.

    Raises:
        ConfigError: If the folder of the labels does not exist, or has no label.
    """
    files = find_images(label_root, LABEL_ENDINGS, 'labels').files
    if osp.realpath(image_root) == osp.realpath(label_root):
        return separate_labels(files, image_root, label_suffix)[1]
    if _is_inside(image_root, label_root):
        return [file for file in files if not _is_inside(file, image_root)]
    return files


def common_suffixes(
    images: Sequence[str], image_root: str, labels: Sequence[str], label_root: str
) -> dict[str, int]:
    """Find what the names of labels have behind the names of their images.

    Args:
        images (Sequence[str]): The images.
        image_root (str): The images' folder.
        labels (Sequence[str]): The labels.
        label_root (str): The labels' folder.

    Returns:
        dict[str, int]: Such as ``{'_label2': 12}``: each suffix that at least half of
        the images have a label with, and how many have one.
    """
    names = {name_below(image, image_root) for image in images}
    counts = Counter()
    for label in labels:
        name = name_below(label, label_root)
        # The longest name of an image counts: img_10_seg belongs to img_10.
        for length in range(len(name) - 1, 0, -1):
            if name[:length] in names:
                counts[name[length:]] += 1
                break
    return {s: n for s, n in counts.items() if '/' not in s and 2 * n >= len(names)}


def separate_labels(
    files: Sequence[str], root: str, label_suffix: str | None = None
) -> tuple[list[str], list[str]]:
    """Separate images and labels that lie in the same folder.

    A file is a label if its name is that of another file and a suffix, such as
    ``a_mask.png`` next to ``a.jpg``, or if it lies in a folder for labels and another
    file of the same name does not, such as ``masks/a.png`` and ``images/a.png``.

    Args:
        files (Sequence[str]): Images and labels.
        root (str): Their folder.
        label_suffix (str, optional): See :func:`pair_labels`. Defaults to None.

    Returns:
        tuple[list[str], list[str]]: The images and the labels.
    """
    of_labels = LABEL_EXTRAS._replace(suffixes=LABEL_SUFFIXES)
    if label_suffix:
        of_labels = _Extras(suffixes=(label_suffix,))
    in_folders = of_labels._replace(folders=LABEL_FOLDERS)
    names = [name_below(file, root) for file in files]
    stems = {*names, *(_stem(name, IMAGE_EXTRAS) for name in names)}
    stems |= {_stem(n, IMAGE_EXTRAS._replace(folders=IMAGE_FOLDERS)) for n in names}
    images, labels = [], []
    for file, name in zip(files, names):
        possible = {_stem(name, of_labels), _stem(name, in_folders)}
        is_label = not stems.isdisjoint(possible - {name})
        (labels if is_label else images).append(file)
    return images, labels


def _is_inside(path: str, folder: str) -> bool:
    """Tell whether a file or folder is in a folder, and not this folder itself."""
    return osp.abspath(path).startswith(osp.join(osp.abspath(folder), ''))


def _by_name(files: list[str], root: str, extras: _Extras) -> dict[str, list[str]]:
    names = {}
    for file in files:
        names.setdefault(_stem(name_below(file, root), extras), []).append(file)
    return names


def _stem(name: str, extras: _Extras) -> str:
    """Return a name without a prefix, a suffix and some of the folders in it."""
    *above, last = name.split('/')
    above = [folder for folder in above if folder.lower() not in extras.folders]
    for suffix in extras.suffixes:
        if last.lower().endswith(suffix.lower()) and len(last) > len(suffix):
            last = last[: -len(suffix)]
            break
    for prefix in extras.prefixes:
        if last.lower().startswith(prefix) and len(last) > len(prefix):
            last = last[len(prefix) :]
            break
    return '/'.join([*above, last])


def _resolved(paths: Sequence[str | os.PathLike]) -> Iterator[str]:
    """Yield the paths, in place of a list those that it contains."""
    for path in paths:
        path = osp.expanduser(os.fspath(path))
        if osp.isfile(path) and path.lower().endswith(LIST_ENDINGS):
            for line in read_list(path):
                listed = osp.join(osp.dirname(path), osp.expanduser(line))
                listed = osp.normpath(listed)
                if not osp.exists(listed):
                    raise ConfigError(
                        f"the list '{path}' names '{line}', but there is no "
                        f"'{listed}': expected paths relative to the list's folder"
                    )
                yield listed
        elif osp.exists(path):
            yield path
        else:
            raise ConfigError(
                f"no file or folder '{path}' (from '{osp.abspath(osp.curdir)}')"
            )


def _files_below(folder: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the files of a folder and of those in it, sorted by path."""
    real = osp.realpath(folder)
    if real in above:
        return
    try:
        with os.scandir(folder) as entries:
            entries = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ConfigError(f"cannot read the folder '{folder}': {error}") from error
    for entry in entries:
        if entry.name.startswith('.') or entry.name in SYSTEM_FOLDERS:
            continue
        if entry.is_dir():
            yield from _files_below(entry.path, (*above, real))
        else:
            yield entry.path


def _counts(counts: dict[str, int]) -> str:
    return ', '.join(f'{count} {name}' for name, count in counts.items())


@DATASETS.register_module()
class ImageFolder(ReplacesUnreadable, BaseDataset):
    """All images in folders of any layout, without labels, for pre-training.

    The log says how many images there are, and how many other files were left out. In
    training, a few unreadable images are replaced, see
    :class:`.unreadable.ReplacesUnreadable`.

    Args:
        paths (str | Sequence[str]): See :func:`find_images`.
        data_root (str): Folder to which relative paths are relative. Defaults to the
            working folder.
        endings (Sequence[str]): See :func:`find_images`.
        **kwargs: Arguments of mmpretrain's ``BaseDataset``, such as ``pipeline``, and
            ``max_unreadable``, the largest share of the images that may be unreadable.

    Raises:
        ConfigError: If a path does not exist, or there is no image.
    """

    def __init__(
        self,
        paths: str | Sequence[str],
        data_root: str = '',
        endings: Sequence[str] = IMAGE_ENDINGS,
        **kwargs,
    ):
        for setting in ('ann_file', 'data_prefix'):
            if kwargs.get(setting):
                raise ConfigError(
                    f'{setting}={kwargs[setting]!r}: ImageFolder takes folders and '
                    'lists of images as paths=[...]'
                )
        self.paths = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
        self.endings = endings
        super().__init__(ann_file='', data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Find the images.

        Returns:
            list[dict]: ``img_path`` of each image.

        Raises:
            ConfigError: If a path does not exist, or there is no image.
        """
        root = osp.expanduser(self.data_root)
        paths = [osp.join(root, osp.expanduser(path)) for path in self.paths]
        found = find_images(paths, self.endings)
        print_log(f'{", ".join(paths)}: {found.describe()}', logger='current')
        return [dict(img_path=file) for file in found.files]
