"""Compare the classes of the data, the heads, the losses and the metrics."""

import os.path as osp
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmpretrain.datasets import CustomDataset, ImageNet, ImageNet21k
from mmseg.models.losses.utils import get_class_weight

from mmmaskdistill.errors import first_few, first_line

from .findings import Findings
from .folders import class_folders
from .heads import Head, data_preprocessor, find_heads, name_of
from .paths import dataset_class
from .sources import Source


@dataclass
class Setting:
    """A setting that is made for another number of classes than the data's.

    Attributes:
        text (str): The setting, its value and what to set.
        fatal (bool): Whether training or validation stops because of it.
    """

    text: str
    fatal: bool = False


def check_class_lists(sources: Sequence[Source], findings: Findings) -> None:
    """Check that a label means the same class in training and in validation.

    Args:
        sources (Sequence[Source]): The data sets of all loaders.
        findings (Findings): A class with two different labels is an error; other
            differences are a warning.
    """
    first = next((s for s in sources if s.training and class_names(s)), None)
    if first is None:
        return
    names = class_names(first)
    for other in sources:
        others = class_names(other)
        reduced = [s.dataset.metainfo.get('reduce_zero_label') for s in (first, other)]
        if others == names and None not in reduced and reduced[0] != reduced[1]:
            findings.warn(
                f'{first.option}.reduce_zero_label={reduced[0]} and {other.option}.'
                f'reduce_zero_label={reduced[1]}, so that a value of a label file '
                'means another class in each of them: set the same, unless their '
                'files are written differently'
            )
        if other is first or not others or others == names:
            continue
        shared = set(names) & set(others)
        moved = [name for name in names if name in shared]
        moved = [name for name in moved if names.index(name) != others.index(name)]
        text = (
            f'{first.option} has the classes {_list(names)}, {other.option} has '
            f'{_list(others)}'
        )
        if moved:
            name = moved[0]
            findings.error(
                f'{text}: {name!r} is label {names.index(name)} in the first and '
                f'{others.index(name)} in the second. {_same_advice(first, other)}'
            )
        else:
            findings.warn(f'{text}. {_same_advice(first, other)}')


def check_settings(
    cfg: dict, loaders: Sequence[str], sources: Sequence[Source], findings: Findings
) -> None:
    """Check that all settings are made for the number of classes of the data.

    Args:
        cfg (dict): The config.
        loaders (Sequence[str]): Names of the data loaders to look at.
        sources (Sequence[Source]): The data sets that could be built.
        findings (Findings): Receives one line with all settings that disagree.
    """
    heads = find_heads(cfg)
    if not any(head.segments or head.classifies for head in heads):
        return
    names, origin, settings = _data_classes(cfg, loaders, sources)
    if names is None:
        settings += _metrics(cfg, loaders, heads, None)
    else:
        settings += _heads(heads, names, sources)
        if any(head.classifies for head in heads):
            if 'train_dataloader' in loaders:
                settings += _classification(cfg, heads, len(names))
            settings += _metrics(cfg, loaders, heads, len(names))
    if not settings:
        return
    about = (
        f'the data has {len(names)} class{"es" * (len(names) != 1)} ({_list(names)}, '
        f'from {origin}), which does not agree with '
        if names is not None
        else 'the number of classes does not agree with '
    )
    texts = '; '.join(setting.text for setting in settings)
    findings.add(about + texts, any(setting.fatal for setting in settings))


def check_empty_classes(source: Source, findings: Findings) -> None:
    """Check that each class of a classification data set has an image.

    Args:
        source (Source): The data set.
        findings (Findings): Receives classes without an image as a warning.
    """
    names = class_names(source)
    labels = [record.get('gt_label') for record in source.records]
    if not (source.training and names and source.complete):
        return
    present = set(_labels(labels))
    empty = [name for k, name in enumerate(names) if k not in present]
    if present and empty:
        findings.warn(
            f'{len(empty)} of {len(names)} classes of {source.option} without an '
            f'image: {_list(empty)}'
        )


def check_labels_of_images(cfg: dict, source: Source, findings: Findings) -> None:
    """Check that the labels of a classification data set are classes of the head.

    Args:
        cfg (dict): The config.
        source (Source): The data set.
        findings (Findings): Receives the first label beyond the classes, as an error if
            it is trained on.
    """
    width = min((h.num_classes for h in find_heads(cfg) if h.classifies), default=None)
    if width is None:
        return
    option = f'{source.option}.ann_file' * bool(getattr(source.dataset, 'ann_file', ''))
    beyond = [
        (record.get('img_path'), label)
        for record in source.records
        for label in _labels([record.get('gt_label')])
        if not 0 <= label < width
    ]
    # Folders of more classes than the head has are named with all settings.
    if beyond and option:
        path, label = beyond[0]
        findings.add(
            f"{len(beyond)} labels of {option} are beyond the classes: '{path}' has "
            f'label {label}, and the head num_classes={width}, so that labels are 0 to '
            f'{width - 1}. Correct the labels, which begin at 0, or num_classes',
            fatal=source.training,
        )


def check_weights_of_classes(cfg: dict, findings: Findings) -> None:
    """Check that lists of class weights have an entry for each class.

    Args:
        cfg (dict): The config.
        findings (Findings): Receives lists of another length as errors.
    """
    for head in find_heads(cfg):
        if not (head.segments or head.classifies):
            continue
        for option, loss in head.losses:
            weights = loss.get('class_weight') if isinstance(loss, dict) else None
            if isinstance(weights, str):
                weights = _read_weights(weights, f'{option}.class_weight', findings)
            if not isinstance(weights, (list, tuple)) or loss.get('use_sigmoid'):
                continue
            if len(weights) != head.num_classes and head.cfg.get('out_channels') != 1:
                findings.add(
                    f'{option}.class_weight has {len(weights)} entries, '
                    f'{head.option}.num_classes={head.num_classes}: give one weight '
                    'for each class',
                    fatal=head.refuses_labels,
                )


def check_metrics(cfg: dict, sources: Sequence[Source], findings: Findings) -> None:
    """Check that the evaluators have the class names that they need.

    Args:
        cfg (dict): The config.
        sources (Sequence[Source]): The data sets.
        findings (Findings): Receives what stops the first validation as errors.
    """
    for split in ('val', 'test'):
        loader = f'{split}_dataloader'
        own = [source for source in sources if source.loader == loader]
        for option, metric in metrics(cfg, split):
            if name_of(metric.get('type')) != 'IoUMetric':
                continue
            for source in own:
                if source.classes is None:
                    findings.error(
                        f'{option} (IoUMetric) needs the names of the classes, and '
                        f'{source.option} has none: set {source.option}.metainfo='
                        "dict(classes=['NAME', ...])"
                    )
            ignored = {h.ignore_index for h in find_heads(cfg) if h.segments}
            if own and ignored and metric.get('ignore_index', 255) not in ignored:
                findings.warn(
                    f'{option}.ignore_index={metric.get("ignore_index", 255)}, but '
                    f'the heads ignore {_list(sorted(ignored))}: pixels that are not '
                    f'trained on are evaluated. Set {option}.ignore_index to the same'
                )


def check_loops(cfg: dict, findings: Findings) -> None:
    """Check that each of training, validation and test is either complete or absent.

    Args:
        cfg (dict): The config.
        findings (Findings): Receives a part that is missing as an error.
    """
    for split, last in (('train', 'optim_wrapper'), ('val', 0), ('test', 0)):
        names = [f'{split}_dataloader', f'{split}_cfg', last or f'{split}_evaluator']
        given = [name for name in names if cfg.get(name) is not None]
        missing = [name for name in names if name not in given]
        if given and missing:
            findings.error(
                f'{" and ".join(given)} given, {" and ".join(missing)} missing or '
                f'None: mmengine needs all of {", ".join(names)}, or none of them '
                '(set them to None)'
            )
    for key in ('max_epochs', 'max_iters', 'val_interval'):
        value = (cfg.get('train_cfg') or {}).get(key, 1)
        if type(value) is not int or value < 1:
            findings.error(
                f'train_cfg.{key}={value!r}: expected a whole number of at least 1'
            )


def metrics(cfg: dict, split: str) -> list[tuple[str, dict]]:
    """Return the metrics of an evaluator.

    Args:
        cfg (dict): The config.
        split (str): ``'val'`` or ``'test'``.

    Returns:
        list[tuple[str, dict]]: Place in the config and config of each metric.
    """
    option, part = f'{split}_evaluator', cfg.get(f'{split}_evaluator')
    if isinstance(part, dict) and 'metrics' in part:
        option, part = f'{option}.metrics', part['metrics']
    if isinstance(part, dict):
        return [(option, part)]
    if not isinstance(part, (list, tuple)):
        return []
    named = [(f'{option}.{k}', metric) for k, metric in enumerate(part)]
    return [item for item in named if isinstance(item[1], dict)]


def class_names(source: Source) -> list[str] | None:
    """Return the names of the classes in the order of their labels.

    The names of class folders come first, because they decide the labels.

    Args:
        source (Source): The data set.
    """
    folders = getattr(source.dataset, 'folder_to_idx', None)
    if isinstance(folders, dict) and not getattr(source.dataset, 'ann_file', ''):
        return sorted(folders, key=folders.get)
    return source.classes


def highest_label(source: Source) -> int:
    """Return the highest label of a classification data set, -1 without labels."""
    labels = [record.get('gt_label') for record in source.records]
    return max(_labels(labels), default=-1)


def _labels(labels: Iterable[Any]) -> Iterator[int]:
    """Yield single labels, and those in the lists of a multi-label data set."""
    for label in labels:
        if isinstance(label, (list, tuple)):
            yield from _labels(label)
        elif isinstance(label, (int, np.integer)):
            yield int(label)


def _data_classes(
    cfg: dict, loaders: Sequence[str], sources: Sequence[Source]
) -> tuple[list[str] | None, str, list[Setting]]:
    """Find the classes of the training data, and data sets that contradict them."""
    scope, settings, found = cfg.get('default_scope'), [], []
    for loader in loaders:
        part = (cfg.get(loader) or {}).get('dataset')
        if not isinstance(part, dict):
            continue
        folder, names = class_folders(part, scope)
        if names:
            found.append((names, f"the folders in '{folder}'"))
            settings += _dataset_settings(part, f'{loader}.dataset', names, scope)
            continue
        own = [s for s in sources if s.loader == loader and s.classes]
        found += [(s.classes, s.option) for s in own[:1]]
    return (*(found[0] if found else (None, '')), settings)


def _dataset_settings(
    part: dict, option: str, names: list[str], scope: str | None
) -> list[Setting]:
    """List what a data set of class folders says of another number of classes."""
    kind, settings = dataset_class(part.get('type'), scope), []
    if 'split' in part and not issubclass(kind, (ImageNet, ImageNet21k)):
        settings.append(
            Setting(
                f'{option}.split={part["split"]!r} (no option of {kind.__name__}: '
                f'remove it, and set data_prefix={part["split"]!r})',
                fatal=True,
            )
        )
    declared = (part.get('metainfo') or {}).get('classes')
    if isinstance(declared, (list, tuple)):
        if len(declared) != len(names):
            settings.append(
                Setting(
                    f'{option}.metainfo.classes with {len(declared)} names (set the '
                    'names of the folders)',
                    fatal=True,
                )
            )
    elif declared is None and len(kind.METAINFO.get('classes', names)) != len(names):
        settings.append(
            Setting(
                f'{option}.type={name_of(part["type"])} with '
                f'{len(kind.METAINFO["classes"])} classes (set {option}.metainfo='
                f'dict(classes={names if len(names) < 9 else "[NAMES]"}), or '
                "type='CustomDataset' with data_prefix)",
                fatal=True,
            )
        )
    return settings


def _read_weights(path: str, option: str, findings: Findings) -> Any:
    """Read a file of class weights as mmseg does, but no file that could run code."""
    if path.endswith(('.pkl', '.pickle')) and osp.isfile(path):
        return None
    try:
        weights = get_class_weight(path)
    except Exception as error:
        findings.error(
            f'{option}={path!r} cannot be read ({first_line(error)}): give a list, or '
            'the path of a .npy, .json or .yaml file with one weight for each class'
        )
        return None
    return list(weights) if isinstance(weights, np.ndarray) else weights


def _heads(
    heads: Iterable[Head], names: list[str], sources: Sequence[Source]
) -> list[Setting]:
    count, settings = len(names), []
    labels = [highest_label(source) for source in sources if source.training]
    for head in heads:
        if count in (head.num_classes, head.labels) or not (
            head.segments or head.classifies
        ):
            continue
        narrow = head.classifies and max(labels, default=-1) >= head.num_classes
        settings.append(
            Setting(
                f'{head.option}.num_classes={head.num_classes} (set {count})', narrow
            )
        )
    return settings


def _classification(cfg: dict, heads: list[Head], count: int) -> list[Setting]:
    """List settings of mixup and label smoothing for another number of classes."""
    settings = []
    width = next(head.num_classes for head in heads if head.classifies)
    option, preprocessor = data_preprocessor(cfg)
    train_cfg = (cfg.get('model') or {}).get('train_cfg') or {}
    mixes = bool(train_cfg.get('augments')) or bool(preprocessor.get('batch_augments'))
    given = preprocessor.get('num_classes')
    if given is not None and given != count:
        fatal = (mixes or bool(preprocessor.get('to_onehot'))) and given != width
        settings.append(Setting(f'{option}.num_classes={given} (set {count})', fatal))
    elif given is None and mixes:
        settings.append(
            Setting(
                f'{option}.num_classes, which is missing (set {count}, which mixup '
                'and CutMix need)',
                fatal=True,
            )
        )
    for head in heads:
        for place, loss in head.losses:
            given = loss.get('num_classes') if isinstance(loss, dict) else None
            if given is not None and given != count:
                fatal = given != head.num_classes
                settings.append(
                    Setting(f'{place}.num_classes={given} (set {count})', fatal)
                )
    return settings


def _metrics(
    cfg: dict, loaders: Sequence[str], heads: list[Head], count: int | None
) -> list[Setting]:
    """List metrics of another number of classes, and accuracies over too many."""
    width = min((h.num_classes for h in heads if h.classifies), default=None)
    if width is None:
        return []
    settings = []
    for split in ('val', 'test'):
        if f'{split}_dataloader' not in loaders:
            continue
        for option, metric in metrics(cfg, split):
            given = metric.get('num_classes')
            if isinstance(given, int) and count and given != count:
                settings.append(Setting(f'{option}.num_classes={given} (set {count})'))
            topk = metric.get('topk')
            if name_of(metric.get('type')) != 'Accuracy' or topk is None:
                continue
            highest = max(topk) if isinstance(topk, (list, tuple)) else topk
            if highest > min(width, count or width):
                settings.append(
                    Setting(f'{option}.topk={topk} (set 1)', fatal=highest > width)
                )
    return settings


def _same_advice(first: Source, other: Source) -> str:
    names = [*(class_names(first) or []), *(class_names(other) or [])]
    hidden = [name for name in names if name.startswith(('.', '__'))]
    if hidden:
        return f'Remove the folder {hidden[0]!r}, which a program has made'
    if isinstance(first.dataset, CustomDataset) and not first.dataset.ann_file:
        return (
            'Make a folder for each class in both, an empty one for a class without '
            'images'
        )
    return f'Set {other.option}.metainfo.classes to those of {first.option}'


def _list(values: Iterable[Any]) -> str:
    return first_few([str(value) for value in values], 8)
