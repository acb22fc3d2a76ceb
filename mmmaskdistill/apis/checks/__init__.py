"""The check of data, model and settings that is made before anything is trained."""

from collections.abc import Callable, Sequence
from pathlib import Path

from mmengine.registry import init_default_scope

from . import batches, classes, labels, names, paths
from .failures import explain_failure
from .findings import Findings, WarningHook, frame
from .heads import find_heads
from .inspection import (
    ImageFile,
    LabelFile,
    ProgressLine,
    image_table,
    inspect_images,
    inspect_labels,
    label_table,
    mean_and_std,
)
from .masks import check_masks
from .paths import check_data, check_weights
from .sources import build_sources

__all__ = [
    'Findings',
    'ImageFile',
    'LabelFile',
    'ProgressLine',
    'WarningHook',
    'check',
    'check_data',
    'check_masks',
    'check_weights',
    'explain_failure',
    'frame',
    'image_table',
    'inspect_images',
    'inspect_labels',
    'label_table',
    'mean_and_std',
]


def check(
    cfg: dict,
    loaders: Sequence[str] = ('train_dataloader', 'val_dataloader'),
    complete: bool = False,
    workers: int | None = None,
    cache: str | Path | None = None,
    progress: Callable[[str], Callable[[int, int], None]] | None = None,
) -> Findings:
    """Compare data, data sets, heads, losses, augmentations and metrics of a config.

    The data sets are built, the model is not.

    Args:
        cfg (dict): The config.
        loaders (Sequence[str]): Names of the data loaders to look at. Names that the
            config does not have are skipped. Without ``train_dataloader``, what only
            training needs is not checked, such as the weights that it starts from.
        complete (bool): Whether to read and decode all files. Otherwise the names of
            all files are compared, and a sample of the files is read. Defaults to
            False.
        workers (int, optional): Number of processes that read all files. Defaults to
            None, one for each core that this process may use.
        cache (str | Path, optional): JSON file that keeps what was read of all files,
            so that the next time only changed files are read. Defaults to None.
        progress (Callable, optional): Called with a text such as ``'images of
            train_dataloader.dataset'`` for each data set of which all files are read.
            It returns a function of the number of files that are done and the number
            of all files, such as a :class:`ProgressLine`. Defaults to None.

    Returns:
        Findings: The errors and warnings.
    """
    findings = Findings()
    missing = paths.missing_data(cfg, loaders)
    for messages in missing.values():
        findings.error(*messages)
    training = 'train_dataloader' in loaders
    if training:
        findings.error(*paths.missing_weights(cfg))
    classes.check_loops(cfg, findings)

    init_default_scope(cfg.get('default_scope') or 'mmengine')
    present = [name for name in loaders if name not in missing]
    sources, built, unexplained = build_sources(cfg, present, findings)
    sizes = {name: len(dataset) for name, dataset in built.items()}
    heads = find_heads(cfg)

    classes.check_class_lists(sources, findings)
    before = len(findings.errors)
    classes.check_settings(cfg, loaders, sources, findings)
    if len(findings.errors) == before:
        findings.error(*unexplained)
    classes.check_metrics(cfg, sources, findings)
    names.check_leaks(sources, findings)
    batches.check_number_of_batches(cfg, sizes, findings)
    if training:
        classes.check_weights_of_classes(cfg, findings)
        batches.check_batch_norm(cfg, sizes, findings)
    for source in sources:
        before = len(findings.errors)
        names.check_names(source, findings)
        classes.check_empty_classes(source, findings)
        classes.check_labels_of_images(cfg, source, findings)
        line = progress(f'images of {source.option}') if progress and complete else None
        contents = labels.read_contents(source, complete, workers, cache, line)
        labels.check_files(contents, findings)
        labels.check_values(contents, heads, findings)
        if len(findings.errors) == before:
            trial = batches.try_pipeline(contents)
            batches.check_trial(cfg, contents, trial, findings)
    return findings
