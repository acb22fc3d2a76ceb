"""Fit learning-rate schedules to the length of a run before they are built."""

from collections.abc import Sequence
from typing import NamedTuple

from mmengine.config import ConfigDict
from mmengine.optim.scheduler.param_scheduler import INF

from mmmaskdistill.errors import ConfigError

# A warm-up whose schedule does not say how long it is meant to be takes this share
# of a run in which it would not fit otherwise.
WARMUP_SHARE = 0.1


class RunLength(NamedTuple):
    """The length of a training run.

    Attributes:
        epochs (int): Number of epochs. 1 if the loop counts iterations.
        iters (int): Number of iterations.
        epoch_length (int): Number of batches of one pass over the data.
        by_epoch (bool): Whether the training loop counts epochs.
    """

    epochs: int
    iters: int
    epoch_length: int
    by_epoch: bool


def fit_schedules(
    schedules: Sequence[dict], run: RunLength
) -> tuple[list[dict], list[str]]:
    """Fit the configs of parameter schedulers to the length of a run.

    A schedule says by the ``end`` of its last part for which length it is written.
    If the run is longer or shorter, all lengths of the schedule (``begin``, ``end``,
    ``T_max``, ``milestones``, ...) are multiplied by the same factor, so that the
    learning rate at a given share of the run stays the same. A schedule of the right
    length is returned unchanged. A last part without an ``end`` ends with the run,
    and then only a warm-up that does not fit in the run is shortened.

    A warm-up of a single step is left out: mmengine would never leave its first
    value.

    Args:
        schedules (Sequence[dict]): Configs of parameter schedulers.
        run (RunLength): Length of the run.

    Returns:
        tuple[list[dict], list[str]]: The configs, of which the changed ones are
        copies, and one sentence about each thing that the user should know.

    Raises:
        ConfigError: If a schedule counts epochs and the run does not, or if a part
            ends before it begins.
    """
    parts = [_Part(k, ConfigDict(config), run) for k, config in enumerate(schedules)]
    for part in parts:
        part.check()
    notes = _stretch(parts) + _shorten_warmup(parts)
    notes += [note for part in parts for note in part.warnings()]
    kept = []
    for part in parts:
        if not part.is_plateau and part.steps < (2 if part.is_warmup else 1):
            notes.append(
                f'{part} has less than two steps in this run, so it is left out'
            )
        else:
            kept.append(part.fitted() if part.changed else schedules[part.index])
    return kept, notes


def _stretch(parts: list['_Part']) -> list[str]:
    """Scale a whole schedule to the run, if it says how long it is."""
    mains = [part for part in parts if not (part.is_warmup or part.is_plateau)]
    if not mains or any(part.end is None for part in mains):
        return []
    last = max(mains, key=lambda part: part.end * part.unit)
    length = last.length
    if last.end in (length, length + 1):
        return []
    # An end of 160001 is that of a run of 160000 iterations: mmengine's linear
    # schedules reach their last value one iteration before their end.
    extra = int(not last.config.get('by_epoch', True) and last.end % 10 == 1)
    ratio = length / (last.end - extra)
    written = last.end - extra
    for part in parts:
        part.scale(ratio, extra)
    return [
        f'param_scheduler is written for {written:,} {last.unit_name}, and this run '
        f'has {length:,}: its lengths are multiplied by {ratio:.4g}, which gives '
        f'{_settings(parts)}'
    ]


def _shorten_warmup(parts: list['_Part']) -> list[str]:
    """Shorten a warm-up that leaves nothing of the run to what follows."""
    if not any(part.does_not_fit for part in parts):
        return []
    longest = max(
        max(part.begin, part.end if part.is_warmup else 0) * part.unit for part in parts
    )
    ratio = WARMUP_SHARE * parts[0].run.iters / longest
    before = _settings(parts)
    for part in parts:
        part.scale(ratio, keep_end=not part.is_warmup)
    return [
        f'the warm-up of param_scheduler is longer than this run of '
        f'{parts[0].length:,} {parts[0].unit_name} ({before}): it is shortened to '
        f'a share of {WARMUP_SHARE:g}, which gives {_settings(parts)}'
    ]


def _settings(parts: list['_Part']) -> str:
    settings = [setting for part in parts for setting in part.settings()]
    return ' '.join(settings) or 'no warm-up'


class _Part:
    """One parameter scheduler of a schedule, and its place in the run."""

    def __init__(self, index: int, config: ConfigDict, run: RunLength):
        self.index = index
        self.config = config
        self.run = run
        self.changed = False
        self.by_epoch = config.get('by_epoch', True)
        self.converts = self.by_epoch and config.get('convert_to_iter_based', False)
        self.unit = run.epoch_length if self.by_epoch else 1
        self.unit_name = 'epochs' if self.by_epoch else 'iterations'
        kind = config['type']
        self.kind = (kind if isinstance(kind, str) else kind.__name__).split('.')[-1]
        self.is_plateau = self.kind.startswith('ReduceOnPlateau')
        begin = config.get('begin', 0)
        self.is_warmup = (
            self.kind.startswith('Linear')
            and config.get('end_factor', 1.0) > config.get('start_factor', 1 / 3)
        ) or (
            self.kind.startswith('Constant')
            and not begin
            and config.get('factor', 1 / 3) != 1
        )

    def __str__(self) -> str:
        return f'param_scheduler.{self.index} ({self.kind})'

    @property
    def length(self) -> int | float:
        """Length of the run in the unit of this part."""
        if self.by_epoch and not self.run.by_epoch:
            return self.run.iters / self.run.epoch_length
        return self.run.epochs if self.by_epoch else self.run.iters

    @property
    def begin(self) -> int | float:
        return self.config.get('begin', 0)

    @property
    def end(self) -> int | float | None:
        """Where the part ends, or None if it ends with the run."""
        end = self.config.get('end', INF)
        if end is not None and end < INF:
            return end
        if self.kind.startswith('Cosine') and self.config.get('T_max'):
            period = self.config['T_max']
        elif self.config.get('total_steps'):
            period = self.config['total_steps']
        elif self.config.get('periods'):
            period = sum(self.config['periods'])
        else:
            return None
        return None if period == self.length else self.begin + period

    @property
    def does_not_fit(self) -> bool:
        too_long = self.is_warmup and self.end is not None and self.end > self.length
        return too_long or self.begin >= self.length

    @property
    def steps(self) -> int | float:
        """Number of values that the part sets in this run."""
        factor = self.unit if self.converts else 1
        end = self.length if self.end is None else self.end
        return int(end * factor) - int(self.begin * factor)

    def check(self) -> None:
        endless = self.config.get('end', INF) in (None, INF)
        if self.is_plateau:
            # It steps after each validation, whatever the loop counts.
            if not self.by_epoch:
                raise ConfigError(
                    f'{self} counts validations, for which mmengine needs '
                    f'param_scheduler.{self.index}.by_epoch=True in every loop'
                )
            return
        if (
            self.by_epoch
            and not self.run.by_epoch
            and not (self.converts and not endless)
        ):
            raise ConfigError(
                f'{self} counts epochs and the training loop counts iterations, so '
                f'it would stay at its first value: set '
                f'param_scheduler.{self.index}.by_epoch=False and give its begin '
                f'and end in iterations, of which the run has {self.run.iters}'
            )
        if not endless and self.config['end'] <= self.begin:
            raise ConfigError(
                f'{self} begins at {self.begin} and ends at {self.config["end"]} '
                f'{self.unit_name}: set param_scheduler.{self.index}.end to more '
                'than its begin'
            )

    def scale(self, ratio: float, extra: int = 0, keep_end: bool = False) -> None:
        """Multiply all lengths by a ratio.

        ``extra`` is the number of iterations that an end such as 1501 has more than
        the length that it stands for.
        """

        def scaled(value: float) -> float:
            more = extra if value % 10 == 1 else 0
            value = (value - more) * ratio + more
            return value if self.converts else round(value)

        config, before = self.config, self.end
        fills = config.get('T_max') and config['T_max'] == (before or 0) - self.begin
        end = config.get('end')
        has_end = end is not None and end < INF
        if self.begin:
            config['begin'] = scaled(self.begin)
        if has_end and not keep_end:
            config['end'] = scaled(end)
        if not keep_end:
            for key in ('T_max', 'total_steps', 'step_size'):
                if config.get(key):
                    config[key] = max(scaled(config[key]), 0 if self.converts else 1)
            for key in ('milestones', 'periods'):
                if config.get(key):
                    config[key] = [scaled(value) for value in config[key]]
        if fills and has_end:
            config['T_max'] = config['end'] - self.begin
        elif fills and keep_end:
            config['T_max'] = before - self.begin
        self.changed = True

    def fitted(self) -> ConfigDict:
        """Return the config, in iterations if mmengine needs whole numbers of them.

        mmengine multiplies lengths in epochs by the length of an epoch, and would
        neither take 2.5 epochs as ``total_steps`` nor ever meet a milestone between
        two iterations.
        """
        whole = ('total_steps', 'step_size', 'milestones', 'periods')
        if not (self.converts and any(self.config.get(key) for key in whole)):
            return self.config
        config = ConfigDict(self.config, by_epoch=False)
        del config['convert_to_iter_based']
        for key in ('begin', 'end', 'T_max', *whole):
            value = config.get(key)
            if isinstance(value, (list, tuple)):
                config[key] = [max(round(item * self.unit), 1) for item in value]
            elif value and value < INF:
                config[key] = max(round(value * self.unit), 1)
        return config

    def settings(self) -> list[str]:
        """The lengths of the part, written as on a command line."""
        keys = (
            'begin',
            'end',
            'T_max',
            'total_steps',
            'step_size',
            'milestones',
            'periods',
        )
        return [
            f'param_scheduler.{self.index}.{key}={_number(self.config[key])}'
            for key in keys
            if self.config.get(key) and self.config[key] != INF
        ]

    def warnings(self) -> list[str]:
        """Sentences about what has no effect, or too much of it, in this run."""
        name = f'param_scheduler.{self.index}'
        rest = self.length - self.begin
        late = [m for m in self.config.get('milestones', ()) if m >= rest]
        if late:
            last = max(self.config['milestones'])
            share = 0.9 * rest / last
            milestones = {max(int(m * share), 1) for m in self.config['milestones']}
            proposal = sorted(milestones)
            return [
                f'{self} never reaches its milestones {_number(late)} in this run of '
                f'{_number(self.length)} {self.unit_name}: set '
                f'{name}.milestones={_number(proposal)}'
            ]
        if self.config.get('step_size') and self.config['step_size'] >= rest:
            return [
                f'{self} never takes its first step of {self.config["step_size"]} in '
                f'this run of {_number(self.length)} {self.unit_name}: set '
                f'{name}.step_size={max(int(rest / 3), 1)}'
            ]
        if self.is_warmup and not self.changed and self.steps > 1:
            share = ((self.end or self.length) - self.begin) / self.length
            if share > 0.5:
                return [
                    f'{self} warms up for {share:.0%} of this run of '
                    f'{_number(self.length)} {self.unit_name}: set {name}.end to less'
                ]
        return []


def _number(value: int | float | list) -> str:
    if isinstance(value, (list, tuple)):
        return '[' + ','.join(map(_number, value)) + ']'
    return f'{value:.6g}' if isinstance(value, float) else str(value)
