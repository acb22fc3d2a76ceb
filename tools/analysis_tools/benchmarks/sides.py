"""Shared code of the jobs that compare the computations of several libraries.

It contains the options, the sides, their measurement and the printed table. A side
is one library's implementation; the side ``ours`` is this project's.
"""

import argparse
import gc
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple
from unittest.mock import patch

import torch
from command_line import fail
from torch import Tensor, nn

from . import measure
from .peaks import peak_rate

# The learning rate is so small that training steps practically do not change the
# weights.
LR = 1e-9
DROPOUT_SEED = 1
OUT_OF_MEMORY = 'out of memory'
# For each choice of --sweep, the option that is varied and the option that lists
# its values.
SWEEPS = dict(
    size=('img_size', 'sizes'), batch=('batch', 'batches'), depth=('depth', 'depths')
)


class Side(NamedTuple):
    """One library's implementation of what is measured.

    Attributes:
        output (Callable[[], Tensor]): Computes what must be equal on all sides:
            the loss of the benchmark's batch, or the logits.
        model (nn.Module): The model that ``output`` runs.
        optimizer (torch.optim.Optimizer | None): The optimizer as users of the
            library would configure it; None if the job does not train.
    """

    output: Callable[[], Tensor]
    model: nn.Module
    optimizer: torch.optim.Optimizer | None = None

    def call(self) -> None:
        """Run what is timed: a training step, or inference."""
        if self.optimizer is None:
            with torch.no_grad():
                self.output()
            return
        self.output().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def training(loss: Callable[[], Tensor], model: nn.Module, fused: bool) -> Side:
    """Make a side that trains with AdamW.

    Args:
        loss (Callable[[], Tensor]): Computes the loss.
        model (nn.Module): The model, of which all parameters that require
            gradients are trained.
        fused (bool): Whether to use the fused implementation of AdamW. If False,
            torch chooses the implementation.

    Returns:
        Side: The side.
    """
    return Side(loss, model, _adamw(model, fused=fused or None))


def _adamw(model: nn.Module, **options) -> torch.optim.AdamW:
    trained = (p for p in model.parameters() if p.requires_grad)
    return torch.optim.AdamW(trained, LR, weight_decay=0.05, **options)


Build = Callable[[argparse.Namespace, torch.device], dict[str, Side]]


def add_arguments(
    parser: argparse.ArgumentParser, peers: Sequence[str], img_size: int, batch: int
) -> None:
    """Add the options of every job that compares libraries.

    Args:
        parser (argparse.ArgumentParser): The parser of the job.
        peers (Sequence[str]): Names of the other libraries.
        img_size (int): Default of ``--img-size`` in pixels.
        batch (int): Default of ``--batch``.
    """
    parser.add_argument(
        '--against',
        nargs='*',
        choices=peers,
        default=list(peers),
        help='other libraries to compare with (default: all)',
    )
    add_settings(parser, img_size, batch)
    _add_sweeps(parser)


def add_settings(parser: argparse.ArgumentParser, img_size: int, batch: int) -> None:
    """Add the options that say what is computed, and how.

    Args:
        parser (argparse.ArgumentParser): The parser of the job.
        img_size (int): Default of ``--img-size`` in pixels.
        batch (int): Default of ``--batch``.
    """
    parser.add_argument(
        '--arch',
        default='base',
        help='size of the ViT: tiny, small, base, large or huge (default: %(default)s)',
    )
    parser.add_argument(
        '--depth',
        type=int,
        metavar='N',
        help='number of blocks of the ViT (default: that of --arch)',
    )
    parser.add_argument(
        '--img-size',
        type=int,
        default=img_size,
        metavar='PIXELS',
        help='side of the square images in pixels (default: %(default)s)',
    )
    parser.add_argument(
        '--batch',
        type=int,
        default=batch,
        metavar='N',
        help='number of images per call (default: %(default)s)',
    )
    parser.add_argument(
        '--repeats',
        type=int,
        default=5,
        metavar='N',
        help='number of timed calls of each side (default: %(default)s)',
    )
    parser.add_argument(
        '--device',
        default='cpu',
        help='cpu or cuda (default: %(default)s); the authors have not run cuda',
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='time in mixed precision with bfloat16 (default: full precision); '
        'whether the sides compute the same result is checked in full precision',
    )
    parser.add_argument(
        '--compile',
        nargs='?',
        const='inductor',
        metavar='BACKEND',
        help='time all sides with torch.compile, with the backend inductor or '
        'another one such as aot_eager (default: without): the blocks of '
        "this project's Transformers, as compile=True in a config does, and the "
        'whole forward pass of the other libraries; whether the sides compute the '
        'same result is checked without it',
    )
    parser.add_argument(
        '--channels-last',
        action='store_true',
        help="store the weights of this project's convolutions with their channels "
        'last, as channels_last=True in a config does (default: channels first)',
    )
    parser.add_argument(
        '--adamw',
        choices=['library', 'fused', 'foreach'],
        default='library',
        help='implementation of AdamW on all sides: fused, foreach, or library, which '
        "is the fused one for this project and torch's choice for the other "
        'libraries (default: %(default)s)',
    )


def _add_sweeps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--sweep',
        nargs='+',
        choices=SWEEPS,
        default=[],
        help='repeat the measurement for several image sizes, batch sizes or depths, '
        'each with the other two fixed; a side that runs out of memory is left out '
        '(default: a single measurement)',
    )
    parser.add_argument(
        '--sizes',
        type=int,
        nargs='+',
        default=[224, 384, 512, 768, 1024],
        metavar='PIXELS',
        help='image sizes of --sweep size in pixels (default: %(default)s)',
    )
    parser.add_argument(
        '--batches',
        type=int,
        nargs='+',
        default=[1, 2, 4, 8, 16],
        metavar='N',
        help='batch sizes of --sweep batch (default: %(default)s)',
    )
    parser.add_argument(
        '--depths',
        type=int,
        nargs='+',
        default=[6, 12, 24],
        metavar='N',
        help='numbers of blocks of --sweep depth (default: %(default)s)',
    )
    parser.add_argument(
        '--until-all-fit',
        action='store_true',
        help='end each sweep at the first value at which no side runs out of memory, '
        'for example with --sweep batch --batches 256 128 64 (default: measure all '
        'values)',
    )
    parser.add_argument(
        '--plot',
        metavar='FILE',
        help='PNG file to which the curves of --sweep are drawn (default: none)',
    )


def add_drop_path(parser: argparse.ArgumentParser, recipe: float) -> None:
    """Add the option ``--drop-path`` of the fine-tuning jobs.

    Args:
        parser (argparse.ArgumentParser): The parser of the job.
        recipe (float): Drop path rate in the recipe of ViT-B, for the help text.
    """
    parser.add_argument(
        '--drop-path',
        type=float,
        default=0.0,
        metavar='RATE',
        help='drop path rate of the last block, from 0 to 1 (default: %(default)s; '
        f'the recipe of ViT-B has {recipe})',
    )


def vit_arch(args: argparse.Namespace) -> dict:
    """Return the architecture that ``--arch`` and ``--depth`` ask for.

    Args:
        args (argparse.Namespace): The command line.

    Returns:
        dict: ``embed_dims``, ``num_layers``, ``num_heads`` and
        ``feedforward_channels``.

    Raises:
        SystemExit: If there is no such architecture.
    """
    from mmmaskdistill.models.backbones.mask_distill_vit import ARCHS

    if args.arch not in ARCHS:
        fail(f'--arch {args.arch!r}: expected one of {", ".join(ARCHS)}')
    arch = dict(ARCHS[args.arch])
    if args.depth:
        arch['num_layers'] = args.depth
    return arch


def run(args: argparse.Namespace, build: Build) -> dict:
    """Measure once or for each point of the sweeps, and print the tables.

    Args:
        args (argparse.Namespace): The command line.
        build (Callable): Builds the sides of the job from the command line and
            the device.

    Returns:
        dict: The measurements, as they are written to the JSON file.

    Raises:
        SystemExit: If ``--plot`` is given without ``--sweep``, or the sides do not
            compute the same result.
    """
    from mmengine.logging import MMLogger

    import mmmaskdistill  # noqa: F401

    MMLogger.get_current_instance().setLevel('ERROR')  # keeps the output short
    if args.plot and not args.sweep:
        fail('--plot draws what --sweep measures: add --sweep')
    keeps = measure.keep_freed_memory()
    device = torch.device(args.device)
    dtype = torch.bfloat16 if args.amp else torch.float32
    result = dict(
        machine=measure.machine(device),
        keeps_freed_memory=keeps,
        product_rate=measure.product_rate(device, dtype),
    )
    if not args.sweep:
        for figures in _measure(args, build, device, result['product_rate']):
            result.update(figures)
            args.keep(result)
        print_table(result['sides'])
    else:
        sweeps = result['sweeps'] = {}
        for name in args.sweep:
            for points in _sweep(args, name, build, device, result['product_rate']):
                sweeps[name] = points
                args.keep(result)
    print(
        f'{result["machine"]}; product of square matrices in '
        f'{str(dtype).removeprefix("torch.")}: '
        f'{result["product_rate"] / 1e9:.0f} GFLOP/s'
    )
    if args.plot:
        from mmmaskdistill.visualization.scaling import draw_scaling

        draw_scaling(result['sweeps'], args.plot)
    return result


def _sweep(
    args: argparse.Namespace,
    name: str,
    build: Build,
    device: torch.device,
    rate: float,
) -> Iterator[list[dict]]:
    """Yield the points that are measured, whenever there is more of them."""
    points = []
    option, values = SWEEPS[name]
    for value in getattr(args, values):
        here = argparse.Namespace(**{**vars(args), option: value})
        if args.compile:
            # Otherwise the second value would be compiled for all values.
            torch._dynamo.reset()
        print(f'{name} {value}', flush=True)
        tokens = here.batch * (1 + (here.img_size // 16) ** 2)
        for figures in _measure(here, build, device, rate):
            point = {name: value, 'tokens': tokens, **figures}
            yield [*points, point]
        points.append(point)
        print_table(point['sides'])
        _free_memory(device)
        if args.until_all_fit and OUT_OF_MEMORY not in point['left_out'].values():
            break


def _free_memory(device: torch.device) -> None:
    """Free the memory of models that are no longer used."""
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.empty_cache()


def _measure(
    args: argparse.Namespace, build: Build, device: torch.device, rate: float
) -> Iterator[dict]:
    """Check that the sides compute the same result, and measure them.

    The last item is the result. With ``--compile`` it follows that of ``ours`` alone,
    because other sides may take minutes to compile.
    """
    # Drop path skips branches at random, so the results can only be compared
    # without it.
    plain = argparse.Namespace(**{**vars(args), 'drop_path': 0.0})
    torch.manual_seed(0)
    try:
        sides = build(plain, device)
        differences = check_equal(sides)
    except RuntimeError as error:
        if not measure.is_out_of_memory(error):
            raise
        print(f'all sides: {OUT_OF_MEMORY}', flush=True)
        left_out = dict.fromkeys(['ours', *args.against], OUT_OF_MEMORY)
        yield dict(batch=args.batch, differences={}, sides={}, left_out=left_out)
        return
    if getattr(args, 'drop_path', 0.0):
        torch.manual_seed(0)
        sides = build(args, device)
    for figures in time_sides(sides, args, device, rate):
        yield dict(differences=differences, **figures)


def time_sides(
    sides: dict[str, Side],
    args: argparse.Namespace,
    device: torch.device,
    rate: float,
    ours: Container[str] = ('ours',),
) -> Iterator[dict]:
    """Measure sides with the settings of the command line.

    The last item is the result, see :func:`_measure`.

    Args:
        sides (dict[str, Side]): The sides by name, in full precision. Changed in place:
            those that cannot be measured are removed, which frees their memory.
        args (argparse.Namespace): The command line.
        device (torch.device): Device of the sides.
        rate (float): Rate of :func:`.measure.product_rate`.
        ours (Container[str]): Names of the sides that are this project's. Defaults to
            ``ours``.

    Yields:
        dict: ``batch``, ``sides`` with the figures of each side, and ``left_out`` with
        the reasons why other sides could not be measured.
    """
    peak = None
    if device.type == 'cuda' and args.amp:
        peak = peak_rate(torch.cuda.get_device_name(device))
    for name, side in sides.items():
        sides[name] = as_timed(side, args, device, name in ours)
    del side

    def figures(sides: dict[str, Side], left_out: dict[str, str]) -> dict:
        return dict(
            batch=args.batch,
            sides=_figures(sides, args.batch, args.repeats, device, rate, peak),
            left_out=left_out,
        )

    if args.compile and 'ours' in sides and len(sides) > 1:
        alone = {'ours': sides['ours']}
        left_out = leave_out(alone, device, ours)
        yield figures(alone, left_out)
        del alone
    left_out = leave_out(sides, device, ours)
    yield figures(sides, left_out)


def as_timed(
    side: Side, args: argparse.Namespace, device: torch.device, ours: bool = True
) -> Side:
    """Give a side the settings that are timed: optimizer, compilation, precision.

    Args:
        side (Side): The side, which computes in full precision.
        args (argparse.Namespace): The command line.
        device (torch.device): Device of the side.
        ours (bool): Whether it is this project's implementation. Defaults to True.

    Returns:
        Side: The side with ``--adamw``, ``--channels-last``, ``--compile`` and
        ``--amp``.
    """
    from mmmaskdistill.engine.channels_last import use_channels_last
    from mmmaskdistill.engine.compiling import transformer_blocks

    if ours:
        use_channels_last(side.model, args.channels_last)
    if side.optimizer is not None and args.adamw != 'library':
        side = side._replace(optimizer=_adamw(side.model, **{args.adamw: True}))
    if args.compile and ours:
        for block in transformer_blocks(side.model):
            block.compile(backend=args.compile)
    elif args.compile:
        side = side._replace(output=torch.compile(side.output, backend=args.compile))
    if args.amp:
        autocast = torch.autocast(device.type, torch.bfloat16)
        side = side._replace(output=autocast(side.output))
    return side


def check_equal(sides: dict[str, Side]) -> dict[str, float]:
    """Check that all sides compute the same result.

    Args:
        sides (dict[str, Side]): The sides by name, ``ours`` among them.

    Returns:
        dict[str, float]: For each other side, the largest difference from the
        output of ``ours``, relative to the largest value of that output.

    Raises:
        SystemExit: If one of these differences is above 1e-4.
    """
    outputs = {}
    # By default, cuDNN rounds what it convolves to TF32.
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        for name, side in sides.items():
            torch.manual_seed(DROPOUT_SEED)
            with torch.no_grad():
                outputs[name] = side.output().float()
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
    reference = outputs.pop('ours')
    largest = reference.abs().max()
    differences = {
        name: ((output - reference).abs().max() / largest).item()
        for name, output in outputs.items()
    }
    for name, difference in differences.items():
        if not difference <= 1e-4:
            fail(
                f'{name} computes another result than ours: the largest '
                f'difference is {difference:.1e} of the largest value {largest:.4g}, '
                'expected at most 1e-4'
            )
    return differences


def leave_out(
    sides: dict[str, Side], device: torch.device, ours: Container[str] = ('ours',)
) -> dict[str, str]:
    """Remove the sides that cannot be timed.

    Args:
        sides (dict[str, Side]): The sides by name, changed in place.
        device (torch.device): Device of the sides.
        ours (Container[str]): Names of the sides that are this project's. Defaults to
            ``ours``.

    Returns:
        dict[str, str]: For each side that was removed, the reason.
    """
    left_out = {}
    # The first call of a side makes the state of its optimizer. In the second round
    # all of them are there, as they are when the sides are timed.
    for _ in range(2 if device.type == 'cuda' else 1):
        for name in list(sides):
            reason = _why_not(sides[name], device, name in ours)
            if reason:
                print(f'{name}: {reason}', flush=True)
                left_out[name] = reason
                # Modules may be shared with other sides, so nothing is moved to the
                # CPU. What belongs to this side alone is freed.
                del sides[name]
                measure.return_freed_memory()
                _free_memory(device)
    return left_out


def _why_not(side: Side, device: torch.device, ours: bool) -> str | None:
    """Call a side, and say why it cannot be timed.

    A side of this project may lack memory or fail to compile. Its other errors are
    raised.
    """
    # The driver of a GPU reserves more addresses than there is memory.
    on_cpu = device.type == 'cpu'
    try:
        with measure.limited_memory() if on_cpu else nullcontext():
            side.call()
        return None
    except Exception as error:
        from torch._dynamo.exc import TorchDynamoException  # a slow import

        if measure.is_out_of_memory(error):
            return OUT_OF_MEMORY
        kind = 'does not compile'
        if not isinstance(error, TorchDynamoException):
            kind = 'does not run'
            if ours:
                raise
        message = ' '.join(str(error).split())[:200]
        return f'{kind}: {type(error).__name__}: {message}'


def _figures(
    sides: dict[str, Side],
    batch: int,
    repeats: int,
    device: torch.device,
    rate: float,
    peak: float | None,
) -> dict:
    """Measure time, operations and memory of each side."""
    seconds = measure.interleave(
        {name: side.call for name, side in sides.items()}, repeats, device
    )
    figures = {}
    for name, side in sides.items():
        times = measure.spread(seconds[name])
        flops = _attempt(f'{name}, operations', partial(_flops, side), side, device)
        figures[name] = dict(
            seconds=seconds[name],
            **times,
            images_per_second=batch / times['median'],
            flops=flops,
            share_of_product_rate=flops and flops / times['median'] / rate,
            share_of_peak_rate=flops and peak and flops / times['median'] / peak,
        )
        if side.optimizer is not None:
            count = partial(measure.kept_bytes, side.output, side.model.parameters())
            kept = _attempt(f'{name}, kept for backward', count, side, device)
            figures[name]['kept_bytes_per_image'] = kept and kept / batch
        figures[name].update(
            peak_bytes=measure.peak_bytes(side.call, device),
            state_bytes=measure.state_bytes(side.model, side.optimizer),
        )
    return figures


def _flops(side: Side) -> int:
    """Count the operations of a side."""
    from mmmaskdistill.models.layers import attention_kernels

    # Operators inside of compiled code cannot be counted, and FlexAttention cannot be
    # trained in another way. All ways of attention have the same matrix products.
    with (
        torch.compiler.set_stance('force_eager'),
        patch.dict(attention_kernels._KERNELS, clear=True),
    ):
        return measure.count_flops(side.call)


def _attempt(
    what: str, count: Callable[[], int], side: Side, device: torch.device
) -> int | None:
    """Count something. If this fails, say so and keep what was measured before.

    A step that is not compiled may need more memory, for example.
    """
    try:
        return count()
    except Exception as error:
        message = ' '.join(str(error).split())[:200]
        print(f'{what}: {type(error).__name__}: {message}', flush=True)
    if side.optimizer is not None:
        side.optimizer.zero_grad()
    _free_memory(device)
    return None


def print_table(sides: dict[str, dict], ours: str = 'ours') -> None:
    """Print the measurements of all sides.

    A ratio above 1 means that a side needs more time or memory than ``ours``.

    Args:
        sides (dict[str, dict]): The measurements of each side by its name.
        ours (str): Name of the side to which the others are compared. Defaults to
            ``ours``.
    """
    from prettytable import PrettyTable

    reference = sides.get(ours, {})

    def with_ratio(side: dict, key: str) -> list[str]:
        if side.get(key) is None:
            return ['-', '-']
        ratio = f'{side[key] / reference[key]:.2f}' if reference.get(key) else '-'
        return [f'{side[key] / 1e6:.1f}', ratio]

    table = PrettyTable(
        [
            'side',
            'seconds (quartiles)',
            f'time / {ours}',
            'images/s',
            'TFLOP',
            'share of product rate',
            'share of peak rate',
            'kept MB per image',
            f'kept / {ours}',
            'peak MB',
            f'peak / {ours}',
            'weights MB',
        ],
        align='r',
    )

    def number(value: float | None, form: str) -> str:
        return '-' if value is None else format(value, form)

    for name, side in sides.items():
        ratio = f'{side["median"] / reference["median"]:.2f}' if reference else '-'
        flops = side['flops']
        table.add_row(
            [
                name,
                f'{side["median"]:.3f} ({side["low"]:.3f} to {side["high"]:.3f})',
                ratio,
                f'{side["images_per_second"]:.2f}',
                number(flops and flops / 1e12, '.3f'),
                number(side['share_of_product_rate'], '.0%'),
                number(side['share_of_peak_rate'], '.0%'),
                *with_ratio(side, 'kept_bytes_per_image'),
                *with_ratio(side, 'peak_bytes'),
                f'{side["state_bytes"] / 1e6:.0f}',
            ]
        )
    print(table, flush=True)
