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
    """Layer-wise learning-rate decay for any model with such a backbone.

    A parameter at depth d of n has ``lr * layer_decay_rate ** (n - 1 - d)``;
    depths come from ``model.backbone.get_layer_depth``, so classifiers,
    segmentors and detectors are served alike. Schedules multiply the whole
    schedule by this scale if their minimum and their warm-up are relative
    (``eta_min_ratio``, ``start_factor``). Frozen parameters are left out.

    ``paramwise_cfg`` may have these keys, others are refused:

    - ``layer_decay_rate`` (float): Decay from one depth to the one below.
    - ``norm_decay_mult``, ``bias_decay_mult``, ``flat_decay_mult`` (float):
      Factor on the weight decay of normalization layers, of biases, and of
      one-dimensional parameters, in this order of priority.
    - ``custom_keys`` (dict): For parameters whose name contains the key, the
      longest first: ``lr_mult`` and ``decay_mult``; goes before the above.

    Raises:
        ConfigError: If ``paramwise_cfg`` has another key, or the backbone has
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
                f'paramwise_cfg has {sorted(unknown)}: expected only {sorted(KEYS)}'
            )
        for key, options in self.paramwise_cfg.get('custom_keys', {}).items():
            unknown = set(options) - {'lr_mult', 'decay_mult'}
            if unknown:
                raise ConfigError(
                    f'custom_keys[{key!r}] has {sorted(unknown)}: expected '
                    'only lr_mult and decay_mult'
                )

    def add_params(self, params: list[dict], module: nn.Module, **kwargs):
        """Put the model's parameters into ``params``, a group for each pair
        of learning rate and weight decay."""
        backbone = getattr(module, 'backbone', None)
        if not hasattr(backbone, 'get_layer_depth'):
            raise ConfigError(
                f'layer decay asks the backbone for the depth of each '
                f'parameter, but {type(backbone).__name__} of '
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
