"""Time and memory of each way to train attention with a learnable bias.

Several layers of ViT-B/16 run forward and backward, on the tokens of pre-training
(224 px, one bias for all layers), of fine-tuning (224 px, a table for each layer) and
of UperNet (512 px, a table for each layer). The ways are those of
``mmmaskdistill/models/layers/attention_kernels.py``; those that do not run on the
device are left out. The job ends with the rules that follow from the measurement, which
are to replace ``RULES`` in that file. For example:

  python tools/analysis_tools/benchmark.py attention --device cuda --batch 256
"""

import argparse
import math
from collections.abc import Callable, Collection
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from . import measure

HEADS, WIDTH, LAYERS = 12, 768, 4
# The gradients of a way may differ from those of the first way by rounding errors: the
# largest length of the difference, relative to that of the gradient.
LARGEST_DIFFERENCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# A way becomes the default only if it is faster than today's by this factor.
MARGIN = 1.03


class Case(NamedTuple):
    """Inputs of attention.

    Attributes:
        title (str): The task that has them.
        grid (int): Rows of the patch grid.
        shared (bool): Whether all layers share one bias.
    """

    title: str
    grid: int
    shared: bool

    @property
    def tokens(self) -> int:
        """Number of tokens of an image, with the class token."""
        return 1 + self.grid**2


CASES = (
    Case('pre-training, 224 px', 14, True),
    Case('fine-tuning, 224 px', 14, False),
    Case('UperNet, 512 px', 32, False),
)
# Cases of different sizes, by which the rules are made.
DECISIVE = (CASES[0], CASES[2])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this job."""
    parser.add_argument(
        '--batch',
        type=int,
        default=8,
        metavar='N',
        help='number of images of 224 px; there are fewer of 512 px, so that the '
        'number of tokens is about the same (default: %(default)s)',
    )
    parser.add_argument(
        '--repeats',
        type=int,
        default=5,
        metavar='N',
        help='number of timed calls of each way (default: %(default)s)',
    )
    parser.add_argument(
        '--device',
        default='cpu',
        help='cpu or cuda (default: %(default)s); the authors have not run cuda',
    )
    parser.add_argument(
        '--dtype',
        choices=['float32', 'bfloat16', 'float16'],
        default='bfloat16',
        help='dtype of queries, keys and values (default: %(default)s)',
    )
    parser.add_argument(
        '--compile',
        nargs='?',
        const='inductor',
        metavar='BACKEND',
        help='compile each layer, with the backend inductor or another one '
        '(default: no compilation)',
    )


def run(args: argparse.Namespace) -> dict:
    """Measure all ways and print the tables and the rules.

    Args:
        args (argparse.Namespace): The command line.

    Returns:
        dict: ``machine``, ``dtype``, ``compiled``, ``cases`` and ``rules``, a text.
        Each case has its ``title``, ``tokens``, ``shared``, ``batch``, ``ways`` and
        ``errors``.
    """
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    measure.keep_freed_memory()
    result = dict(
        machine=measure.machine(device),
        dtype=args.dtype,
        compiled=bool(args.compile),
        cases=[],
    )
    for ways in rounds(device):
        for k, case in enumerate(CASES):
            # Otherwise later cases would be compiled for any size, and, after the limit
            # of recompilations, not at all.
            torch._dynamo.reset()
            batch = max(1, round(args.batch * CASES[0].tokens / case.tokens))
            figures, errors = _measure(case, batch, ways, args, device, dtype)
            print_table(case, figures, errors)
            options = dict(case._asdict(), tokens=case.tokens, batch=batch)
            result['cases'][k : k + 1] = [dict(options, ways=figures, errors=errors)]
            if len(result['cases']) == len(CASES):
                result['rules'] = rules(result)
            args.keep(result)
    print(f'{result["machine"]}, {args.dtype}\n{result["rules"]}')
    return result


def rounds(device: torch.device) -> list[Collection[str]]:
    """Return the ways to measure, one round after the other.

    Args:
        device (torch.device): The device.

    Returns:
        list[Collection[str]]: On the CPU a single round. On a GPU, FlexAttention is
        only in the second one: its kernels are made by a compiler, and after an illegal
        access to memory the process can compute nothing more.
    """
    from mmmaskdistill.models.layers.attention_kernels import WAYS

    return [WAYS] if device.type == 'cpu' else [set(WAYS) - {'flex'}, WAYS]


def print_table(case: Case, ways: dict, errors: dict) -> None:
    """Print the table of a case.

    Args:
        case (Case): The case.
        ways (dict): The measurements of each way.
        errors (dict): Why other ways were not measured.
    """
    from prettytable import PrettyTable

    table = PrettyTable(
        [case.title, 'ms per layer (quartiles)', 'time / first', 'peak MB', 'differs'],
        align='r',
    )
    for name, way in ways.items():
        first = next(iter(ways.values()))['median']
        ms = {k: f'{1e3 * way[k]:.3f}' for k in ('median', 'low', 'high')}
        table.add_row(
            [
                name,
                f'{ms["median"]} ({ms["low"]} to {ms["high"]})',
                f'{way["median"] / first:.2f}',
                f'{way["peak_bytes"] / 1e6:.0f}',
                f'{way["difference"]:.1e}',
            ]
        )
    print(table)
    for name, error in errors.items():
        print(f'{name} is left out: {error}', flush=True)


def _measure(
    case: Case,
    batch: int,
    chosen: Collection[str],
    args: argparse.Namespace,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[dict, dict]:
    """Measure the ways that run and compute the same, and say why others do not."""
    from mmmaskdistill.models.layers.attention_kernels import ONLY_ON_CUDA, WAYS

    calls, errors, expected, differences = {}, {}, None, {}
    for way in [way for way in WAYS if way in chosen]:
        if way in ONLY_ON_CUDA and device.type != 'cuda':
            errors[way] = 'needs a CUDA device'
            continue
        if way == 'gather' and (args.compile or not case.shared):
            # There it computes the same as the way recompute.
            continue
        try:
            call = step(case, batch, way, device, dtype, args.compile)
            gradients = [x.float() for x in call()]
        except Exception as error:  # A compiler may raise anything.
            errors[way] = f'{type(error).__name__}: {str(error).strip()}'.split('\n')[0]
            continue
        expected = expected or gradients
        differs = [(a - b).norm() / b.norm() for a, b in zip(gradients, expected)]
        differences[way] = torch.stack(differs).max().item()
        if differences[way] <= LARGEST_DIFFERENCE[dtype]:
            calls[way] = call
        else:
            errors[way] = f'its gradients differ by {differences[way]:.1e}'
    seconds = measure.interleave(calls, args.repeats, device)
    ways = {
        way: dict(
            measure.spread([s / LAYERS for s in seconds[way]]),
            peak_bytes=measure.peak_bytes(call, device),
            difference=differences[way],
        )
        for way, call in calls.items()
    }
    return ways, errors


def step(
    case: Case,
    batch: int,
    way: str,
    device: torch.device,
    dtype: torch.dtype,
    compile: str | None = None,
) -> Callable[[], list[Tensor]]:
    """Make a function that runs the layers forward and backward.

    Args:
        case (Case): The inputs. Their values are the same in every call.
        batch (int): Number of images.
        way (str): How attention is computed.
        device (torch.device): The device.
        dtype (torch.dtype): Dtype of queries, keys and values.
        compile (str, optional): Backend that compiles each layer. Defaults to None.

    Returns:
        Callable[[], list[Tensor]]: The function, which returns the gradients of the
        projected tokens of the first layer and of its bias or table.
    """
    from mmmaskdistill.models.layers import gather_gradients
    from mmmaskdistill.models.layers.attention_kernels import trained_attention
    from mmmaskdistill.models.layers.relative_position import (
        relative_position_index,
        table_length,
    )

    # A CPU would need longer to draw the numbers than a GPU to compute with them.
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape, dtype: torch.dtype = torch.float32) -> Tensor:
        x = torch.randn(shape, generator=generator, device=device)
        return x.to(dtype).requires_grad_()

    grid, tokens = (case.grid, case.grid), case.tokens
    # One layer after the other would hide the differences behind linear layers.
    projected = [draw(batch, tokens, 3 * WIDTH, dtype=dtype) for _ in range(LAYERS)]
    if case.shared:
        biases, index = [draw(HEADS, tokens, tokens)], None
    else:
        biases = [draw(table_length(grid), HEADS) for _ in range(LAYERS)]
        index = relative_position_index(grid, device)
    grad = draw(batch, tokens, WIDTH, dtype=dtype).detach()

    def layer(qkv: Tensor, bias: Tensor) -> Tensor:
        return trained_attention([qkv], HEADS, bias, None, index, way)

    if compile:
        layer = torch.compile(layer, backend=compile, dynamic=False)

    def call() -> list[Tensor]:
        used = biases
        if case.shared:
            bias = gather_gradients(biases[0]) if way == 'gather' else biases[0]
            used = [bias] * LAYERS
        outs = [layer(qkv, bias) for qkv, bias in zip(projected, used)]
        gradients = torch.autograd.grad(outs, [*projected, *biases], [grad] * LAYERS)
        return [gradients[0], gradients[LAYERS]]

    return call


def rules(result: dict) -> str:
    """Return the rules that follow from a measurement.

    Args:
        result (dict): The result of :func:`run`, without ``rules``.

    Returns:
        str: Entries of ``RULES`` in ``attention_kernels.py``, one a line, and a comment
        where there can be none because the way ``recompute`` was not measured; or a
        comment that says that there are none.
    """
    cases = {case['title']: case for case in result['cases']}
    decisive = [cases[case.title] for case in DECISIVE]
    # A rule ends where the next larger case is as near, as a ratio.
    ends = [math.isqrt(a['tokens'] * b['tokens']) for a, b in pairwise(decisive)]
    lines, least = [], 1
    for case, end in zip(decisive, [*ends, None]):
        ways = case['ways']
        best = min(ways, key=lambda way: ways[way]['median'], default=None)
        if 'recompute' not in ways:
            lines.append(f'    # {case["title"]}: recompute was not measured')
        elif ways['recompute']['median'] > MARGIN * ways[best]['median']:
            largest = "float('inf')" if end is None else end
            lines.append(
                f"    Rule('{best}', (torch.{result['dtype']},), {result['compiled']}, "
                f'({least}, {largest})),'
            )
        least = (end or 0) + 1
    return '\n'.join(lines) or '    # none: recompute is not slower than the others'
