"""Build optimizers whose learning rate decays from layer to layer."""

from collections import defaultdict

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm, _InstanceNorm
from prettytable import PrettyTable
from torch import nn

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import OPTIM_WRAPPER_CONSTRUCTORS

KEYS = {
    'layer_decay_rate',
    'norm_decay_mult',
    'bias_decay_mult',
    'flat_decay_mult',
    'custom_keys',
}
NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Give the layers of a backbone learning rates that decay towards the input.

    A parameter at depth d of n depths, d = 0, ..., n - 1, has the learning rate

    ``lr * layer_decay_rate ** (n - 1 - d)``.

    This is the rule of BEiT's public code (arXiv 2106.08254). The last depth,
    n - 1, has the full learning rate. ``model.backbone.get_layer_depth`` returns
    d and n for each parameter, so the constructor works for classifiers,
    segmentors and detectors.

    A learning-rate schedule keeps the ratios between the depths if its minimum
    and its warm-up are relative to the learning rate (``eta_min_ratio``,
    ``start_factor``). Frozen parameters are left out of the optimizer.

    Args:
        optim_wrapper_cfg (dict): Config of the optimizer wrapper, which contains
            the config of the optimizer.
        paramwise_cfg (dict, optional): Settings that differ between parameters.
            Defaults to None. The possible keys are:

            - ``layer_decay_rate`` (float): Factor on the learning rate from one
              depth to the next lower one. Defaults to 1.0.
            - ``norm_decay_mult``, ``bias_decay_mult`` and ``flat_decay_mult``
              (float): Factors on the weight decay of normalization layers, of
              biases and of one-dimensional parameters. If several of them apply
              to a parameter, the first in this order counts. A factor that is
              not given does not apply.
            - ``custom_keys`` (dict): Maps a part of a parameter's name to a dict
              with ``lr_mult`` and ``decay_mult``, factors on the learning rate
              and on the weight decay. If several parts occur in a name, the
              longest counts. This ``decay_mult`` replaces the factors above.

    Raises:
        ConfigError: If ``paramwise_cfg`` has another key, or if the backbone has
            no ``get_layer_depth``.

    Example:
        >>> optim_wrapper = dict(
        ...     optimizer=dict(type='AdamW', lr=5e-5, weight_decay=0.05),
        ...     constructor='mmmaskdistill.LayerDecayOptimWrapperConstructor',
        ...     paramwise_cfg=dict(layer_decay_rate=0.75, flat_decay_mult=0.0),
        ... )
    """

    def _validate_cfg(self):
        super()._validate_cfg()
        unknown = set(self.paramwise_cfg) - KEYS
        if unknown:
            raise ConfigError(
                f'paramwise_cfg has the unknown keys {sorted(unknown)}: expected '
                f'only {sorted(KEYS)}'
            )
        for key, options in self.paramwise_cfg.get('custom_keys', {}).items():
            unknown = set(options) - {'lr_mult', 'decay_mult'}
            if unknown:
                raise ConfigError(
                    f'custom_keys[{key!r}] has {sorted(unknown)}: expected '
                    'only lr_mult and decay_mult'
                )

    def add_params(self, params: list[dict], module: nn.Module, **kwargs) -> None:
        """Make one parameter group for each pair of learning rate and weight decay.

        Args:
            params (list[dict]): List that the parameter groups are added to.
            module (nn.Module): The model. Its attribute ``backbone`` must have
                the method ``get_layer_depth``.
            **kwargs: Further arguments of mmengine's method, which are ignored.

        Raises:
            ConfigError: If the backbone has no ``get_layer_depth``.
        """
        backbone = dict(module.named_children()).get('backbone')
        # Backbones of mmpretrain, mmseg and mmdet have no base class that says
        # whether they have this method.
        if not hasattr(backbone, 'get_layer_depth'):
            raise ConfigError(
                f'layer decay asks the backbone for the depth of each '
                f'parameter, but the backbone {type(backbone).__name__} of '
                f'{type(module).__name__} has no get_layer_depth: use '
                'MaskDistillViT, a ViT of mmpretrain, or another constructor'
            )
        rate = self.paramwise_cfg.get('layer_decay_rate', 1.0)
        in_norm = {
            id(p)
            for m in module.modules()
            if isinstance(m, NORMS)
            for p in m.parameters(recurse=False)
        }
        groups, depths = {}, defaultdict(set)
        for name, param in module.named_parameters():
            if not param.requires_grad:
                continue
            depth, num_depths = backbone.get_layer_depth(name, 'backbone.')
            custom = self._custom(name)
            lr_scale = rate ** (num_depths - 1 - depth) * custom.get('lr_mult', 1)
            decay_mult = custom.get('decay_mult')
            if decay_mult is None:
                decay_mult = self._decay_mult(name, param, id(param) in in_norm)
            group = groups.setdefault(
                (lr_scale, decay_mult), dict(params=[], lr=self.base_lr * lr_scale)
            )
            if self.base_wd is not None:
                group['weight_decay'] = self.base_wd * decay_mult
            group['params'].append(param)
            depths[lr_scale, decay_mult].add(depth)
        order = sorted(groups, key=lambda key: (min(depths[key]), key))
        params.extend(groups[key] for key in order)
        self._print({key: depths[key] for key in order}, params)

    def _custom(self, name: str) -> dict:
        custom = self.paramwise_cfg.get('custom_keys', {})
        matches = [key for key in custom if key in name]
        return custom[max(matches, key=len)] if matches else {}

    def _decay_mult(self, name: str, param: nn.Parameter, in_norm: bool) -> float:
        get = self.paramwise_cfg.get
        if in_norm and 'norm_decay_mult' in self.paramwise_cfg:
            return get('norm_decay_mult')
        if name.endswith('bias') and 'bias_decay_mult' in self.paramwise_cfg:
            return get('bias_decay_mult')
        return get('flat_decay_mult', 1.0) if param.ndim == 1 else 1.0

    def _print(self, depths: dict, groups: list[dict]):
        table = PrettyTable(
            ['depth', 'lr scale', 'weight decay', 'tensors', 'parameters'], align='r'
        )
        for ((lr_scale, _), at), group in zip(depths.items(), groups):
            table.add_row(
                [
                    f'{min(at)}' if len(at) == 1 else f'{min(at)} to {max(at)}',
                    f'{lr_scale:.4g}',
                    f'{group.get("weight_decay", 0):g}',
                    len(group['params']),
                    f'{sum(p.numel() for p in group["params"]):,}',
                ]
            )
        print_log(f'Parameter groups:\n{table}', logger='current')
