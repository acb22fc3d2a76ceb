"""Write a model in Hugging Face's layout, and upload it.

A folder has the weights with the config (``model.safetensors``), facts for readers
(``config.json``) and a model card (``README.md``). If timm and transformers have the
backbone, the folders ``timm`` and ``transformers`` hold it in their formats.
"""

import json
import os
import os.path as osp
import re
import shutil
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image

from mmmaskdistill.errors import CheckpointError, ConfigError, first_line
from mmmaskdistill.models import MaskDistillViT
from mmmaskdistill.models.checkpoints import write_weights
from mmmaskdistill.models.checkpoints.export import (
    ExportedViT,
    read_vit,
    to_timm,
    to_transformers,
)

from ..inference import LoadedModel, load_model
from ..inference.preprocessing import pair
from ..pipelines import class_name
from .description import find_size
from .metrics import find_metrics
from .model_card import write_card
from .normalization import Normalization, measure_normalization

WEIGHTS, CONFIG, CARD = 'model.safetensors', 'config.json', 'README.md'
COPIES = ('timm', 'transformers')


def write_folder(
    loaded: LoadedModel,
    out: str,
    checkpoint: str,
    metrics: dict[str, float] | None = None,
    license: str | None = None,
) -> list[str]:
    """Write a model in Hugging Face's layout, and load it back.

    Args:
        loaded (LoadedModel): The model, from :func:`..inference.load_model`.
        out (str): The folder.
        checkpoint (str): The checkpoint or work dir of the model, which the model card
            names. If there is a validation of it in the work dir, its metrics are used.
        metrics (dict[str, float], optional): Metrics for the model card. Defaults to
            None: those of that validation, if there are any.
        license (str, optional): Licence of the weights. Defaults to None, not stated.

    Returns:
        list[str]: What was written, and how to open it, one line each.

    Raises:
        ConfigError: If what was written is not what the model is.
        CheckpointError: If it cannot be loaded.
    """
    normalization = measure_normalization(loaded)
    source = 'given with --metrics'
    if metrics is None:
        metrics, source = find_metrics(checkpoint)
    parent = osp.dirname(osp.abspath(out))
    with TemporaryDirectory(dir=parent, prefix='.export-') as draft:
        state = loaded.model.state_dict()
        data = dict(classes=loaded.classes, palette=loaded.palette)
        meta = dict(
            cfg=loaded.config.pretty_text,
            dataset_meta={key: value for key, value in data.items() if value},
        )
        write_weights(state, osp.join(draft, WEIGHTS), meta)
        _check(loaded, draft)
        _write_json(osp.join(draft, CONFIG), _facts(loaded, normalization))
        copies, lines = _write_copies(loaded, draft, normalization)
        card = write_card(
            loaded, out, checkpoint, normalization, metrics, source, license, copies
        )
        Path(draft, CARD).write_text(card, encoding='utf-8')
        os.makedirs(out, exist_ok=True)
        for name in COPIES:
            shutil.rmtree(osp.join(out, name), ignore_errors=True)
        for name in os.listdir(draft):
            os.replace(osp.join(draft, name), osp.join(out, name))
    number = len(state)
    return [
        f'{number} tensors written to {osp.join(out, WEIGHTS)}. To open the model:',
        f'  mmmaskdistill.apis.load_model({out!r})',
        *lines,
    ]


def _check(loaded: LoadedModel, folder: str):
    """Load the folder, and compare it with the model."""
    try:
        back = load_model(folder, device='cpu')
    except (CheckpointError, ConfigError) as error:
        raise ConfigError(
            'the model cannot be published, because it would not load without trust in '
            f'its author: {error}'
        ) from error
    own, found = loaded.model.state_dict(), back.model.state_dict()
    same = own.keys() == found.keys() and all(
        torch.equal(tensor.cpu(), found[key]) for key, tensor in own.items()
    )
    if not same or (back.classes, back.task) != (loaded.classes, loaded.task):
        raise ConfigError(
            'the folder does not hold what the checkpoint holds, and was not kept'
        )


def _facts(loaded: LoadedModel, normalization: Normalization) -> dict:
    """Return the content of ``config.json``, which is only for readers."""
    names = loaded.classes
    return dict(
        library_name='mmmaskdistill',
        task=loaded.task,
        architecture=type(loaded.model).__name__,
        backbone=type(loaded.model.backbone).__name__,
        image_size=list(find_size(loaded, None)),
        channel_order=normalization.channel_order,
        mean=list(normalization.mean),
        std=list(normalization.std),
        id2label=dict(enumerate(names)) if names else None,
        palette=loaded.palette,
        note=f'The complete config is in the metadata of {WEIGHTS}, under the key cfg.',
    )


def _write_copies(
    loaded: LoadedModel, folder: str, normalization: Normalization
) -> tuple[list[str], list[str]]:
    """Write the backbone for timm and transformers; return the copies and messages."""
    backbone = loaded.model.backbone
    if not isinstance(backbone, MaskDistillViT):
        return [], [f'{type(backbone).__name__} has no copy for timm or transformers']
    try:
        vit = read_vit(
            osp.join(folder, WEIGHTS), 'backbone.', backbone.blocks[0].attn.num_heads
        )
    except CheckpointError as error:
        return [], [f'no copy for timm and transformers: {first_line(error)}']
    _write_timm(loaded, vit, osp.join(folder, 'timm'), normalization)
    _write_transformers(loaded, vit, osp.join(folder, 'transformers'), normalization)
    return list(COPIES), [
        'timm and transformers open the backbone'
        + (' with the classifier' if vit.head else '')
        + ', see README.md in the folder'
    ]


def _before_crop(loaded: LoadedModel, size: int) -> tuple[int | None, str]:
    """Return how images are resized before their middle is cropped.

    Args:
        loaded (LoadedModel): The model.
        size (int): Side in pixels of the crop for which the copies are made.

    Returns:
        tuple[int | None, str]: Length of the shorter side in pixels, None if nothing is
        cropped, and the interpolation.
    """
    for first, second in pairwise(loaded.steps):
        names = class_name(first), class_name(second)
        shorter = first.get('edge', 'short') == 'short'
        if names == ('ResizeEdge', 'CenterCrop') and shorter:
            height, _ = pair(second['crop_size'])
            edge = round(size * first['scale'] / height)
            return edge, _interpolation(first)
    resize = (step for step in loaded.steps if class_name(step) == 'Resize')
    return None, _interpolation(next(resize, dict(interpolation='bicubic')))


def _interpolation(step: dict) -> str:
    """Return Pillow's name of the interpolation of a transform that resizes."""
    name = step.get('interpolation', 'bilinear')
    # OpenCV's 'area' has another name in Pillow.
    return name if name.upper() in Image.Resampling.__members__ else 'box'


def _write_timm(
    loaded: LoadedModel, vit: ExportedViT, folder: str, normalization: Normalization
):
    state, name, options = to_timm(vit)
    channels = vit.state['patch_embed.proj.weight'].shape[1]
    classes = options.pop('num_classes', 1000)
    size = [channels, vit.img_size, vit.img_size]
    edge, interpolation = _before_crop(loaded, vit.img_size)
    write_weights(state, osp.join(folder, WEIGHTS))
    _write_json(
        osp.join(folder, CONFIG),
        dict(
            architecture=name,
            num_classes=classes,
            model_args={**options, 'in_chans': channels},
            pretrained_cfg=dict(
                input_size=size,
                fixed_input_size=True,
                crop_pct=vit.img_size / (edge or vit.img_size),
                interpolation=interpolation,
                num_classes=classes,
                mean=[value / 255 for value in normalization.mean],
                std=[value / 255 for value in normalization.std],
                first_conv='patch_embed.proj',
                classifier='head',
            ),
        ),
    )


def _write_transformers(
    loaded: LoadedModel, vit: ExportedViT, folder: str, normalization: Normalization
):
    state, config = to_transformers(vit)
    if vit.head and loaded.classes:
        config.update(
            id2label=dict(enumerate(loaded.classes)),
            label2id={name: i for i, name in enumerate(loaded.classes)},
        )
    write_weights(state, osp.join(folder, WEIGHTS))
    _write_json(osp.join(folder, CONFIG), config)
    if normalization.channel_order == 'RGB':
        side = dict(height=vit.img_size, width=vit.img_size)
        edge, interpolation = _before_crop(loaded, vit.img_size)
        # BEiT's own processor would change the ratio of the sides.
        kind = 'CLIPImageProcessor' if edge else 'BeitImageProcessor'
        _write_json(
            osp.join(folder, 'preprocessor_config.json'),
            dict(
                image_processor_type=kind,
                do_resize=True,
                size=dict(shortest_edge=edge) if edge else side,
                resample=Image.Resampling[interpolation.upper()],
                do_center_crop=bool(edge),
                crop_size=side,
                do_rescale=True,
                rescale_factor=1 / 255,
                do_normalize=True,
                image_mean=[value / 255 for value in normalization.mean],
                image_std=[value / 255 for value in normalization.std],
            ),
        )


def _write_json(path: str, content: dict):
    os.makedirs(osp.dirname(path), exist_ok=True)
    Path(path).write_text(json.dumps(content, indent=2) + '\n')


def check_push(repo: str) -> None:
    """Refuse an upload that is known to fail, before anything is computed.

    Args:
        repo (str): The repository on the Hugging Face Hub.

    Raises:
        ConfigError: If the name is wrong, ``HF_HUB_OFFLINE`` is set, or there is no
            token.
    """
    if not re.fullmatch(r'[\w.-]+/[\w.-]+', repo):
        raise ConfigError(f'--push {repo!r}: expected USER/NAME, such as me/my-model')
    import huggingface_hub

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise ConfigError(
            f'--push {repo}: HF_HUB_OFFLINE is set, which forbids uploads. Unset it'
        )
    if huggingface_hub.get_token() is None:
        raise ConfigError(
            f'--push {repo}: there is no token of the Hugging Face Hub. Run '
            '`hf auth login`, or set HF_TOKEN'
        )


def push_folder(folder: str, repo: str, private: bool = False) -> str:
    """Upload a folder to the Hugging Face Hub.

    Args:
        folder (str): A folder from :func:`write_folder`.
        repo (str): The repository, ``USER/NAME``. It is made if it does not exist.
        private (bool): Whether it is private if it is made. Defaults to False.

    Returns:
        str: Where the folder was uploaded to.

    Raises:
        ConfigError: If it cannot be uploaded.
    """
    import huggingface_hub

    try:
        api = huggingface_hub.HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        info = api.upload_folder(repo_id=repo, folder_path=folder)
    except Exception as error:
        # Depending on its version, the client raises errors of several libraries.
        raise ConfigError(
            f'{folder!r} is complete, but could not be uploaded to {repo} '
            f'({type(error).__name__}: {first_line(error)}). Check the network and the '
            f'token, then run `hf upload {repo} {folder}`'
        ) from error
    return f'uploaded: {getattr(info, "commit_url", None) or info}'
