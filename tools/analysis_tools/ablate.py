r"""Compare variants of a pre-training config in an ablation study.

An axis is a part of the config that is varied, such as the loss. A cell is one
combination of values, one for each axis. For each cell and seed, the tool
pre-trains a student and then trains and validates each config of --evaluate from
that student. With --probe it also judges the student's frozen features. For example:

  python tools/analysis_tools/ablate.py configs/quickstart/pretrain.py \
      --normalizer layer_norm none --mask block random --seeds 3

runs the four combinations, each with the seeds 0, 1 and 2. The first value of each
axis is the baseline.

All results are written to --work-dir: the tables ablation.csv and ablation.md, the
chart ablation.png, budgets.png if the length of pre-training is an axis (--axis
train_cfg.max_epochs 3 10 30), and for each cell and seed a folder with its configs,
logs and checkpoints. If the same command is run again, it continues where it stopped
and repeats the runs that failed.
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
from contextlib import suppress
from statistics import mean, stdev
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from mmengine.config import Config

    from mmmaskdistill.apis.ablation import Cell

TOOLS = osp.dirname(osp.dirname(osp.abspath(__file__)))
# command_line.py is in tools/.
sys.path.append(TOOLS)
from command_line import check_options, fail  # noqa: E402

AXES = (
    'teacher',
    'normalizer',
    'loss',
    'mask',
    'ratio',
    'visible_weight',
    'unmasked',
    'combination',
)
# Without --metric, those of these that the evaluations report are compared.
PROBED = ('linear probe mIoU', 'k-NN top-1')
METRICS = ('mIoU', 'accuracy/top1', *PROBED)
# Axes that set the length of pre-training: budgets.png shows the metric over it.
LENGTHS = ('train_cfg.max_epochs', 'train_cfg.max_iters')
PROBE = 'probe'  # name of the stage that probes the features
SCRATCH = 'from_scratch'  # name of the cell without pre-training


def arguments() -> argparse.Namespace:
    """Parse and check the command line.

    Returns:
        argparse.Namespace: The values of the options. ``axes`` maps the name of
        each axis to its values.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='path of the pre-training config')
    axes = parser.add_argument_group(
        'axes', 'at least one is needed; an axis without values is not varied'
    )
    for axis, help in [
        ('teacher', 'teachers: pixel, hog, momentum or names of timm models'),
        (
            'normalizer',
            "normalizers of the teacher's features: layer_norm, none, batch_norm, "
            'instance_norm, l2 or patch_pixel',
        ),
        ('loss', 'losses: smooth_l1, l1, mse, cosine or cross_entropy'),
        (
            'mask',
            'ways to choose the hidden patches: block (blocks of patches), random '
            '(single patches), attention (patches to which the teacher attends '
            'little) or none (the student sees and predicts all patches)',
        ),
        (
            'ratio',
            'shares of the patches that are hidden, such as 0.4, or 0-0.4 for a share '
            'that rises during the run',
        ),
        (
            'visible-weight',
            'weights of a visible patch in the loss: 0 (only hidden patches count), 1 '
            '(all patches count alike), other numbers, or 1-0 for a weight that falls '
            'during the run',
        ),
        ('unmasked', 'shares of the batches in which nothing is hidden, such as 0.5'),
        (
            'combination',
            'values of several axes at once, such as ratio=0-0.4,visible_weight=1, '
            'or as_configured for none',
        ),
    ]:
        axes.add_argument(f'--{axis}', nargs='+', metavar='VALUE', help=help)
    axes.add_argument(
        '--axis',
        nargs='+',
        action='append',
        default=[],
        metavar=('KEY', 'VALUE'),
        help='a key of the config and its values, such as '
        'optim_wrapper.optimizer.lr 1e-3 2e-3; can be given several times',
    )
    parser.add_argument(
        '--one-at-a-time',
        action='store_true',
        help='vary only one axis at a time and keep the other axes at their first '
        'value (default: run all combinations of values)',
    )
    parser.add_argument(
        '--seeds',
        type=int,
        default=1,
        metavar='N',
        help='number of runs of each cell, with the seeds 0 to N - 1 '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--evaluate',
        nargs='+',
        metavar='CONFIG',
        help='one or more configs that are trained from each student and validated '
        '(default: segment.py in the folder of the pre-training config)',
    )
    parser.add_argument(
        '--probe',
        action='store_true',
        help='also judge the frozen features of each student with the data of '
        '--evaluate, as tools/analysis_tools/probe.py does (default: off)',
    )
    parser.add_argument(
        '--metric',
        nargs='+',
        help='results that the table compares; the chart shows the first one '
        f'(default: those of {", ".join(METRICS)} that are reported)',
    )
    parser.add_argument(
        '--from-scratch',
        action='store_true',
        help='also train the config of --evaluate without pre-training (default: off)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='settings that override those of the pre-training config in all '
        'cells, for example train_cfg.max_epochs=14 (default: no changes)',
    )
    parser.add_argument(
        '--evaluate-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='settings that override those of each config of --evaluate '
        '(default: no changes)',
    )
    parser.add_argument(
        '--work-dir',
        default='work_dirs/ablation',
        help='folder for all results (default: %(default)s)',
    )
    parser.add_argument(
        '--jobs',
        type=int,
        default=1,
        metavar='N',
        help='number of runs at the same time; they share the CPU cores '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--processes',
        type=int,
        default=1,
        metavar='N',
        help='number of processes of each run, one per GPU (default: %(default)s)',
    )
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='only list the cells and run nothing (default: off)',
    )
    args = parser.parse_args()
    check_options(args.cfg_options)

    if args.evaluate is None:
        args.evaluate = [osp.join(osp.dirname(args.config), 'segment.py')]
    for path, option in (
        (args.config, 'CONFIG'),
        *((path, '--evaluate') for path in args.evaluate),
    ):
        if not osp.isfile(path):
            fail(f'config not found: {path!r}. Give one as {option}')
    names = [stem(path) for path in args.evaluate]
    if len({*names, 'pretrain', PROBE}) < len(names) + 2:
        fail(
            f'--evaluate {" ".join(args.evaluate)}: the results of each config go to '
            'a folder of its name, so the names must differ from each other and '
            f"from 'pretrain' and '{PROBE}'"
        )
    for name in ('seeds', 'jobs', 'processes'):
        if getattr(args, name) < 1:
            fail(f'--{name} {getattr(args, name)}: expected 1 or more')
    args.axes = {
        axis: getattr(args, axis) for axis in AXES if getattr(args, axis) is not None
    }
    for key, *values in args.axis:
        if not values:
            fail(f'--axis {key}: expected one or more values after the key')
        if key in args.axes:
            fail(f'--axis {key}: the axis is given twice; list all its values at once')
        args.axes[key] = values
    if not args.axes:
        fail(
            'there is nothing to vary: give at least one of '
            f'{", ".join("--" + axis.replace("_", "-") for axis in AXES)} and --axis'
        )
    return args


class Ablation:
    """Runs all cells of an ablation and writes their results.

    Args:
        args (argparse.Namespace): The command line, see :func:`arguments`.
            ``args.lock`` is the file of :func:`lock`.
        cells (list[Cell]): The cells, from
            :func:`mmmaskdistill.apis.ablation.make_cells`.
        evaluations (dict[str, Config]): The configs that are trained from each
            student, by name.

    Attributes:
        outcomes (dict[tuple[int, int], dict]): What is known of each run, by the
            index of its cell and its seed. ``status`` is ``finished``, ``failed``
            or ``refused``.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        cells: 'list[Cell]',
        evaluations: 'dict[str, Config]',
    ):
        self.args, self.cells, self.evaluations = args, cells, evaluations
        self.outcomes = {}
        self._processes, self._stopped = set(), False
        self._lock = threading.Lock()

    def folder(self, cell: 'Cell', seed: int) -> str:
        """Return the folder of a run."""
        return osp.join(self.args.work_dir, cell.name, f'seed_{seed}')

    def prepare(self) -> None:
        """Write the configs of each run and read the results of finished runs.

        Raises:
            SystemExit: If a folder contains other configs. Its files are not
                changed.
        """
        for seed in range(self.args.seeds):
            for i, cell in enumerate(self.cells):
                if cell.refusal:
                    self.outcomes[i, seed] = dict(status='refused', reason=cell.refusal)
                    continue
                folder = self.folder(cell, seed)
                os.makedirs(folder, exist_ok=True)
                configs = {'pretrain': cell.config, **self.evaluations}
                for name, config in configs.items():
                    if config is not None:
                        write_config(config, seed, osp.join(folder, f'{name}.py'))
                outcome = self._read_result(cell, folder)
                if outcome is not None:
                    self.outcomes[i, seed] = outcome

    def _read_result(self, cell: 'Cell', folder: str) -> dict | None:
        """Read the result of a run, or return None if something is left to do.

        An earlier call may have had fewer configs to evaluate, or no probe.
        """
        stages = [*self.evaluations]
        if cell.config is not None:
            stages += ['pretrain', *([PROBE] if self.args.probe else [])]
        path = osp.join(folder, 'result.json')
        done = (osp.isfile(osp.join(folder, f'{stage}.seconds')) for stage in stages)
        if not (osp.isfile(path) and all(done)):
            return None
        try:
            with open(path) as file:
                outcome = json.load(file)
            self._metrics(outcome)
            if outcome['status'] == 'finished' and outcome['seconds'] >= 0:
                return outcome
        except (ValueError, TypeError, KeyError):
            pass
        print(f'{path!r} is damaged: it is made again', flush=True)
        return None

    def run(self) -> None:
        """Run everything that is not finished.

        All cells are started with one seed before any cell is started with the next.
        """
        todo = [
            (i, seed)
            for seed in range(self.args.seeds)
            for i in range(len(self.cells))
            if (i, seed) not in self.outcomes
        ]
        total = len(todo)
        print(
            f'{total} runs to do, {len(self.outcomes)} already finished or refused',
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

    def _say(self, outcome: dict) -> str:
        if outcome['status'] == 'failed':
            return f'failed: {outcome["reason"]}'
        results = ', '.join(f'{k} {v:.2f}' for k, v in self._metrics(outcome).items())
        return f'{results}, {outcome["seconds"]:.0f} s'

    def _metrics(self, outcome: dict) -> dict[str, float]:
        """Return the metrics that are compared."""
        wanted = self.args.metric or METRICS
        if 'pretrain_loss' not in outcome:  # There is no student to probe.
            wanted = [name for name in wanted if name not in PROBED]
        found = {k: outcome['metrics'][k] for k in wanted if k in outcome['metrics']}
        if wanted and (not found or (self.args.metric and len(found) < len(wanted))):
            raise NotReportedError(
                f'the evaluation does not report {" or ".join(wanted)}. It reports '
                f'{", ".join(outcome["metrics"]) or "nothing"}: choose with --metric'
            )
        return found

    def _run_safely(self, i: int, seed: int) -> dict:
        try:
            return self._run(self.cells[i], seed)
        except Exception as error:
            reason = ' '.join(str(error).split()) or type(error).__name__
            return dict(status='failed', reason=reason)

    def _run(self, cell: 'Cell', seed: int) -> dict:
        from mmmaskdistill.visualization import read_run

        folder = self.folder(cell, seed)
        outcome = dict(status='finished', seed=seed, settings=cell.settings, metrics={})
        options, student, seconds = [], None, {}
        if cell.config is not None:
            seconds['pretrain'] = self._train(folder, 'pretrain')
            loss = read_run(osp.join(folder, 'pretrain'))['loss'][1][-1]
            outcome['pretrain_loss'] = loss.item()
            student = find_student(osp.join(folder, 'pretrain'))
            options = [
                '--cfg-options',
                'model.backbone.init_cfg.type=Pretrained',
                f'model.backbone.init_cfg.checkpoint={student}',
            ]
        for stage in self.evaluations:
            seconds[stage] = self._train(folder, stage, *options)
            for name, (_, values) in read_run(osp.join(folder, stage)).items():
                if name in TRAINING or name.startswith(('loss', 'decode.', 'aux.')):
                    continue
                if name in outcome['metrics']:
                    name = f'{stage}: {name}'
                outcome['metrics'][name] = values[-1].item()
        if self.args.probe and student:
            seconds[PROBE] = self._probe(folder, student)
            with open(osp.join(folder, f'{PROBE}.json')) as file:
                for name, values in json.load(file).items():
                    outcome['metrics'][name] = values['student']
        self._metrics(outcome)
        outcome['seconds'] = sum(wall for wall, _ in seconds.values())
        outcome['pretrain_processor_seconds'] = seconds.get('pretrain', (0, 0))[1]
        write_text(json.dumps(outcome, indent=2), osp.join(folder, 'result.json'))
        return outcome

    def _train(self, folder: str, name: str, *options: str) -> tuple[float, float]:
        """Train a config of a run, see :meth:`_stage`.

        A training that was stopped continues from its last checkpoint.
        """
        command = [
            *self._launch(osp.join(folder, f'{name}.py')),
            '--work-dir',
            osp.join(folder, name),
            '--resume',
            *options,
        ]
        return self._stage(folder, name, command)

    def _probe(self, folder: str, student: str) -> tuple[float, float]:
        """Probe the features of a student, see :meth:`_stage`."""
        command = [
            sys.executable,
            osp.join(TOOLS, 'analysis_tools', 'probe.py'),
            osp.join(folder, 'pretrain.py'),
            student,
            '--only',
            'student',
            '--out',
            osp.join(folder, f'{PROBE}.json'),
        ]
        for name, config in self.evaluations.items():
            command += [probe_option(config), osp.join(folder, f'{name}.py')]
        return self._stage(folder, PROBE, command)

    def _stage(self, folder: str, name: str, command: list[str]) -> tuple[float, float]:
        """Run a command of a run, unless an earlier call has finished it.

        Returns:
            tuple[float, float]: Seconds that the command took, and the seconds of
            processor time that it used, over all cores. Other programs on the
            machine prolong the former and hardly the latter. Of a command that was
            stopped, only the last part is counted.
        """
        finished = osp.join(folder, f'{name}.seconds')
        if osp.isfile(finished):
            with open(finished) as file, suppress(ValueError):
                wall, processor = map(float, file.read().split())
                return wall, processor
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
                    # The run inherits the lock, so that the folder stays locked
                    # until the run ends, even if this process is killed.
                    pass_fds=[self.args.lock.fileno()],
                )
                self._processes.add(process)
            try:
                _, status, usage = os.wait4(process.pid, 0)
            finally:
                self._processes.discard(process)
        code = process.returncode = os.waitstatus_to_exitcode(status)
        if code:
            raise RuntimeError(f'{name}: {last_words(log.name, begin, code)}')
        wall = round(time.time() - start, 1)
        processor = round(usage.ru_utime + usage.ru_stime, 1)
        write_text(f'{wall} {processor}', finished)
        return wall, processor

    def _launch(self, config: str) -> list[str]:
        if self.args.processes == 1:
            return [sys.executable, osp.join(TOOLS, 'train.py'), config]
        return [
            'bash',
            osp.join(TOOLS, 'dist_train.sh'),
            config,
            str(self.args.processes),
        ]

    def _environment(self) -> dict[str, str]:
        environment = dict(os.environ, PYTHON=sys.executable)
        if self.args.jobs > 1:
            share = (os.cpu_count() or 1) // self.args.jobs
            environment.setdefault('OMP_NUM_THREADS', str(max(1, share)))
        return environment

    def write(self) -> None:
        """Write the table of runs, the table of cells and the chart."""
        from mmmaskdistill.visualization import draw_ablation, draw_budgets

        axes, work_dir = self.args.axes, self.args.work_dir
        finished = [o for o in self.outcomes.values() if o['status'] == 'finished']
        reported = {name for outcome in finished for name in self._metrics(outcome)}
        compared = [n for n in self.args.metric or METRICS if n in reported]
        compared = compared or ['metric']
        rest = {name for o in finished for name in o['metrics']} - set(compared)
        names = [*compared, *sorted(rest)]
        with open(osp.join(work_dir, 'ablation.csv.tmp'), 'w') as file:
            rows = csv.writer(file)
            rows.writerow(
                [
                    *axes,
                    'seed',
                    'status',
                    *names,
                    'pretrain_loss',
                    'pretrain_processor_seconds',
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
                                for key in (
                                    'pretrain_loss',
                                    'pretrain_processor_seconds',
                                    'seconds',
                                    'reason',
                                )
                            ),
                            '' if cell.refusal else self.folder(cell, seed),
                        ]
                    )
        os.replace(file.name, osp.join(work_dir, 'ablation.csv'))
        write_text(self.table(compared), osp.join(work_dir, 'ablation.md'))
        scratch = [
            value
            for i, cell in enumerate(self.cells)
            if cell.name == SCRATCH
            for value in self._values(i, compared[0])
        ]
        draw_ablation(
            {
                axis: {
                    value: self._values(i, compared[0]) for value, i in cells.items()
                }
                for axis, cells in self._by_axis().items()
            },
            osp.join(work_dir, 'ablation.png'),
            ylabel=compared[0],
            reference=scratch,
        )
        length = next((axis for axis in axes if axis in LENGTHS), None)
        if length is not None and finished:
            draw_budgets(
                self._by_length(length, compared[0]),
                osp.join(work_dir, 'budgets.png'),
                ylabel=compared[0],
                reference=scratch,
            )

    def _by_length(
        self, length: str, metric: str
    ) -> dict[str, list[tuple[float, list[float]]]]:
        """Collect a metric by the length of pre-training, see ``draw_budgets``.

        The minutes are those of processor time, the mean over the runs of a cell. A
        curve is named by the values of the axes that vary.
        """
        from mmmaskdistill.apis.ablation import COMBINATION

        varied = [a for a, v in self.args.axes.items() if len(v) > 1 and a != length]
        curves = {}
        for i, cell in enumerate(self.cells):
            values = self._values(i, metric)
            seconds = self._values(i, 'pretrain_processor_seconds')
            if cell.name != SCRATCH and values and seconds:
                name = ', '.join(
                    cell.settings[axis]
                    if axis == COMBINATION
                    else f'{axis} {cell.settings[axis]}'
                    for axis in varied
                )
                curves.setdefault(name or 'pre-trained', []).append(
                    (mean(seconds) / 60, values)
                )
        return curves

    def _values(self, i: int, metric: str) -> list[float]:
        """Return a result of each finished run of a cell that reports it."""
        outcomes = [
            self.outcomes.get((i, seed), dict(status='not run'))
            for seed in range(self.args.seeds)
        ]
        results = [{**o, **o.get('metrics', {})} for o in outcomes]
        return [result[metric] for result in results if metric in result]

    def _by_axis(self) -> dict[str, dict[str, int]]:
        """Find the cells in which at most one axis is not at its first value.

        Returns:
            dict[str, dict[str, int]]: For each axis and each of its values, the
            index of the cell.
        """
        baseline = {axis: v[0] for axis, v in self.args.axes.items()}
        places = {tuple(cell.settings.values()): i for i, cell in enumerate(self.cells)}
        return {
            axis: {
                value: places[tuple({**baseline, axis: value}.values())]
                for value in values
            }
            for axis, values in self.args.axes.items()
        }

    def table(self, metrics: list[str]) -> str:
        """Return the table of cells in Markdown.

        Args:
            metrics (list[str]): Names of the metrics to show.

        Returns:
            str: For each cell, the mean and the standard deviation of each metric
            over the seeds, the number of finished runs, and the errors.
        """
        tail = [*metrics, 'runs', '']
        if self.args.one_at_a_time:
            head = ['axis', 'value', *tail]
            rows = [
                [axis, value, *self._summary(i, metrics)]
                for axis, cells in self._by_axis().items()
                for value, i in cells.items()
            ]
            rows += [
                ['', cell.name, *self._summary(i, metrics)]
                for i, cell in enumerate(self.cells)
                if cell.name == SCRATCH
            ]
        else:
            head = [*self.args.axes, *tail]
            rows = [
                [*cell.settings.values(), *self._summary(i, metrics)]
                for i, cell in enumerate(self.cells)
            ]
        return ''.join(
            f'| {" | ".join(row)} |\n' for row in (head, ['---'] * len(head), *rows)
        )

    def _summary(self, i: int, metrics: list[str]) -> list[str]:
        """Return the results, the number of finished runs and the errors of a cell."""
        results, runs = [], 0
        for metric in metrics:
            values = self._values(i, metric)
            spread = f' ± {stdev(values):.2f}' if len(values) > 1 else ''
            results.append(f'{mean(values):.2f}{spread}' if values else '-')
            runs = max(runs, len(values))
        reasons = {
            f'{outcome["status"]}: {outcome["reason"]}'.replace('|', '/')
            for (j, _), outcome in self.outcomes.items()
            if j == i and 'reason' in outcome
        }
        seeds = self.args.seeds
        missing = [str(s) for s in range(seeds) if (i, s) not in self.outcomes]
        if missing:
            which = f' with seed {", ".join(missing)}' if len(missing) < seeds else ''
            reasons.add(f'not run{which}')
        return [
            *results,
            str(runs),
            '; '.join(sorted(reasons)),
        ]


class NotReportedError(Exception):
    """An evaluation does not report the metric that is to be compared."""


# Scalars that mmengine's logger writes in addition to the metrics.
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


def write_config(config: 'Config', seed: int, path: str) -> None:
    """Write the config of a run.

    Args:
        config (Config): The config of the cell or of the evaluation.
        seed (int): Seed of the run.
        path (str): File to write.

    Raises:
        SystemExit: If the file exists with another content.
    """
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
                    f'{path!r} is of another ablation: its config differs from '
                    'the one that this command asks for. Give another --work-dir '
                    f'or remove {osp.dirname(path)!r}'
                )
    write_text(text, path)


def write_text(text: str, path: str) -> None:
    """Write a file so that an interruption never leaves it incomplete."""
    with open(f'{path}.tmp', 'w') as file:
        file.write(text)
    os.replace(file.name, path)


def probe_option(evaluation: 'Config') -> str:
    """Return the option of probe.py that takes a config of --evaluate."""
    is_segmentation = evaluation.get('default_scope') == 'mmseg'
    return '--segment' if is_segmentation else '--classify'


def stem(path: str) -> str:
    """Return the name of a file without its folder and its ending."""
    return osp.splitext(osp.basename(path))[0]


def find_student(work_dir: str) -> str:
    """Find the checkpoint of a finished pre-training.

    Args:
        work_dir (str): Work directory of the pre-training.

    Returns:
        str: Path of the checkpoint.

    Raises:
        RuntimeError: If the pre-training has not written a checkpoint.
    """
    from mmmaskdistill.engine.checkpoints import latest_checkpoint

    student = latest_checkpoint(work_dir)
    if student is None:
        raise RuntimeError(
            'pre-training has not written a checkpoint: the config needs '
            'default_hooks.checkpoint'
        )
    return student


def last_words(path: str, begin: int, code: int) -> str:
    """Find out from its log why a run failed.

    Args:
        path (str): The log file.
        begin (int): Position in bytes at which the run's part of the log begins.
        code (int): Return code of the run's process; negative for a signal.

    Returns:
        str: The last error message, or else the last line, and how the process
        ended.
    """
    with open(path, errors='replace') as file:
        file.seek(begin)
        lines = [line.strip() for line in file if line.strip()]
    errors = [line for line in lines if line.startswith('error: ')]
    words = (errors or lines or ['the log is empty'])[-1]
    how = f'signal {-code}' if code < 0 else f'exit status {code}'
    return f'{words.removeprefix("error: ")} ({how}, {path})'


def lock(work_dir: str) -> TextIO:
    """Lock a folder, so that only one ablation at a time uses it.

    Args:
        work_dir (str): The folder. It is made if it does not exist.

    Returns:
        TextIO: The open lock file. The folder stays locked while this process or
        one of the runs that inherit the file has it open.

    Raises:
        SystemExit: If the folder is locked already, or cannot be written to or
            locked.
    """
    try:
        os.makedirs(work_dir, exist_ok=True)
        # Closing the file would release the lock, so there is no `with` block.
        file = open(osp.join(work_dir, '.lock'), 'w')  # noqa: SIM115
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if not isinstance(error, BlockingIOError):
            fail(
                f'--work-dir {work_dir!r} cannot be used: {error}. Give a folder that '
                'can be written to, on a disk whose files can be locked'
            )
        fail(
            f'{work_dir!r} is in use: another ablation, or a run that it started, '
            'is still running there. Wait for its end or give another --work-dir'
        )
    return file


def main() -> None:
    """Check the command line and the configs, then run the ablation."""
    args = arguments()

    # These imports are slow. They come after the checks above, so that mistakes
    # on the command line are reported at once.
    import mmmaskdistill  # noqa: F401
    from mmmaskdistill.apis.ablation import Cell, make_cells, refuse_misfits
    from mmmaskdistill.apis.checks import check_data
    from mmmaskdistill.apis.configs import load_config
    from mmmaskdistill.errors import CheckpointError, ConfigError

    try:
        config = load_config(args.config, args.cfg_options)
        check_data(config, ['train_dataloader'])
        evaluations = {}
        for path in args.evaluate:
            evaluation = load_config(path, args.evaluate_options)
            if not evaluation.get('val_dataloader'):
                fail(
                    f'{path!r} has no val_dataloader: give --evaluate configs that '
                    'validate the model'
                )
            check_data(evaluation, ['train_dataloader', 'val_dataloader'])
            evaluations[stem(path)] = evaluation
        kinds = [probe_option(evaluation) for evaluation in evaluations.values()]
        if args.probe and len(set(kinds)) < len(kinds):
            fail(
                f'--evaluate {" ".join(args.evaluate)}: --probe takes the data of at '
                'most one segmentation and one classification config'
            )
        cells = refuse_misfits(
            make_cells(config, args.axes, args.one_at_a_time), evaluations
        )
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
    if all(cell.refusal for cell in cells):
        fail('none of the cells can be run, for the reasons above')
    if args.dry_run:
        return

    args.lock = lock(args.work_dir)
    signal.signal(signal.SIGTERM, lambda *_: fail('stopped'))
    ablation = Ablation(args, cells, evaluations)
    try:
        ablation.prepare()
        ablation.run()
        ablation.write()
    except NotReportedError as error:
        fail(error)
    with open(osp.join(args.work_dir, 'ablation.md')) as file:
        print(file.read())
    for name in ('ablation.csv', 'ablation.md', 'ablation.png'):
        print(f'  {osp.join(args.work_dir, name)}')
    failed = [o for o in ablation.outcomes.values() if o['status'] == 'failed']
    if failed:
        fail(
            f'{len(failed)} of {len(ablation.outcomes)} runs failed: see the '
            'table. Run the same command again to repeat them'
        )


if __name__ == '__main__':
    main()
