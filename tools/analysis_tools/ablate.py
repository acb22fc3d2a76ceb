"""Pre-train with parts of a config changed, evaluate each student, compare.

    ablate.py CONFIG --normalizer layer_norm none --mask block random --seeds 3

runs all combinations of the axes' values, each with seeds 0, 1, 2: a
pre-training, then the config of --evaluate started from its student. The first
value of each axis is the baseline. Everything lies in --work-dir: ablation.csv,
ablation.md, ablation.png and a folder a cell and seed with its configs, logs
and checkpoints. The same call again goes on where it stopped and repeats what
failed.
"""

import argparse
import csv
import fcntl
import json
import os
import os.path as osp
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from statistics import mean, stdev

TOOLS = osp.dirname(osp.dirname(osp.abspath(__file__)))
AXES = ('teacher', 'normalizer', 'loss', 'mask', 'ratio')
METRICS = ('mIoU', 'accuracy/top1')
SCRATCH = 'from_scratch'  # name of the cell without pre-training


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='pre-training config')
    axes = parser.add_argument_group('axes')
    for axis, help in [
        ('teacher', 'pixel, hog, momentum, or models of timm'),
        ('normalizer', 'layer_norm, none, batch_norm, instance_norm, l2, patch_pixel'),
        ('loss', 'smooth_l1, l1, mse, cosine, cross_entropy'),
        (
            'mask',
            'block, random, attention (what the teacher does not look '
            'at), none (the student sees and predicts all patches)',
        ),
        ('ratio', 'share of hidden patches, such as 0.4'),
    ]:
        axes.add_argument(f'--{axis}', nargs='+', metavar='VALUE', help=help)
    axes.add_argument(
        '--axis',
        nargs='+',
        action='append',
        default=[],
        metavar=('KEY', 'VALUE'),
        help='values of any key of the config, such as '
        'optim_wrapper.optimizer.lr 1e-3 2e-3; can be given several times',
    )
    parser.add_argument(
        '--one-at-a-time',
        action='store_true',
        help='vary one axis with the others at their first value, instead of '
        'all combinations',
    )
    parser.add_argument(
        '--seeds', type=int, default=1, help='runs a cell (%(default)s)'
    )
    parser.add_argument(
        '--evaluate',
        metavar='CONFIG',
        help='config that is trained from each student and validated '
        '(segment.py beside the pre-training config)',
    )
    parser.add_argument(
        '--metric', help=f'scalar of its validation ({" or ".join(METRICS)})'
    )
    parser.add_argument(
        '--from-scratch', action='store_true', help='evaluate without pre-training, too'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='override settings of all pre-trainings',
    )
    parser.add_argument(
        '--evaluate-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='override settings of the evaluation',
    )
    parser.add_argument(
        '--work-dir',
        default='work_dirs/ablation',
        help='where all results go (%(default)s)',
    )
    parser.add_argument(
        '--jobs',
        type=int,
        default=1,
        help='runs at a time, which share the cores (%(default)s)',
    )
    parser.add_argument(
        '--processes',
        type=int,
        default=1,
        help='processes, or GPUs, of each run (%(default)s)',
    )
    parser.add_argument(
        '--dry-run', action='store_true', help='list the cells, run nothing'
    )
    args = parser.parse_args()

    if args.evaluate is None:
        args.evaluate = osp.join(osp.dirname(args.config), 'segment.py')
    for path, option in ((args.config, 'CONFIG'), (args.evaluate, '--evaluate')):
        if not osp.isfile(path):
            fail(f'config not found: {path!r}. Give one as {option}')
    for name in ('seeds', 'jobs', 'processes'):
        if getattr(args, name) < 1:
            fail(f'--{name} {getattr(args, name)}: expected 1 or more')
    args.axes = {
        axis: getattr(args, axis) for axis in AXES if getattr(args, axis) is not None
    }
    for key, *values in args.axis:
        if not values:
            fail(f'--axis {key}: expected a key and its values')
        args.axes[key] = values
    if not args.axes:
        fail(
            'there is nothing to vary: give --normalizer, --loss, --mask, '
            '--ratio, --teacher or --axis'
        )
    return args


def fail(message):
    sys.exit(f'error: {" ".join(str(message).split())}')


class Ablation:
    """The runs of all cells.

    Args:
        args (Namespace): Of the command line.
        cells (list[Cell]): Of :func:`mmmaskdistill.apis.ablation.make_cells`.
        evaluation (Config): The downstream config.
    """

    def __init__(self, args, cells, evaluation):
        self.args, self.cells, self.evaluation = args, cells, evaluation
        self.outcomes = {}
        self._processes, self._stopped = set(), False
        self._lock = threading.Lock()

    def folder(self, cell, seed):
        return osp.join(self.args.work_dir, cell.name, f'seed_{seed}')

    def prepare(self):
        """Write each run's configs, and read what finished before.

        A folder that was run with other configs is left alone.
        """
        for seed in range(self.args.seeds):
            for i, cell in enumerate(self.cells):
                if cell.refusal:
                    self.outcomes[i, seed] = dict(status='refused', reason=cell.refusal)
                    continue
                folder = self.folder(cell, seed)
                os.makedirs(folder, exist_ok=True)
                for name, config in (
                    ('pretrain', cell.config),
                    ('evaluate', self.evaluation),
                ):
                    if config is not None:
                        write_config(config, seed, osp.join(folder, f'{name}.py'))
                result = osp.join(folder, 'result.json')
                if osp.isfile(result):
                    with open(result) as file:
                        self.outcomes[i, seed] = json.load(file)

    def run(self):
        """Run what is not finished, all cells of a seed before the next."""
        todo = [
            (i, seed)
            for seed in range(self.args.seeds)
            for i in range(len(self.cells))
            if (i, seed) not in self.outcomes
        ]
        total = len(todo)
        print(
            f'{total} runs to do, {len(self.outcomes)} finished before or refused',
            flush=True,
        )
        start = time.time()
        pool = ThreadPoolExecutor(self.args.jobs)
        try:
            futures = {pool.submit(self._run_safely, *key): key for key in todo}
            for done, future in enumerate(as_completed(futures), 1):
                i, seed = futures[future]
                outcome = self.outcomes[i, seed] = future.result()
                self.write()
                left = (time.time() - start) / done * (total - done)
                print(
                    f'[{done}/{total}] {self.cells[i].name}, seed {seed}: '
                    f'{self._say(outcome)}; about {left / 60:.0f} min left',
                    flush=True,
                )
        finally:
            with self._lock:
                self._stopped = True
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(self._processes):
                process.terminate()

    def _say(self, outcome):
        if outcome['status'] == 'failed':
            return f'failed: {outcome["reason"]}'
        name, value = self._metric(outcome)
        return f'{name} {value:.2f}, {outcome["seconds"]:.0f} s'

    def _metric(self, outcome):
        """Name and value of what is compared."""
        names = [self.args.metric] if self.args.metric else METRICS
        for name in names:
            if name in outcome['metrics']:
                return name, outcome['metrics'][name]
        raise LookupError(
            f'the evaluation has no {" or ".join(names)} but '
            f'{", ".join(outcome["metrics"]) or "nothing"}: give --metric'
        )

    def _run_safely(self, i, seed):
        try:
            return self._run(self.cells[i], seed)
        except Exception as error:
            reason = ' '.join(str(error).split()) or type(error).__name__
            return dict(status='failed', reason=reason)

    def _run(self, cell, seed):
        from mmmaskdistill.visualization import read_run

        folder = self.folder(cell, seed)
        outcome = dict(status='finished', seed=seed, settings=cell.settings, seconds=0)
        options = []
        if cell.config is not None:
            outcome['seconds'] = self._stage(folder, 'pretrain')
            loss = read_run(osp.join(folder, 'pretrain'))['loss'][1][-1]
            outcome['pretrain_loss'] = loss.item()
            options = start_from(osp.join(folder, 'pretrain'))
        outcome['seconds'] += self._stage(folder, 'evaluate', *options)
        curves = read_run(osp.join(folder, 'evaluate'))
        outcome['metrics'] = {
            name: values[-1].item()
            for name, (_, values) in curves.items()
            if name not in TRAINING and not name.startswith('loss')
        }
        self._metric(outcome)
        write_text(json.dumps(outcome, indent=2), osp.join(folder, 'result.json'))
        return outcome

    def _stage(self, folder, name, *options):
        """Train a config of the folder once; give the seconds that it took.

        What was stopped goes on from its last checkpoint.
        """
        finished = osp.join(folder, f'{name}.seconds')
        if osp.isfile(finished):
            with open(finished) as file:
                return float(file.read())
        command = [
            *self._launch(osp.join(folder, f'{name}.py')),
            '--work-dir',
            osp.join(folder, name),
            '--resume',
            *options,
        ]
        start = time.time()
        with open(osp.join(folder, f'{name}.log'), 'a') as log:
            begin = log.tell()
            with self._lock:
                if self._stopped:
                    raise RuntimeError('stopped')
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment(),
                    # Held until the run ends, even if this process is killed.
                    pass_fds=[self.args.lock.fileno()],
                )
                self._processes.add(process)
            try:
                code = process.wait()
            finally:
                self._processes.discard(process)
        if code:
            raise RuntimeError(f'{name}: {last_words(log.name, begin, code)}')
        seconds = time.time() - start
        write_text(f'{seconds:.1f}', finished)
        return seconds

    def _launch(self, config):
        if self.args.processes == 1:
            return [sys.executable, osp.join(TOOLS, 'train.py'), config]
        return [
            'bash',
            osp.join(TOOLS, 'dist_train.sh'),
            config,
            str(self.args.processes),
        ]

    def _environment(self):
        environment = dict(os.environ, PYTHON=sys.executable)
        if self.args.jobs > 1:
            share = (os.cpu_count() or 1) // self.args.jobs
            environment.setdefault('OMP_NUM_THREADS', str(max(1, share)))
        return environment

    def write(self):
        """The table of all runs, the table of cells and the picture."""
        from mmmaskdistill.visualization import draw_ablation

        axes, work_dir = self.args.axes, self.args.work_dir
        finished = [o for o in self.outcomes.values() if o['status'] == 'finished']
        metric = self._metric(finished[0])[0] if finished else 'metric'
        names = sorted(
            {name for o in finished for name in o['metrics']},
            key=lambda name: (name != metric, name),
        )
        with open(osp.join(work_dir, 'ablation.csv.tmp'), 'w') as file:
            rows = csv.writer(file)
            rows.writerow(
                [
                    *axes,
                    'seed',
                    'status',
                    *names,
                    'pretrain_loss',
                    'seconds',
                    'reason',
                    'folder',
                ]
            )
            for i, cell in enumerate(self.cells):
                for seed in range(self.args.seeds):
                    outcome = self.outcomes.get((i, seed), {})
                    metrics = outcome.get('metrics', {})
                    rows.writerow(
                        [
                            *cell.settings.values(),
                            seed,
                            outcome.get('status', 'not run'),
                            *(metrics.get(name, '') for name in names),
                            *(
                                outcome.get(key, '')
                                for key in ('pretrain_loss', 'seconds', 'reason')
                            ),
                            '' if cell.refusal else self.folder(cell, seed),
                        ]
                    )
        os.replace(file.name, osp.join(work_dir, 'ablation.csv'))
        write_text(self.table(metric), osp.join(work_dir, 'ablation.md'))
        draw_ablation(
            {
                axis: {value: self._values(i) for value, i in cells.items()}
                for axis, cells in self._by_axis().items()
            },
            osp.join(work_dir, 'ablation.png'),
            ylabel=metric,
            reference=[
                value
                for i, cell in enumerate(self.cells)
                if cell.name == SCRATCH
                for value in self._values(i)
            ],
        )

    def _values(self, i):
        """The metric of a cell's finished runs."""
        outcomes = [
            self.outcomes.get((i, seed), dict(status='not run'))
            for seed in range(self.args.seeds)
        ]
        return [
            self._metric(outcome)[1]
            for outcome in outcomes
            if outcome['status'] == 'finished'
        ]

    def _by_axis(self):
        """{axis: {value: cell}} with the other axes at their first value."""
        baseline = {axis: v[0] for axis, v in self.args.axes.items()}
        places = {tuple(cell.settings.values()): i for i, cell in enumerate(self.cells)}
        return {
            axis: {
                value: places[tuple({**baseline, axis: value}.values())]
                for value in values
            }
            for axis, values in self.args.axes.items()
        }

    def table(self, metric):
        """Markdown, mean and deviation over seeds."""
        tail = [metric, 'runs', '']
        if self.args.one_at_a_time:
            head = ['axis', 'value', *tail]
            rows = [
                [axis, value, *self._summary(i)]
                for axis, cells in self._by_axis().items()
                for value, i in cells.items()
            ]
            rows += [
                ['', cell.name, *self._summary(i)]
                for i, cell in enumerate(self.cells)
                if cell.name == SCRATCH
            ]
        else:
            head = [*self.args.axes, *tail]
            rows = [
                [*cell.settings.values(), *self._summary(i)]
                for i, cell in enumerate(self.cells)
            ]
        return ''.join(
            f'| {" | ".join(row)} |\n' for row in (head, ['---'] * len(head), *rows)
        )

    def _summary(self, i):
        """Mean and deviation, number of runs, what went wrong."""
        values = self._values(i)
        spread = f' ± {stdev(values):.2f}' if len(values) > 1 else ''
        reasons = {
            f'{outcome["status"]}: {outcome["reason"]}'.replace('|', '/')
            for (j, _), outcome in self.outcomes.items()
            if j == i and 'reason' in outcome
        }
        return [
            f'{mean(values):.2f}{spread}' if values else '-',
            str(len(values)),
            '; '.join(sorted(reasons)),
        ]


# What mmengine's logger writes beside metrics.
TRAINING = {
    'base_lr',
    'lr',
    'data_time',
    'time',
    'memory',
    'iter',
    'epoch',
    'step',
    'grad_norm',
    'eta',
}


def write_config(config, seed, path):
    """Write a run's config; refuse if the folder has another one."""
    from copy import deepcopy

    config = deepcopy(config)
    config.randomness = dict(config.get('randomness') or {}, seed=seed)
    for key in ('work_dir', 'launcher'):
        config.pop(key, None)
    text = config.pretty_text
    if osp.isfile(path):
        with open(path) as file:
            if file.read() != text:
                fail(
                    f'{path!r} is of another ablation: its config differs '
                    'from what is asked for now. Give another --work-dir, '
                    f'or remove {osp.dirname(path)!r}'
                )
    write_text(text, path)


def write_text(text, path):
    with open(f'{path}.tmp', 'w') as file:
        file.write(text)
    os.replace(file.name, path)


def start_from(work_dir):
    """Options that start a downstream config from a run's student."""
    from mmmaskdistill.engine.checkpoints import latest_checkpoint

    student = latest_checkpoint(work_dir)
    if student is None:
        raise RuntimeError(
            'pre-training left no checkpoint: the config needs default_hooks.checkpoint'
        )
    return [
        '--cfg-options',
        'model.backbone.init_cfg.type=Pretrained',
        f'model.backbone.init_cfg.checkpoint={student}',
    ]


def last_words(path, begin, code):
    """What a log says of why its run ended."""
    with open(path, errors='replace') as file:
        file.seek(begin)
        lines = [line.strip() for line in file if line.strip()]
    errors = [line for line in lines if line.startswith('error: ')]
    words = (errors or lines or ['it said nothing'])[-1]
    how = f'signal {-code}' if code < 0 else f'exit status {code}'
    return f'{words.removeprefix("error: ")} ({how}, {path})'


def lock(work_dir):
    """One ablation a folder at a time, its runs included."""
    os.makedirs(work_dir, exist_ok=True)
    file = open(osp.join(work_dir, '.lock'), 'w')
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        fail(
            f'{work_dir!r} is in use: an ablation, or a run that it started, '
            'has not ended there'
        )
    return file


def main():
    args = arguments()

    # Imported late: the above answers at once.
    import mmmaskdistill  # noqa: F401
    from mmmaskdistill.apis.ablation import Cell, make_cells
    from mmmaskdistill.apis.configs import load_config
    from mmmaskdistill.apis.preflight import check_data
    from mmmaskdistill.errors import CheckpointError, ConfigError

    try:
        config = load_config(args.config, args.cfg_options)
        evaluation = load_config(args.evaluate, args.evaluate_options)
        if not evaluation.get('val_dataloader'):
            fail(
                f'{args.evaluate!r} has no val_dataloader: expected a config '
                'that is validated'
            )
        check_data(config, ['train_dataloader'])
        check_data(evaluation, ['train_dataloader', 'val_dataloader'])
        cells = make_cells(config, args.axes, args.one_at_a_time)
    except (ConfigError, CheckpointError) as error:
        fail(error)
    if args.from_scratch:
        cells.append(Cell(dict.fromkeys(args.axes, '-'), SCRATCH, None))
    for cell in cells:
        words = ', '.join(f'{a}={v}' for a, v in cell.settings.items())
        print(
            f'{words}: refused: {" ".join(cell.refusal.split())}'
            if cell.refusal
            else f'{words}: {cell.name}'
        )
    if args.dry_run:
        return

    args.lock = lock(args.work_dir)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('error: stopped'))
    ablation = Ablation(args, cells, evaluation)
    ablation.prepare()
    ablation.run()
    ablation.write()
    with open(osp.join(args.work_dir, 'ablation.md')) as file:
        print(file.read())
    for name in ('ablation.csv', 'ablation.md', 'ablation.png'):
        print(f'  {osp.join(args.work_dir, name)}')
    failed = [o for o in ablation.outcomes.values() if o['status'] == 'failed']
    if failed:
        fail(
            f'{len(failed)} of {len(ablation.outcomes)} runs failed: see the '
            'table; the same call repeats them'
        )


if __name__ == '__main__':
    main()
