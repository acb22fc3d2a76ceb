"""Find the Transformer blocks that ``compile = True`` in a config compiles."""

from mmengine.model import is_model_wrapper
from torch import nn

from mmmaskdistill.models import MaskDistill


def transformer_blocks(model: nn.Module) -> list[nn.Module]:
    """Find the blocks of every Transformer in a model, including its teacher.

    Args:
        model (nn.Module): The model, or a wrapper of it.

    Returns:
        list[nn.Module]: The modules in every ``nn.ModuleList`` or
        ``nn.Sequential`` with the name ``blocks``, each module once.
    """
    if is_model_wrapper(model):
        model = model.module
    parts = [model]
    if isinstance(model, MaskDistill):
        # A frozen teacher is not one of the model's submodules.
        parts.append(model.teacher)
    return list(
        dict.fromkeys(
            block
            for part in parts
            for name, blocks in part.named_modules()
            if name.split('.')[-1] == 'blocks'
            and isinstance(blocks, (nn.ModuleList, nn.Sequential))
            for block in blocks
        )
    )
