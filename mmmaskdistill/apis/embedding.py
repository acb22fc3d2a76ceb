"""Turn images into features: class tokens, means of patches, and patch features.

For example, in a notebook::

    from mmmaskdistill.apis import load_embedder

    embedder = load_embedder('work_dirs/pretrain/epoch_300.pth', device='cuda')
    features = embedder(['a.jpg', 'b.jpg'], what=['cls', 'patches'])
    features['cls']  # [2, D]
"""

import hashlib
import os
import os.path as osp
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from mmcv.transforms import Resize
from mmengine.config import Config
from mmengine.dataset import default_collate, pseudo_collate
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mmmaskdistill.datasets.image_files import IMAGE_ENDINGS, read_image
from mmmaskdistill.datasets.result_names import distinct_names
from mmmaskdistill.errors import CheckpointError, ConfigError, first_few, first_line
from mmmaskdistill.models import Teacher, TimmTeacher
from mmmaskdistill.registry import MODELS

from .configs import load_config
from .feature_files import FeatureFile
from .inference import LoadedModel, load_model
from .inference.files import list_files
from .inference.inputs import as_array, as_picture
from .inference.loading import usable_device
from .inference.preprocessing import Preprocessing
from .inference.sources import CONFIG_ENDINGS, Trained, find_class, find_trained
from .layer_features import LayerReader, layer_reader
from .pipelines import loads, training_pipeline

TIMM = 'timm:'
WHAT = ('cls', 'mean', 'patches')
PROGRESS = 10  # Seconds between two lines about the progress.


class Inputs(NamedTuple):
    """How images become the input of a model.

    Attributes:
        load (Callable): Returns a sample for a path, a PIL image or an array: a dict
            whose ``inputs`` [C, H, W] are not normalized yet.
        normalize (Callable): Returns normalized images [B, C, H, W] for a list of
            samples of the same size.
        picture (Callable): Returns the inputs of a sample as a picture, [H, W, 3]
            uint8 RGB.
        description (str): Text that differs for other inputs.
    """

    load: Callable[[Any], dict]
    normalize: Callable[[list[dict]], Tensor]
    picture: Callable[[Tensor], np.ndarray]
    description: str


class Embedder:
    """A model that turns images into features.

    Args:
        model (nn.Module): The model whose layers are read, in eval mode.
        inputs (Inputs): How images become its input.
        reader (LayerReader): Reads its layers.
        name (str): Name of the model.
        device (torch.device): Device of the model.

    Attributes:
        layers (list[int]): The layers that are read, counted from 0.
        has_class_token (bool): Whether there is a class token.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        reader: LayerReader,
        name: str,
        device: torch.device,
    ):
        self.model, self.inputs, self.reader = model, inputs, reader
        self.name, self.device = name, device
        self.layers = reader.layers
        self.has_class_token = reader.has_class_token

    def keys(self, what: Sequence[str] | None = None) -> list[str]:
        """Return the names of the arrays for some kinds of features.

        Args:
            what (Sequence[str], optional): Some of ``'cls'``, ``'mean'`` and
                ``'patches'``. Defaults to None: the class token, or the mean if there
                is none.

        Returns:
            list[str]: The names, such as ``'cls'``; if several layers are read, with
            the number of the layer, such as ``'cls_11'``.

        Raises:
            ConfigError: If a kind is unknown, or there is no class token.
        """
        if what is None:
            what = ['cls' if self.has_class_token else 'mean']
        what = list(dict.fromkeys(what))
        unknown = [kind for kind in what if kind not in WHAT]
        if unknown or not what:
            raise ConfigError(f'what={what}: expected some of {", ".join(WHAT)}')
        if 'cls' in what and not self.has_class_token:
            raise ConfigError(
                f"what={what}: {self.name} has no class token. Use 'mean' or 'patches'"
            )
        if len(self.layers) == 1:
            return what
        return [f'{kind}_{layer}' for kind in what for layer in self.layers]

    @torch.no_grad()
    def batch(
        self, samples: list[dict], keys: Sequence[str], amp: bool = False
    ) -> list[dict[str, np.ndarray]]:
        """Compute the features of images.

        Images of different sizes are computed one size after the other, because padding
        would change the features.

        Args:
            samples (list[dict]): Results of ``self.inputs.load``.
            keys (Sequence[str]): Names of the arrays, see :meth:`keys`.
            amp (bool): Whether to compute in mixed precision. Defaults to False.

        Returns:
            list[dict[str, ndarray]]: The features of each image, float32: [D], and
            [h, w, D] for patches.
        """
        rows = [{} for _ in samples]
        by_size = {}
        for i, sample in enumerate(samples):
            by_size.setdefault(sample['inputs'].shape, []).append(i)
        half = torch.float16 if self.device.type == 'cuda' else torch.bfloat16
        for indices in by_size.values():
            images = self.inputs.normalize([samples[i] for i in indices])
            with torch.autocast(self.device.type, half, enabled=amp):
                features = self.reader(images)
            for layer, of_layer in zip(self.layers, features):
                for kind in WHAT:
                    key = kind if len(self.layers) == 1 else f'{kind}_{layer}'
                    if key not in keys:
                        continue
                    values = getattr(of_layer, kind)
                    if kind == 'patches':
                        values = values.permute(0, 2, 3, 1)  # [B, h, w, D]
                    for i, row in zip(indices, values.float().cpu().numpy()):
                        rows[i][key] = row
        return rows

    def __call__(
        self,
        images: Any,
        what: Sequence[str] | None = None,
        batch_size: int = 32,
        amp: bool = False,
    ) -> dict[str, np.ndarray]:
        """Compute the features of images.

        Args:
            images (Any): An image or a list of images: paths, PIL images, or arrays
                [H, W, 3] (RGB) or [H, W].
            what (Sequence[str], optional): See :meth:`keys`. Defaults to None.
            batch_size (int): Number of images in a batch. Defaults to 32.
            amp (bool): Whether to compute in mixed precision. Defaults to False.

        Returns:
            dict[str, ndarray]: Arrays [M, D], and [M, h, w, D] for patches, float32,
            with a row for each of the M images.

        Raises:
            ConfigError: If an image cannot be read, or the patch grids of the images
                differ.
        """
        single = not isinstance(images, (list, tuple))
        images = [images] if single else images
        keys, rows = self.keys(what), []
        for start in range(0, len(images), batch_size):
            samples = [self.inputs.load(x) for x in images[start : start + batch_size]]
            rows += self.batch(samples, keys, amp)
        for key in keys:
            shapes = sorted({row[key].shape for row in rows})
            if len(shapes) > 1:
                grids = ', '.join(f'{height} x {width}' for height, width, _ in shapes)
                raise ConfigError(
                    f'the patch grids of the images differ: {grids}. Give the images '
                    'the same size with load_embedder(size=...)'
                )
        return {key: np.stack([row[key] for row in rows]) for key in keys}


def load_embedder(
    model: Any,
    checkpoint: str | None = None,
    *,
    layers: Sequence[int] | None = None,
    norm: str = 'last',
    teacher: bool = False,
    size: tuple[int, int] | None = None,
    device: str | torch.device | None = None,
    trust_checkpoint: bool = False,
) -> Embedder:
    """Load a model that turns images into features.

    Args:
        model (Any): A checkpoint of this project, a config whose ``checkpoint``
            follows, see :func:`.inference.load_model`, or ``timm:NAME`` for a model of
            timm.
        checkpoint (str, optional): The checkpoint of a config; for ``timm:NAME`` a file
            of weights as :class:`TimmTeacher` takes it. Defaults to None: the weights
            of a timm model are loaded from its hub.
        layers (Sequence[int], optional): See :func:`.layer_features.layer_reader`.
            Defaults to None: the last layer.
        norm (str): Which layers the final norm is applied to: ``'last'``, ``'all'`` or
            ``'none'``. Defaults to ``'last'``.
        teacher (bool): Whether to embed with the teacher of a pre-training config,
            which then needs no checkpoint. Defaults to False.
        size (tuple[int, int], optional): Height and width in pixels to which images are
            resized, in place of the resizing and cropping of the test pipeline or of
            timm. Defaults to None.
        device (str | torch.device, optional): Device of the model. Defaults to None: a
            GPU if there is one.
        trust_checkpoint (bool): See :func:`.inference.load_model`. Defaults to False.

    Returns:
        Embedder: The model.

    Raises:
        ConfigError: If an argument is wrong, or does not fit the model.
        CheckpointError: If weights cannot be read or do not fit.
    """
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ConfigError(f'size={tuple(size)}: expected height and width in pixels')
    device = usable_device(device)
    if str(model).startswith(TIMM):
        if teacher:
            raise ConfigError(f'{model} is a timm model: it has no teacher')
        return _timm_embedder(
            str(model).removeprefix(TIMM), checkpoint, layers, norm, size, device
        )
    if teacher:
        return _teacher_embedder(
            model, checkpoint, layers, norm, size, device, trust_checkpoint
        )
    loaded = load_model(
        model, checkpoint, device=device, trust_checkpoint=trust_checkpoint
    )
    return embedder_of(loaded, layers=layers, norm=norm, size=size)


def embedder_of(
    loaded: LoadedModel,
    *,
    layers: Sequence[int] | None = None,
    norm: str = 'last',
    size: tuple[int, int] | None = None,
) -> Embedder:
    """Embed with the backbone of a model that is already loaded.

    Args:
        loaded (LoadedModel): The model.
        layers (Sequence[int], optional): See :func:`load_embedder`. Defaults to None.
        norm (str): See :func:`load_embedder`. Defaults to ``'last'``.
        size (tuple[int, int], optional): See :func:`load_embedder`. Defaults to None.

    Returns:
        Embedder: The model.

    Raises:
        ConfigError: If the model has no backbone, or the backbone has no such layer or
            no final norm to apply.
    """
    backbone = getattr(loaded.model, 'backbone', None)
    if backbone is None:
        raise ConfigError(
            f'a {type(loaded.model).__name__} has no backbone whose features could be '
            'read'
        )
    return Embedder(
        backbone,
        _own_inputs(loaded, size),
        layer_reader(backbone, layers, norm),
        type(backbone).__name__,
        loaded.device,
    )


def _own_inputs(loaded: LoadedModel, size: tuple[int, int] | None) -> Inputs:
    """Load images as the test pipeline of a model's config does."""
    steps = loaded.preprocessing

    def normalize(samples: list[dict]) -> Tensor:
        return loaded.model.data_preprocessor(pseudo_collate(samples))['inputs']

    return Inputs(
        loaded.preprocess if size is None else _resized(steps, size),
        normalize,
        _picture,
        f'{steps.load.step} {steps.rest} {size} '
        f'{_describe(loaded.model.data_preprocessor)}',
    )


def _describe(preprocessor: nn.Module) -> str:
    """Return a text that differs for another normalization or padding."""
    plain = (bool, int, float, str, tuple, list, dict, type(None))
    # mmengine keeps the order of the channels in a private attribute.
    left_out = {*vars(nn.Module()), '_non_blocking'}
    settings = {
        key: value
        for key, value in vars(preprocessor).items()
        if isinstance(value, plain) and key not in left_out
    }
    numbers = {k: v.flatten().tolist() for k, v in preprocessor.named_buffers()}
    return f'{type(preprocessor).__name__} {settings | numbers}'


def _resized(steps: Preprocessing, size: tuple[int, int]) -> Callable[[Any], dict]:
    """Load and pack images as a pipeline does, and only resize them in between."""
    resize = Resize(scale=tuple(size)[::-1], interpolation='bicubic')
    pack = steps.rest.transforms[-1]
    return lambda image: pack(resize(steps.load(image)))


def _picture(image: Tensor) -> np.ndarray:
    """Show an image that a pipeline of OpenMMLab has loaded, blue first."""
    pixels = image.permute(1, 2, 0).numpy()
    return as_picture(pixels[..., ::-1] if pixels.shape[2] == 3 else pixels)


def _teacher_embedder(
    model: Any,
    checkpoint: str | None,
    layers: Sequence[int] | None,
    norm: str,
    size: tuple[int, int] | None,
    device: torch.device,
    trust_checkpoint: bool,
) -> Embedder:
    """Build the teacher of a pre-training config, and load images for it."""
    if checkpoint is None and (
        isinstance(model, Config) or str(model).endswith(CONFIG_ENDINGS)
    ):
        config = model if isinstance(model, Config) else load_config(str(model))
        trained = Trained(config, {}, {}, str(model), trusted=True)
    else:
        trained = find_trained(model, checkpoint, trust_checkpoint)
    config = trained.config
    settings = config.get('model') or {}
    if 'teacher' not in settings:
        raise ConfigError(
            f'the config of {str(model)!r} has no teacher: expected a pre-training '
            'config, whose model is a MaskDistill'
        )
    views = settings.get('data_preprocessor') or config.get('data_preprocessor')
    settings = deepcopy(settings.teacher)
    # The file would hold features of the training images.
    settings.pop('file', None)
    load = next(
        (s for s in training_pipeline(config) if loads(s) == 'image'),
        dict(type='LoadImageFromFile'),
    )
    with trained.building([_without_weights(settings, trained), views, load]):
        teacher = MODELS.build(settings).to(device).eval()
        views = MODELS.build(views).to(device)
        if teacher.follows_student:
            raise ConfigError(
                f'the teacher {teacher.name} follows the student, so its features are '
                "not known before training: embed with the student's checkpoint, "
                'without teacher'
            )
        target = size or teacher.img_size
        steps = Preprocessing(
            [
                deepcopy(load),
                dict(type='Resize', scale=target[::-1], interpolation='bicubic'),
                dict(type='mmpretrain.PackInputs'),
            ]
        )

    def normalize(samples: list[dict]) -> Tensor:
        return views(default_collate(samples))['inputs'][1]

    inputs = Inputs(
        steps, normalize, _picture, f'{steps.load.step} {target} {_describe(views)}'
    )
    reader = layer_reader(teacher, layers, norm)
    return Embedder(teacher, inputs, reader, teacher.name, device)


def _without_weights(node: Any, trained: Trained) -> Any:
    """Copy a teacher's config without the files that teachers read safely."""
    if isinstance(node, (list, tuple)):
        return [_without_weights(part, trained) for part in node]
    if not isinstance(node, dict):
        return node
    with trained.building():
        kind = find_class(MODELS, node['type']) if 'type' in node else None
    own = isinstance(kind, type) and issubclass(kind, Teacher)
    return {
        key: _without_weights(value, trained)
        for key, value in node.items()
        if not (own and key == 'checkpoint')
    }


def _timm_embedder(
    name: str,
    checkpoint: str | None,
    layers: Sequence[int] | None,
    norm: str,
    size: tuple[int, int] | None,
    device: torch.device,
) -> Embedder:
    usual = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    img_size = size or (usual.input_size[1:] if usual else (224, 224))
    try:
        teacher = TimmTeacher(
            name,
            checkpoint,
            pretrained=checkpoint is None,
            img_size=tuple(img_size),
        ).to(device)
    except CheckpointError as error:
        if checkpoint is not None:
            raise
        cause = error.__cause__ or error
        raise CheckpointError(
            f"the weights of {TIMM}{name} could not be read from timm's hub: give a "
            f'file with --weights FILE, or load_embedder({TIMM + name!r}, FILE) '
            f'({first_line(cause)})'
        ) from error
    reader = layer_reader(teacher, [-1] if layers is None else layers, norm)
    config = timm.data.resolve_model_data_config(teacher.model)
    if size is not None:
        config.update(input_size=(3, *size), crop_pct=1.0, crop_mode='squash')
    inputs = _timm_inputs(config, device)
    return Embedder(teacher.model, inputs, reader, name, device)


def _timm_inputs(config: dict, device: torch.device) -> Inputs:
    """Load images as timm does when it evaluates a model."""
    transform = timm.data.create_transform(**config, is_training=False)
    mean, std = (torch.tensor(config[name])[:, None, None] for name in ('mean', 'std'))

    def picture(image: Tensor) -> np.ndarray:
        pixels = (image * std + mean).clamp(0, 1) * 255
        return pixels.round().byte().permute(1, 2, 0).numpy()

    return Inputs(
        load=lambda image: dict(inputs=transform(Image.fromarray(_as_rgb(image)))),
        normalize=lambda samples: torch.stack([s['inputs'] for s in samples]).to(
            device
        ),
        picture=picture,
        description=str(transform),
    )


def _as_rgb(image: Any) -> np.ndarray:
    """Read an image for a model of RGB images, [H, W, 3] uint8."""
    if isinstance(image, (str, os.PathLike)):
        image = read_image(os.fspath(image))
    array = as_array(image)
    channels = 1 if array.ndim == 2 else array.shape[2]
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    if array.dtype != np.uint8 or channels > 4:
        raise ConfigError(
            f'it has {channels} channels of type {array.dtype}, and a model of timm '
            'takes RGB images of 8 bits'
        )
    return as_picture(array)


@dataclass
class Embedded:
    """What :func:`embed_files` has done.

    Attributes:
        files (list[str]): The files that were written.
        names (list[str]): Names of the rows.
        skipped (dict[str, str]): Images without a row, and the reason.
        resumed (int): Number of images that an earlier run had done.
        seconds (float): Time that the others took.
        pictures (list[str]): Pictures of the patch features.
    """

    files: list[str]
    names: list[str]
    skipped: dict[str, str]
    resumed: int
    seconds: float
    pictures: list[str] = field(default_factory=list)


def embed_files(
    embedder: Embedder,
    paths: str | Sequence[str],
    out: str,
    what: Sequence[str] | None = None,
    *,
    pca: str | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    amp: bool = False,
    dtype: str = 'float32',
    overwrite: bool = False,
    log: Callable[[str], None] = print,
) -> Embedded:
    """Write the features of image files to a file.

    A run that was stopped goes on when it is started again with the same arguments. An
    image that cannot be read has no row.

    Args:
        embedder (Embedder): The model.
        paths (str | Sequence[str]): Images, folders, patterns, and text files that list
            them, see :func:`.inference.files.list_files`. The name of an image is its
            path below the innermost folder that holds all of ``paths``.
        out (str): The file, which ends with ``.npz``, ``.npy`` or ``.parquet``. The
            list of the names of a ``.npy`` file is a text file next to it; several
            arrays become several ``.npy`` files.
        what (Sequence[str], optional): See :meth:`Embedder.keys`. Defaults to None.
        pca (str, optional): Folder for pictures of the patch features of each image,
            colored by the principal components of those of all images. The last one
            of several layers is drawn. Defaults to None, no pictures.
        batch_size (int): Number of images in a batch. Defaults to 32.
        num_workers (int): Number of processes that load images. Defaults to 0.
        amp (bool): Whether to compute in mixed precision. Defaults to False.
        dtype (str): Type of the features in the file, ``'float32'`` or ``'float16'``.
            Defaults to ``'float32'``.
        overwrite (bool): Whether the file may be there already. Defaults to False.
        log (Callable): Called with each line about the progress. Defaults to ``print``.

    Returns:
        Embedded: What was written and what was skipped.

    Raises:
        ConfigError: If the file or a picture is there already, a picture would replace
            an image, no image can be read, the patch grids of images differ and patches
            are written, or a stopped run had other settings.
    """
    keys = embedder.keys(what)
    drawn = embedder.keys(['patches'])[-1] if pca else None
    folder, files, left_out = name_images(paths, pca)
    if left_out:
        log(f'left out: {", ".join(f"{n} {name}" for name, n in left_out.items())}')
    names = list(files)
    settings = dict(
        model=embedder.name,
        weights=_fingerprint(embedder.model),
        inputs=embedder.inputs.description,
        norm=embedder.reader.norm,
        arrays=[*keys, *([drawn] if drawn and drawn not in keys else [])],
        layers=embedder.layers,
        amp=amp,
        folder=folder,
        images=names,
    )
    targets = _picture_files(files, pca) if pca else {}
    file = FeatureFile(out, settings, keys, dtype, overwrite)
    if not (overwrite or file.resumed):
        there = [repr(str(path)) for path in targets.values() if path.exists()]
        if there:
            file.discard()
            raise ConfigError(
                f'--pca: {first_few(there)} is there already: choose another folder, '
                'or overwrite it with --overwrite'
            )
    if file.resumed:
        log(f'{file.resumed} of {len(names)} images were done before')
    start = time.monotonic()
    _embed(embedder, file, files, settings['arrays'], batch_size, num_workers, amp, log)
    seconds = time.monotonic() - start
    pictures = []
    if pca and file.names:
        pictures = _draw(embedder, file, drawn, files, targets)
    names, skipped = file.names, file.skipped
    return Embedded(file.finish(), names, skipped, file.resumed, seconds, pictures)


class NamedImages(NamedTuple):
    """Images to embed.

    Attributes:
        folder (str): The innermost folder that holds everything that was given.
        files (dict[str, str]): The path of each image by its name.
        left_out (dict[str, int]): How many files of each other ending the folders have.
    """

    folder: str
    files: dict[str, str]
    left_out: dict[str, int]


def name_images(paths: str | Sequence[str], out: str | None = None) -> NamedImages:
    """Find images, and name each after its path below a folder that holds all.

    Args:
        paths (str | Sequence[str]): See :func:`embed_files`.
        out (str, optional): Folder of pictures that are written, see
            :func:`.inference.files.list_files`. Defaults to None.

    Returns:
        NamedImages: The images, in the order in which they were found.

    Raises:
        ConfigError: If a path does not exist, there is no image, or a name has a line
            break.
    """
    paths = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    listed = list_files(paths, IMAGE_ENDINGS, [out] if out else [])
    addresses = [path for path in listed.files if '://' in path]
    found = [osp.abspath(path) for path in listed.files if '://' not in path]
    folders = [osp.abspath(folder) for folder in listed.folders]
    outside = [
        osp.dirname(file)
        for file in found
        if not any(file.startswith(osp.join(folder, '')) for folder in folders)
    ]
    root = osp.commonpath([*folders, *outside]) if found else ''
    files = {Path(osp.relpath(file, root)).as_posix(): file for file in found}
    files.update({address: address for address in addresses})
    broken = [name for name in files if len(name.splitlines()) > 1]
    if broken:
        raise ConfigError(
            f'the name {broken[0]!r} has a line break, which a list of names cannot '
            'have: rename the file'
        )
    return NamedImages(root, files, listed.left_out)


def _embed(
    embedder: Embedder,
    file: FeatureFile,
    files: dict[str, str],
    arrays: list[str],
    batch_size: int,
    num_workers: int,
    amp: bool,
    log: Callable[[str], None],
) -> None:
    """Append the rows of all images that have none."""
    names = list(files)[file.done :]
    dataset = _Files(embedder.inputs.load, [files[name] for name in names])
    loader = DataLoader(
        dataset,
        batch_size,
        num_workers=num_workers,
        collate_fn=list,
        # Transforms need not be picklable.
        multiprocessing_context='fork' if num_workers else None,
    )
    start = told = time.monotonic()
    for first, batch in zip(range(0, len(names), batch_size), loader):
        of_batch = names[first : first + batch_size]
        loaded = [sample for sample, _ in batch if sample is not None]
        rows = iter(embedder.batch(loaded, arrays, amp))
        for name, (sample, reason) in zip(of_batch, batch):
            if sample is None:
                file.skip(name, reason)
                continue
            features = next(rows)
            wrong = [k for k, v in features.items() if not _fits(v, file.dtype)]
            if wrong:
                file.skip(name, f'its features {wrong[0]} are not finite {file.dtype}')
            else:
                file.add(name, features)
        file.commit()
        now = time.monotonic()
        if now - told > PROGRESS:
            done = first + len(batch)
            log(f'{file.done} images, {done / (now - start):.1f} images/s')
            told = now
    file.commit(now=True)


def _fits(values: np.ndarray, dtype: np.dtype) -> bool:
    return bool((np.abs(values) <= np.finfo(dtype).max).all())


class _Files(Dataset):
    """Load image files, and say why one cannot be loaded."""

    def __init__(self, load: Callable[[Any], dict], files: list[str]):
        self.load, self.files = load, files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[dict | None, str]:
        path = self.files[index]
        try:
            return self.load(path), ''
        except Exception as error:
            reason = first_line(error).removeprefix(f"cannot load the image '{path}': ")
            return None, reason


def _picture_files(files: dict[str, str], folder: str) -> dict[str, Path]:
    """Name the picture of each image.

    Raises:
        ConfigError: If a picture would replace an image, or the folder cannot be
            written.
    """
    below = [name.rpartition('://')[2] for name in files]
    names = distinct_names(list(files.values()), below)
    targets = {
        name: Path(folder, f'{target}.png') for name, target in zip(files, names)
    }
    images = {osp.realpath(file) for file in files.values()}
    lost = [str(path) for path in targets.values() if osp.realpath(path) in images]
    if lost:
        raise ConfigError(
            f'--pca {str(folder)!r}: pictures would replace images, such as '
            f'{lost[0]!r}: choose another folder'
        )
    try:
        os.makedirs(folder, exist_ok=True)
        with TemporaryFile(dir=folder):  # The features may take long.
            pass
    except OSError as error:
        raise ConfigError(
            f'--pca {str(folder)!r}: expected a folder that can be written '
            f'({error.strerror})'
        ) from error
    return targets


def _draw(
    embedder: Embedder,
    file: FeatureFile,
    key: str,
    files: dict[str, str],
    targets: dict[str, Path],
) -> list[str]:
    """Draw the patch features of all images in the colors of one basis."""
    # matplotlib is slow to import.
    from mmmaskdistill.visualization.features import (
        fit_pca_basis,
        pca_colors,
        pca_picture,
    )

    basis = fit_pca_basis(_Repeated(lambda: file.maps(key)))
    written = []
    for name, features in zip(file.names, file.maps(key)):
        sample = embedder.inputs.load(files[name])
        image = embedder.inputs.picture(sample['inputs'])
        path = targets[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pca_picture(image, pca_colors(features, basis))).save(path)
        written.append(str(path))
    return written


class _Repeated:
    """Iterate again over what a function returns."""

    def __init__(self, function: Callable[[], Iterator]):
        self.function = function

    def __iter__(self) -> Iterator:
        return self.function()


def _fingerprint(model: nn.Module) -> str:
    """Return a text that differs for other weights."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
