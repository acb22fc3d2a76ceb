"""Let a resumed run follow its own config where the stopped run had another one."""

import warnings
from collections.abc import Iterator
from typing import Any

from mmengine.optim import OptimWrapper, OptimWrapperDict, _ParamScheduler

# What a scheduler changes while it runs. Everything else follows from its config.
PROGRESS = {
    'last_step',
    '_global_step',
    '_last_value',
    'verbose',
    'best',
    'num_bad_epochs',
    'cooldown_counter',
}
# Settings of a parameter group that say how, and not what, an optimizer computes.
IMPLEMENTATION = {
    'params',
    'foreach',
    'fused',
    'capturable',
    'differentiable',
    'maximize',
}


def group_settings(optim_wrapper: OptimWrapper) -> list[dict]:
    """Copy the settings of all parameter groups, such as ``lr`` and ``betas``.

    Args:
        optim_wrapper (OptimWrapper): The optimizer wrapper, or several of them.

    Returns:
        list[dict]: The settings of each group, of one optimizer after the other.
    """
    return [
        {key: value for key, value in group.items() if key not in IMPLEMENTATION}
        for group in _groups(optim_wrapper)
    ]


def set_group_settings(optim_wrapper: OptimWrapper, settings: list[dict]) -> None:
    """Give all parameter groups the settings that :func:`group_settings` returned.

    Args:
        optim_wrapper (OptimWrapper): The optimizer wrapper, or several of them.
        settings (list[dict]): The settings of each group.
    """
    for group, values in zip(_groups(optim_wrapper), settings):
        for key in [key for key in group if key.startswith('initial_')]:
            del group[key]
        group.update(values)


def changed_settings(
    before: list[dict], now: list[dict], schedulers: list[_ParamScheduler]
) -> dict[str, tuple[Any, Any]]:
    """Find the settings of parameter groups that differ between two configs.

    Args:
        before (list[dict]): Settings of the groups in a checkpoint.
        now (list[dict]): Settings of the groups as the config gives them, before
            any scheduler has changed them.
        schedulers (list[_ParamScheduler]): The schedulers. A setting that they
            change is compared with its initial value in the checkpoint.

    Returns:
        dict[str, tuple]: Maps the name of each setting that differs to its value
        before and now, in the last group in which it differs.
    """
    scheduled = {scheduler.param_name for scheduler in schedulers}
    if 'momentum' in scheduled:
        # mmengine copies a scheduled momentum of Adam to its betas.
        scheduled |= {'betas', 'alpha'}
    changed = {}
    for name in {key for group in now for key in group}:
        key = f'initial_{name}' if name in scheduled else name
        old = [group.get(key) for group in before]
        new = [group.get(name) for group in now]
        if name in scheduled and any(value is None for value in old):
            continue
        if old != new:
            pairs = [pair for pair in zip(old, new) if pair[0] != pair[1]]
            changed[name] = pairs[-1] if pairs else (old, new)
    return changed


def scheduler_settings(schedulers: list[_ParamScheduler]) -> list[dict]:
    """Copy what follows from the config of each scheduler.

    Args:
        schedulers (list[_ParamScheduler]): The schedulers.

    Returns:
        list[dict]: The settings of each scheduler.
    """
    return [
        {
            key: value
            for key, value in scheduler.state_dict().items()
            if key not in PROGRESS
        }
        for scheduler in schedulers
    ]


def all_schedulers(schedulers: list | dict | None) -> list[_ParamScheduler]:
    """List the schedulers of a runner, which has a dict if it has many optimizers.

    Args:
        schedulers (list | dict | None): ``runner.param_schedulers``.

    Returns:
        list[_ParamScheduler]: All schedulers.
    """
    if isinstance(schedulers, dict):
        return [part for parts in schedulers.values() for part in parts]
    return list(schedulers or [])


def advance(
    schedulers: list | dict, iterations: int, epochs: int, epoch_length: int
) -> None:
    """Step schedulers as a run does until a point.

    Args:
        schedulers (list | dict): ``runner.param_schedulers``, newly built.
        iterations (int): Number of finished iterations.
        epochs (int): Number of finished epochs.
        epoch_length (int): Number of iterations of an epoch.
    """
    parts = all_schedulers(schedulers)
    parts = [part for part in parts if not getattr(part, 'need_val_args', False)]
    by_epoch = [part for part in parts if part.by_epoch]
    by_iteration = [part for part in parts if not part.by_epoch]
    with warnings.catch_warnings():
        # mmengine warns that no optimizer has made a step.
        warnings.simplefilter('ignore')
        for iteration in range(1, iterations + 1):
            for part in by_iteration:
                part.step()
            epoch, rest = divmod(iteration, epoch_length)
            if not rest and epoch <= epochs:
                for part in by_epoch:
                    part.step()


def _groups(optim_wrapper: OptimWrapper) -> Iterator[dict]:
    if isinstance(optim_wrapper, OptimWrapperDict):
        for part in optim_wrapper.values():
            yield from part.param_groups
    else:
        yield from optim_wrapper.param_groups
