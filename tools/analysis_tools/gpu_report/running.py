"""Run the steps of a report, each within its time, and keep what they have measured."""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from command_line import fail

from .machine import ROOT, environment

COMPLETE, FAILED, TIMED_OUT = 'complete', 'failed', 'timed out'
INTERRUPTED, NOT_RUN = 'interrupted', 'not run'
# What must be equal for a result to count as that of the same measurement.
CONDITIONS = dict(name='on', commit='at commit', torch='with torch', device='with')
# Seconds after which a process that does not end when it is told to is killed.
GRACE = 10.0
# Seconds that a step and a part get at least, if they are left: a part that is killed
# tells less than one that did not begin. With less than a sixth of it, none begins.
LEAST = 90.0
LAST_LINES = 15


def read_json(out: Path) -> dict:
    """Read the result of a command that writes a JSON file."""
    return json.loads(out.read_text())


@dataclass(frozen=True)
class Part:
    """One command of a step.

    Attributes:
        name (str): Key of the part in the step's JSON file.
        title (str): What is measured.
        command (Sequence[str]): The command. ``{python}`` stands for the interpreter,
            ``{out}`` for the file of the result and ``{dir}`` for the folder of the
            report.
        weight (float): Share of the step's time, relative to that of the other parts.
        read (Callable[[Path], dict]): Reads the result from the file ``{out}``.
        env (dict[str, str]): Environment variables that are added.
        folder (str): Folder below that of the report from which the command continues
            when it runs again. It is emptied for another commit or machine. Defaults to
            none.
    """

    name: str
    title: str
    command: Sequence[str]
    weight: float = 1.0
    read: Callable[[Path], dict] = read_json
    env: dict[str, str] = field(default_factory=dict)
    folder: str = ''


@dataclass(frozen=True)
class Step:
    """A numbered step of the report.

    Attributes:
        number (int): Its number.
        title (str): Its title in the report.
        parts (Sequence[Part]): The commands, most telling first.
        weight (float): Share of the report's time, relative to that of other steps.
    """

    number: int
    title: str
    parts: Sequence[Part]
    weight: float = 1.0


class Report:
    """The folder of a report, and the time that is left for it.

    Args:
        folder (Path): The folder.
        machine (dict): What :func:`.machine.describe` returns.
        seconds (float): Time for all steps.
        command (str): The command line of the report.
    """

    def __init__(self, folder: Path, machine: dict, seconds: float, command: str = ''):
        self.folder, self.machine, self.command = folder, machine, command
        self.end = time.monotonic() + seconds
        (folder / 'steps').mkdir(parents=True, exist_ok=True)

    def run(
        self, steps: Sequence[Step], write: Callable[[], None] = lambda: None
    ) -> bool:
        """Run the steps that are not complete.

        The time that is left is shared among the steps by their weights, see
        :func:`share`, so what a step does not need is left to those after it. A step
        that fails or does not finish in its time does not stop the others.

        Args:
            steps (Sequence[Step]): The steps.
            write (Callable[[], None]): Called after each part, to write the report.

        Returns:
            bool: Whether all steps are complete.

        Raises:
            KeyboardInterrupt: If the process is interrupted. Processes that were
                started are then killed, and results are kept.
        """
        todo = [step for step in steps if not self._is_complete(step)]
        for k, step in enumerate(todo):
            limit = share(self._left(), [s.weight for s in todo[k:]])
            self._run_step(step, limit, write)
        write()
        return all(self.load(step.number)['status'] == COMPLETE for step in steps)

    def load(self, number: int) -> dict | None:
        """Read the record of a step, None if there is none that can be read."""
        try:
            return json.loads(self._file(number).read_text())
        except (OSError, ValueError):
            return None

    def _file(self, number: int) -> Path:
        return self.folder / 'steps' / f'{number}.json'

    def _left(self) -> float:
        return max(0.0, self.end - time.monotonic())

    def _is_complete(self, step: Step) -> bool:
        """Tell whether a step need not run, and forget results that do not count."""
        record = self.load(step.number)
        if record is None:
            self._forget(step)
            return False
        other = [
            key for key in CONDITIONS if record['machine'][key] != self.machine[key]
        ]
        if other:
            before, now = (
                ', '.join(f'{CONDITIONS[key]} {of[key]}' for key in other)
                for of in (record['machine'], self.machine)
            )
            _say(f'step {step.number} was measured {before}; it is run again {now}')
            self._forget(step)
            return False
        parts = {}
        for part in step.parts:
            found = record['parts'].get(part.name)
            if found and found['command'] == list(part.command):
                parts[part.name] = found
            elif found:
                self._empty(part)
        complete = [part for part in parts.values() if part['status'] == COMPLETE]
        if len(complete) < len(step.parts):
            self._save(step, parts)
            return False
        _say(f'== step {step.number}, {step.title}: complete, from {record["date"]}')
        return True

    def _forget(self, step: Step) -> None:
        """Remove what was measured with another commit or machine."""
        self._file(step.number).unlink(missing_ok=True)
        for part in step.parts:
            self._empty(part)

    def _empty(self, part: Part) -> None:
        if part.folder:
            shutil.rmtree(self.folder / part.folder, ignore_errors=True)

    def _run_step(self, step: Step, limit: float, write: Callable[[], None]) -> None:
        _say(f'== step {step.number}, {step.title} (limit {limit / 60:.1f} min)')
        parts = (self.load(step.number) or dict(parts={}))['parts']
        end = time.monotonic() + limit
        # The commit and the machine are known even if this process is killed.
        self._save(step, parts)
        todo = [
            part
            for part in step.parts
            if parts.get(part.name, dict(status=NOT_RUN))['status'] != COMPLETE
        ]
        for k, part in enumerate(todo):
            left = max(0.0, end - time.monotonic())
            # Parts differ in what they need, so one may take twice its share.
            seconds = share(left, [p.weight for p in todo[k:]], factor=2)
            found, before = self._run_part(step, part, seconds), parts.get(part.name)
            if found['result'] is None and before:
                # What a part measured before it was cut stays until there is another.
                found['result'] = before['result']
            parts[part.name] = found
            self._save(step, parts)
            write()
            _say(f'   {part.title}: {found["status"]} ({found["seconds"]:.0f} s)')
            for line in found['last_lines'][-3:]:
                _say(f'      {line}')
            if found['status'] == INTERRUPTED:
                raise KeyboardInterrupt

    def _save(self, step: Step, parts: dict[str, dict]) -> None:
        statuses = {part['status'] for part in parts.values()}
        missing = {part.name for part in step.parts} - parts.keys()
        if missing:
            statuses.add(NOT_RUN)
        order = (INTERRUPTED, FAILED, TIMED_OUT, NOT_RUN, COMPLETE)
        record = dict(
            step=step.number,
            title=step.title,
            status=next(status for status in order if status in statuses),
            date=datetime.now().isoformat(' ', 'minutes'),
            seconds=sum(part['seconds'] for part in parts.values()),
            machine=self.machine,
            command=self.command,
            parts={p.name: parts[p.name] for p in step.parts if p.name in parts},
        )
        write_file(self._file(step.number), json.dumps(record, indent=2))

    def _run_part(self, step: Step, part: Part, limit: float) -> dict:
        if limit < max(1.0, LEAST / 6):
            return _part(part, NOT_RUN, last_lines=['no time was left for it'])
        out = self.folder / 'steps' / f'{step.number}.{part.name}.out'
        out.unlink(missing_ok=True)
        values = {
            '{python}': sys.executable,
            '{out}': str(out),
            '{dir}': str(self.folder),
        }
        command = []
        for word in part.command:
            for name, value in values.items():
                word = word.replace(name, value)
            command.append(word)
        # The checkout counts, and not another copy that may be installed. What is
        # printed must not be lost if the process is killed.
        env = {**environment(ROOT), 'PYTHONUNBUFFERED': '1', **part.env}
        log = self.folder / 'steps' / f'{step.number}.log'
        start = time.monotonic()
        with log.open('ab') as file:
            file.write(f'\n$ {" ".join(command)}\n'.encode())
            file.flush()
            begin = file.tell()
            try:
                code = call(command, limit, file, env)
                status = {0: COMPLETE, None: TIMED_OUT}.get(code, FAILED)
            except OSError as error:
                status = FAILED
                file.write(f'{error}\n'.encode())
            except KeyboardInterrupt:
                status = INTERRUPTED
        result, lines = None, []
        try:
            result = part.read(out)
        except FileNotFoundError as error:
            if status == COMPLETE:
                status, lines = FAILED, [_unreadable(error)]
        except (OSError, ValueError, KeyError) as error:
            status = FAILED if status == COMPLETE else status
            lines = [_unreadable(error)]
        if status not in (COMPLETE, INTERRUPTED):
            text = log.read_bytes()[begin:].decode(errors='replace')
            lines = text.rstrip().splitlines()[-LAST_LINES:] + lines
        return _part(part, status, time.monotonic() - start, limit, result, lines)


def _unreadable(error: Exception) -> str:
    return f'the result cannot be read: {type(error).__name__}: {error}'


def _part(
    part: Part,
    status: str,
    seconds: float = 0.0,
    limit: float | None = None,
    result: dict | None = None,
    last_lines: Sequence[str] = (),
) -> dict:
    return dict(
        title=part.title,
        command=list(part.command),
        status=status,
        seconds=seconds,
        limit=limit,
        result=result,
        last_lines=list(last_lines),
    )


def share(left: float, weights: Sequence[float], factor: float = 1.0) -> float:
    """Return the time of the first of several things to do.

    Args:
        left (float): The time that is left, in seconds.
        weights (Sequence[float]): The share of each of them.
        factor (float): By how much the share may be exceeded. Defaults to 1.

    Returns:
        float: The time, at least :data:`LEAST` seconds if they are left.
    """
    return min(left, max(LEAST, factor * left * weights[0] / sum(weights)))


def call(
    command: Sequence[str], limit: float, output: object, env: dict[str, str]
) -> int | None:
    """Run a command in the checkout, and kill it with its children after some time.

    Args:
        command (Sequence[str]): The command.
        limit (float): Time in seconds.
        output (file): File to which the output is written.
        env (dict[str, str]): Environment variables.

    Returns:
        int | None: The exit status, or None if the time was over.
    """
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_end_with_parent if _PRCTL else None,
    )
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            _kill(process)


# This function of the C library exists only on Linux.
_PRCTL = getattr(ctypes.CDLL(None), 'prctl', None)


def _end_with_parent() -> None:
    """Let this process end with the report, even if that is killed without a warning.

    Otherwise it would go on computing, and the next report would measure a busy GPU.
    """
    set_death_signal = 1  # A constant of sys/prctl.h.
    _PRCTL(set_death_signal, signal.SIGTERM)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let a single process at a time write to the folder of a report.

    Args:
        folder (Path): The folder, which is made.

    Yields:
        None: The folder is locked inside the ``with`` statement.

    Raises:
        SystemExit: If another process writes to it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / 'lock').open('w')
    except OSError as error:
        fail(f'--out {folder}: {error.strerror}')
    with file:
        try:
            import fcntl  # This module exists only on Unix.

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fail(
                f'another report is being written to {folder}, and two at once would '
                'measure each other: wait for it'
            )
        except (ImportError, OSError):
            pass  # This system, or the file system, has no locks.
        yield


def _kill(process: subprocess.Popen) -> None:
    """End a process and its descendants, those in sessions of their own too."""
    family = [process.pid, *_descendants(process.pid)]
    _signal(family, signal.SIGTERM)
    end = time.monotonic() + GRACE
    while time.monotonic() < end and any(map(_is_alive, family)):
        process.poll()
        time.sleep(0.05)
    _signal({*family, *_descendants(process.pid)}, signal.SIGKILL)
    process.wait()


def _signal(family: Iterable[int], number: int) -> None:
    for pid in family:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _status(pid: int) -> list[str] | None:
    """Return the state and the parent of a process from Linux's table."""
    try:
        content = Path(f'/proc/{pid}/stat').read_text()
    except OSError:
        return None
    # The name of the program, in parentheses, may contain anything.
    return content.rpartition(')')[2].split()[:2]


def _is_alive(pid: int) -> bool:
    status = _status(pid)
    return status is not None and status[0] not in 'ZX'


def _descendants(pid: int) -> list[int]:
    parents = {}
    for entry in Path('/proc').iterdir() if Path('/proc/self/stat').exists() else ():
        if entry.name.isdigit() and (status := _status(int(entry.name))):
            parents[int(entry.name)] = int(status[1])
    family = [pid]
    for member in family:
        family += [child for child, parent in parents.items() if parent == member]
    return family[1:]


def write_file(path: Path, text: str) -> None:
    """Write a file in one go, so that an interruption leaves the old or the new one."""
    draft = path.with_name(path.name + '.tmp')
    draft.write_text(text)
    os.replace(draft, path)


def _say(line: str) -> None:
    print(line, flush=True)
