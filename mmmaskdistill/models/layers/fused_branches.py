"""The residual branches of a block in a form that keeps less for backward.

They are computed from the weights of the modules instead of calling these. This stands
for calling the modules only while they are those that the block was built with, and
nobody observes or changes what they compute.
"""

from timm.layers import Mlp
from torch import Tensor, nn

from .attention import Attention
from .memory_saving import recomputing_linear
from .tokens import take


def can_fuse_attention(norm: nn.Module, attn: nn.Module) -> bool:
    """Tell whether :func:`fused_attention` may stand for calling two modules.

    Args:
        norm (nn.Module): The norm before attention.
        attn (nn.Module): The attention.

    Returns:
        bool: False as soon as one of the modules or of their submodules has a hook, or
        is of another class than a block builds.
    """
    return (
        _is_plain(norm, nn.LayerNorm)
        and _is_plain(attn, Attention)
        and _is_plain(attn.qkv, nn.Linear)
        and attn.qkv.bias is None
        and _is_plain(attn.proj, nn.Linear)
    )


def fused_attention(
    norm: nn.LayerNorm,
    attn: Attention,
    scale: Tensor | None,
    x: Tensor,
    grid: tuple[int, int],
    shared_bias: Tensor | None,
    queries: Tensor | None,
) -> Tensor:
    """Compute ``scale * attn(norm(x), grid, shared_bias, queries)``.

    This keeps neither the output of the norm nor that of the projection for backward,
    see :func:`recomputing_linear`, and projects the queries of the asked tokens only.

    Args:
        norm (nn.LayerNorm): The norm before attention.
        attn (Attention): The attention.
        scale (Tensor | None): Layer scale [D].
        x (Tensor): Tokens [B, 1+N, D] before the norm.
        grid (tuple[int, int]): As in :meth:`Attention.forward`.
        shared_bias (Tensor | None): As in :meth:`Attention.forward`.
        queries (Tensor | None): As in :meth:`Attention.forward`.

    Returns:
        Tensor: [B, 1+N, D], or [B, M, D] with ``queries``.
    """
    if queries is None:
        projected = [recomputing_linear(x, attn.qkv.weight, attn.qkv_bias(), norm)]
    else:
        dim = x.shape[2]
        q_weight, kv_weight = attn.qkv.weight.split([dim, 2 * dim])
        kv_bias = attn.qkv_bias()[dim:]
        projected = [
            recomputing_linear(take(x, queries), q_weight, attn.q_bias, norm),
            recomputing_linear(x, kv_weight, kv_bias, norm),
        ]
    x = attn.attend(projected, grid, shared_bias, queries)
    return recomputing_linear(x, attn.proj.weight, attn.proj.bias, scale=scale)


def can_fuse_mlp(norm: nn.Module, mlp: nn.Module) -> bool:
    """Tell whether :func:`fused_mlp` may stand for calling two modules.

    Args:
        norm (nn.Module): The norm before the MLP.
        mlp (nn.Module): The MLP.

    Returns:
        bool: See :func:`can_fuse_attention`. Also False if the MLP applies dropout.
    """
    return (
        _is_plain(norm, nn.LayerNorm)
        and _is_plain(mlp, Mlp)
        and _is_plain(mlp.fc1, nn.Linear)
        and _is_plain(mlp.act, nn.GELU)
        and mlp.act.approximate == 'none'
        and _is_plain(mlp.norm, nn.Identity)
        and _is_plain(mlp.fc2, nn.Linear)
        and all(
            _is_plain(drop, nn.Dropout) and (drop.p == 0 or not drop.training)
            for drop in (mlp.drop1, mlp.drop2)
        )
    )


def fused_mlp(norm: nn.LayerNorm, mlp: Mlp, scale: Tensor | None, x: Tensor) -> Tensor:
    """Compute ``scale * mlp(norm(x))``.

    Args:
        norm (nn.LayerNorm): The norm before the MLP.
        mlp (Mlp): The MLP.
        scale (Tensor | None): Layer scale [D].
        x (Tensor): Tokens [B, M, D] before the norm.

    Returns:
        Tensor: [B, M, D].
    """
    x = recomputing_linear(x, mlp.fc1.weight, mlp.fc1.bias, norm)
    return recomputing_linear(x, mlp.fc2.weight, mlp.fc2.bias, gelu=True, scale=scale)


def _is_plain(module: nn.Module, kind: type) -> bool:
    """Tell whether a function of a module's weights may stand for calling it.

    This is the case if the module is exactly of the class that the function is written
    for, and has neither hooks nor a forward method of its own. Parametrizations change
    the class, and pruning adds a hook.
    """
    return (
        type(module) is kind
        and 'forward' not in module.__dict__
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and not module._backward_hooks
        and not module._backward_pre_hooks
    )
