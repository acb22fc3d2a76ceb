"""What jobs that compute share: options, sides, figures and their table."""

import argparse
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

LR = 1e-9  # the weights stay what they are
DROPOUT_SEED = 1
# The option that grows, and the one that has its values.
SWEEPS = dict(
    size=('img_size', 'sizes'), batch=('batch', 'batches'), depth=('depth', 'depths')
)


class Side(NamedTuple):
    """One way to compute.

    Attributes:
        output: Gives what must be equal on all sides: the loss of the
            benchmark's batch, or logits.
        model: What computes.
        optimizer: As users of this library would set it; None where nothing is
            trained.
    """

    output: Callable[[], Tensor]
    model: nn.Module
    optimizer: torch.optim.Optimizer | None = None

    def call(self):
        """What is timed: a training step, or inference."""
        if self.optimizer is None:
            with torch.no_grad():
                self.output()
            return
        self.output().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def training(loss: Callable[[], Tensor], model: nn.Module, fused: bool) -> Side:
    """A side that trains with AdamW; torch's own choice unless ``fused``."""
    return Side(
        loss,
        model,
        torch.optim.AdamW(
            (p for p in model.parameters() if p.requires_grad),
            LR,
            weight_decay=0.05,
            fused=fused or None,
        ),
    )


Build = Callable[[argparse.Namespace, torch.device], dict[str, Side]]


def add_arguments(parser, peers: Sequence[str], img_size: int, batch: int):
    """Options of every job that computes."""
    parser.add_argument(
        '--against',
        nargs='*',
        choices=peers,
        default=list(peers),
        help='peers (default: all)',
    )
    parser.add_argument('--arch', default='base', help='arch of the ViT (%(default)s)')
    parser.add_argument('--depth', type=int, help="blocks (default: the arch's)")
    parser.add_argument(
        '--img-size', type=int, default=img_size, help='in pixels (%(default)s)'
    )
    parser.add_argument(
        '--batch', type=int, default=batch, help='images a call (%(default)s)'
    )
    parser.add_argument(
        '--repeats', type=int, default=5, help='timed calls (%(default)s)'
    )
    parser.add_argument(
        '--device',
        default='cpu',
        help='cpu or cuda (%(default)s); cuda was not run by the authors',
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='autocast to bfloat16; that the sides are equal is checked without',
    )
    parser.add_argument(
        '--compile',
        action='store_true',
        help='torch.compile all sides; also checked without',
    )
    parser.add_argument(
        '--sweep',
        nargs='+',
        choices=SWEEPS,
        default=[],
        help='repeat for several image sizes, batches or depths, the others '
        'as above; a side that memory does not hold is left out',
    )
    parser.add_argument(
        '--sizes', type=int, nargs='+', default=[224, 384, 512, 768, 1024]
    )
    parser.add_argument('--batches', type=int, nargs='+', default=[1, 2, 4, 8, 16])
    parser.add_argument('--depths', type=int, nargs='+', default=[6, 12, 24])
    parser.add_argument('--plot', help='PNG file for the sweeps')


def add_drop_path(parser, recipe: float):
    """The option of fine-tuning jobs, and what ViT-B's recipe has."""
    parser.add_argument(
        '--drop-path',
        type=float,
        default=0.0,
        help='drop path of the last block (%(default)s; the recipe of ViT-B '
        f'has {recipe})',
    )


def vit_arch(args) -> dict:
    """Width, depth, heads and MLP width of the ViT that is asked for."""
    from mmmaskdistill.models.backbones.mask_distill_vit import ARCHS

    if args.arch not in ARCHS:
        raise SystemExit(
            f'error: --arch {args.arch!r}: expected one of {", ".join(ARCHS)}'
        )
    arch = dict(ARCHS[args.arch])
    if args.depth:
        arch['num_layers'] = args.depth
    return arch


def run(args, build: Build) -> dict:
    """Measure once, or along the sweeps, and print the tables."""
    from mmengine.logging import MMLogger

    import mmmaskdistill  # noqa: F401
    from mmmaskdistill.apis import measure

    MMLogger.get_current_instance().setLevel('ERROR')  # only the table counts
    if args.plot and not args.sweep:
        raise SystemExit('error: --plot draws what --sweep measures: add it')
    keeps = measure.keep_freed_memory()
    device = torch.device(args.device)
    dtype = torch.bfloat16 if args.amp else torch.float32
    result = dict(
        machine=measure.machine(device),
        keeps_freed_memory=keeps,
        product_rate=measure.product_rate(device, dtype),
    )
    if not args.sweep:
        result.update(_measure(args, build, device, result['product_rate']))
        print_table(result['sides'])
    else:
        result['sweeps'] = {
            name: _sweep(args, name, build, device, result['product_rate'])
            for name in args.sweep
        }
    print(
        f'{result["machine"]}; square matrix product, '
        f'{str(dtype).removeprefix("torch.")}: '
        f'{result["product_rate"] / 1e9:.0f} GFLOP/s'
    )
    if args.plot:
        from mmmaskdistill.visualization.scaling import draw_scaling

        draw_scaling(result['sweeps'], args.plot)
    return result


def _sweep(args, name: str, build: Build, device, rate: float) -> list[dict]:
    points = []
    option, values = SWEEPS[name]
    for value in getattr(args, values):
        here = argparse.Namespace(**{**vars(args), option: value})
        print(f'{name} {value}', flush=True)
        points.append(
            {
                name: value,
                'tokens': here.batch * (1 + (here.img_size // 16) ** 2),
                **_measure(here, build, device, rate),
            }
        )
        print_table(points[-1]['sides'])
    return points


def _measure(args, build: Build, device, rate: float) -> dict:
    """Differences and figures of the sides."""
    # Drop path skips branches at random: without it, sides are comparable.
    plain = argparse.Namespace(**{**vars(args), 'drop_path': 0.0})
    torch.manual_seed(0)
    sides = build(plain, device)
    differences = check_equal(sides)
    if getattr(args, 'drop_path', 0.0):
        torch.manual_seed(0)
        sides = build(args, device)
    if args.compile:
        sides = {
            name: side._replace(output=torch.compile(side.output))
            for name, side in sides.items()
        }
    if args.amp:
        autocast = torch.autocast(device.type, torch.bfloat16)
        sides = {
            name: side._replace(output=autocast(side.output))
            for name, side in sides.items()
        }
    sides = {n: side for n, side in sides.items() if _fits(n, side)}
    return dict(
        differences=differences,
        sides=_figures(sides, args.batch, args.repeats, device, rate),
    )


def check_equal(sides: dict[str, Side]) -> dict[str, float]:
    """Refuse to time what does not compute the same.

    Returns:
        dict[str, float]: Each peer's largest difference from ours, a part of
        our largest value.
    """
    outputs = {}
    for name, side in sides.items():
        torch.manual_seed(DROPOUT_SEED)
        with torch.no_grad():
            outputs[name] = side.output().float()
    ours = outputs.pop('ours')
    largest = ours.abs().max()
    differences = {
        name: ((theirs - ours).abs().max() / largest).item()
        for name, theirs in outputs.items()
    }
    for name, difference in differences.items():
        if not difference <= 1e-4:
            raise SystemExit(
                f'error: {name} computes something else: it differs from ours '
                f'by {difference:.1e} of the largest value, {largest:.4g}'
            )
    return differences


def _fits(name: str, side: Side) -> bool:
    """Whether memory suffices; other errors are raised."""
    from mmmaskdistill.apis import measure

    try:
        with measure.limited_memory():
            side.call()
    except RuntimeError as error:
        if not measure.is_out_of_memory(error):
            raise
        side.model.to('cpu')
    else:
        return True
    print(f'{name}: out of memory')
    measure.return_freed_memory()
    return False


def _figures(
    sides: dict[str, Side], batch: int, repeats: int, device, rate: float
) -> dict:
    from mmmaskdistill.apis import measure

    seconds = measure.interleave(
        {name: side.call for name, side in sides.items()}, repeats, device
    )
    figures = {}
    for name, side in sides.items():
        times = measure.spread(seconds[name])
        flops = measure.count_flops(side.call)
        figures[name] = dict(
            seconds=seconds[name],
            **times,
            images_per_second=batch / times['median'],
            flops=flops,
            share_of_product_rate=flops / times['median'] / rate,
        )
        if side.optimizer is not None:
            figures[name]['kept_bytes_per_image'] = (
                measure.kept_bytes(side.output, side.model.parameters()) / batch
            )
        figures[name].update(
            peak_bytes=measure.peak_bytes(side.call, device),
            state_bytes=measure.state_bytes(side.model, side.optimizer),
        )
    return figures


def print_table(sides: dict[str, dict]):
    """Figures by side; a ratio above 1 is in our favour."""
    from prettytable import PrettyTable

    ours = sides.get('ours', {})

    def with_ratio(side: dict, key: str) -> list[str]:
        if key not in side:
            return ['-', '-']
        ratio = f'{side[key] / ours[key]:.2f}' if ours.get(key) else '-'
        return [f'{side[key] / 1e6:.1f}', ratio]

    table = PrettyTable(
        [
            'side',
            'seconds (quartiles)',
            'times ours',
            'images/s',
            'TFLOP',
            'share of product rate',
            'kept MB an image',
            'times ours ',
            'peak MB',
            'times ours  ',
            'weights MB',
        ],
        align='r',
    )
    for name, side in sides.items():
        ratio = f'{side["median"] / ours["median"]:.2f}' if ours else '-'
        table.add_row(
            [
                name,
                f'{side["median"]:.3f} ({side["low"]:.3f} to {side["high"]:.3f})',
                ratio,
                f'{side["images_per_second"]:.2f}',
                f'{side["flops"] / 1e12:.3f}',
                f'{side["share_of_product_rate"]:.0%}',
                *with_ratio(side, 'kept_bytes_per_image'),
                *with_ratio(side, 'peak_bytes'),
                f'{side["state_bytes"] / 1e6:.0f}',
            ]
        )
    print(table, flush=True)
