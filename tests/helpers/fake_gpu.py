"""A GPU that computes nothing, but notices when the host would have to wait for it.

Inside ``with FakeGPU() as gpu`` tensors on the device ``cuda:0`` have shapes, dtypes
and devices, but no values (torch's ``FakeTensorMode``), also on a machine without GPUs.
Tensors on the CPU are ordinary tensors, with which the host can do what it likes.
"""

import traceback
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import mmmaskdistill
from mmmaskdistill.apis.memory import empty_caches

PACKAGE = Path(mmmaskdistill.__file__).parent
aten = torch.ops.aten
PRODUCTS = {aten.mm, aten.addmm, aten.linear}
MASKED_WRITES = {aten.index_put, aten.index_put_, aten._unsafe_index_put}


class HostStop(Exception):
    """The host would wait for the GPU, or an operator would mix devices."""


class FakeGPU(TorchDispatchMode):
    """Run a training step on a fake GPU, and raise an error where the host waits.

    A :class:`HostStop` names the operator and the line that called it. If this is a
    line of another library, it also names the line of the package that led there. It
    is raised by

    - operators that read values: ``.item()``, ``bool(x)``, ``.tolist()``, ``.cpu()``;
    - operators whose shapes depend on values: ``nonzero``, indexing by a bool mask
      (also in an assignment), ``masked_select``, ``unique``;
    - operators on tensors of different devices.

    Copies from the host to the GPU that are not ``non_blocking`` make the host wait,
    too. They do not raise an error, but are counted in ``waiting_copies``.

    Attributes:
        products (Counter): Number of matrix products on the GPU for each dtype.
        waiting_copies (Counter): Number of waiting copies for each line.
    """

    def __init__(self):
        super().__init__()
        self.products = Counter()
        self.waiting_copies = Counter()

    def __enter__(self):
        self._stack = ExitStack()
        self._stack.enter_context(empty_caches())
        self._stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._stack.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket
        if name is aten.is_pinned:
            return True
        if name is aten._pin_memory:
            return args[0]
        leaves = tree_leaves((args, kwargs))
        if not any(_on_gpu(leaf) for leaf in leaves):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        self._check(func, args, kwargs)
        try:
            out = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise HostStop(f'{func} at {_caller()}') from error
        except RuntimeError as error:
            if 'devices' not in str(error):
                raise
            raise HostStop(f'{func} mixes devices at {_caller()}') from error
        if name in PRODUCTS:
            self.products[out.dtype] += 1
        return out

    def _check(self, func, args, kwargs):
        """Find the stops that torch's fake tensors do not know."""
        name = func.overloadpacket
        if name in MASKED_WRITES and any(
            index is not None and index.dtype is torch.bool for index in args[1]
        ):
            raise HostStop(f'{func} with a bool mask at {_caller()}')
        if name is aten.copy_:
            target, source = args[0].device, args[1]
        elif name is aten._to_copy:
            target, source = kwargs.get('device'), args[0]
        else:
            return
        if target is None or target.type == source.device.type:
            return
        if target.type == 'cpu':
            raise HostStop(f'{func} to the CPU at {_caller()}')
        if not (kwargs.get('non_blocking') or args[2:] == (True,)):
            self.waiting_copies[_caller()] += 1

    def place(self, model: torch.nn.Module) -> torch.nn.Module:
        """Move a model that was built on the CPU to the GPU."""
        before = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            return model.to('cuda:0')
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(before)

    @contextmanager
    def autocast(self, dtype: torch.dtype = torch.bfloat16):
        """Mixed precision, which ``torch.autocast`` turns off without a GPU."""
        enabled = torch.is_autocast_enabled('cuda')
        before = torch.get_autocast_dtype('cuda')
        torch.set_autocast_enabled('cuda', True)
        torch.set_autocast_dtype('cuda', dtype)
        torch.autocast_increment_nesting()
        try:
            yield
        finally:
            if torch.autocast_decrement_nesting() == 0:
                torch.clear_autocast_cache()
            torch.set_autocast_enabled('cuda', enabled)
            torch.set_autocast_dtype('cuda', before)


class StaticShapes(TorchDispatchMode):
    """Raise a :class:`HostStop` for operators on the CPU that depend on values.

    It serves to check backward passes, which a fake GPU cannot run: torch's autograd
    engine asks the driver for the devices.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tags = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
        masked = func.overloadpacket in MASKED_WRITES | {aten.index} and any(
            index is not None and index.dtype is torch.bool for index in args[1]
        )
        # The shape of `index` depends on values only if an index is a mask.
        if masked or (
            tags.intersection(func.tags) and func.overloadpacket is not aten.index
        ):
            raise HostStop(f'{func} at {_caller()}')
        return func(*args, **(kwargs or {}))


def _on_gpu(leaf) -> bool:
    return isinstance(leaf, FakeTensor) or (
        isinstance(leaf, torch.device) and leaf.type == 'cuda'
    )


def _caller() -> str:
    """The line that called the operator, and the package's line that led there."""
    frames = [
        frame
        for frame in traceback.extract_stack()
        if 'torch' not in Path(frame.filename).parts and frame.filename != __file__
    ]
    own = [frame for frame in frames if PACKAGE in Path(frame.filename).parents]
    innermost = frames[-1:] if own[-1:] != frames[-1:] else []
    return ', called at '.join(_line(frame) for frame in innermost + own[-1:])


def _line(frame: traceback.FrameSummary) -> str:
    path = frame.filename.split('site-packages/')[-1]
    path = path.removeprefix(f'{PACKAGE.parent}/')
    return f'{path}:{frame.lineno} ({frame.line})'
