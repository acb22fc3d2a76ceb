"""What ``tools/test.py`` writes about a test, and tests without labels."""

import csv
import os.path as osp
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from mmengine import dump
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.evaluation import (
    ClassificationReport,
    LabelMapFolder,
    PredictionFile,
    SegmentationReport,
    classification_classes,
    segmentation_classes,
)
from mmmaskdistill.visualization import (
    draw_confusion,
    draw_worst_classifications,
    draw_worst_segmentations,
)

from .checks.findings import Findings
from .checks.heads import find_heads
from .checks.sources import Source, build_sources, leaves
from .configs import without_label_loaders

LOADER = 'test_dataloader'
Report = SegmentationReport | ClassificationReport


def task_of(cfg: Config) -> str | None:
    """Tell what a config's model predicts.

    Args:
        cfg (Config): The config.

    Returns:
        str | None: ``'segmentation'``, ``'classification'`` or None for anything else,
        such as depth.
    """
    scope = cfg.get('default_scope')
    init_default_scope(scope or 'mmengine')
    heads = find_heads(cfg)
    if any(head.segments for head in heads):
        return 'segmentation'
    if any(head.classifies for head in heads):
        return 'classification'
    # The heads are of a kind that is not known here.
    return dict(mmseg='segmentation', mmpretrain='classification').get(scope)


def use_without_labels(cfg: Config, predictions: bool) -> bool:
    """Let a test without labels write predictions only.

    A test has no labels if its data set names none, if none of the files or their
    folder exists, or if the test pipeline does not load them. Then neither the data
    set nor the pipeline looks for them any longer, and of the metrics, those with
    ``format_only`` remain. If only some labels are missing, nothing is changed.

    Args:
        cfg (Config): The config, changed in place.
        predictions (bool): Whether predictions are written or drawn.

    Returns:
        bool: Whether there are no labels.

    Raises:
        ConfigError: If there are no labels, and neither predictions are written nor has
            the config a metric with ``format_only``.
    """
    task = task_of(cfg)
    if task is None:
        return False
    dataset = cfg[LOADER].dataset
    kept = [metric for metric in _evaluators(cfg) if metric.get('format_only')]
    parts = list(_parts(dataset))
    if not (predictions or kept) and (
        any(map(_lacks_label_folder, parts))  # The check says where it should be.
        or all(_names_labels(part, task) for part in parts)
    ):
        return False
    trial = ConfigDict(default_scope=cfg.get('default_scope'), model=cfg.model)
    trial[LOADER] = deepcopy(cfg[LOADER])
    for part in _parts(trial[LOADER].dataset):
        if _lacks_label_folder(part):
            part.data_prefix.pop('seg_map_path')
    sources, *_ = build_sources(trial, [LOADER], Findings())
    if all(map(_labeled, sources)):
        return False
    if not (predictions or kept):
        raise ConfigError(
            f'the images of {LOADER} have no labels, so there is no metric to compute: '
            'give --out FOLDER for label maps or --out FILE.pkl for predictions, or '
            f'name the labels in {LOADER}.dataset'
        )
    for part in _parts(dataset):
        if isinstance(part.get('data_prefix'), dict):
            part.data_prefix.pop('seg_map_path', None)
        if 'pipeline' in part:
            part.pipeline = without_label_loaders(part.pipeline)
    cfg.test_evaluator = kept
    return True


def collect(
    runner: Runner,
    task: str | None,
    *,
    predictions: str | None = None,
    label_maps: str | None = None,
    report: bool = False,
    worst: int = 0,
    required: bool = False,
) -> Report | None:
    """Let a test collect what is written about it, in the same pass over the data.

    Args:
        runner (Runner): The runner, before its test.
        task (str, optional): See :func:`task_of`.
        predictions (str, optional): Pickle file to write the predictions to, see
            :class:`PredictionFile`. Defaults to None.
        label_maps (str, optional): Folder to write label maps to, see
            :class:`LabelMapFolder`. Defaults to None.
        report (bool): Whether to count the pairs of true and predicted classes.
            Defaults to False.
        worst (int): How many of the worst images to keep. Defaults to 0.
        required (bool): Whether to refuse what cannot be counted. Defaults to False.

    Returns:
        SegmentationReport | ClassificationReport | None: The report, which is complete
        after ``runner.test()``; None if ``report`` is False or the task has none.

    Raises:
        ConfigError: If label maps or a required report do not fit the task.
    """
    if label_maps and task != 'segmentation':
        raise ConfigError(
            f'--out {label_maps!r} is a folder, for label maps, but the config is not '
            'one of segmentation: give a .pkl file for predictions or a .json file for '
            'metrics'
        )
    if required and task is None:
        raise ConfigError(
            '--confusion and --worst are for segmentation and classification, but the '
            "model's head is of neither"
        )
    evaluator, dataset = runner.test_evaluator, runner.test_dataloader.dataset
    size = len(dataset)
    collectors, made = [], None
    if report and task == 'segmentation':
        ignored = [
            getattr(metric, 'ignore_index', None) for metric in evaluator.metrics
        ]
        ignored = [index for index in ignored if index is not None]
        made = SegmentationReport(size, worst, required, *ignored[:1])
    elif report and task == 'classification':
        made = ClassificationReport(size, worst, required)
    if made:
        collectors.append(made)
    if predictions:
        collectors.append(PredictionFile(predictions, size))
    if label_maps:
        records = [dataset.get_data_info(i) for i in range(size)]
        collectors.append(LabelMapFolder(label_maps, records))
    for collector in collectors:
        collector.dataset_meta = evaluator.dataset_meta
    # Before the metrics, so that the messages for wrong labels come first.
    evaluator.metrics[:0] = collectors
    return made


def class_names(report: Report) -> list[str]:
    """Return the name of each class of a report, or else its number.

    Args:
        report (SegmentationReport | ClassificationReport): The report.
    """
    names = report.classes
    if report.task == 'classification' and report.matrix is not None:
        names += [str(k) for k in range(len(names), len(report.matrix))]
    return names


def write_metrics(
    metrics: dict, report: Report | None, path: str, worst: bool = False
) -> None:
    """Write the metrics of a test, and those of each class, to a file.

    Args:
        metrics (dict): The metrics of the test.
        report (SegmentationReport | ClassificationReport, optional): The report. If
            there is one, and it could count, the file also has ``classes``, a list of
            the metrics of each class (see :func:`segmentation_classes` and
            :func:`classification_classes`).
        path (str): A ``.json``, ``.yml`` or ``.pkl`` file.
        worst (bool): Whether the file also has ``worst``, a list of the worst images.
            Defaults to False.
    """
    content = {key: float(value) for key, value in metrics.items()}
    if report is not None and report.matrix is not None:
        names = class_names(report)
        of_classes = dict(
            segmentation=segmentation_classes, classification=classification_classes
        )[report.task]
        content['classes'] = of_classes(report.matrix, names)
        if worst:
            content['worst'] = [image.summary(names) for image in report.worst]
    readable = dict(indent=2, ensure_ascii=False) if path.endswith('.json') else {}
    dump(content, path, **readable)


def check_confusion_path(path: str) -> None:
    """Check that a path can take a confusion matrix.

    Args:
        path (str): See :func:`write_confusion`.

    Raises:
        ConfigError: If it ends like a file of another kind.
    """
    ending = osp.splitext(path)[1].lower()
    if ending not in ('', '.png', '.csv') and not osp.isdir(path):
        raise ConfigError(
            f'--confusion {path!r} ends in {ending!r}: give a .png file for a '
            'picture, a .csv file for the counts, or a folder for both'
        )
    if not ending and osp.isfile(path):
        raise ConfigError(
            f'--confusion {path!r} is a file: give a folder, or a .png or .csv file'
        )


def write_confusion(report: Report, path: str) -> list[str]:
    """Write the confusion matrix of a test.

    The picture has the shares of each true class, the CSV file has the counts. The
    first column and the first line of the CSV file are the names of the true and the
    predicted classes.

    Args:
        report (SegmentationReport | ClassificationReport): The report.
        path (str): A ``.png`` file for the picture, a ``.csv`` file for the counts, or
            else a folder for ``confusion.png`` and ``confusion.csv``.

    Returns:
        list[str]: The files that were written.
    """
    names, matrix = class_names(report), report.matrix.numpy()
    if report.task == 'segmentation':
        outside = [matrix[-1].any(), matrix[:, -1].any()]
        # Labels that are no class, and predictions that are none.
        if any(outside):
            names = [*names, 'other']
        else:
            matrix = matrix[:-1, :-1]
    ending = osp.splitext(path)[1].lower()
    folder = osp.isdir(path) or ending not in ('.png', '.csv')
    files = [Path(path, f'confusion.{kind}') for kind in ('png', 'csv')]
    files = files if folder else [Path(path)]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix.lower() == '.csv':
            with file.open('w', newline='', encoding='utf-8') as out:
                writer = csv.writer(out)
                writer.writerow(['true / predicted', *names])
                writer.writerows(
                    [name, *row] for name, row in zip(names, matrix.tolist())
                )
        else:
            unit = 'pixels' if report.task == 'segmentation' else 'images'
            draw_confusion(matrix, names, file, unit)
    return list(map(str, files))


def write_worst(report: Report, dataset: BaseDataset, folder: str) -> str | None:
    """Draw the worst images of a test.

    Args:
        report (SegmentationReport | ClassificationReport): The report.
        dataset (BaseDataset): The data set, which loads the images again.
        folder (str): Folder of the picture, ``worst.png``.

    Returns:
        str | None: The picture. None if there is no image to draw.
    """
    if not report.worst:
        return None
    path, names = osp.join(folder, 'worst.png'), class_names(report)
    images = [_load(dataset, image.path, image.position) for image in report.worst]
    titles = [image.path or f'image {image.position}' for image in report.worst]
    if report.task == 'classification':
        captions = [
            f'{names[image.prediction]} ({image.score:.0f} %)\n'
            f'label: {names[image.truth]}\n{osp.basename(title)}'
            for image, title in zip(report.worst, titles)
        ]
        draw_worst_classifications(images, captions, path)
        return path
    captions = [
        f'mIoU {image.score:.1f}, {image.accuracy:.0f} % of pixels\n'
        f'{osp.basename(title)}'
        for image, title in zip(report.worst, titles)
    ]
    draw_worst_segmentations(
        images,
        [image.truth for image in report.worst],
        [image.prediction for image in report.worst],
        captions,
        names,
        (report.dataset_meta or {}).get('palette'),
        path,
    )
    return path


def _load(dataset: BaseDataset, path: str | None, position: int) -> np.ndarray:
    """Load an image as its data set does, with red first."""
    option, leaf = next(iter(leaves(dataset, f'{LOADER}.dataset')))
    step = Source(LOADER, option, leaf, limit=1).step('Image')
    record = dict(img_path=path) if path else dataset.get_data_info(position)
    image = step(record)['img'] if step is not None else record['img']
    image = np.asarray(image)
    # OpenMMLab's loaders put blue first.
    return image[..., ::-1] if image.ndim == 3 and image.shape[2] == 3 else image


def _evaluators(cfg: Config) -> list[dict]:
    evaluators = cfg.get('test_evaluator') or []
    return [evaluators] if isinstance(evaluators, dict) else list(evaluators)


def _parts(dataset: Any) -> Iterator[dict]:
    """Yield the configs of a data set and of those that it wraps."""
    if isinstance(dataset, (list, tuple)):
        for part in dataset:
            yield from _parts(part)
    elif isinstance(dataset, dict):
        yield dataset
        for key in ('dataset', 'datasets'):
            yield from _parts(dataset.get(key))


def _lacks_label_folder(part: dict) -> bool:
    """Tell whether the folder of labels that a data set names does not exist."""
    prefix = part.get('data_prefix')
    folder = prefix.get('seg_map_path') if isinstance(prefix, dict) else None
    if not isinstance(folder, str):
        return False
    folder = osp.join(part.get('data_root') or '', folder)
    return ':' not in folder and not osp.isdir(folder)


def _names_labels(part: dict, task: str) -> bool:
    """Tell whether the config of a data set says that there are labels."""
    if 'pipeline' not in part:
        return 'dataset' in part or 'datasets' in part
    if task == 'classification':
        return part.get('with_label', part.get('split') != 'test')
    prefix = part.get('data_prefix')
    named = isinstance(prefix, dict) and isinstance(prefix.get('seg_map_path'), str)
    return named and without_label_loaders(part.pipeline) != part.pipeline


def _labeled(source: Source) -> bool:
    """Tell whether some images of a data set have labels."""
    loads = source.step('Annotation', 'Label') is not None
    paths: Sequence[str] = source.paths('seg_map_path')
    if loads and paths:
        return any(map(osp.isfile, paths))
    named = any('seg_map_path' in record for record in source.records)
    if loads and not named and source.known_pipeline:
        return False
    try:
        sample = source.dataset[0]['data_samples']
    except Exception:
        return True  # The test says what is wrong.
    return any(key in sample for key in ('gt_sem_seg', 'gt_label'))
