"""Write features of images to a file, row by row, so that a killed run can go on.

The rows are first appended to files in the folder ``OUT.partial``, next to a journal
that says how many of them are complete. The file OUT appears when all images are done,
and the folder is removed.
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmmaskdistill.compat.atomic_files import open_atomically
from mmmaskdistill.errors import ConfigError, first_few

ENDINGS = ('.npz', '.npy', '.parquet')
JOURNAL = 'journal.jsonl'
# Bytes before the rows of a .npy file. NumPy itself leaves 128, too few for any shape.
HEADER = 256
# Seconds between two entries of the journal, each of which waits for the disk.
INTERVAL = 1.0
ROW_GROUP = 64 * 2**20  # Bytes of a row group of a .parquet file.


class FeatureFile:
    """Arrays with a row for each image, written to one file at the end.

    A new object goes on where a killed run with the same settings has stopped. If the
    settings differ, it is an error.

    Args:
        out (str): The file to write. Its ending is one of ``ENDINGS``.
        settings (dict): Everything that the features depend on, such as the model and
            the list of images. It must be the same after ``json.loads(json.dumps())``.
        keys (Sequence[str]): Names of the arrays that the file gets. Others that are
            added can be read by :meth:`maps`.
        dtype (str): Type of the features in the file. Defaults to ``'float32'``.
        overwrite (bool): Whether the file may be there already. Defaults to False.

    Attributes:
        names (list[str]): Names of the rows.
        skipped (dict[str, str]): Images without a row, and the reason.
        resumed (int): Number of images that an earlier run has done.

    Raises:
        ConfigError: If the file is there already, it cannot be written, another run is
            writing it, or a killed run had other settings.
    """

    def __init__(
        self,
        out: str,
        settings: dict,
        keys: Sequence[str],
        dtype: str = 'float32',
        overwrite: bool = False,
    ):
        check_ending(out)
        self.out, self.keys, self.dtype = Path(out), list(keys), np.dtype(dtype)
        self.folder = self.out.with_name(self.out.name + '.partial')
        self.names, self.skipped = [], {}
        self._settings = {**settings, 'dtype': self.dtype.name}
        self._shapes, self._files, self._new = {}, {}, _Entry()
        self._finished = False
        targets = dict.fromkeys(self._targets().values())
        there = [str(path) for path in targets if path.exists()]
        # A run that was killed at its end may have written some of the files.
        if there and not overwrite and not (self.folder / JOURNAL).exists():
            raise ConfigError(
                f'{first_few([repr(path) for path in there])} is there already: choose '
                'another file, or overwrite it with --overwrite'
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._journal = open(self.folder / JOURNAL, 'a+')  # noqa: SIM115
            fcntl.lockf(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another process is writing '{out}': wait for it, or choose another "
                'file'
            ) from None
        except OSError as error:
            raise ConfigError(f"cannot write '{out}': {error}") from error
        self._resume()
        self.resumed = self.done
        self._committed = time.monotonic()

    @property
    def done(self) -> int:
        """Number of images that have a row or were skipped."""
        return len(self.names) + len(self.skipped)

    def add(self, name: str, features: dict[str, np.ndarray]) -> None:
        """Append the row of an image.

        Args:
            name (str): Name of the image.
            features (dict[str, ndarray]): A vector [D] or a map [h, w, D] for each
                array of the file.

        Raises:
            ConfigError: If one of ``keys`` has another shape than for other images.
        """
        for key, value in features.items():
            if key not in self._files:
                self._open(key, value.shape[-1])
            elif key in self.keys and value.shape != self._shapes[key][0]:
                first = self._shapes[key][0]
                self.discard()
                raise ConfigError(
                    f"'{name}' has a grid of {value.shape[0]} x {value.shape[1]} "
                    f"patches, '{self.names[0]}' one of {first[0]} x {first[1]}, and "
                    'an array needs the same for all images. Give them the same size '
                    'with --size HEIGHT WIDTH'
                )
            value = np.ascontiguousarray(value, self.dtype)
            self._files[key].write(value.data)
            self._shapes.setdefault(key, []).append(value.shape)
            self._new.shapes.setdefault(key, []).append(value.shape)
        self.names.append(name)
        self._new.names.append(name)

    def skip(self, name: str, reason: str) -> None:
        """Note that an image has no row.

        Args:
            name (str): Name of the image.
            reason (str): Why.
        """
        self.skipped[name] = self._new.skipped[name] = reason

    def commit(self, now: bool = False) -> None:
        """Note in the journal what is complete, at most once in a second.

        Args:
            now (bool): Whether to note it in any case. Defaults to False.
        """
        if not now and time.monotonic() - self._committed < INTERVAL:
            return
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        self._log(vars(self._new))
        self._new = _Entry()
        self._committed = time.monotonic()

    def maps(self, key: str) -> Iterator[np.ndarray]:
        """Yield the rows of an array one by one, also if their shapes differ.

        Args:
            key (str): Name of the array.
        """
        self.commit(now=True)
        start = HEADER
        for shape in self._shapes[key]:
            yield np.memmap(self._path(key), self.dtype, 'r', start, shape)
            start += int(np.prod(shape)) * self.dtype.itemsize

    def finish(self) -> list[str]:
        """Write the file, and remove the folder of the unfinished one.

        Returns:
            list[str]: The files that were written.

        Raises:
            ConfigError: If there is no row.
        """
        if not self.names:
            self.discard()
            reasons = first_few([f"'{k}': {v}" for k, v in self.skipped.items()])
            raise ConfigError(f'none of {self.done} images could be read: {reasons}')
        if not self._finished:
            self.commit(now=True)
            for file in self._files.values():
                file.close()
            for key in self.keys:
                self._write_header(key, (len(self.names), *self._shapes[key][0]))
            self._log(dict(finished=True))
        write = {
            '.npy': self._to_npy,
            '.npz': self._to_npz,
            '.parquet': self._to_parquet,
        }
        written = write[self.out.suffix.lower()]()
        self.discard()
        return written

    def discard(self) -> None:
        """Remove the folder of the unfinished file."""
        for file in self._files.values():
            file.close()
        shutil.rmtree(self.folder)
        self._journal.close()

    def _to_npy(self) -> list[str]:
        names = self.out.with_name(f'{self.out.stem}.names.txt')
        files = self._targets()
        # Until all arrays are in place, there is no list of names.
        if any(self._path(key).exists() for key in self.keys):
            names.unlink(missing_ok=True)
        for key, file in files.items():
            if self._path(key).exists():
                os.replace(self._path(key), file)
        with open_atomically(names, 'w') as file:
            file.writelines(f'{name}\n' for name in self.names)
        return [*map(str, files.values()), str(names)]

    def _to_npz(self) -> list[str]:
        arrays = {key: np.load(self._path(key), mmap_mode='r') for key in self.keys}
        with open_atomically(self.out, 'wb') as file:
            np.savez(
                file,
                names=np.array(self.names),
                settings=np.array(json.dumps(self._public_settings())),
                **arrays,
            )
        return [str(self.out)]

    def _to_parquet(self) -> list[str]:
        pyarrow = import_pyarrow()
        from pyarrow import parquet

        arrays = {key: np.load(self._path(key), mmap_mode='r') for key in self.keys}
        sizes = {key: int(np.prod(array.shape[1:])) for key, array in arrays.items()}
        number = pyarrow.from_numpy_dtype(self.dtype)
        fields = [
            pyarrow.field(
                key,
                pyarrow.list_(number, sizes[key]),
                metadata={'shape': json.dumps(list(array.shape[1:]))},
            )
            for key, array in arrays.items()
        ]
        schema = pyarrow.schema(
            [pyarrow.field('name', pyarrow.string()), *fields],
            metadata={'settings': json.dumps(self._public_settings())},
        )
        step = max(1, ROW_GROUP // (self.dtype.itemsize * sum(sizes.values())))
        with (
            open_atomically(self.out, 'wb') as file,
            parquet.ParquetWriter(file, schema) as writer,
        ):
            for start in range(0, len(self.names), step):
                part = slice(start, start + step)
                columns = [pyarrow.array(self.names[part], pyarrow.string())]
                for key, array in arrays.items():
                    values = pyarrow.array(array[part].reshape(-1), number)
                    columns.append(
                        pyarrow.FixedSizeListArray.from_arrays(values, sizes[key])
                    )
                writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))
        return [str(self.out)]

    def _targets(self) -> dict[str, Path]:
        """Return the file that each array is written to."""
        if self.out.suffix.lower() != '.npy' or len(self.keys) == 1:
            return dict.fromkeys(self.keys, self.out)
        return {
            key: self.out.with_name(f'{self.out.stem}.{key}.npy') for key in self.keys
        }

    def _public_settings(self) -> dict:
        """Return the settings without the list of images, which are the names."""
        return {key: v for key, v in self._settings.items() if key != 'images'}

    def _path(self, key: str) -> Path:
        return self.folder / f'{key}.npy'

    def _open(self, key: str, width: int):
        self._files[key] = open(self._path(key), 'wb')  # noqa: SIM115
        # An array without rows, until all are there.
        self._files[key].write(_header((0, width), self.dtype))

    def _write_header(self, key: str, shape: tuple[int, ...]):
        with open(self._path(key), 'r+b') as file:
            file.write(_header(shape, self.dtype))
            file.flush()
            os.fsync(file.fileno())

    def _log(self, entry: dict):
        self._journal.write(json.dumps(entry) + '\n')
        self._journal.flush()
        os.fsync(self._journal.fileno())

    def _resume(self):
        """Read the journal of a killed run, and cut off what it does not mention."""
        self._journal.seek(0)
        content = self._journal.read()
        # A kill may have left a part of a line.
        complete = content[: content.rfind('\n') + 1]
        self._journal.truncate(len(complete.encode()))
        if not complete:
            self._log(self._settings)
            return
        settings, *entries = map(json.loads, complete.splitlines())
        self._check_settings(settings)
        for entry in entries:
            if 'finished' in entry:
                self._finished = True
                return
            self.names += entry['names']
            self.skipped |= entry['skipped']
            for key, shapes in entry['shapes'].items():
                self._shapes.setdefault(key, []).extend(map(tuple, shapes))
        for key, shapes in self._shapes.items():
            size = HEADER + self.dtype.itemsize * sum(int(np.prod(s)) for s in shapes)
            file = self._path(key)
            if not file.is_file() or file.stat().st_size < size:
                raise ConfigError(
                    f"'{file}' has lost rows that '{self.folder / JOURNAL}' mentions: "
                    f"remove the folder '{self.folder}' to begin anew"
                )
            os.truncate(file, size)
            self._files[key] = open(file, 'ab')  # noqa: SIM115

    def _check_settings(self, before: dict):
        changed = [
            key
            for key in sorted({*before, *self._settings})
            if before.get(key) != self._settings.get(key)
        ]
        if changed:
            raise ConfigError(
                f"a run that writes '{self.out}' was stopped before its end and had "
                f'another {" and ".join(changed)}. '
                + '. '.join(
                    _describe_change(key, before.get(key), self._settings.get(key))
                    for key in changed
                )
                + f". Repeat that run, or remove the folder '{self.folder}' to begin "
                'anew'
            )


class _Entry:
    """What has been added since the last entry of the journal."""

    def __init__(self):
        self.names, self.skipped, self.shapes = [], {}, {}


def check_ending(out: str) -> None:
    """Raise an error if features cannot be written to a file.

    Args:
        out (str): The file.

    Raises:
        ConfigError: If its ending is none of ``ENDINGS``, or pyarrow is missing.
    """
    if not str(out).lower().endswith(ENDINGS):
        raise ConfigError(
            f"'{out}': expected a file that ends with {', '.join(ENDINGS)}"
        )
    if str(out).lower().endswith('.parquet'):
        import_pyarrow()


def import_pyarrow() -> Any:
    """Import pyarrow.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise ConfigError(
            'writing a .parquet file needs the package pyarrow: '
            'pip install "mmmaskdistill[parquet]"'
        ) from error
    return pyarrow


def _header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """Return the header of a .npy file, padded to a fixed length."""
    text = repr(dict(descr=dtype.str, fortran_order=False, shape=shape))
    start = np.lib.format.magic(1, 0) + (HEADER - 10).to_bytes(2, 'little')
    return start + text.encode().ljust(HEADER - 11) + b'\n'


def _describe_change(key: str, before: Any, now: Any) -> str:
    if isinstance(before, list) and isinstance(now, list) and len(before) > 8:
        old, later = set(before), set(now)
        new = [value for value in now if value not in old]
        gone = [value for value in before if value not in later]
        parts = [f'{len(before)} before, {len(now)} now']
        parts += [f'new: {first_few(list(map(str, new)))}'] if new else []
        parts += [f'missing: {first_few(list(map(str, gone)))}'] if gone else []
        return f'{key}: {"; ".join(parts)}'
    return f'{key}: {before!r} before, {now!r} now'
