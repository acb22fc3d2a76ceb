"""Turn the records of the steps into the Markdown of docs/benchmarks.md."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from .machine import IN_USE
from .running import COMPLETE, Report, Step

LIBRARIES = dict(
    ours='MMMaskDistill', timm='timm', mmpretrain='mmpretrain', mmseg='mmseg'
)
MISSING = '-'


def write_report(report: Report, steps: Sequence[Step], tiny: bool) -> str:
    """Write the report from what was measured so far.

    Args:
        report (Report): The folder and the machine. Steps that were measured on
            another machine are left out.
        steps (Sequence[Step]): All steps, also those that were not asked for.
        tiny (bool): Whether all sizes are tiny.

    Returns:
        str: The Markdown.
    """
    records = {step.number: report.load(step.number) for step in steps}
    records = {
        number: record
        for number, record in records.items()
        if record and record['machine']['name'] == report.machine['name']
    }
    blocks = [*_head(report, records.values(), tiny)]
    for step in steps:
        record = records.get(step.number)
        results = _results(record) if record else {}
        if results:
            blocks += [f'### {step.title}', _origin(record)]
            blocks += SECTIONS[step.number](results, _context(records, report))
    blocks += _problems(steps, records)
    return '\n\n'.join(block for block in blocks if block) + '\n'


def _results(record: dict) -> dict[str, dict]:
    """Return the parts of a step that have a result, by name.

    The title of a part that was not finished says so, because rows may be missing.
    """
    parts = {}
    for name, part in record['parts'].items():
        if part['result'] is not None:
            status = '' if part['status'] == COMPLETE else f' ({part["status"]})'
            parts[name] = dict(part, title=part['title'] + status)
    return parts


def _context(records: dict[int, dict], report: Report) -> dict:
    """Return what a section needs besides the results of its own step."""
    part = records.get(2, dict(parts={}))['parts'].get('base') or {}
    rate = None
    if part.get('result') and report.machine['device'] == 'cuda':
        *_, point = _points(part['result'])
        rate = point['sides'].get('ours', {}).get('images_per_second')
    return dict(images_per_second=rate)


def _head(report: Report, records: Sequence[dict], tiny: bool) -> Iterator[str]:
    machine = report.machine
    yield f'## On one {machine["name"]}'
    if tiny:
        yield (
            'All models and images are tiny: the numbers only show that the commands '
            'work, whatever model a table names.'
        )
    memory = machine['memory']
    on_gpu = machine['device'] == 'cuda'
    dates = sorted(record['date'].split()[0] for record in records)
    rows = {
        'GPU' if on_gpu else 'processor': machine['name'],
        'memory': f'{memory / 2**30:.0f} GiB' if memory else MISSING,
        'driver': machine['driver'] or MISSING,
        'torch': machine['torch'],
        'CUDA': (machine['cuda'] if on_gpu else None) or MISSING,
        'Python': machine['python'],
        'CPU cores': machine['cores'],
        'commit': machine['commit'],
        'date': ' to '.join(dict.fromkeys([dates[0], dates[-1]])) if dates else MISSING,
        'command': f'`{report.command}`',
    }
    yield table(['', ''], [[name, value] for name, value in rows.items()])
    if machine.get('in_use'):
        yield IN_USE.format(machine['in_use'] / 2**30) + '.'


def _origin(record: dict) -> str:
    return (
        f'{record["date"]}, commit {record["machine"]["commit"]}, '
        f'{record["seconds"] / 60:.1f} minutes.'
    )


def table(header: Sequence[str], rows: Sequence[Sequence]) -> str:
    """Write a table.

    Args:
        header (Sequence[str]): Titles of the columns.
        rows (Sequence[Sequence]): Cells of each row.

    Returns:
        str: The Markdown, without a line break at its end.
    """

    def line(cells: Sequence) -> str:
        return '| ' + ' | '.join(str(c).replace('|', '\\|') for c in cells) + ' |'

    return '\n'.join([line(header), '|' + '---|' * len(header), *map(line, rows)])


def _points(result: dict) -> list[dict]:
    """Return the measurements of a comparison, one for each batch size."""
    return result['sweeps']['batch'] if 'sweeps' in result else [result]


def _cell(value: float | None, form: str, factor: float = 1.0) -> str:
    return MISSING if value is None else format(factor * value, form)


def comparison(results: dict[str, dict], context: dict) -> list[str]:
    """Write the table of a step that compares libraries.

    Args:
        results (dict[str, dict]): The parts with results.
        context (dict): Not used.

    Returns:
        list[str]: The table and what its columns mean.
    """
    rows = []
    for part in results.values():
        title = part['title']
        for point in _points(part['result']):
            sides = point['sides']
            reference = sides.get('ours', {}).get('median')
            for name, side in sides.items():
                ratio = MISSING
                if reference and name != 'ours':
                    ratio = f'{side["median"] / reference:.2f} x'
                memory = (side['peak_bytes'] + side['state_bytes']) / 1e9
                kept = side.get('kept_bytes_per_image')
                spread = f'{side["low"]:.3g} to {side["high"]:.3g}'
                rows.append(
                    [
                        title,
                        LIBRARIES[name],
                        point['batch'],
                        f'{side["median"]:.3g} ({spread})',
                        ratio,
                        f'{side["images_per_second"]:.3g}',
                        _cell(side['share_of_peak_rate'], '.1%'),
                        _cell(side['share_of_product_rate'], '.0%'),
                        f'{memory:.3g} GB',
                        _cell(kept, '.3g', 1e-6),
                    ]
                )
                title = ''
            for name, reason in point['left_out'].items():
                cells = [title, LIBRARIES[name], point['batch'], reason]
                rows.append(cells + [MISSING] * 6)
                title = ''
    header = [
        'what',
        'library',
        'batch',
        'seconds',
        'relative time',
        'images/s',
        'MFU',
        'of the measured rate',
        'memory',
        'kept for backward, MB per image',
    ]
    return [
        table(header, rows),
        'Times are medians, with the quartiles in parentheses. MFU is the rate of all '
        "matrix products that a library's step computes, divided by the GPU's peak "
        'rate of dense products in bfloat16 '
        '(`tools/analysis_tools/benchmarks/peaks.py`). Products that a step computes '
        'twice count twice (attention weights in the backward pass, `with_cp=True`). '
        'The measured rate is that of a product of square matrices. Memory is the peak '
        'with weights and the state of the optimizer.',
    ]


def _tests(results: dict[str, dict], context: dict) -> list[str]:
    outcomes, failed, skipped = ('passed', 'failed', 'skipped'), [], []
    rows = []
    for part in results.values():
        result = part['result']
        rows.append([part['title'], *(result['counts'][name] for name in outcomes)])
        failed += [[f'`{name}`', text] for name, text in result['failed'].items()]
        skipped += [[number, reason] for reason, number in result['skipped'].items()]
    blocks = [table(['tests', *outcomes], rows)]
    for part in results.values():
        if running := part['result']['running']:
            failed.append([f'`{running}`', 'was running when the tests were cut'])
    if failed:
        blocks.append(table(['failed test', 'message'], failed))
    if skipped:
        blocks.append(table(['skipped tests', 'reason'], skipped))
    return blocks


def _profiles(results: dict[str, dict], context: dict) -> list[str]:
    steps = {n: p for n, p in results.items() if n.startswith('step_')}
    blocks = _groups(results)
    if steps:
        blocks += comparison(steps, context)[:1]
    return blocks + _ways(results)


def _ways(results: dict[str, dict]) -> list[str]:
    """Write the table of the ways of attention, and the rules that follow."""
    rows, rules, errors = [], [], Counter()
    for part in results.values():
        result = part['result']
        for case in result.get('cases', ()):
            kind = f'{result["dtype"]}{", compiled" * result["compiled"]}'
            title = f'{case["title"]}, batch {case["batch"]}, {kind}'
            for way, times in case['ways'].items():
                spread = f'{1e3 * times["low"]:.3g} to {1e3 * times["high"]:.3g}'
                rows.append(
                    [
                        title,
                        way,
                        f'{1e3 * times["median"]:.3g} ({spread})',
                        f'{times["peak_bytes"] / 1e9:.3g} GB',
                        f'{times["difference"]:.1e}',
                    ]
                )
            errors.update(case['errors'].items())
        rules += [result['rules']] if 'rules' in result else []
    if not rows:
        return []
    header = ['attention', 'way', 'ms per layer', 'peak of 4 layers', 'difference']
    blocks = [
        table(header, rows),
        'The difference is that of the gradients from those of the first way, relative '
        'to their length.',
    ]
    if rules:
        blocks += [
            'Entries of `RULES` in `mmmaskdistill/models/layers/attention_kernels.py` '
            'that follow:',
            '\n'.join(rules),
        ]
    if errors:
        lines = [f'- {w}, in {n} cases: {e}' for (w, e), n in errors.items()]
        blocks += ['What was left out:', '\n'.join(lines)]
    return blocks


def _groups(results: dict[str, dict]) -> list[str]:
    """Write the table of the profiled groups of operators."""
    parts = {n: p for n, p in results.items() if 'groups' in p['result']}
    if not parts:
        return []
    header, columns = ['ms per step'], []
    for part in parts.values():
        result = part['result']
        times = dict(result['groups'], idle=result['idle_seconds'])
        total = sum(time for time in times.values() if time is not None)
        header += [f'{part["title"]}, batch {result["batch"]}', 'share']
        columns.append((times, total))
    rows = []
    for name in columns[0][0]:
        row = [name]
        for times, total in columns:
            time = times[name]
            share = None if time is None or not total else time / total
            row += [_cell(time, '.3g', 1e3), _cell(share, '.1%')]
        rows.append(row)
    steps = [_cell(p['result']['step_seconds'], '.3g', 1e3) for p in parts.values()]
    rows.append(
        ['step without the profiler', *(c for step in steps for c in (step, ''))]
    )
    return [
        'Pre-training step of ViT-B/16 with a CLIP ViT-B/16.',
        table(header, rows),
        'On a GPU these are the times of kernels, and "idle" is the time of a step '
        'without the profiler less that of all kernels.',
    ]


def _loading(results: dict[str, dict], context: dict) -> list[str]:
    blocks = []
    needed = context['images_per_second']
    if 'transfer' in results:
        result = results['transfer']['result']
        rows = [
            [name, f'{1e3 * t["median"]:.3g}', f'{result["batch"] / t["median"]:.4g}']
            for name, t in result['ways'].items()
        ]
        header = [f'copies of a batch of {result["batch"]}', 'ms per step', 'images/s']
        blocks.append(table(header, rows))
    if 'pipelines' in results:
        rows = []
        for name, times in results['pipelines']['result']['pipelines'].items():
            rate = 1 / times['median']
            rows.append(
                [
                    name.replace('ours', LIBRARIES['ours']),
                    f'{1e3 * times["median"]:.3g}',
                    f'{rate:.3g}',
                    _cell(needed, '.1f', 1 / rate),
                ]
            )
        header = ['', 'ms per image', 'images/s of one core']
        header.append('cores that a GPU needs')
        blocks.append(table(header, rows))
        if needed:
            blocks.append(
                f'The GPU needs {needed:.4g} images/s: the pre-training of ViT-B/16 '
                'above, not compiled.'
            )
    if 'split' in results:
        blocks += _split(results['split']['result']['split'], needed)
    return blocks


def _split(split: dict, needed: float | None) -> list[str]:
    """Write the table of loading whose pixels the device computes."""
    whole, cut, device = (split[key]['median'] for key in ('whole', 'cut', 'device'))
    busy = _cell(needed, '.1%', device)
    rows = [
        [
            title,
            f'{1e3 * seconds:.3g}',
            f'{1 / seconds:.0f}',
            _cell(needed, '.1f', seconds),
            *cells,
        ]
        for title, seconds, *cells in (
            ('a core', whole, MISSING, MISSING, MISSING),
            ('the device', cut, f'{1 - cut / whole:.0%}', f'{1 / device:.0f}', busy),
        )
    ]
    header = ['pixels computed by', 'ms of a core per image', 'images/s of one core']
    header += ['cores that a GPU needs', 'of a core saved']
    header += ['images/s of the device', 'time of the device taken']
    return [
        table(header, rows),
        'In the second row a core decodes an image, draws crop, flip and jitter, and '
        'cuts the crop out. The device resizes, flips and jitters batches of '
        f'{split["batch"]} such crops, the copy to it included. The pictures differ by '
        f'{split["levels"]}/255 at most, in {split["differing"]:.1e} of the values.',
    ]


def _quickstart(results: dict[str, dict], context: dict) -> list[str]:
    summary = results['quickstart']['result']
    rows = [
        [start, *(', '.join(f'{v:.1f}' for v in summary[k][start]) for k in keys)]
        for keys in [('miou', 'top1')]
        for start in summary['miou']
    ]
    stages = summary['seconds_by_stage']
    return [
        table(['start', 'mIoU', 'top-1'], rows) if rows else '',
        table(['stage', 'seconds'], [*stages.items(), ('all', summary['seconds'])]),
    ]


SECTIONS: dict[int, Callable[[dict, dict], list[str]]] = {
    1: _tests,
    2: comparison,
    3: comparison,
    4: _profiles,
    5: _loading,
    6: _quickstart,
}


def _problems(steps: Sequence[Step], records: dict[int, dict]) -> Iterator[str]:
    """Say what failed, with its last lines, and what was not run."""
    failed, missing = [], []
    for step in steps:
        parts = records.get(step.number, dict(parts={}))['parts']
        for part in step.parts:
            name = f'step {step.number}, {part.title}'
            found = parts.get(part.name)
            if found is None or found['status'] == 'not run':
                lines = found['last_lines'] if found else []
                missing.append(': '.join([name, *lines]))
            elif found['status'] != COMPLETE:
                limit = found['limit']
                after = f' after {found["seconds"]:.0f} s' if limit else ''
                block = [f'- {name}: {found["status"]}{after}']
                if found['last_lines']:
                    block += ['', '      ' + '\n      '.join(found['last_lines'])]
                failed.append('\n'.join(block))
    if failed:
        yield '### What failed'
        yield '\n\n'.join(failed)
    if missing:
        yield '### What was not run'
        yield '\n'.join(f'- {name}' for name in missing)
