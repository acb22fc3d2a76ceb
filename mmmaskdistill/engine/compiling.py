"""Find the Transformer blocks that ``compile = True`` in a config compiles."""

from mmengine.model import is_model_wrapper
from torch import nn


def transformer_blocks(model: nn.Module) -> list[nn.Module]:
    """Find the blocks of every Transformer in a model, including its teacher.

    Args:
        model (nn.Module): The model, or a wrapper of it.

    Returns:
        list[nn.Module]: The modules in every ``blocks`` attribute that is a
        ``nn.ModuleList`` or a ``nn.Sequential``, each module once.
    """
    if is_model_wrapper(model):
        model = model.module
    parts = [model]
    if isinstance(getattr(model, 'teacher', None), nn.Module):
        parts.append(model.teacher)
    return list(
        dict.fromkeys(
            block
            for part in parts
            for module in part.modules()
            for block in _blocks(module)
        )
    )


def _blocks(module: nn.Module) -> list[nn.Module]:
    blocks = getattr(module, 'blocks', None)
    is_list = isinstance(blocks, (nn.ModuleList, nn.Sequential))
    return list(blocks) if is_list else []
