"""Teachers from timm."""

import logging
import math
from collections.abc import Sequence

import timm
import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmmaskdistill.errors import CheckpointError, ConfigError, first_few, first_line
from mmmaskdistill.registry import MODELS

from ..checkpoints import adapt_to_timm, read_weights
from ..layers import find, freeze_layers, select
from .base import Teacher
from .last_block import can_skip, returns_attention, run_at

FEATURES = ('block', 'norm', 'proj')


@MODELS.register_module()
class TimmTeacher(Teacher):
    """The patch features of any timm model as teacher T. The model is frozen.

    ``features='block'`` with ``layer=-1`` takes the patch tokens of the last
    block, before the final norm. The abstract of the MaskDistill paper (arXiv
    2210.10615) does not say which features of the teacher are taken; this
    project assumes these, and two public re-implementations do the same.

    Args:
        model_name (str): A name of ``timm.list_models()``, such as
            ``vit_base_patch16_clip_quickgelu_224.openai``.
        checkpoint (str, optional): File of weights in the format of timm,
            OpenAI or open_clip. If it is given, ``pretrained`` has no effect.
            Defaults to None.
        pretrained (bool | str): True loads the weights from timm's hub,
            ``'random'`` makes an untrained teacher, False is an error unless
            there is a ``checkpoint``. Defaults to True.
        features (str): Which features to return. ``'block'`` takes the output
            of ``layer``, ``'norm'`` the same after the final norm, and
            ``'proj'`` the latter after CLIP's projection into the space that
            images share with text. Defaults to ``'block'``.
        layer (int | Sequence[int]): Index of a block of a ViT or of a stage of
            a convolutional network. If there are several indices, their
            outputs are normalized, as ``LayerNormalizer`` does, and averaged,
            as data2vec does. Defaults to -1, the last one.
        img_size (int | tuple[int, int]): Height and width of the images, in
            pixels. A position embedding is resized to it. Defaults to 224.
        resize (str, optional): ``'bilinear'`` resizes the feature map to the
            student's patch grid, for convolutional teachers with a coarser
            map. Defaults to None: the two grids must agree.
        class_token (bool): Whether to return the class token of a ViT, before
            the patches. Defaults to False.

    Attributes:
        name (str): Name of the timm model.
        layers (list[int]): Non-negative indices of ``layer``, in rising order.

    Raises:
        CheckpointError: If the weights cannot be read or do not fit the model.
        ConfigError: If an argument has none of the values above, or does not
            fit the model or the other arguments.
    """

    _grid_advice = ", or resize its features with teacher.resize='bilinear'"

    def __init__(
        self,
        model_name: str,
        checkpoint: str | None = None,
        pretrained: bool | str = True,
        features: str = 'block',
        layer: int | Sequence[int] = -1,
        img_size: int | tuple[int, int] = 224,
        resize: str | None = None,
        class_token: bool = False,
    ):
        if features not in FEATURES:
            raise ConfigError(
                f'features={features!r}: expected one of {", ".join(FEATURES)}'
            )
        if resize not in (None, 'bilinear'):
            raise ConfigError(f"resize={resize!r}: expected None or 'bilinear'")
        if isinstance(img_size, int):
            img_size = (img_size, img_size)
        model = _create_model(
            model_name, checkpoint, pretrained, img_size, with_head=features == 'proj'
        )
        layers, width, stride = _find_layers(model, layer, model_name)
        if len(layers) > 1 and features != 'block':
            raise ConfigError(
                f'layer={layer} with features={features!r}: the mean of '
                "several layers needs features='block'"
            )
        if features == 'proj':
            # A CLIP model of timm has its projection in place of a classifier, which
            # has other names or other classes in other models.
            if not isinstance(getattr(model, 'head', None), nn.Linear):
                raise ConfigError(
                    f"features='proj': {model_name} has no linear "
                    'projection; use a CLIP model'
                )
            width = model.head.out_features
        if class_token and (
            not _has_class_token(model) or len(layers) > 1 or resize is not None
        ):
            raise ConfigError(
                'class_token=True: expected a ViT with a class token, a single '
                f'layer and no resizing, not {model_name}, layer={layer} and '
                f'resize={resize!r}'
            )
        super().__init__(img_size, stride, width)
        # timm's models pad images that the stride does not divide.
        self.grid = tuple(math.ceil(side / stride) for side in img_size)
        self.in_channels = 3
        self.model_name = model_name
        self.features = features
        self.layers = layers
        self.resize = resize
        self.class_token = class_token
        self.model = model
        self.requires_grad_(False).eval()
        freeze_layers(self.model)

    @property
    def name(self) -> str:
        """Name of the timm model."""
        return self.model_name

    def match_grid(self, grid: tuple[int, int]) -> None:
        """Resize the features to the student's patch grid, if ``resize`` is set.

        Args:
            grid (tuple[int, int]): Patch grid (h, w) of the student.

        Raises:
            ConfigError: If the grids differ and ``resize`` is None.
        """
        if self.resize is not None:
            self.grid = tuple(grid)
        else:
            super().match_grid(grid)

    @torch.no_grad()
    def forward(
        self, images: Tensor, data_samples: list[DataSample] | None = None
    ) -> Tensor:
        """Compute the features of images.

        Args:
            images (Tensor): Normalized images [B, 3, H, W].
            data_samples (list[DataSample], optional): Not used.

        Returns:
            Tensor: Features [B, N, Dt], or [B, 1+N, Dt] with ``class_token``.

        Raises:
            ConfigError: If the images do not have the size that ``grid`` needs
                and the features are not resized.
        """
        self._check_size(images)
        if self.class_token:
            tokens = self._tokens(images, self.layers[0], norm=self.features != 'block')
            patches = tokens[:, self.model.num_prefix_tokens :]
            return self._project(torch.cat([tokens[:, :1], patches], 1))
        maps = self.model.forward_intermediates(
            images,
            indices=self.layers,
            norm=self.features != 'block',
            stop_early=True,
            output_fmt='NCHW',
            intermediates_only=True,
        )
        maps = maps[0] if len(maps) == 1 else _mean(maps)  # [B, D, h, w]
        if self.resize is not None:
            maps = F.interpolate(maps, size=self.grid, mode='bilinear')
        return self._project(maps.flatten(2).transpose(1, 2))

    def _tokens(self, images: Tensor, layer: int, norm: bool = False) -> Tensor:
        """Compute all tokens [B, L, D] of a ViT's layer, prefix tokens first."""
        (tokens,) = self.model.forward_intermediates(
            images,
            indices=[layer],
            return_prefix_tokens=True,
            norm=norm,
            stop_early=True,
            output_fmt='NLC',
            intermediates_only=True,
        )
        if self.model.num_prefix_tokens:
            tokens = torch.cat(tokens[::-1], 1)
        return tokens

    def _project(self, tokens: Tensor) -> Tensor:
        return self.model.head(tokens) if self.features == 'proj' else tokens

    def _check_size(self, images: Tensor):
        h, w = (math.ceil(side / self.stride) for side in images.shape[2:])
        if self.resize is None and (h, w) != self.grid:
            raise ConfigError(
                f'the teacher {self.name} was given images of '
                f'{images.shape[2]} x {images.shape[3]} pixels, which have a '
                f'grid of {h} x {w} patches: expected images with a grid of '
                f'{self.grid[0]} x {self.grid[1]}'
            )

    @property
    def can_skip(self) -> bool:
        """Whether :meth:`at` computes only the tokens that it returns."""
        return (
            self.resize is None
            and not self.class_token
            and len(self.layers) == 1
            and self.layers[0] > 0
            and can_skip(_block(self.model, self.layers[0]))
        )

    @torch.no_grad()
    def at(self, images: Tensor, where: Tensor) -> Tensor:
        """Compute the features of some patches only.

        With ``can_skip``, the layer that is read computes these patches only,
        since nothing uses the others.

        Args:
            images (Tensor): Normalized images [B, 3, H, W].
            where (Tensor): Patches to compute, [B, N] bool, or [B, 1+N] with
                ``class_token``.

        Returns:
            Tensor: Features [where.sum(), Dt], image by image.

        Raises:
            ConfigError: If the images do not have the size that ``grid`` needs.
        """
        if not self.can_skip:
            return super().at(images, where)
        model, last = self.model, self.layers[0]
        self._check_size(images)
        index, not_padding = find(where)
        tokens = run_at(
            model.blocks[last],
            self._tokens(images, last - 1),
            index + model.num_prefix_tokens,
        )
        tokens = select(tokens, not_padding)  # [where.sum(), D]
        if self.features != 'block':
            tokens = model.norm(tokens)
        return self._project(tokens)

    @property
    def returns_attention(self) -> bool:
        """Whether the model is a ViT for which :meth:`attend` can be used."""
        return (
            self.resize is None
            and _has_class_token(self.model)
            and returns_attention(_block(self.model, self.layers[-1]))
        )

    def attend(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the features and the class token's attention to each patch.

        Args:
            images (Tensor): Normalized images [B, 3, H, W].

        Returns:
            tuple[Tensor, Tensor]: The features [B, N, Dt], or [B, 1+N, Dt] with
            ``class_token``, and the attention [B, N]: the mean over the heads
            of the last one of ``layer``.

        Raises:
            ConfigError: If the model does not have this attention, see
                :attr:`returns_attention`, or the images do not have the size that
                ``grid`` needs.
        """
        if not self.returns_attention:
            return super().attend(images)
        layer = self.model.blocks[self.layers[-1]].attn
        maps = []
        hook = layer.attn_drop.register_forward_pre_hook(
            lambda module, args: maps.append(args[0])
        )
        # Fused attention never computes the attention weights as a tensor, so
        # the hook could not see them.
        fused, layer.fused_attn = layer.fused_attn, False
        try:
            features = self(images)
        finally:
            layer.fused_attn = fused
            hook.remove()
        # The class token is the first query.
        patches = maps[0][:, :, 0, self.model.num_prefix_tokens :]  # [B, heads, N]
        return features, patches.mean(1)


def _find_layers(
    model: nn.Module, layer: int | Sequence[int], name: str
) -> tuple[list[int], int, int]:
    """Find layers; return their indices in rising order, their width and stride."""
    stages = list(model.feature_info)
    indices = [layer] if isinstance(layer, int) else layer
    for index in indices:
        if not -len(stages) <= index < len(stages):
            raise ConfigError(
                f'layer={layer}: {name} has {len(stages)} layers, '
                f'expected {-len(stages)} to {len(stages) - 1}'
            )
    indices = sorted(index % len(stages) for index in indices)
    kinds = {(stages[i]['num_chs'], stages[i]['reduction']) for i in indices}
    if len(kinds) != 1:
        raise ConfigError(
            f'layer={layer}: expected layers of {name} with the same width and stride'
        )
    ((width, stride),) = kinds
    return indices, width, stride


def _block(model: nn.Module, layer: int) -> nn.Module | None:
    """Return the block of a layer, or None if the model's layers are not blocks."""
    # timm's models have no base class: ViTs have blocks, CNNs have stages.
    blocks = getattr(model, 'blocks', None)
    is_list = isinstance(blocks, (nn.ModuleList, nn.Sequential))
    if not is_list or len(blocks) != len(model.feature_info):
        return None
    return blocks[layer]


def _has_class_token(model: nn.Module) -> bool:
    """Tell whether a class token runs through the blocks of a timm model.

    timm's PiT and VOLO have a class token, but do not say how many tokens come
    before the patches.
    """
    return (
        getattr(model, 'cls_token', None) is not None
        and getattr(model, 'num_prefix_tokens', 0) > 0
    )


def _mean(maps: list[Tensor]) -> Tensor:
    """Normalize the tokens of maps [B, D, h, w], and average the maps."""
    tokens = torch.stack(maps).movedim(2, -1)  # [K, B, h, w, D]
    tokens = F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
    return tokens.mean(0).movedim(-1, 1)


def _create_model(
    name: str,
    checkpoint: str | None,
    pretrained: bool | str,
    img_size: tuple[int, int],
    with_head: bool,
) -> nn.Module:
    if not timm.is_model(name):
        similar = timm.list_models(f'*{name.split(".")[0][:12]}*')[:5]
        raise ConfigError(
            f'model_name={name!r} is not a model of timm '
            f'{timm.__version__}. Similar: '
            f'{", ".join(similar) or "none"}'
        )
    if pretrained not in (True, False, 'random'):
        raise ConfigError(
            f"pretrained={pretrained!r}: expected True, False or 'random'"
        )
    options = {} if with_head else dict(num_classes=0)
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        options['img_size'] = img_size
    if checkpoint is not None:
        model = timm.create_model(name, pretrained=False, **options)
        _load_weights(model, checkpoint, name)
        return model
    if pretrained == 'random':
        print_log(
            f"The teacher {name} has random weights (pretrained='random'): what "
            'the student learns from it is of no use.',
            logger='current',
            level=logging.WARNING,
        )
        return timm.create_model(name, pretrained=False, **options)
    no_weights = (
        f'no weights for the teacher {name}: name a file of weights with '
        "checkpoint=..., or set pretrained='random' for an untrained teacher"
    )
    if not pretrained:
        raise CheckpointError(no_weights)
    try:
        return timm.create_model(name, pretrained=True, **options)
    except Exception as error:
        raise CheckpointError(
            f'{no_weights}. They could not be read from its hub: {first_line(error)}'
        ) from error


def _load_weights(model: nn.Module, checkpoint: str, name: str):
    """Load a checkpoint strictly, except a classifier that the model lacks.

    timm's own loader is not used, because it would load only a part of the
    checkpoint if the classifiers differ.
    """
    state = read_weights(checkpoint).tensors
    misfit = f'{checkpoint} does not fit the teacher {name}'
    try:
        state = adapt_to_timm(state, model)
        missing, unused = model.load_state_dict(state, strict=False)
    except (RuntimeError, KeyError, AttributeError) as error:
        # torch's first line only announces the errors that follow.
        reasons = [line.strip() for line in str(error).split('\n') if line]
        raise CheckpointError(
            f'{misfit}: {first_few(reasons[1:] or reasons)}'
        ) from None
    classifier = model.pretrained_cfg.get('classifier') or ()
    unused = [key for key in unused if not key.startswith(classifier)]
    if missing or unused:
        raise CheckpointError(
            f'{misfit}: the file is missing {len(missing)} tensors of the '
            f'model ({first_few(missing)}) and has {len(unused)} that the model '
            f'does not have ({first_few(unused)})'
        )
