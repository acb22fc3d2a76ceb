"""Explain errors of torch that say what is wrong with data or settings in its terms."""

import re

import torch

CHECK = 'tools/analysis_tools/check_data.py CONFIG looks at all files'


def explain_failure(error: Exception, cfg: dict) -> str | None:
    """Say in one line what the user can do about an error that ended a training.

    What can be known before the training is found by :func:`.check`. This is for the
    rest, such as the layers of other libraries, and labels of which only a sample was
    read.

    Args:
        error (Exception): What training raised.
        cfg (dict): The config.

    Returns:
        str | None: The message, or None if the error is of another kind.
    """
    text = str(error)
    batch = (cfg.get('train_dataloader') or {}).get('batch_size')
    if 'Expected more than 1 value per channel' in text:
        return (
            f'batch norm cannot normalize a single value (train_dataloader.batch_size='
            f'{batch} for each process, {text.strip()}): set train_dataloader.'
            'batch_size=2 or more and drop_last=True, or a norm_cfg without batch norm '
            "such as dict(type='GN', num_groups=32)"
        )
    found = re.search(r'Target (-?\d+) is out of bounds', text)
    if found:
        return (
            f'a label has the value {found[1]}, which is neither one of the classes of '
            f'a head nor ignored: {CHECK} and names it'
        )
    found = re.search(r'stack expects each tensor to be equal size.*', text)
    if found:
        return (
            f'the images or labels of a batch cannot be stacked ({found[0]}): crop or '
            f'resize them to one size, or set batch_size=1. {CHECK}'
        )
    if isinstance(error, torch.OutOfMemoryError):
        return (
            f"the GPU's memory is not enough ({text.splitlines()[0]}): set a smaller "
            f'train_dataloader.batch_size (it is {batch}), a smaller crop, or '
            'model.backbone.with_cp=True'
        )
    return None
