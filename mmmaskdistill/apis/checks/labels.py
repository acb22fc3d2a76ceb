"""Check what is in the files of images and labels, in all of them or in a sample."""

import hashlib
import os.path as osp
import pickle
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from mmmaskdistill.errors import first_few, first_line

from .findings import Findings
from .heads import Head
from .inspection import count_values, decode_image, in_processes, read_header
from .known import is_known
from .sources import Source, spread

# How many files of each data set are read when not all are.
SAMPLE = 64
# How long the headers of all other files are read at most.
HEADER_SECONDS = 0.7


class Contents:
    """What the files of a data set hold, as its pipeline reads them.

    Attributes:
        source (Source): The data set.
        samples (list[dict]): For each sample that was read, its paths, ``image`` (the
            fields of :class:`ImageFile`) and ``label``: ``shape``, ``values`` (pairs of
            a label after the data set's own mapping and its number of pixels) and
            ``error``. Without a label, ``label`` is None.
        records (list[dict]): What the data set knows of each of them.
    """

    def __init__(self, source: Source, samples: list[dict], records: list[dict]):
        self.source = source
        self.samples = samples
        self.records = records

    @property
    def pixels(self) -> Counter:
        """Number of pixels of each label over all samples."""
        total = Counter()
        for sample in self.samples:
            for value, count in (sample['label'] or {}).get('values', []):
                if not isinstance(value, list):
                    total[value] += count
        return total

    @property
    def complete(self) -> bool:
        """Whether all samples of the data set have been read."""
        return len(self.samples) == len(self.source.dataset)

    @property
    def labeled(self) -> int:
        """Number of samples with a readable label."""
        return sum(bool((s['label'] or {}).get('values')) for s in self.samples)

    def first_with(self, value: int) -> dict:
        """Return the first sample that has a label."""
        for sample in self.samples:
            if value in (v for v, _ in (sample['label'] or {}).get('values', [])):
                return sample
        raise KeyError(value)


def read_contents(
    source: Source,
    complete: bool = False,
    workers: int | None = None,
    cache: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Contents:
    """Read the files of a data set.

    Args:
        source (Source): The data set.
        complete (bool): Whether to read and decode all images and labels. Otherwise the
            headers of some images and some labels are read. Defaults to False.
        workers (int, optional): Number of processes for all files, see
            :func:`inspect_images`. A sample is read by this process.
        cache (str, optional): See :func:`inspect_images`. Used for all files.
        progress (Callable, optional): See :func:`inspect_images`.

    Returns:
        Contents: What the files hold.
    """
    if not source.on_disk:
        return Contents(source, [], [])
    records = [r for r in source.records if isinstance(r.get('img_path'), str)]
    if not complete:
        records = [records[i] for i in spread(len(records), SAMPLE)]
    load = source.step('Annotation', 'Label') if _has_labels(records) else None
    work = partial(read_sample, load=load, decode=complete)
    rest = dict(workers=workers, cache=cache) if complete else dict(workers=0)
    samples = in_processes(
        work,
        records,
        kind=f'{"decoded" if complete else "header"} {_describe(load, records)}',
        progress=progress,
        paths=_paths,
        **rest,
    )
    return Contents(source, samples, records)


def read_sample(record: dict, load: Any | None, decode: bool) -> dict:
    """Read an image and its label.

    Args:
        record (dict): What the data set knows of the sample.
        load (Any | None): The step of the pipeline that loads the label, if any.
        decode (bool): Whether to decode the image.

    Returns:
        dict: An item of :attr:`Contents.samples`.
    """
    image = (decode_image if decode else read_header)(record['img_path'])
    label = None
    if load is not None and record.get('seg_map_path'):
        label = dict(shape=(), values=[], error='')
        results = dict(record, seg_fields=[])
        if not image['error']:
            results['ori_shape'] = image['height'], image['width']
        try:
            pixels = load(results).get('gt_seg_map')
            shape = np.shape(pixels)
            if len(shape) != 2 and not (len(shape) == 3 and shape[2] <= 4):
                label = None  # depth or a volume, for example
            else:
                label.update(shape=list(shape), values=count_values(pixels))
        except Exception as error:
            label['error'] = first_line(error)
    return dict(
        img_path=record['img_path'],
        seg_map_path=record.get('seg_map_path'),
        image=image,
        label=label,
    )


def check_files(contents: Contents, findings: Findings) -> None:
    """Check that images and labels can be read and have the same size.

    Args:
        contents (Contents): What the files hold.
        findings (Findings): Receives the findings.
    """
    source = contents.source
    load = source.step('Image')
    unreadable, damaged = [], []
    for sample in contents.samples:
        error, path = sample['image']['error'], sample['img_path']
        if error and osp.isfile(path) and load is not None:
            text = f"'{path}' ({error})"
            if not _loads(load, sample):
                unreadable.append(text)
            elif not read_header(path)['error']:  # a format that is known here
                damaged.append(text)
    tolerant = hasattr(source.dataset, 'max_unreadable')
    if unreadable:
        findings.add(
            f'{len(unreadable)} of {len(contents.samples)} images of {source.option} '
            f'cannot be read: {first_few(unreadable)}. '
            + (
                'They are replaced by other images'
                if tolerant and source.training
                else 'Repair or remove them'
            ),
            fatal=not (tolerant and source.training),
        )
    if damaged:
        findings.warn(
            f'{len(damaged)} of {len(contents.samples)} images of {source.option} are '
            f'damaged, and what is missing is filled with gray: {first_few(damaged)}. '
            'Repair or remove them'
        )
    _check_readable_labels(contents, findings)
    _check_sizes(contents, findings)


def check_values(contents: Contents, heads: Sequence[Head], findings: Findings) -> None:
    """Check that labels are classes of the heads, and that each class has pixels.

    Args:
        contents (Contents): What the files hold.
        heads (Sequence[Head]): The heads of the model.
        findings (Findings): Receives the findings.
    """
    source, pixels = contents.source, contents.pixels
    heads = [head for head in heads if head.segments]
    if not (heads and pixels):
        return
    if source.training:
        beyond = {}
        for head in heads:
            for value in _beyond(pixels, head):
                beyond.setdefault(value, []).append(head)
        if beyond:
            _add_beyond(contents, beyond, findings)
    else:
        count = len(source.classes or []) or max(h.labels for h in heads)
        ignored = {255} | {head.ignore_index for head in heads}
        beyond = sorted(v for v in pixels if not 0 <= v < count and v not in ignored)
        if beyond:
            value = beyond[0]
            findings.warn(
                f"label {value} in '{contents.first_with(value)['seg_map_path']}' "
                f'({source.option}) is not one of the {count} classes: its pixels '
                f'count as wrong. {_list_values(contents, beyond)}'
            )
    _check_classes_without_pixels(contents, heads, findings)
    _check_lossy(contents, findings)


def _beyond(pixels: Counter, head: Head) -> list[int]:
    return [
        value
        for value in sorted(pixels)
        if not 0 <= value < head.labels and value != head.ignore_index
    ]


def _add_beyond(contents: Contents, beyond: dict, findings: Findings) -> None:
    source, value = contents.source, min(beyond)
    sample, heads = contents.first_with(value), beyond[min(beyond)]
    names = source.classes
    counts = ', '.join(
        f'{head.option}.num_classes={head.num_classes} and ignore_index='
        f'{head.ignore_index}'
        for head in heads
    )
    has = f'{len(names)} classes' if names else 'no class names'
    raw = _raw(sample, value)
    if value == 255:
        advice = (
            'set ignore_index=255 of the heads, which is the label of ignored and '
            'padded pixels in mmseg, and give the ignored class this label'
        )
    elif contents.source.dataset.metainfo.get('reduce_zero_label') is False and (
        0 not in contents.pixels and max(contents.pixels) == heads[0].num_classes
    ):
        advice = (
            f'the labels start at 1: set {source.option}.reduce_zero_label=True if 0 '
            'is not a class'
        )
    else:
        advice = (
            'set num_classes of all heads and metainfo.classes to what the files '
            'hold, or correct the labels'
        )
    findings.add(
        f"'{sample['seg_map_path']}' has label {value}{raw} ({source.option}, {has}), "
        f'{counts}: {advice}. {_list_values(contents, sorted(beyond))}',
        fatal=source.known_pipeline and any(head.refuses_labels for head in heads),
    )


def _check_classes_without_pixels(
    contents: Contents, heads: Sequence[Head], findings: Findings
) -> None:
    source, pixels = contents.source, contents.pixels
    count = len(source.classes or []) or max(head.labels for head in heads)
    names = source.classes or [f'class {k}' for k in range(count)]
    empty = [name for k, name in enumerate(names) if not pixels[k]]
    seen = count - len(empty)
    # Rare classes are missing in a sample of a large data set, and that says nothing.
    if not empty or not (contents.complete or seen < 2 or count <= 20):
        return
    if not source.training and seen > 1:
        return
    values = sorted(pixels)
    ignored = sorted({255, *(head.ignore_index for head in heads)} & set(values))
    share = sum(pixels[v] for v in ignored) / sum(pixels.values())
    text = (
        f'{_plural(len(empty), "class", "classes")} without a pixel in '
        f'{_looked_at(contents)} of {source.option}: {first_few(empty, 8)}. The labels '
        f'are {first_few([str(v) for v in values], 8)}'
    )
    if ignored:
        text += (
            f', of which {", ".join(map(str, ignored))} '
            f'({100 * share:.0f} % of the pixels) is ignored'
        )
    if seen < 2 and ignored == [255] and 255 in values:
        text += (
            '. If 255 is a class (white in a mask of 0 and 255), map the values to '
            'labels with mmmaskdistill.FolderSegDataset and its classes file'
        )
    elif not contents.complete:
        text += '. tools/analysis_tools/check_data.py looks at all labels'
    findings.warn(text)


def _check_readable_labels(contents: Contents, findings: Findings) -> None:
    source, broken, colored = contents.source, [], []
    known = is_known(type(source.step('Annotation', 'Label')))
    for sample in contents.samples:
        label, path = sample['label'], sample['seg_map_path']
        if label is None:
            continue
        if label['error']:
            if osp.isfile(path):
                named = path in label['error']
                text = label['error'] if named else f"'{path}' ({label['error']})"
                broken.append((path, text))
        elif len(label['shape']) != 2:
            colored.append((path, label['shape']))
    if broken:
        others = [path for path, _ in broken[1:]]
        findings.add(
            f'{len(broken)} of {len(contents.samples)} labels of {source.option} '
            f'cannot be loaded: {broken[0][1]}'
            + (f'. The others are {first_few(others)}' if others else ''),
            fatal=known,
        )
    if colored:
        path, shape = colored[0]
        findings.add(
            f"'{path}' has {' x '.join(map(str, shape))} values, a color image, as are "
            f'{len(colored)} of {len(contents.samples)} labels of {source.option}; '
            'expected one label per pixel. Set type=mmmaskdistill.FolderSegDataset '
            'with a classes file that has the color of each class, or convert the '
            'files',
            fatal=source.known_pipeline,
        )


def _check_sizes(contents: Contents, findings: Findings) -> None:
    source, wrong = contents.source, []
    for sample in contents.samples:
        label, image = sample['label'], sample['image']
        if label is None or image['error'] or len(label['shape']) < 2:
            continue
        if label['shape'][:2] != [image['height'], image['width']]:
            wrong.append(sample)
    where = f'{len(wrong)} of {len(contents.samples)} pairs of'
    if not (wrong or contents.complete) and contents.labeled:
        wrong, where = _other_sizes(source), 'this pair, and perhaps in others, of'
    if not wrong:
        return
    image, (height, width) = wrong[0]['image'], wrong[0]['label']['shape'][:2]
    turned = ''
    if (height, width) == (image['width'], image['height']):
        turned = ' (turned, perhaps by its EXIF orientation)'
    findings.add(
        f"'{wrong[0]['img_path']}' has {image['width']} x {image['height']} pixels"
        f"{turned}, its label '{wrong[0]['seg_map_path']}' {width} x {height}. Image "
        f'and label differ in {where} {source.option}: resize the labels (nearest '
        'neighbor), or pair the files correctly',
        fatal=source.known_pipeline,
    )


def _other_sizes(source: Source) -> list[dict]:
    """Compare the sizes of images and labels by their headers, as far as time allows.

    A label of another size than its image does not stop the training: both are
    cropped, at different places.
    """
    load = source.step('Annotation', 'Label')
    if load is None or not is_known(type(load)) or not source.on_disk:
        return []
    start = time.monotonic()
    for record in source.records:
        paths = [record.get(key) for key in ('img_path', 'seg_map_path')]
        if not all(isinstance(path, str) for path in paths):
            return []
        try:
            image, label = map(read_header, paths)
        except OSError:  # a file is missing, which is said elsewhere
            continue
        if time.monotonic() - start > HEADER_SECONDS:
            return []
        sizes = [(part['height'], part['width']) for part in (image, label)]
        if not (image['error'] or label['error']) and sizes[0] != sizes[1]:
            return [
                dict(
                    img_path=paths[0],
                    seg_map_path=paths[1],
                    image=image,
                    label=dict(shape=list(sizes[1]), values=[], error=''),
                )
            ]
    return []


def _check_lossy(contents: Contents, findings: Findings) -> None:
    lossy, wide = [], []
    for sample in contents.samples[:SAMPLE]:
        path = sample['seg_map_path']
        if not path:
            continue
        if path.lower().endswith(('.jpg', '.jpeg')):
            lossy.append(path)
        else:
            try:
                with Image.open(path) as image:
                    deep = image.mode.startswith('I') or image.mode == 'F'
                    values = np.unique(np.asarray(image)) if deep else ()
            except Exception:
                continue
            # 65535 becomes 255, the label that is ignored.
            if any(value > 255 and value != 65535 for value in values):
                wide.append((path, int(max(values))))
    step = contents.source.step('Annotation')
    if lossy:
        findings.warn(
            f'labels of {contents.source.option} are JPEG files, whose compression '
            f'changes labels: {first_few(lossy, 1)}. Save labels as PNG'
        )
    if wide and type(step).__name__ == 'LoadAnnotations':
        path, value = wide[0]
        findings.warn(
            f"'{path}' has the value {value}, of which LoadAnnotations keeps the "
            f'lowest 8 bits ({value % 256}). Set '
            'type=mmmaskdistill.FolderSegDataset, whose classes file maps 16-bit values'
        )


def _raw(sample: dict, value: int) -> str:
    """Say which value the file has, if the data set maps it to another label."""
    try:
        with Image.open(sample['seg_map_path']) as image:
            raw = np.unique(np.asarray(image)).tolist()
    except Exception:
        return ''
    return (
        '' if value in raw else f' (the file has {first_few(list(map(str, raw)), 8)})'
    )


def _loads(load: Any, sample: dict) -> bool:
    """Tell whether the pipeline can load an image that Pillow cannot."""
    try:
        return load(dict(img_path=sample['img_path'])) is not None
    except Exception:
        return False


def _has_labels(records: Sequence[dict]) -> bool:
    return any(isinstance(record.get('seg_map_path'), str) for record in records)


def _paths(record: dict) -> list[str]:
    paths = (record.get('img_path'), record.get('seg_map_path'))
    return [path for path in paths if isinstance(path, str)]


def _describe(load: Any | None, records: Sequence[dict]) -> str:
    """Name what decides how a label is read, so that a cached result is not wrong."""
    if load is None:
        return ''
    first = records[0]
    try:
        step = hashlib.sha1(pickle.dumps(load)).hexdigest()
    except Exception:
        step = repr(load)
    return f'{step} {first.get("label_map")} {first.get("reduce_zero_label")}'


def _list_values(contents: Contents, values: Sequence[int]) -> str:
    texts = [f'{value} ({contents.pixels[value]} pixels)' for value in values]
    return f'Labels beyond the classes in {_looked_at(contents)}: {first_few(texts, 8)}'


def _looked_at(contents: Contents) -> str:
    count, total = contents.labeled, len(contents.source.dataset)
    if contents.complete:
        return f'all {count} labels'
    return f'{count} of {total} labels'


def _plural(count: int, one: str, several: str) -> str:
    return f'{count} {one if count == 1 else several}'
