"""What is asked for, and what can be refused before a model is loaded."""

import importlib.util
import os
import os.path as osp
import shlex
from dataclasses import dataclass

from mmmaskdistill.datasets.image_files import IMAGE_ENDINGS
from mmmaskdistill.errors import ConfigError

from ..inference.files import list_files

HUGGINGFACE = 'huggingface'
# The endings of a file in each format. A folder has no ending.
ENDINGS = {
    'onnx': ('.onnx',),
    'torchscript': ('.torchscript', '.ts', '.pt'),
    'pt2': ('.pt2',),
}
FORMATS = (*ENDINGS, HUGGINGFACE)
# What follows the name of an ONNX file in that of its weights, if they are large.
ONNX_WEIGHTS = '.data'
OUTPUTS = ('labels', 'logits', 'features')
NEEDS_ONNX = 'pip install "mmmaskdistill[onnx]"'
# Packages of the extra "onnx": the exporter needs the first two, the check the last.
ONNX_PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')


@dataclass
class Request:
    """An export that is asked for.

    Attributes:
        out (str): The file to write, or the folder in Hugging Face's layout.
        form (str | None): One of :data:`FORMATS`. Defaults to None: the ending of
            ``out`` tells it.
        size (tuple[int, int] | None): Height and width of the images in pixels.
            Defaults to None: the usual size of the model.
        dynamic (bool): Whether the file takes images of any size in whole patches.
            Defaults to False: of ``size`` only.
        half (bool): Whether the weights and what is computed have 16 bits. Defaults to
            False.
        output (str | None): What is computed: ``labels`` (the class of each pixel),
            ``logits`` (of a segmentor or a classifier) or ``features`` (of the
            backbone). Defaults to None: labels of a segmentor, logits of a classifier,
            features of a pre-trained student.
        images (tuple[str, ...]): Pictures on which the file is checked. Defaults to
            none: those that the config tests with, or else a photograph.
        overwrite (bool): Whether ``out`` may exist. Defaults to False.
    """

    out: str
    form: str | None = None
    size: tuple[int, int] | None = None
    dynamic: bool = False
    half: bool = False
    output: str | None = None
    images: tuple[str, ...] = ()
    overwrite: bool = False


def check_request(request: Request) -> str:
    """Refuse an export that is known to fail before the model is loaded.

    Args:
        request (Request): The export.

    Returns:
        str: The format, one of :data:`FORMATS`.

    Raises:
        ConfigError: If the format is not known, does not fit the name of the output or
            the other options, or needs a package that is not installed; if the output
            exists, its folder does not, or a picture does not.
    """
    form = _format_of(request)
    folder = osp.dirname(osp.abspath(request.out))
    if not osp.isdir(folder):
        raise ConfigError(
            f'{request.out!r} cannot be written: the folder {folder!r} does not exist. '
            f'Make it first (mkdir -p {shlex.quote(folder)})'
        )
    if not os.access(folder, os.W_OK):
        raise ConfigError(
            f'{request.out!r} cannot be written: the folder {folder!r} is read-only'
        )
    _check_overwriting(request, form)
    _check_options(request, form)
    if request.images:
        list_files(request.images, IMAGE_ENDINGS)  # a message if one is missing
    if form == 'onnx':
        missing = [n for n in ONNX_PACKAGES if importlib.util.find_spec(n) is None]
        if missing:
            raise ConfigError(
                f'{request.out!r}: ONNX files need {", ".join(missing)}, which is not '
                f'installed: {NEEDS_ONNX}'
            )
    return form


def _format_of(request: Request) -> str:
    ending = osp.splitext(request.out.rstrip('/'))[1].lower()
    expected = '; '.join(
        f'{", ".join(endings)} for {form}' for form, endings in ENDINGS.items()
    )
    if request.form is None:
        for form, endings in ENDINGS.items():
            if ending in endings:
                return form
        raise ConfigError(
            f'{request.out!r} ends with {ending!r}, which is no format: expected '
            f'{expected}, or a folder with --format {HUGGINGFACE}'
        )
    if request.form not in FORMATS:
        raise ConfigError(
            f'format {request.form!r}: expected one of {", ".join(FORMATS)}'
        )
    if request.form == HUGGINGFACE:
        known = [form for form, endings in ENDINGS.items() if ending in endings]
        if known:
            raise ConfigError(
                f'{request.out!r} has the ending of {known[0]}: expected the name of a '
                f'folder for --format {HUGGINGFACE}'
            )
    elif ending not in ENDINGS[request.form]:
        raise ConfigError(
            f'{request.out!r} does not fit --format {request.form}: expected a file '
            f'that ends with {" or ".join(ENDINGS[request.form])}'
        )
    return request.form


def _check_overwriting(request: Request, form: str):
    out = request.out
    if form != HUGGINGFACE:
        if osp.isdir(out):
            raise ConfigError(f'{out!r} is a folder: expected the name of a file')
        for path in (out, out + ONNX_WEIGHTS) if form == 'onnx' else (out,):
            if osp.exists(path) and not request.overwrite:
                raise ConfigError(
                    f'{path!r} exists: give another name, or --overwrite to replace it'
                )
    elif osp.exists(out) and not osp.isdir(out):
        raise ConfigError(f'{out!r} is a file: expected the name of a folder')
    elif osp.isdir(out) and os.listdir(out) and not request.overwrite:
        raise ConfigError(
            f'the folder {out!r} is not empty: give another name, or --overwrite to '
            'replace the files in it that an export writes'
        )


def _check_options(request: Request, form: str):
    if request.output is not None and request.output not in OUTPUTS:
        raise ConfigError(
            f'output {request.output!r}: expected one of {", ".join(OUTPUTS)}'
        )
    if request.dynamic and request.size is not None:
        raise ConfigError(
            '--dynamic takes images of any size, --size of one: give one of the two'
        )
    if request.dynamic and form == 'torchscript':
        raise ConfigError(
            f'{request.out!r}: a TorchScript trace holds one size of images. Give '
            '--size, or export to .onnx or .pt2 with --dynamic'
        )
    if request.size is not None and (len(request.size) != 2 or min(request.size) < 1):
        raise ConfigError(
            f'--size {" ".join(map(str, request.size))}: expected height and width in '
            'pixels'
        )
    if form == HUGGINGFACE:
        given = [
            name
            for name in ('size', 'dynamic', 'half', 'output', 'images')
            if getattr(request, name)
        ]
        if given:
            raise ConfigError(
                f'--{given[0]} has no effect with --format {HUGGINGFACE}, which holds '
                'the weights as they are: leave it out'
            )
