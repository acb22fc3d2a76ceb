from collections.abc import Sequence

import timm
import torch
from timm.models import group_parameters
from torch import Tensor, nn

from mmmaskdistill.errors import CheckpointError, ConfigError
from mmmaskdistill.registry import MODELS

from ..checkpoints import (
    FitsCheckpoints,
    adapt_to_timm,
    apply_init_cfg,
    fit_before_loading,
    select_under,
    shapes_of,
)
from ..layers import PatchIndex
from .student import Student


@MODELS.register_module()
class MaskedTimm(FitsCheckpoints, Student):
    """Student made of any timm model; hidden patches are replaced in the image.

    With a mask, ``forward`` returns the tokens of all patches of the last feature map,
    [B, N, D]. Without one, it returns the feature maps of ``out_indices``,
    [B, D, h, w] each, as backbones of mmpretrain and mmseg do.

    The keys of its checkpoints are those of mmpretrain's ``TIMMBackbone``:
    ``timm_model.`` and then timm's own key. Layers above the last feature map are
    removed, because no loss would depend on them. Weights that were trained at another
    image size are resized by timm's own rule when they are loaded.

    Args:
        model_name (str): A name of ``timm.list_models()``.
        img_size (int | tuple[int, int]): Height and width of the images in pixels. A
            ViT's position embedding is made for this size. Defaults to 224.
        fill (str): What hidden pixels become: ``learned`` is one learned color for all
            of them, ``mean`` is the mean color of the data set. ``mean`` is zero in
            normalized images, so it does not suit models such as ConvNeXt, whose first
            LayerNorm divides by the deviation of a patch's channels. Defaults to
            ``'learned'``.
        pretrained (bool): Whether to start from timm's weights. Defaults to False.
        out_indices (Sequence[int]): Blocks or stages whose feature maps ``forward(x)``
            returns; negative numbers count from the last one. Defaults to (-1, ).
        in_channels (int): Number C of image channels. Defaults to 3.
        init_cfg (dict, optional): Initialization. Defaults to None, timm's own
            initialization. ``dict(type='Pretrained', checkpoint=...)`` may contain the
            arguments of :func:`mmmaskdistill.models.checkpoints.load_backbone`.

    Raises:
        ConfigError: If ``fill`` has another value, or timm has no such model.
        CheckpointError: When a checkpoint is loaded that has none of these keys, or
            does not fit.
    """

    tokens = 'all'

    def __init__(
        self,
        model_name: str,
        img_size: int | tuple[int, int] = 224,
        fill: str = 'learned',
        pretrained: bool = False,
        out_indices: Sequence[int] = (-1,),
        in_channels: int = 3,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg=init_cfg)
        if fill not in ('learned', 'mean'):
            raise ConfigError(f"fill={fill!r}: expected 'learned' or 'mean'")
        if not timm.is_model(model_name):
            raise ConfigError(
                f'model_name={model_name!r} is not a model of timm {timm.__version__}'
            )
        if isinstance(img_size, int):
            img_size = (img_size, img_size)
        config = timm.get_pretrained_cfg(model_name)
        options = dict(num_classes=0, global_pool='', in_chans=in_channels)
        if config is not None and config.fixed_input_size:
            options['img_size'] = img_size
        self.timm_model = timm.create_model(
            model_name, pretrained=pretrained, **options
        )
        _cut_above_last_map(self.timm_model)
        # An algorithm that masks turns the mask token's gradient on.
        self.mask_token = (
            nn.Parameter(torch.zeros(1, in_channels, 1, 1), requires_grad=False)
            if fill == 'learned'
            else None
        )
        self.out_indices = list(out_indices)
        last = self.timm_model.feature_info[-1]
        self.width = last['num_chs']
        self.stride = last['reduction']
        self.grid = tuple(-(-side // self.stride) for side in img_size)
        self.model_name = model_name
        self.pretrained = pretrained
        self.register_load_state_dict_pre_hook(fit_before_loading)
        self.freeze_unused(self._unused_parameters(options))

    def forward(
        self, x: Tensor, mask: Tensor | None = None, index: PatchIndex | None = None
    ) -> tuple[Tensor, ...] | Tensor:
        """Compute features as a backbone, or with a mask as the student.

        Args:
            x (Tensor): Images [B, C, H, W], normalized with the data set's mean.
            mask (Tensor, optional): Hidden patches, [B, N] bool, True = hidden, where
                N = h*w and (h, w) is ``grid``. Defaults to None: the model
                is a backbone.
            index (PatchIndex, optional): Not used, since all patches are computed.

        Returns:
            tuple[Tensor, ...] | Tensor: Without a mask, the feature maps of
            ``out_indices``, [B, D, h, w] each. With a mask, the tokens of all patches
            of the last map, [B, N, D], in row-major order.
        """
        if mask is None:
            return tuple(self._maps(x, self.out_indices))
        hidden = mask.unflatten(1, self.grid)
        for dim in (1, 2):
            hidden = hidden.repeat_interleave(self.stride, dim)
        hidden = hidden[:, None, : x.shape[2], : x.shape[3]]
        # The images are normalized, so the data set's mean is zero.
        fill = 0.0 if self.mask_token is None else self.mask_token.to(x.dtype)
        x = torch.where(hidden, fill, x)
        return self._maps(x, [-1])[0].flatten(2).mT

    def _unused_parameters(self, options: dict) -> list[nn.Parameter]:
        """List the parameters that only maps after the last output depend on."""
        maps = self.timm_model.feature_info
        indices = sorted(i % len(maps) for i in self.out_indices)
        if indices[-1] == len(maps) - 1:
            return []
        # A ViT's norm is applied to each of its maps, a CNN's to the last one.
        strides = {info['reduction'] for info in maps}
        used = timm.create_model(self.model_name, **options)
        used.prune_intermediate_layers(
            indices, prune_norm=len(strides) > 1, prune_head=True
        )
        names = {name for name, _ in used.named_parameters()}
        return [p for k, p in self.timm_model.named_parameters() if k not in names]

    def _maps(self, x: Tensor, indices: Sequence[int]) -> list:
        """Compute the feature maps [B, D, h, w] of some blocks or stages."""
        return self.timm_model.forward_intermediates(
            x,
            indices=[i % len(self.timm_model.feature_info) for i in indices],
            norm=True,
            stop_early=not self.trains_all_layers,
            output_fmt='NCHW',
            intermediates_only=True,
        )

    def init_weights(self) -> None:
        """Let timm draw the weights unless they are its own, then apply ``init_cfg``.

        The learned color is drawn from the standard normal distribution, like the
        color of a pixel of normalized images.

        Raises:
            CheckpointError: If a checkpoint cannot be read or does not fit.
        """
        # Not every model of timm has this method: ViTs and ResNets have it, ConvNeXts
        # draw their weights when they are built.
        if not self.pretrained and hasattr(self.timm_model, 'init_weights'):
            self.timm_model.init_weights()
        if self.mask_token is not None:
            # From a color of zero, the first LayerNorm of a ConvNeXt would get the same
            # number in every channel, and its gradient would be huge.
            nn.init.normal_(self.mask_token)
        apply_init_cfg(self)

    def select(
        self, tensors: dict[str, Tensor], checkpoint: str, prefix: str | None
    ) -> tuple[dict[str, Tensor], str]:
        """Select the student's tensors in a checkpoint; see :class:`FitsCheckpoints`.

        Without a prefix, these are all tensors of the checkpoint.
        """
        return select_under(prefix or '', tensors, checkpoint)

    def adapt(self, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Let timm resize tensors that depend on the image size.

        See :class:`FitsCheckpoints`.

        Raises:
            CheckpointError: If none of the keys is a student's.
        """
        start = 'timm_model.'
        own = {k[len(start) :]: v for k, v in tensors.items() if k.startswith(start)}
        if tensors and not own:
            raise CheckpointError(
                f'MaskedTimm loads keys that begin with {start!r}, but the first keys '
                f'here are {", ".join(list(tensors)[:3])}. To load a pre-training '
                "checkpoint, set prefix='backbone.' in init_cfg"
            )
        shapes = shapes_of(self.timm_model)
        changed = [k for k, v in own.items() if v.shape != shapes.get(k, v.shape)]
        if not changed:
            return tensors, []
        own = adapt_to_timm(own, self.timm_model)
        fitted = [k for k in changed if k in own and own[k].shape == shapes[k]]
        notes = [f'resized {", ".join(fitted)} by the rule of timm'] if fitted else []
        return {**tensors, **{start + k: v for k, v in own.items()}}, notes

    def advise(self, given: set[str], wanted: set[str]) -> str:
        """Name the student; see :class:`FitsCheckpoints`."""
        return (
            f'The backbone is {self.model_name} of timm; set model_name to that of the '
            'checkpoint'
        )

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Return a parameter's depth for layer-wise learning-rate decay.

        Args:
            param_name (str): Name of a parameter of the whole model.
            prefix (str): Prefix of the backbone's parameters in the whole model.

        Returns:
            tuple[int, int]: The parameter's depth and the number of depths. Depths are
            those of timm's own grouping of the model. The mask token has depth 0, and
            parameters outside the timm model have the last depth, which is one above
            the timm model's.
        """
        depths = group_parameters(
            self.timm_model, self.timm_model.group_matcher(), reverse=True
        )
        above = max(depths.values()) + 1
        name = param_name.removeprefix(prefix)
        if name == 'mask_token':
            return 0, above + 1
        return depths.get(name.removeprefix('timm_model.'), above), above + 1


def _cut_above_last_map(model: nn.Module):
    """Remove the layers of a timm model that come after its last feature map."""
    # The convolution `conv_head` of EfficientNets comes after the last feature map, but
    # timm before 1.0.31 only removes it together with the norm.
    prune_norm = hasattr(model, 'conv_head')
    model.prune_intermediate_layers(1, prune_norm=prune_norm, prune_head=True)
    classifier = model.pretrained_cfg.get('classifier')
    if isinstance(classifier, str):
        setattr(model, classifier.split('.')[0], nn.Identity())
