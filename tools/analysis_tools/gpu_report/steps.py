"""The steps of the report: which commands measure what, and at which sizes."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .machine import ROOT, environment
from .running import Part, Step

TOOLS = 'tools/analysis_tools'
QUICKSTART = 'quickstart'
CLIP_L = 'vit_large_patch14_clip_quickgelu_224.openai'
# Instead of the recipe's sizes. UperNet needs the outputs of four different blocks.
TINY = ('--arch', 'tiny', '--depth', '2', '--img-size', '64', '--repeats', '1')
TINY_UPERNET = ('--arch', 'tiny', '--depth', '6', '--img-size', '64', '--repeats', '1')
# Options of the sizes that the recipes have, by device. A CPU has smaller batches.
REPEATS = dict(cuda=('--repeats', '10'), cpu=('--repeats', '3'))


def make_steps(device: str, tiny: bool) -> list[Step]:
    """Make all steps of the report, the most telling ones first.

    Args:
        device (str): ``cuda`` or ``cpu``.
        tiny (bool): Whether everything is measured at sizes that only show that it
            works.

    Returns:
        list[Step]: The steps 1 to 6.
    """
    steps = [
        Step(1, 'Tests', tests(), 5),
        Step(2, 'Pre-training', pretraining(device, tiny), 8),
        Step(3, 'Fine-tuning, UperNet and inference', finetuning(device, tiny), 5),
        Step(4, 'Where the time goes', profiles(device, tiny), 4),
        Step(5, 'Data loading', loading(device, tiny), 2),
        Step(6, 'Quickstart', quickstart(tiny), 4),
    ]
    if not tiny:
        return steps
    # At tiny sizes, some commands are the same.
    return [replace(step, parts=_different(step.parts)) for step in steps]


def _different(parts: Sequence[Part]) -> list[Part]:
    commands = [part.command for part in parts]
    return [p for k, p in enumerate(parts) if commands.index(p.command) == k]


def benchmark(job: str, *options) -> list[str]:
    """Return the command that runs a job of benchmark.py and writes its result."""
    return [
        '{python}',
        f'{TOOLS}/benchmark.py',
        job,
        *map(str, options),
        '--out',
        '{out}',
    ]


def tests() -> list[Part]:
    """Return the tests with the marker ``gpu``."""
    command = ['{python}', '-m', 'pytest', '-m', 'gpu', '-q', '-rfE', '--tb=short']
    command += ['-p', 'no:cacheprovider', '-p', 'gpu_report.outcomes']
    command += ['--outcomes', '{out}', 'tests/test_gpu']
    # pytest must find the plugin.
    paths = environment(ROOT, ROOT / TOOLS)['PYTHONPATH']
    # Compiling takes most of the time.
    compiles = 'compil or flex'
    return [
        Part(
            name,
            title,
            [*command, '-k', chosen],
            env={'PYTHONPATH': paths},
            weight=weight,
        )
        for name, title, chosen, weight in (
            ('tests', 'plain', f'not ({compiles})', 1),
            ('compiled', 'compiled', compiles, 2),
        )
    ]


def _options(device: str, tiny: bool, batches: Sequence[int], small: Sequence) -> list:
    """Return the options that all comparisons have.

    On a GPU, the batch is the recipe's per GPU, or the largest power of two below it
    at which all sides fit.

    Args:
        device (str): ``cuda`` or ``cpu``.
        tiny (bool): Whether the options of tiny sizes are taken.
        batches (Sequence[int]): Batch sizes to try on a GPU, descending.
        small (Sequence): Options of tiny sizes.
    """
    options = ['--device', device]
    if tiny:
        return [*options, '--amp', '--batch', 2, *small]
    if device == 'cpu':
        return [*options, '--batch', min(8, batches[0]), *REPEATS['cpu']]
    return [
        *(*options, '--amp', *REPEATS['cuda']),
        *('--sweep', 'batch', '--until-all-fit', '--batches', *batches),
    ]


def _compile(tiny: bool) -> list[str]:
    """Return the options that compile. Code for CPUs takes too long to generate."""
    return ['--compile', *(['aot_eager'] if tiny else [])]


def pretraining(device: str, tiny: bool) -> list[Part]:
    """Return the pre-training steps of ViT-B and ViT-L next to other libraries'.

    See :func:`make_steps` for the arguments.
    """
    small = (*TINY, '--teacher', 'test_vit')
    common = _options(device, tiny, (256, 128, 64, 32, 16), small)
    large = () if tiny else ('--arch', 'large', '--teacher', CLIP_L)
    large += () if tiny else ('--teacher-img-size', '196')
    base, fast = benchmark('pretrain', *common), _compile(tiny)
    return [
        Part('base', 'ViT-B/16, CLIP ViT-B/16', base),
        Part(
            'base_compiled',
            'ViT-B/16, CLIP ViT-B/16, compiled',
            benchmark('pretrain', *common, *fast),
            weight=2,
        ),
        Part(
            'large',
            'ViT-L/16, CLIP ViT-L/14',
            benchmark('pretrain', *common, *large),
            weight=1.5,
        ),
        Part(
            'large_compiled',
            'ViT-L/16, CLIP ViT-L/14, compiled',
            benchmark('pretrain', *common, *large, *fast),
            weight=3,
        ),
        Part(
            'large_checkpointing',
            'ViT-L/16, CLIP ViT-L/14, with_cp=True',
            benchmark('pretrain', *common, *large, '--checkpointing', '--against'),
        ),
        Part(
            'base_fused',
            'ViT-B/16, CLIP ViT-B/16, fused AdamW on all sides',
            benchmark('pretrain', *common, '--adamw', 'fused'),
        ),
    ]


def finetuning(device: str, tiny: bool) -> list[Part]:
    """Return fine-tuning and inference next to other libraries'.

    See :func:`make_steps` for the arguments.
    """
    drop = '--drop-path'
    classify = _options(device, tiny, (128, 64, 32, 16), TINY)
    upernet = _options(device, tiny, (2, 1), TINY_UPERNET)
    greater = _options(device, tiny, (16, 8, 4), TINY_UPERNET)
    infer = _options(device, tiny, (1,), TINY_UPERNET)
    fast = _compile(tiny)
    return [
        Part(
            'finetune',
            'classification, ViT-B/16, 224 px, drop path 0.1',
            benchmark('finetune', *classify, drop, '0.1'),
        ),
        Part(
            'segment',
            'UperNet, ViT-B/16, 512 px, drop path 0.15',
            benchmark('segment', *upernet, drop, '0.15'),
        ),
        Part(
            'slide',
            'inference, UperNet, ViT-B/16, 512 x 683 px, sliding windows',
            benchmark('eval', *infer),
        ),
        Part(
            'whole',
            'inference, UperNet, ViT-B/16, 512 x 512 px, whole images',
            benchmark('eval', *infer, '--mode', 'whole'),
        ),
        Part(
            'segment_greater',
            'UperNet, ViT-B/16, 512 px, drop path 0.15, greater batch',
            benchmark('segment', *greater, drop, '0.15'),
        ),
        Part(
            'segment_channels_last',
            'UperNet, ViT-B/16, 512 px, channels_last=True',
            benchmark('segment', *upernet, '--channels-last', '--against'),
        ),
        Part(
            'finetune_compiled',
            'classification, ViT-B/16, 224 px, compiled',
            benchmark('finetune', *classify, *fast),
            weight=2,
        ),
        Part(
            'segment_compiled',
            'UperNet, ViT-B/16, 512 px, compiled',
            benchmark('segment', *upernet, *fast),
            weight=2,
        ),
    ]


def profiles(device: str, tiny: bool) -> list[Part]:
    """Return the profiles of the pre-training step and the ways of its attention.

    See :func:`make_steps` for the arguments.
    """
    options, small = _step(device, tiny), ['--dtype', 'float32', '--batch', 1]
    ways = ['--device', device]
    if device == 'cuda' and not tiny:
        ways += ['--batch', 256, *REPEATS['cuda']]
    else:
        ways += [*small, '--repeats', 1]
    # The others need a GPU.
    trained = ['gather', *(['efficient', 'flex'] if device == 'cuda' else [])]
    return [
        Part('plain', 'not compiled', benchmark('profile', *options)),
        Part('attention', 'ways of attention', benchmark('attention', *ways)),
        *(
            Part(
                f'step_{way}',
                f'ViT-B/16, CLIP ViT-B/16, attention={way}',
                benchmark('pretrain', *options, '--attention', way, '--against'),
            )
            for way in ('auto', *trained)
        ),
        Part(
            'compiled',
            'compiled',
            benchmark('profile', *options, *_compile(tiny)),
            weight=2,
        ),
        Part(
            'attention_compiled',
            'ways of attention, compiled',
            benchmark('attention', *ways, *_compile(tiny)),
            weight=2,
        ),
    ]


def _step(device: str, tiny: bool) -> list:
    """Return the options of the pre-training step of ViT-B/16 at the recipe's batch."""
    options = ['--device', device]
    if tiny:
        return [*options, '--amp', '--batch', 2, *TINY, '--teacher', 'test_vit']
    if device == 'cpu':
        return [*options, '--batch', 8, *REPEATS['cpu']]
    return [*options, '--amp', '--batch', 256, *REPEATS['cuda']]


def loading(device: str, tiny: bool) -> list[Part]:
    """Return the loading of images on a core and the device, and copies to the device.

    See :func:`make_steps` for the arguments.
    """
    tables = ['--repeats', 1 if tiny else 10, '--tables']
    one = {'OMP_NUM_THREADS': '1'}
    return [
        Part(
            'pipelines',
            'images that one core loads',
            benchmark('data', *tables, 'pipelines', 'storage'),
            env=one,
        ),
        Part(
            'split',
            'images that one core loads if the device computes the pixels',
            benchmark('data', *tables, 'split', '--device', device),
            env=one,
        ),
        Part(
            'transfer',
            'copies of batches to the device',
            benchmark('transfer', *_step(device, tiny)),
        ),
    ]


def quickstart(tiny: bool) -> list[Part]:
    """Return the quickstart, which writes to the report's folder.

    See :func:`make_steps` for the argument.
    """
    command = ['bash', 'tools/quickstart.sh', '--no-install', '--out']
    command += [f'{{dir}}/{QUICKSTART}', *(['--tiny'] if tiny else [])]
    return [
        Part(
            'quickstart',
            'tools/quickstart.sh',
            ['env', 'PYTHON={python}', *command],
            read=read_quickstart,
            folder=QUICKSTART,
        )
    ]


def read_quickstart(out: Path) -> dict:
    """Read the summary of the quickstart, or the times of its stages if it was cut.

    Args:
        out (Path): A file in the folder ``steps`` of the report.

    Returns:
        dict: The content of ``summary.json``. Of a quickstart that was cut,
        ``seconds_by_stage`` and ``seconds``, and ``miou`` and ``top1`` without numbers.

    Raises:
        FileNotFoundError: If no stage is complete.
    """
    folder = out.parents[1] / QUICKSTART
    summary = folder / 'summary.json'
    if summary.is_file():
        return json.loads(summary.read_text())
    stages = {
        file.stem: int(file.read_text())
        for file in sorted(folder.glob('*.seconds'), key=os.path.getmtime)
    }
    if not stages:
        raise FileNotFoundError(f'{folder} has no stage that is complete')
    return dict(miou={}, top1={}, seconds_by_stage=stages, seconds=sum(stages.values()))
