import logging
import math
import sys
from collections.abc import Sequence

import timm
import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmmaskdistill.errors import CheckpointError, ConfigError
from mmmaskdistill.registry import MODELS

from ..layers import find, freeze_layers
from ..weights import first_few, first_line, read_state_dict
from .last_block import can_skip, run_at

FEATURES = ('block', 'norm', 'proj')


@MODELS.register_module()
class TimmTeacher(nn.Module):
    """T: patch features of any timm model, frozen.

    Args:
        model_name (str): A name of ``timm.list_models()``, such as
            ``vit_base_patch16_clip_quickgelu_224.openai``.
        checkpoint (str, optional): File of weights in timm's, OpenAI's or
            open_clip's format. Defaults to None, take ``pretrained``.
        pretrained (bool | str): True takes the weights of timm's hub,
            ``'random'`` asks for an untrained teacher. Defaults to True.
        features (str): ``block``, the output of ``layer``; ``norm``, the same
            after the final norm; ``proj``, that after CLIP's projection into
            the space shared with text. Defaults to ``'block'``.
        layer (int | Sequence[int]): Index of a ViT's block, or of a
            convolutional network's stage; or several, whose outputs are each
            normalized, as by ``LayerNormalizer``, and averaged, as data2vec
            does it. Defaults to -1, the last.
        img_size (int | tuple[int, int]): Input height and width in pixels. A
            position embedding is resized to it. Defaults to 224.
        resize (str, optional): ``'bilinear'`` resizes the feature map to the
            student's grid; for convolutional teachers whose map is coarser.
            Defaults to None, the grids must agree.
        class_token (bool): Give a ViT's class token before its patches.
            Defaults to False.

    Attributes:
        grid (tuple[int, int]): Patch grid (h, w) of the features.
        channels (int): Dt, channels of the features.
        stride (int): Pixels from one feature to the next.

    Raises:
        CheckpointError: If there are no weights to be had, or they do not fit
            the model.
        ConfigError: If an argument is none of the above.
    """

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
        super().__init__()
        if features not in FEATURES:
            raise ConfigError(
                f'features={features!r}: expected one of {", ".join(FEATURES)}'
            )
        if resize not in (None, 'bilinear'):
            raise ConfigError(f"resize={resize!r}: expected None or 'bilinear'")
        self.name = model_name
        self.features = features
        self.resize = resize
        if isinstance(img_size, int):
            img_size = (img_size, img_size)
        self.model = _create_model(
            model_name, checkpoint, pretrained, img_size, with_head=features == 'proj'
        )
        self.requires_grad_(False).eval()
        freeze_layers(self.model)

        stages = list(self.model.feature_info)
        layers = [layer] if isinstance(layer, int) else layer
        for index in layers:
            if not -len(stages) <= index < len(stages):
                raise ConfigError(
                    f'layer={layer}: {model_name} has {len(stages)} of them'
                )
        self.layers = sorted(index % len(stages) for index in layers)
        kinds = {(stages[i]['num_chs'], stages[i]['reduction']) for i in self.layers}
        if len(kinds) != 1:
            raise ConfigError(
                f'layer={layer}: expected layers of {model_name}'
                ' with the same width and stride'
            )
        ((width, self.stride),) = kinds
        if len(self.layers) > 1 and features != 'block':
            raise ConfigError(
                f'layer={layer} with features={features!r}: the '
                "mean of several layers is one of 'block'"
            )
        if features == 'proj' and not isinstance(
            getattr(self.model, 'head', None), nn.Linear
        ):
            raise ConfigError(
                f"features='proj': {model_name} has no linear "
                'projection, choose a CLIP model'
            )
        self.channels = self.model.head.out_features if features == 'proj' else width
        self.grid = tuple(math.ceil(side / self.stride) for side in img_size)
        self.class_token = class_token
        if class_token and (
            getattr(self.model, 'cls_token', None) is None
            or len(self.layers) > 1
            or resize is not None
        ):
            raise ConfigError(
                f'class_token=True: expected a ViT that has one, one layer '
                f'and no resizing, not {model_name}, layer={layer} and '
                f'resize={resize!r}'
            )

    def match_grid(self, grid: tuple[int, int]):
        """Let the features have the student's grid, if resizing was asked for.

        Args:
            grid (tuple[int, int]): Patch grid (h, w) of the student.

        Raises:
            ConfigError: If the grids differ and ``resize`` is None.
        """
        if self.resize is not None:
            self.grid = grid
        elif self.grid != grid:
            side = ' x '.join(str(patches * self.stride) for patches in grid)
            raise ConfigError(
                f'the teacher {self.name} gives a grid of {self.grid[0]} x '
                f'{self.grid[1]}, the student one of {grid[0]} x {grid[1]}. '
                f'Feed the teacher {side} pixels (its img_size, and the second '
                'size in the pipeline), or ask for resizing with '
                "teacher.resize='bilinear'"
            )

    def train(self, mode: bool = True):
        """A teacher never trains: it stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(
        self, images: Tensor, data_samples: list[DataSample] | None = None
    ) -> Tensor:
        """Features [B, N, Dt] of normalized images [B, 3, H, W].

        [B, 1+N, Dt] with ``class_token``.
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
        """All tokens of a ViT's layer, [B, L, D], its prefix tokens first."""
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
                f'{images.shape[2]} x {images.shape[3]} pixels, which make a '
                f'grid of {h} x {w}: expected images for {self.grid[0]} x '
                f'{self.grid[1]}'
            )

    @property
    def skips(self) -> bool:
        """Whether :meth:`at` computes less than :meth:`forward`."""
        return (
            self.resize is None
            and not self.class_token
            and len(self.layers) == 1
            and self.layers[0] > 0
            and hasattr(self.model, 'blocks')
            and can_skip(self.model.blocks[self.layers[0]])
        )

    @torch.no_grad()
    def at(self, images: Tensor, where: Tensor) -> Tensor:
        """Features of some patches, for a teacher that :attr:`skips`.

        The last block computes no others: nothing reads them.

        Args:
            images (Tensor): [B, 3, H, W], normalized.
            where (Tensor): [B, N] bool.

        Returns:
            Tensor: [where.sum(), Dt], batch-major.
        """
        model, last = self.model, self.layers[0]
        self._check_size(images)
        index, real = find(where)
        tokens = run_at(
            model.blocks[last],
            self._tokens(images, last - 1),
            index + model.num_prefix_tokens,
        )[real]
        if self.features != 'block':
            tokens = model.norm(tokens)
        return self._project(tokens)

    @property
    def attends(self) -> bool:
        """Whether :meth:`attend` has an attention to give."""
        blocks = getattr(self.model, 'blocks', None)
        return (
            self.resize is None
            and getattr(self.model, 'cls_token', None) is not None
            and hasattr(getattr(blocks[-1], 'attn', None), 'attn_drop')
        )

    def attend(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features, and the class token's attention to each patch.

        Args:
            images (Tensor): [B, 3, H, W], normalized.

        Returns:
            tuple[Tensor, Tensor]: [B, N, Dt], and [B, N], mean over the heads
            of the last layer asked for.
        """
        layer = self.model.blocks[self.layers[-1]].attn
        maps = []
        hook = layer.attn_drop.register_forward_pre_hook(
            lambda module, args: maps.append(args[0])
        )
        # Only so does attention have weights that can be seen.
        fused, layer.fused_attn = layer.fused_attn, False
        try:
            features = self(images)
        finally:
            layer.fused_attn = fused
            hook.remove()
        patches = maps[0][:, :, 0, self.model.num_prefix_tokens :]
        return features, patches.mean(1)


def _mean(maps: list[Tensor]) -> Tensor:
    """Mean of maps [B, D, h, w], each token of each normalized first."""
    tokens = torch.stack(maps).movedim(2, -1)
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
            f'The teacher {name} has random weights, as asked: what the '
            'student learns from it is of no use.',
            logger='current',
            level=logging.WARNING,
        )
        return timm.create_model(name, pretrained=False, **options)
    no_weights = (
        f'no weights for the teacher {name}: give a file with '
        "checkpoint=..., or ask for pretrained='random'"
    )
    if not pretrained:
        raise CheckpointError(no_weights)
    try:
        return timm.create_model(name, pretrained=True, **options)
    except Exception as error:
        raise CheckpointError(
            f'{no_weights}. Its hub could not be read: {first_line(error)}'
        ) from error


def _load_weights(model: nn.Module, checkpoint: str, name: str):
    """Load a file strictly, but for a classifier that the teacher lacks.

    timm itself would load in part when the classifiers differ.
    """
    state = read_state_dict(checkpoint)
    convert = getattr(sys.modules[type(model).__module__], 'checkpoint_filter_fn', None)
    misfit = f'{checkpoint} does not fit the teacher {name}'
    try:
        if convert is not None:
            state = convert(state, model)
        missing, unused = model.load_state_dict(state, strict=False)
    except (RuntimeError, KeyError, AttributeError) as error:
        # The first line says but that there are errors.
        reasons = [line.strip() for line in str(error).split('\n') if line]
        raise CheckpointError(
            f'{misfit}: {first_few(reasons[1:] or reasons)}'
        ) from None
    classifier = model.pretrained_cfg.get('classifier') or ()
    unused = [key for key in unused if not key.startswith(classifier)]
    if missing or unused:
        raise CheckpointError(
            f'{misfit}: {len(missing)} tensors missing '
            f'({first_few(missing)}), {len(unused)} not known '
            f'({first_few(unused)})'
        )
