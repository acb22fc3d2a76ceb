"""The data sets of a config, built, and each seen alone without what wraps it."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset, Compose
from mmengine.registry import DATASETS

from mmmaskdistill.errors import first_few, first_line

from .findings import Findings
from .folders import class_folders, nothing_found, wrong_line
from .heads import find_heads
from .known import is_known
from .paths import dataset_class, downloads


@dataclass
class Source:
    """A data set that reads files itself, in a data loader of a config.

    Attributes:
        loader (str): Name of the data loader, such as ``train_dataloader``.
        option (str): Where the data set is in the config, such as
            ``train_dataloader.dataset.datasets.0``.
        dataset (Any): The built data set.
        limit (int): How many records are read at most.
        records (list[dict]): What the data set knows of each sample, such as
            ``img_path``. Of a data set with more than ``limit`` samples, as many,
            spread evenly.
    """

    loader: str
    option: str
    dataset: Any
    limit: int = 200_000
    records: list[dict] = field(default_factory=list)

    def __post_init__(self) -> None:
        stored = getattr(self.dataset, 'data_list', None)
        for i in spread(len(self.dataset), self.limit):
            record = stored[i] if stored else self.dataset.get_data_info(i)
            if isinstance(record, dict):
                self.records.append(dict(record, sample_idx=i))

    @property
    def complete(self) -> bool:
        """Whether there is a record for each sample."""
        return len(self.records) == len(self.dataset)

    @property
    def training(self) -> bool:
        """Whether this is data to train on."""
        return self.loader.startswith('train')

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes, or None if the data set has none."""
        classes = self.dataset.metainfo.get('classes')
        if isinstance(classes, (list, tuple)):
            return [str(name) for name in classes]
        return None

    @property
    def transforms(self) -> list:
        """The steps of the pipeline, with those inside of other steps."""
        return list(_flatten(getattr(self.dataset, 'pipeline', None)))

    @property
    def known_pipeline(self) -> bool:
        """Whether all steps are transforms of the libraries that are known here."""
        return all(is_known(type(step)) for step in self.transforms)

    def step(self, *words: str) -> Any | None:
        """Return the first loading step whose name has one of these words."""
        for step in self.transforms:
            name = type(step).__name__
            if 'Load' in name and any(word in name for word in words):
                return step
        return None

    @property
    def on_disk(self) -> bool:
        """Whether the samples are files of this machine."""
        holders = [self.dataset, *self.transforms]
        backends = [getattr(part, 'backend_args', None) or {} for part in holders]
        packed = getattr(self.dataset, 'storage', 'folder') not in ('folder', None)
        remote = any(
            backend.get('backend', 'local') not in ('local', 'disk')
            for backend in backends
        )
        return not (packed or remote)

    def paths(self, key: str) -> list[str]:
        """Return a path of each record, without those that are not on this machine.

        Args:
            key (str): ``'img_path'`` or ``'seg_map_path'``.
        """
        if not self.on_disk:
            return []
        paths = (record.get(key) for record in self.records)
        return [path for path in paths if isinstance(path, str) and '://' not in path]


def build_sources(
    cfg: dict, loaders: Sequence[str], findings: Findings
) -> tuple[list[Source], dict[str, Any], list[str]]:
    """Build the data sets of data loaders.

    Args:
        cfg (dict): The config. Its ``default_scope`` must be set.
        loaders (Sequence[str]): Names of data loaders. Names that the config does not
            have are skipped.
        findings (Findings): A data set that cannot be built is added as an error.

    Returns:
        tuple[list[Source], dict[str, Any], list[str]]: The data sets that read files,
        the whole data set of each loader, and an error for each data set whose number
        of classes is wrong, which the comparison with the heads explains better. Data
        sets that download what they need are not built, and data sets of other kinds
        than mmengine's are not in the list.
    """
    sources, built, unexplained = [], {}, []
    heads = find_heads(cfg)
    for name in loaders:
        part = (cfg.get(name) or {}).get('dataset')
        if not isinstance(part, dict) or _any_downloads(part, cfg):
            continue
        try:
            with fixed_random_state():
                dataset = _build(part, cfg.get('default_scope'))
            if not len(dataset):
                raise ValueError('it has no samples')
        except Exception as error:
            text = explain(error, part, f'{name}.dataset', cfg.get('default_scope'))
            if _about_classes(error, part, cfg) and any(h.classifies for h in heads):
                unexplained += text
            else:
                findings.error(*text)
            continue
        built[name] = dataset
        for option, leaf in leaves(dataset, f'{name}.dataset'):
            try:
                sources.append(Source(name, option, leaf))
            except Exception:  # a data set of another kind
                continue
    return sources, built, unexplained


def _build(part: dict, scope: str | None) -> Any:
    """Build a data set, without packing its list of samples if that is possible."""
    try:
        dataset = DATASETS.build(_unpacked(part, scope))
    except TypeError:
        dataset = DATASETS.build(part)
    if hasattr(dataset, 'full_init'):
        dataset.full_init()
    return dataset


def _unpacked(part: Any, scope: str | None) -> Any:
    """Set ``serialize_data=False`` of data sets that are known to take it.

    mmengine packs the list of samples into one array for the worker processes, and
    collects garbage each time, which takes longer than the rest of a quick check.
    """
    if isinstance(part, (list, tuple)):
        return [_unpacked(item, scope) for item in part]
    if not isinstance(part, dict):
        return part
    part = dict(part)
    for key in ('dataset', 'datasets'):
        if key in part:
            part[key] = _unpacked(part[key], scope)
    kind = dataset_class(part.get('type'), scope)
    if issubclass(kind, BaseDataset) and is_known(kind):
        part['serialize_data'] = False
    return part


def explain(error: Exception, part: dict, option: str, scope: str | None) -> list[str]:
    """Say in one line why a data set cannot be built.

    Args:
        error (Exception): What building it raised.
        part (dict): Its config.
        option (str): Where the config has it.
        scope (str, optional): The config's default scope.

    Returns:
        list[str]: One or several messages.
    """
    messages = nothing_found(part, option, scope)
    if messages:
        return messages
    folder, names = class_folders(part, scope)
    if names and 'number of subfolders' in str(error):
        return [
            f'{option}.type={_type_name(part)!r} expects a folder for each of its '
            f"classes, '{folder}' has {len(names)} ({first_few(names)}). Set the names "
            f'of the folders in {option}.metainfo.classes, or remove it. If no labels '
            f"are needed, set {option}.type='CustomDataset', data_prefix to the folder "
            'and with_label=False, or mmmaskdistill.ImageFolder; then images in all '
            'folders below are found'
        ]
    messages = wrong_line(part, option, scope)
    if messages:
        return messages
    return [f'{option} ({_type_name(part)}) cannot be built: {first_line(error)}']


def _about_classes(error: Exception, part: dict, cfg: dict) -> bool:
    """Tell whether a data set cannot be built because of the number of classes."""
    wrong = 'number of subfolders' in str(error) or "argument 'split'" in str(error)
    return wrong and bool(class_folders(part, cfg.get('default_scope'))[1])


def spread(total: int, count: int) -> list[int]:
    """Return at most ``count`` numbers below ``total``, spread evenly."""
    if total <= count:
        return list(range(total))
    return [i * total // count for i in range(count)]


@contextmanager
def fixed_random_state() -> Iterator[None]:
    """Use the same random numbers each time, and leave the generators as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def leaves(dataset: Any, option: str) -> Iterator[tuple[str, Any]]:
    """Yield the data sets inside of ``ConcatDataset``, ``RepeatDataset`` and others.

    Args:
        dataset (Any): A built data set.
        option (str): Where the config has it.

    Yields:
        tuple[str, Any]: Where the config has the data set, and the data set.
    """
    if isinstance(getattr(dataset, 'datasets', None), (list, tuple)):
        for k, part in enumerate(dataset.datasets):
            yield from leaves(part, f'{option}.datasets.{k}')
    elif 'dataset' in vars(dataset):
        yield from leaves(dataset.dataset, f'{option}.dataset')
    else:
        yield option, dataset


def _flatten(pipeline: Any) -> Iterator[Any]:
    if isinstance(pipeline, Compose) or type(pipeline).__name__ == 'Compose':
        pipeline = pipeline.transforms
    if isinstance(pipeline, (list, tuple)):
        for step in pipeline:
            yield from _flatten(step)
    elif pipeline is not None:
        yield pipeline
        for inner in ('transforms', 'subroutines'):
            if isinstance(vars(pipeline).get(inner), (list, tuple, Compose)) or (
                type(vars(pipeline).get(inner)).__name__ == 'Compose'
            ):
                yield from _flatten(vars(pipeline)[inner])


def _any_downloads(part: Any, cfg: dict) -> bool:
    if isinstance(part, (list, tuple)):
        return any(_any_downloads(item, cfg) for item in part)
    if not isinstance(part, dict):
        return False
    if downloads(dataset_class(part.get('type'), cfg.get('default_scope')), part):
        return True
    return any(_any_downloads(part.get(key), cfg) for key in ('dataset', 'datasets'))


def _type_name(part: dict) -> str:
    kind = part.get('type')
    return kind if isinstance(kind, str) else getattr(kind, '__name__', 'no type')
