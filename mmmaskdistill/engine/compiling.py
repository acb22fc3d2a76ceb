"""``compile = True`` in a config: torch.compile, block by block."""

from mmengine.model import is_model_wrapper
from torch import nn


def transformer_blocks(model: nn.Module) -> list[nn.Module]:
    """Blocks of every Transformer in a model, its teacher's included."""
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
