"""Look into the folders from which a data set takes its images or its classes."""

import os
import os.path as osp
from collections import Counter
from collections.abc import Iterable

from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS
from mmpretrain.datasets import CustomDataset
from mmseg.datasets import BaseSegDataset

from mmmaskdistill.datasets import ImageNet
from mmmaskdistill.errors import first_few

from .paths import dataset_class

# Methods of data sets that take the classes from the names of folders.
LISTS_FOLDERS = (CustomDataset.load_data_list, ImageNet.load_data_list)


def nothing_found(part: dict, option: str, scope: str | None) -> list[str]:
    """Explain why a data set finds no image in its folder.

    Args:
        part (dict): Config of the data set, which may wrap others.
        option (str): Where the config has it.
        scope (str, optional): The config's default scope.

    Returns:
        list[str]: A message for each data set that finds nothing. Empty if there is
        another reason why the data set cannot be built.
    """
    if isinstance(part, (list, tuple)):
        return [
            text
            for k, item in enumerate(part)
            for text in nothing_found(item, f'{option}.{k}', scope)
        ]
    if not isinstance(part, dict):
        return []
    messages = [
        text
        for key in ('dataset', 'datasets')
        for text in nothing_found(part.get(key), f'{option}.{key}', scope)
    ]
    kind = dataset_class(part.get('type'), scope)
    if not issubclass(kind, BaseDataset):
        return messages
    try:
        dataset = DATASETS.build(
            {**part, 'lazy_init': True, 'pipeline': [], 'serialize_data': False}
        )
        found = [] if isinstance(dataset, CustomDataset) else dataset.load_data_list()
    except Exception:
        return messages
    if isinstance(dataset, BaseSegDataset) and not found:
        messages.append(_no_pairs(dataset, option))
    elif isinstance(dataset, CustomDataset) and not dataset.ann_file:
        folder = dataset.img_prefix
        if osp.isdir(folder) and not _any_file(folder, dataset.extensions):
            messages.append(
                f"no image in '{folder}' ({option}.data_prefix) whose name ends in "
                f'{", ".join(sorted(dataset.extensions))}: {what_is_there(folder)}. '
                f'Set {option}.data_prefix to the folder of the images, or '
                f'{option}.extensions to their endings'
            )
        elif dataset.with_label and osp.isdir(folder) and not _folders(folder):
            messages.append(
                f"'{folder}' ({option}.data_prefix) has no folder for each class: "
                f'{what_is_there(folder)}. Put the images of each class into a '
                f'folder with its name, or set {option}.with_label=False if no labels '
                'are needed'
            )
    return messages


def wrong_line(part: dict, option: str, scope: str | None) -> list[str]:
    """Find the first line of a classification data set's list that cannot be read.

    Args:
        part (dict): Config of the data set.
        option (str): Where the config has it.
        scope (str, optional): The config's default scope.

    Returns:
        list[str]: A message, or none if this is not the reason.
    """
    kind, path = dataset_class(part.get('type'), scope), part.get('ann_file')
    if not issubclass(kind, CustomDataset) or not path:
        return []
    path = osp.join(part.get('data_root') or '', path)
    if part.get('with_label') is False or not osp.isfile(path):
        return []
    with open(path, encoding='utf-8', errors='replace') as file:
        for number, line in enumerate(file.read().splitlines(), 1):
            words = line.strip().rsplit(' ', 1)
            if len(words) != 2 or not words[1].removeprefix('-').isdigit():
                return [
                    f"line {number} of '{path}' ({option}.ann_file) is {line!r}: "
                    'expected the path of an image, a space, and the number of its '
                    'class, such as cats/1.jpg 0'
                ]
    return []


def _no_pairs(dataset: BaseSegDataset, option: str) -> str:
    if dataset.ann_file and osp.isfile(dataset.ann_file):
        return (
            f"'{dataset.ann_file}' ({option}.ann_file) lists no image: expected the "
            'name of an image without its ending in each line'
        )
    folder = dataset.data_prefix.get('img_path')
    return (
        f"no image in '{folder}' ({option}.data_prefix.img_path) whose name ends in "
        f'{dataset.img_suffix!r} ({option}.img_suffix): {what_is_there(folder)}. Set '
        f'{option}.img_suffix to the ending of the images'
    )


def what_is_there(folder: str) -> str:
    """Count the files below a folder by their endings.

    Args:
        folder (str): The folder.

    Returns:
        str: Such as ``"there are 4 .png (such as '0.png')"``.
    """
    if not folder or not osp.isdir(folder):
        return 'the folder does not exist'
    names = [name for _, _, files in os.walk(folder) for name in files[:10_000]]
    if not names:
        return 'the folder is empty'
    endings = Counter(osp.splitext(name)[1] or 'no ending' for name in names)
    counts = [f'{count} {ending}' for ending, count in endings.most_common()]
    return f'there are {first_few(counts, 5)} (such as {min(names)!r})'


def class_folders(part: dict, scope: str | None) -> tuple[str, list[str]]:
    """Return the folder of the images of each class, and the names of the classes.

    Args:
        part (dict): Config of a data set.
        scope (str, optional): The config's default scope.

    Returns:
        tuple[str, list[str]]: The folder and the names of the folders in it, in
        their order as labels. The list is empty if the data set does not take the
        classes from folders.
    """
    kind = dataset_class(part.get('type'), scope)
    if (
        not issubclass(kind, CustomDataset)
        or kind.load_data_list not in LISTS_FOLDERS
        or part.get('ann_file')
        or part.get('storage', 'folder') != 'folder'
        or part.get('with_label') is False
        or part.get('split') == 'test'
    ):
        return '', []
    root, prefix = part.get('data_root') or '', part.get('data_prefix')
    if isinstance(prefix, dict):
        prefix = prefix.get('img_path')
    split = part.get('split') or ''
    if split and osp.isfile(osp.join(root, 'meta', f'{split}.txt')):
        return '', []
    folder = osp.join(root, prefix or split)
    return (folder, _folders(folder)) if osp.isdir(folder) else ('', [])


def _folders(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())


def _any_file(folder: str, endings: Iterable[str]) -> bool:
    return any(
        name.lower().endswith(tuple(endings))
        for _, _, files in os.walk(folder, followlinks=True)
        for name in files
    )
