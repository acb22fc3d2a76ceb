"""Predict from shapes how much memory a training step needs on each GPU.

The step runs on tensors that have shapes and dtypes but no values (torch's
``FakeTensorMode``), on any machine and in seconds, whatever the size of the model. Each
storage that an operator makes is entered in a ledger, and leaves it when it is freed.
"""

import copy
import functools
import inspect
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import OPTIMIZERS, init_default_scope
from mmengine.structures import PixelData
from mmpretrain.structures import DataSample
from mmseg.models.decode_heads import decode_head
from mmseg.models.segmentors import BaseSegmentor
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmmaskdistill.errors import ConfigError, first_line
from mmmaskdistill.models import MaskDistill
from mmmaskdistill.models.layers import memory_saving
from mmmaskdistill.models.layers.attention_kernels import ONLY_ON_CUDA
from mmmaskdistill.registry import MODELS

from .pipelines import class_name
from .pretraining import make_teachers_random

# The package's function of the same name hides the module.
linear = sys.modules['mmmaskdistill.models.layers.linear']
PRECISIONS = dict(fp32=None, bf16=torch.bfloat16, fp16=torch.float16)
# Not predicted: what the driver, torch's libraries and gaps between tensors take. A
# GPU is expected to fit a step that leaves this much free.
RESERVE = 2 * 2**30
GPUS = (24, 40, 80)  # GiB


class Memory(NamedTuple):
    """Bytes that a training step needs on each GPU.

    Attributes:
        parameters (int): Parameters and buffers of the model without its teacher.
        teacher (int): Parameters and buffers of the teacher.
        optimizer (int): State of the optimizer, and copies of the model by hooks.
        gradients (int): Gradients of all trained parameters.
        activations (int): What the forward pass keeps for the backward pass.
        step (int): Largest sum, at any time of the step, of what the step itself
            allocates: images, activations, gradients and intermediate results.
        batch (int): Number of images in a forward pass.
    """

    parameters: int
    teacher: int
    optimizer: int
    gradients: int
    activations: int
    step: int
    batch: int

    @property
    def peak(self) -> int:
        """Largest number of bytes at any time of the step, on a single GPU."""
        return self.parameters + self.teacher + self.optimizer + self.step

    @property
    def distributed_peak(self) -> int:
        """The same with several GPUs, where gradients are copied for their exchange."""
        return self.peak + self.gradients


def recipe_precision(cfg: Config) -> str:
    """Return the precision that a config trains in on a GPU.

    Args:
        cfg (Config): The config.

    Returns:
        str: A key of :data:`PRECISIONS`.
    """
    wrapper = cfg.get('optim_wrapper') or {}
    kind = class_name(wrapper) if 'type' in wrapper else 'OptimWrapper'
    if kind == 'Bfloat16OptimWrapper':
        return 'bf16'
    if kind != 'AmpOptimWrapper':
        return 'fp32'
    # Without a dtype, torch's autocast computes in float16 on CUDA.
    return 'bf16' if wrapper.get('dtype') == 'bfloat16' else 'fp16'


def predict_memory(
    cfg: Config,
    batch: int | None = None,
    precision: str | None = None,
    with_cp: bool | None = None,
    masked: float = 75 / 196,
) -> Memory:
    """Predict the memory of a training step of a config.

    Drop path is not counted: it makes a step smaller, but not always. Neither are the
    workspaces of CUDA's libraries, see :data:`RESERVE`. The prediction is that of a
    step without ``compile``.

    Args:
        cfg (Config): Config of pre-training, classification or segmentation.
        batch (int, optional): Number of images in a forward pass. Defaults to None, the
            batch size of the config.
        precision (str, optional): A key of :data:`PRECISIONS`. Defaults to None, the
            config's precision.
        with_cp (bool, optional): Whether the backbone computes the activations of each
            block again in the backward pass. Defaults to None: as the config says.
        masked (float): Share of the patches that pre-training hides. Defaults to
            75/196.

    Returns:
        Memory: The prediction.

    Raises:
        ConfigError: If the config does not train a MaskDistill, a classifier or a
            segmentor, if the batch size or ``with_cp`` is missing, if attention is
            trained by a kernel of a GPU, or if the loss depends on values, so that
            shapes do not tell its memory.
    """
    cfg = copy.deepcopy(cfg)
    _check(cfg)
    backbone, optimizer = cfg.model.backbone, cfg.optim_wrapper
    if batch is None:
        batch = (cfg.get('train_dataloader') or {}).get('batch_size')
    if not isinstance(batch, int) or batch < 1:
        raise ConfigError(
            f'train_dataloader.batch_size={batch!r}: expected a number of images, at '
            'least 1'
        )
    precision = precision or recipe_precision(cfg)
    if 'drop_path_rate' in backbone:
        backbone.drop_path_rate = 0.0
    if with_cp is not None:
        if with_cp and not takes_with_cp(cfg):
            raise ConfigError(f'the backbone {backbone.type} has no with_cp')
        if takes_with_cp(cfg):
            backbone.with_cp = with_cp
    model = build_without_values(cfg)
    accumulate = optimizer.get('accumulative_counts', 1)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, empty_caches():
        teacher = getattr(model, 'teacher', None)
        others = teacher if teacher and not teacher.follows_student else None
        for part in filter(None, (model, others)):
            _make_fake(part, mode)
        static, frozen = _bytes(model), _bytes(others)
        trained = [p for p in model.parameters() if p.requires_grad]
        step = functools.partial(
            training_step,
            model,
            functools.partial(random_batch, cfg, model, batch, masked),
            precision,
        )
        try:
            ledger, kept = Ledger([model, others]), KeptBytes(model, others)
            with ledger:
                step(kept)
                if accumulate > 1:
                    step()  # Now there are gradients from the beginning.
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise ConfigError(
                f'the loss of {type(model).__name__} depends on values (by the '
                f'operator {error.func}), so its memory cannot be predicted from '
                'shapes'
            ) from error
    gradients = sum(p.numel() * p.element_size() for p in trained)
    hooks = cfg.get('custom_hooks') or []
    copies = sum('EMAHook' in str(hook['type']) for hook in hooks)
    state = sum(p.numel() for p in trained) * state_bytes(optimizer)
    return Memory(
        parameters=static,
        teacher=frozen,
        optimizer=state + copies * static,
        gradients=gradients,
        activations=kept.total,
        step=max(ledger.peak, gradients),
        batch=batch,
    )


def takes_with_cp(cfg: Config) -> bool:
    """Tell whether a config's backbone has gradient checkpointing by ``with_cp``.

    Args:
        cfg (Config): The config.

    Raises:
        ConfigError: If it trains no model with a backbone.
    """
    _check(cfg)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    kind = cfg.model.backbone.type
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    return any(
        'with_cp' in inspect.signature(cls.__init__).parameters
        for cls in getattr(kind, '__mro__', ())
    )


def _check(cfg: Config):
    """Raise an error if a config does not train a model whose memory is predicted."""
    model = cfg.get('model') or {}
    for name, value in (
        ('model.backbone', model.get('backbone')),
        ('optim_wrapper', cfg.get('optim_wrapper')),
        ('optim_wrapper.optimizer', (cfg.get('optim_wrapper') or {}).get('optimizer')),
    ):
        if not isinstance(value, dict):
            raise ConfigError(
                f'the config has no {name}: expected a config that trains a model with '
                'a backbone'
            )
    if (way := model['backbone'].get('attention')) in ONLY_ON_CUDA:
        raise ConfigError(
            f'model.backbone.attention={way!r}: the memory of this kernel of a GPU is '
            "not predicted, set model.backbone.attention='auto'"
        )


def build_without_values(cfg: Config) -> nn.Module:
    """Build the model of a config without drawing or loading its weights.

    Args:
        cfg (Config): The config, whose teachers are changed in place.

    Returns:
        nn.Module: The model in training mode, with weights that mean nothing.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    make_teachers_random(cfg.model.get('teacher'))
    model = dict(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    with _WithoutDraws():
        model = MODELS.build(model)
    return revert_sync_batchnorm(model).train()


def training_step(
    model: nn.Module,
    make_batch: Callable[[], dict],
    precision: str,
    kept: 'KeptBytes | None' = None,
) -> None:
    """Run the forward and the backward pass of a training step on the CPU.

    Autocast and the size of parts follow the rules that hold on CUDA devices.

    Args:
        model (nn.Module): A MaskDistill, a classifier or a segmentor.
        make_batch (Callable[[], dict]): Makes the arguments of ``model.loss``.
        precision (str): A key of :data:`PRECISIONS`.
        kept (KeptBytes, optional): Counts what the forward pass keeps.
    """
    dtype = PRECISIONS[precision]
    with ExitStack() as stack:
        # Parts of attention are as large as on a GPU.
        stack.enter_context(
            patch.object(memory_saving, 'CPU_PART', memory_saving.GPU_PART)
        )
        # mmseg's accuracy, which is only logged, depends on values.
        stack.enter_context(patch.object(decode_head, 'accuracy', _no_accuracy))
        stack.enter_context(patch.object(linear, '_ONEDNN', None))
        with ExitStack() as forward:
            if dtype is not None:
                forward.enter_context(torch.autocast('cpu', dtype))
                forward.enter_context(_CudaAutocast())
            forward.enter_context(kept or nullcontext())
            loss = sum(_scalars(model.loss(**make_batch())))
        loss.backward()


def random_batch(cfg: Config, model: nn.Module, batch: int, masked: float) -> dict:
    """Make images and data samples of the size that a config trains with.

    Args:
        cfg (Config): The config.
        model (nn.Module): Its model.
        batch (int): Number of images.
        masked (float): Share of the patches that pre-training hides.

    Returns:
        dict: The arguments ``inputs`` and ``data_samples`` of ``model.loss``.

    Raises:
        ConfigError: If the model is of another kind.
    """
    channels = cfg.model.backbone.get('in_channels', 3)
    images = torch.zeros(batch, channels, *_sides(cfg))
    if isinstance(model, MaskDistill):
        patches = model.backbone.grid[0] * model.backbone.grid[1]
        hidden = round(masked * patches)
        order = torch.zeros(batch, patches, dtype=torch.int64)
        key = 'mask' if model.masking is None else 'noise'
        samples = [
            DataSample(
                **{key: torch.zeros(patches)}, hidden=o[:hidden], visible=o[hidden:]
            )
            for o in order
        ]
        shape = model.teacher.in_channels or channels, *model.teacher.img_size
        return dict(inputs=[images, torch.zeros(batch, *shape)], data_samples=samples)
    if isinstance(model, BaseSegmentor):
        samples = [
            SegDataSample(
                gt_sem_seg=PixelData(
                    data=torch.zeros(1, *images.shape[2:], dtype=torch.int64)
                )
            )
            for _ in range(batch)
        ]
        return dict(inputs=images, data_samples=samples)
    classes = cfg.model.get('head', {}).get('num_classes')
    if classes is None:
        raise ConfigError(
            f'the model is a {type(model).__name__}: expected a MaskDistill, a '
            'classifier whose head has num_classes, or a segmentor'
        )
    if (cfg.model.get('train_cfg') or {}).get('augments'):
        samples = [DataSample(gt_score=torch.zeros(classes)) for _ in range(batch)]
    else:
        label = torch.zeros(1, dtype=torch.int64)
        samples = [DataSample(gt_label=label) for _ in range(batch)]
    return dict(inputs=images, data_samples=samples)


def state_bytes(optim_wrapper: dict) -> int:
    """Return the bytes of an optimizer's state for each parameter's element.

    Args:
        optim_wrapper (dict): Config of the optimizer wrapper.

    Returns:
        int: Such as 8 for AdamW.

    Raises:
        ConfigError: If the optimizer cannot be built.
    """
    # A step with a small parameter shows what the optimizer keeps.
    parameter = nn.Parameter(torch.zeros(4))
    config = optim_wrapper['optimizer']
    try:
        optimizer = OPTIMIZERS.build(dict(config, params=[parameter]))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f'optim_wrapper.optimizer={dict(config)} cannot be built: '
            f'{first_line(error)}'
        ) from error
    parameter.grad = torch.ones(4)
    optimizer.step()
    return sum(
        value.element_size()
        for value in optimizer.state[parameter].values()
        if isinstance(value, Tensor) and value.numel() == parameter.numel()
    )


class Ledger(TorchDispatchMode):
    """Record the largest sum of bytes of the storages that operators have made.

    Args:
        models (list[nn.Module | None]): Models whose parameters and buffers do not
            count.

    Attributes:
        peak (int): The largest sum.
    """

    def __init__(self, models: list[nn.Module | None]):
        super().__init__()
        self._known = {_key(tensor) for model in models for tensor in _tensors(model)}
        self._now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and _key(leaf) not in self._known:
                self._enter(leaf.untyped_storage())
        return out

    def _enter(self, storage: torch.UntypedStorage):
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._leave, key, size)

    def _leave(self, key: int, size: int):
        self._known.discard(key)
        self._now -= size


class KeptBytes(torch.autograd.graph.saved_tensors_hooks):
    """Count the bytes that a forward pass keeps for its backward pass.

    A storage counts once, if it is still there when the ``with`` statement ends.
    Parameters and buffers do not count.

    Args:
        *models (nn.Module | None): The models whose tensors do not count.

    Attributes:
        total (int): The bytes.
    """

    def __init__(self, *models: nn.Module | None):
        own = {_key(tensor) for model in models for tensor in _tensors(model)}
        self.total = 0
        self._sizes = sizes = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in own and key not in sizes:
                sizes[key] = storage.nbytes()
                weakref.finalize(storage, sizes.pop, key, None)
            return tensor

        super().__init__(pack, lambda tensor: tensor)

    def __exit__(self, *error):
        super().__exit__(*error)
        self.total = sum(self._sizes.values())


class _CudaAutocast(TorchFunctionMode):
    """Let autocast on the CPU choose the dtypes that it chooses on CUDA devices.

    The lists of functions that autocast runs in float32 differ: on CUDA they have the
    norms and softmax, but not the interpolation.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):  # noqa: ANN001
        kwargs = kwargs or {}
        if func is F.interpolate:
            with torch.autocast('cpu', enabled=False):
                return func(*args, **kwargs)
        if func in _FLOAT32_ON_CUDA and args[0].is_floating_point():
            args = (args[0].float(), *args[1:])
        return func(*args, **kwargs)


_FLOAT32_ON_CUDA = {
    F.layer_norm,
    F.group_norm,
    F.softmax,
    F.log_softmax,
    torch.softmax,
    torch.log_softmax,
    Tensor.softmax,
    Tensor.log_softmax,
}


class _WithoutDraws(TorchDispatchMode):
    """Leave large weights undefined.

    Drawing those of a large model takes long, and memory that nobody writes to is not
    taken from the machine.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001
        first = args[0] if args else None
        if (
            isinstance(first, Tensor)
            and first.numel() > 2**16
            and func._schema.is_mutable
        ):
            return first
        return func(*args, **(kwargs or {}))


@contextmanager
def empty_caches() -> Iterator[None]:
    """Keep fake tensors that the package's functions cache out of other modes.

    Yields:
        None: Within the ``with`` statement the caches begin empty.
    """

    def clear():
        for name, module in list(sys.modules.items()):
            if name.split('.')[0] == 'mmmaskdistill':
                for value in vars(module).values():
                    if isinstance(value, functools._lru_cache_wrapper):
                        value.cache_clear()

    clear()
    try:
        yield
    finally:
        clear()


def _make_fake(model: nn.Module, mode: FakeTensorMode):
    """Replace the parameters and buffers of a model by fake tensors."""
    fakes = {}  # A parameter may belong to several modules.
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                fake = nn.Parameter(mode.from_tensor(p.detach()), p.requires_grad)
                module._parameters[name] = fakes.setdefault(p, fake)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = mode.from_tensor(buffer)


def _sides(cfg: Config) -> tuple[int, int]:
    """Return height and width of the images that a config trains with."""
    preprocessor = cfg.model.get('data_preprocessor') or {}
    sides = (
        preprocessor.get('size')
        or cfg.model.backbone.get('img_size')
        or cfg.get('crop_size', 224)
    )
    return (sides, sides) if isinstance(sides, int) else tuple(sides)


def _scalars(losses: dict) -> Iterator[Tensor]:
    """Yield the losses that a model adds up to its training loss."""
    for name, value in losses.items():
        if 'loss' in name:
            yield from (v.mean() for v in tree_leaves(value))


def _no_accuracy(logits: Tensor, *args, **kwargs) -> Tensor:
    return logits.new_zeros(1)


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _tensors(model: nn.Module | None) -> Iterator[Tensor]:
    if model is not None:
        yield from model.parameters()
        yield from model.buffers()


def _bytes(model: nn.Module | None) -> int:
    return sum(t.numel() * t.element_size() for t in _tensors(model))
