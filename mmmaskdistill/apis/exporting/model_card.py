"""Write a model card that says what is known about a model, and what is not."""

import json
import os.path as osp
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config

from mmmaskdistill.version import __version__

from ..inference import LoadedModel
from ..pipelines import class_name
from .description import find_size
from .normalization import Normalization

PIPELINES = dict(
    segmentation='image-segmentation',
    classification='image-classification',
    pretraining='image-feature-extraction',
)
PURPOSES = dict(
    segmentation='assigns a class to each pixel of an image',
    classification='assigns a class to an image',
    pretraining='computes features of images, and is the backbone of other models',
)
UNKNOWN = 'not known'
# What means something else than itself in Markdown within a line: of underscores only
# those at the ends of words, of signs for headings only those at the beginning of one.
SPECIAL = r'[\\`*\[\]<>|~$&]|(?<![^\W_])_|_(?![^\W_])|(?<!\S)#'


def write_card(
    loaded: LoadedModel,
    folder: str,
    checkpoint: str,
    normalization: Normalization,
    metrics: Mapping[str, float],
    source: str,
    license: str | None,
    copies: Sequence[str],
) -> str:
    """Write a model card from a config and metrics.

    Args:
        loaded (LoadedModel): The model.
        folder (str): The folder of the card, whose name becomes the title.
        checkpoint (str): Name of the checkpoint.
        normalization (Normalization): How images are normalized.
        metrics (Mapping[str, float]): Metrics by their names; may be empty.
        source (str): Where the metrics are from.
        license (str | None): Licence of the weights, if it is stated.
        copies (Sequence[str]): Folders with copies of the backbone for other libraries.

    Returns:
        str: The card, Markdown with a header in YAML.
    """
    title = _text(osp.basename(osp.abspath(folder)))
    header = [
        'library_name: mmmaskdistill',
        f'pipeline_tag: {PIPELINES[loaded.task]}',
        'tags:',
        '- mmmaskdistill',
        f'- {PIPELINES[loaded.task]}',
    ]
    if license:
        header.insert(0, f'license: {json.dumps(license)}')
    parts = [
        '\n'.join(['---', *header, '---']),
        f'# {title}',
        f'This model {PURPOSES[loaded.task]}. It was trained with MMMaskDistill and '
        f'exported from {_code(osp.basename(checkpoint.rstrip("/")))} by version '
        f'{__version__}. This card was written from its config; what the config does '
        'not say is marked as not known.',
        '## Model',
        _table(_model_rows(loaded, normalization)),
        '## Training',
        _table(_training_rows(loaded.config)),
        '## Results',
        _results(metrics, source, loaded.config),
        '## Use',
        _use(loaded, copies),
        '## Licence',
        _licence(license),
        '## What is not known',
        'This card was not written by a person. It does not know how the model behaves '
        'on images of other kinds than those that it was tested with, how the training '
        'images were collected and who or what they show, and which biases follow from '
        'that.',
    ]
    if loaded.classes:
        names = ', '.join(f'{i} {_text(name)}' for i, name in enumerate(loaded.classes))
        parts[5:5] = [f'The {len(loaded.classes)} classes are: {names}.']
    return '\n\n'.join(parts) + '\n'


def _licence(license: str | None) -> str:
    if license:
        return f'The licence of these weights is {_text(license)}.'
    return (
        'The licence of these weights is not stated. Ask who published them before you '
        'use them. The licences of the training images and of the weights that the '
        'training started from may matter, too.'
    )


def _text(value: Any) -> str:
    """Write text of the config or the command line so that Markdown shows it as it is.

    Blanks, line breaks and what is not printable become one blank.
    """
    shown = ' '.join(_printable(value).split())
    return re.sub(SPECIAL, r'\\\g<0>', shown)


def _printable(value: Any) -> str:
    return ''.join(c if c.isprintable() else ' ' for c in str(value))


def _code(value: Any) -> str:
    """Write text in the font for code, whatever is in it."""
    shown = ' '.join(_printable(value).split())
    if '`' not in shown:
        return f'`{shown}`'
    marks = '`' * (1 + max(map(len, re.findall('`+', shown))))
    return f'{marks} {shown} {marks}'


def _table(rows: Sequence[tuple[str, Any]]) -> str:
    lines = ['| | |', '|---|---|']
    for name, value in rows:
        text = UNKNOWN if value in (None, '', []) else str(value)
        # In a table, a bar needs a backslash also in the font for code.
        text = re.sub(r'(?<!\\)\|', r'\|', text)
        lines.append(f'| {name} | {text} |')
    return '\n'.join(lines)


def _model_rows(loaded: LoadedModel, normalization: Normalization) -> list[tuple]:
    settings = loaded.config.model
    backbone = settings.get('backbone') or {}
    parts = {'backbone': 'backbone', 'neck': 'neck', 'head': 'head'}
    parts.update(decode_head='segmentation head', auxiliary_head='auxiliary head')
    rows = [('task', loaded.task)]
    for key, name in parts.items():
        part = settings.get(key)
        if part and not (loaded.task == 'pretraining' and key != 'backbone'):
            part = part if isinstance(part, (list, tuple)) else [part]
            rows.append((name, ', '.join(_text(class_name(p)) for p in part)))
    if backbone.get('arch') is not None:
        rows.append(('architecture', _text(_short(backbone['arch']))))
    if backbone.get('model_name'):
        rows.append(('architecture', f'{_text(backbone["model_name"])} of timm'))
    number = sum(parameter.numel() for parameter in loaded.model.parameters())
    height, width = find_size(loaded, None)
    channels = dict(RGB='red, green, blue', BGR='blue, green, red')
    rows += [
        ('parameters', f'{number / 1e6:.1f} million'),
        ('usual size of images', f'{height} x {width} pixels'),
        (
            'order of the channels',
            channels.get(normalization.channel_order, 'that of the image files'),
        ),
        ('mean, deviation', f'{list(normalization.mean)}, {list(normalization.std)}'),
    ]
    return rows


def _training_rows(config: Config) -> list[tuple]:
    loader = config.get('train_dataloader') or {}
    dataset = _innermost(loader.get('dataset') or {})
    data = _text(class_name(dataset)) if dataset.get('type') else None
    if data and dataset.get('data_root'):
        # Only the name, since a path says where its author keeps data.
        folder = osp.basename(str(dataset['data_root']).rstrip('/'))
        data += f', folder {_code(folder)}'
    rows = [('data', data), ('length', _length(config))]
    if loader.get('batch_size'):
        rows.append(('images per batch and process', loader['batch_size']))
    optimizer = (config.get('optim_wrapper') or {}).get('optimizer') or {}
    if optimizer.get('type'):
        rate = optimizer.get('lr')
        text = _text(class_name(optimizer))
        text += f', learning rate {rate}' if rate is not None else ''
        rows.append(('optimizer', text))
    model = config.model
    teacher = model.get('teacher')
    if teacher:
        names = [
            ' '.join(filter(None, [class_name(t), str(t.get('model_name') or '')]))
            for t in teacher.get('teachers') or [teacher]
        ]
        rows.append(('teacher', _text(', '.join(names))))
        if model.get('loss'):
            loss = model['loss']
            losses = loss if isinstance(loss, (list, tuple)) else [loss]
            names = [class_name(part) for part in losses]
            rows.append(('loss', _text(', '.join(names))))
    else:
        rows.append(('started from', _start(model)))
    return rows


def _innermost(dataset: Any) -> dict:
    """Return the data set inside of those that wrap it."""
    while isinstance(dataset, dict) and not dataset.get('pipeline'):
        inner = dataset.get('dataset') or next(
            iter(dataset.get('datasets') or []), None
        )
        if not inner:
            break
        dataset = inner
    return dataset if isinstance(dataset, dict) else {}


def _length(config: Config) -> str | None:
    train = config.get('train_cfg') or {}
    if train.get('max_epochs'):
        return f'{train["max_epochs"]} epochs, as configured'
    if train.get('max_iters'):
        return f'{train["max_iters"]} iterations, as configured'
    return None


def _start(model: dict) -> str:
    """Name the weights that a backbone started from."""
    backbone = model.get('backbone') or {}
    init = backbone.get('init_cfg') or model.get('init_cfg') or []
    for entry in init if isinstance(init, (list, tuple)) else [init]:
        if entry.get('checkpoint'):
            return _code(osp.basename(str(entry['checkpoint'])))
    if isinstance(backbone.get('pretrained'), str):
        return _code(osp.basename(backbone['pretrained']))
    if backbone.get('pretrained') is True:
        return "timm's weights of the architecture"
    return 'no weights that the config names'


def _results(metrics: Mapping[str, float], source: str, config: Config) -> str:
    if not metrics:
        return (
            'No metrics were given for this card. Measure them before you rely on the '
            'model.'
        )
    loader = config.get('test_dataloader') or config.get('val_dataloader') or {}
    dataset = _innermost(loader.get('dataset') or {})
    kind = class_name(dataset) if dataset.get('type') else UNKNOWN
    rows = [(_text(name), f'{value:.4g}') for name, value in metrics.items()]
    return (
        f'Metrics {source}; the data that the config tests with is {_code(kind)}.\n\n'
        + _table(rows).replace('| | |', '| metric | value |', 1)
    )


def _use(loaded: LoadedModel, copies: Sequence[str]) -> str:
    results = dict(
        segmentation='result.labels, result.classes',
        classification='result.top(5)',
        pretraining='result.patches, result.mean',
    )
    code = [
        'from mmmaskdistill.apis import load_model',
        '',
        "model = load_model('PATH_OF_THIS_FOLDER')",
        "result = model.predict('picture.jpg')",
        f'print({results[loaded.task]})',
    ]
    text = '\n'.join(['```python', *code, '```'])
    if not copies:
        return text
    head = loaded.task == 'classification'
    kind = 'BeitForImageClassification' if head else 'BeitModel'
    code = [
        "timm.create_model('local-dir:PATH_OF_THIS_FOLDER/timm', pretrained=True)",
        f"transformers.{kind}.from_pretrained('PATH_OF_THIS_FOLDER/transformers')",
    ]
    what = 'The classifier' if head else 'The backbone alone'
    text += f'\n\n{what} opens in other libraries, too:\n\n'
    return text + '\n'.join(['```python', *code, '```'])


def _short(arch: Any) -> str:
    if isinstance(arch, dict):
        return ', '.join(f'{key} {value}' for key, value in arch.items())
    return str(arch)
