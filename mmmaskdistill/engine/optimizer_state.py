"""Let the state of a resumed optimizer fit the implementation that the config chooses.

torch's optimizers take the choice of the implementation from a checkpoint, together
with the state. A run could then not change it when it resumes.
"""

import torch
from torch import Tensor

# Settings of a parameter group that choose among implementations of an optimizer.
CHOICES = ('foreach', 'fused', 'capturable')


def implementation(optimizer: torch.optim.Optimizer) -> list[dict]:
    """Copy which implementation each parameter group of an optimizer uses.

    Args:
        optimizer (torch.optim.Optimizer): The optimizer.

    Returns:
        list[dict]: Those of :data:`CHOICES` that each group has.
    """
    return [
        {key: group[key] for key in CHOICES if key in group}
        for group in optimizer.param_groups
    ]


def fit_state(optimizer: torch.optim.Optimizer, settings: list[dict]) -> None:
    """Fit the state of a checkpoint to an implementation and to the parameters.

    Fused optimizers count their steps on the GPU and need a state with the strides of
    the parameters, which change with ``channels_last``.

    Args:
        optimizer (torch.optim.Optimizer): The optimizer, with the state of a
            checkpoint, changed in place.
        settings (list[dict]): What :func:`implementation` returned before the state was
            loaded.
    """
    for group, values in zip(optimizer.param_groups, settings):
        group.update(values)
        on_device = group.get('fused') or group.get('capturable')
        for parameter in group['params']:
            state = optimizer.state.get(parameter, {})
            step = state.get('step')
            if isinstance(step, Tensor):
                state['step'] = step.to(parameter.device if on_device else 'cpu')
            for name, value in state.items():
                if (
                    isinstance(value, Tensor)
                    and value.shape == parameter.shape
                    and value.stride() != parameter.stride()
                ):
                    copy = torch.empty_like(parameter, dtype=value.dtype)
                    state[name] = copy.copy_(value)
