"""What jobs that compute share: options, sides, figures and their table."""
from typing import Callable, Dict, NamedTuple, Sequence

import torch
from torch import Tensor, nn

LR = 1e-9  # the weights stay what they are


class Side(NamedTuple):
    """One way to train.

    Attributes:
        loss: Gives the loss of the benchmark's batch.
        model: What is trained.
        optimizer: As users of this library would set it.
    """
    loss: Callable[[], Tensor]
    model: nn.Module
    optimizer: torch.optim.Optimizer

    def step(self):
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()


def add_arguments(parser, peers: Sequence[str], img_size: int, batch: int):
    """Options of every job that computes."""
    parser.add_argument(
        '--against',
        nargs='*',
        choices=peers,
        default=list(peers),
        help='peers (default: all)')
    parser.add_argument(
        '--arch', default='base', help='arch of the ViT (%(default)s)')
    parser.add_argument(
        '--img-size', type=int, default=img_size,
        help='in pixels (%(default)s)')
    parser.add_argument(
        '--batch', type=int, default=batch, help='images a step (%(default)s)')
    parser.add_argument(
        '--repeats', type=int, default=5, help='timed calls (%(default)s)')
    parser.add_argument(
        '--device', default='cpu', help='cpu or cuda (%(default)s)')


def run(args, build: Callable[..., Dict[str, Side]]) -> dict:
    """Build the sides, measure them and print the table."""
    import mmmaskdistill  # noqa: F401
    from mmengine.logging import MMLogger
    MMLogger.get_current_instance().setLevel('ERROR')  # only the table counts
    torch.manual_seed(0)
    device = torch.device(args.device)
    result = measure_all(build(args, device), args, device)
    print_table(result)
    return result


def check_equal(sides: Dict[str, Side]):
    """Refuse to time what does not compute the same."""
    ours = sides['ours'].loss().item()
    for name, side in sides.items():
        theirs = side.loss().item()
        if not abs(theirs - ours) <= 1e-4 * abs(ours):
            raise SystemExit(f'error: the loss of {name} is {theirs:.6f}, '
                             f'ours {ours:.6f}: these are not the same')


def measure_all(sides: Dict[str, Side], args, device) -> dict:
    """All figures of all sides."""
    from mmmaskdistill.apis import measure
    check_equal(sides)
    rate = measure.product_rate(device, torch.float32)
    seconds = measure.interleave(
        {name: side.step for name, side in sides.items()}, args.repeats,
        device)
    figures = {}
    for name, side in sides.items():
        times = measure.spread(seconds[name])
        flops = measure.count_flops(side.step)
        kept = measure.kept_bytes(side.loss, side.model.parameters())
        figures[name] = dict(
            seconds=seconds[name],
            **times,
            images_per_second=args.batch / times['median'],
            flops=flops,
            share_of_product_rate=flops / times['median'] / rate,
            kept_bytes_per_image=kept / args.batch,
            peak_bytes=measure.peak_bytes(side.step, device))
    return dict(
        machine=measure.machine(device), product_rate=rate, sides=figures)


def print_table(result: dict):
    from prettytable import PrettyTable
    ours = result['sides']['ours']
    table = PrettyTable([
        'side', 'seconds (quartiles)', 'times ours', 'images/s', 'TFLOP',
        'share of product rate', 'kept MB an image', 'times ours ', 'peak GB'
    ], align='r')
    for name, side in result['sides'].items():
        table.add_row([
            name,
            f'{side["median"]:.3f} ({side["low"]:.3f} to {side["high"]:.3f})',
            f'{side["median"] / ours["median"]:.2f}',
            f'{side["images_per_second"]:.2f}',
            f'{side["flops"] / 1e12:.3f}',
            f'{side["share_of_product_rate"]:.0%}',
            f'{side["kept_bytes_per_image"] / 1e6:.1f}',
            f'{side["kept_bytes_per_image"] / ours["kept_bytes_per_image"]:.2f}',
            f'{side["peak_bytes"] / 1e9:.2f}' if side['peak_bytes'] else '-'
        ])
    print(table)
    print(f'{result["machine"]}; square matrix product '
          f'{result["product_rate"] / 1e9:.0f} GFLOP/s')
