import sys
from collections.abc import Sequence

import timm
import torch
from mmengine.model import BaseModule
from timm.models import group_parameters
from torch import Tensor, nn

from mmmaskdistill.errors import CheckpointError, ConfigError
from mmmaskdistill.registry import MODELS


@MODELS.register_module()
class MaskedTimm(BaseModule):
    """S of any timm model: hidden patches are replaced in the image.

    With a mask ``forward`` gives every patch of the last feature map,
    [B, N, D]; without one the maps of ``out_indices``, [B, D, h, w] each, as
    mmpretrain and mmseg backbones do. The keys are those of mmpretrain's
    ``TIMMBackbone``, ``timm_model.`` and timm's; layers above the last map,
    which no loss would reach, are not there. Weights of another image size
    are resized as timm does it.

    Args:
        model_name (str): A name of ``timm.list_models()``.
        img_size (int | tuple[int, int]): Image height and width in pixels; a
            ViT's position embedding is made for it. Defaults to 224.
        fill (str): What hidden pixels become: ``learned``, one colour for all,
            or ``mean``, the data set's mean. Defaults to ``'learned'``.
        pretrained (bool): Start from timm's weights. Defaults to False.
        out_indices (Sequence[int]): Blocks or stages of ``forward(x)``.
            Defaults to (-1, ), the last.
        init_cfg (dict, optional): Initialization. Defaults to None, timm's.

    Raises:
        ConfigError: If ``model_name`` or ``fill`` is none of the above.
        CheckpointError: If weights that are loaded are not a student's.
    """

    gives = 'all'

    def __init__(
        self,
        model_name: str,
        img_size: int | tuple[int, int] = 224,
        fill: str = 'learned',
        pretrained: bool = False,
        out_indices: Sequence[int] = (-1,),
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
        options = dict(num_classes=0, global_pool='')
        if config is not None and config.fixed_input_size:
            options['img_size'] = img_size
        self.timm_model = timm.create_model(
            model_name, pretrained=pretrained, **options
        )
        _cut_above_last_map(self.timm_model)
        # Without gradient until an algorithm that masks switches it on.
        self.mask_token = (
            nn.Parameter(torch.zeros(1, 3, 1, 1), requires_grad=False)
            if fill == 'learned'
            else None
        )
        self.out_indices = list(out_indices)
        last = self.timm_model.feature_info[-1]
        self.out_channels = last['num_chs']
        self.stride = last['reduction']
        self.patch_resolution = tuple(-(-side // self.stride) for side in img_size)
        self.register_load_state_dict_pre_hook(_adapt_before_loading)

    def forward(self, x: Tensor, mask: Tensor | None = None):
        """Backbone without a mask, student with one.

        Args:
            x (Tensor): Images [B, 3, H, W].
            mask (Tensor, optional): [B, N] bool, True = hidden.

        Returns:
            tuple[Tensor] | Tensor: Maps [B, D, h, w], or tokens [B, N, D].
        """
        if mask is None:
            return tuple(self._maps(x, self.out_indices))
        hidden = mask.unflatten(1, self.patch_resolution)
        for dim in (1, 2):
            hidden = hidden.repeat_interleave(self.stride, dim)
        hidden = hidden[:, None, : x.shape[2], : x.shape[3]]
        fill = 0.0 if self.mask_token is None else self.mask_token.to(x.dtype)
        x = torch.where(hidden, fill, x)
        return self._maps(x, [-1])[0].flatten(2).mT

    def _maps(self, x: Tensor, indices: Sequence[int]) -> list:
        return self.timm_model.forward_intermediates(
            x,
            indices=[i % len(self.timm_model.feature_info) for i in indices],
            norm=True,
            output_fmt='NCHW',
            intermediates_only=True,
        )

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter in timm's grouping, and the number of depths.

        As ``MaskDistillViT.get_layer_depth``.
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
    model.prune_intermediate_layers(1, prune_norm=False, prune_head=True)
    classifier = model.pretrained_cfg.get('classifier')
    if isinstance(classifier, str):
        setattr(model, classifier.split('.')[0], nn.Identity())


def _adapt_before_loading(student: MaskedTimm, state: dict, prefix: str, *args):
    """Let timm resize what depends on the image's size."""
    start = f'{prefix}timm_model.'
    own = {k[len(start) :]: v for k, v in state.items() if k.startswith(start)}
    if not own and not prefix:
        raise CheckpointError(
            f'MaskedTimm loads keys that begin with {start!r}, the first here '
            f'are {", ".join(list(state)[:3])}: of a pre-training checkpoint '
            "take prefix='backbone.'"
        )
    model = student.timm_model
    wanted = model.state_dict()
    convert = getattr(sys.modules[type(model).__module__], 'checkpoint_filter_fn', None)
    if convert is not None and any(
        k in wanted and v.shape != wanted[k].shape for k, v in own.items()
    ):
        for key, value in convert(own, model).items():
            state[start + key] = value
