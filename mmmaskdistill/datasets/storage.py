"""Images inside tar shards or an LMDB, read by what takes a file's name.

A packed image's name is a URI, which mmengine's ``fileio.get`` and all loaders
that use it take in place of a path::

    tarshard://data/imagenet/train_shards/000012.tar#offset+size/name
    imagelmdb://data/imagenet/train_lmdb/#name

Both kinds have a table of contents, ``index.tsv``, a line an image: what
follows the folder in its URI, and its label.
"""

import os
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

from mmengine.fileio import BaseStorageBackend, register_backend

from mmmaskdistill.errors import ConfigError

INDEX = 'index.tsv'
FOLDERS = dict(shards='_shards', lmdb='_lmdb')
MAX_OPEN = 256


class _PackedBackend(BaseStorageBackend):
    """Keeps the last files open, each process its own."""

    def __init__(self):
        self._open, self._process = OrderedDict(), os.getpid()

    def _opened(self, path: str):
        if self._process != os.getpid():
            # A fork shares its parent's positions in files.
            self._open, self._process = OrderedDict(), os.getpid()
        if path not in self._open:
            self._open[path] = self._open_file(path)
            if len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)[1].close()
        return self._open[path]

    def get_text(self, filepath: str, encoding: str = 'utf-8') -> str:
        return self.get(filepath).decode(encoding)


@register_backend('tarshard', prefixes='tarshard')
class TarShardBackend(_PackedBackend):
    """Reads ``tarshard://TAR#OFFSET+SIZE/NAME``, bytes of a member."""

    def get(self, filepath: str) -> bytes:
        """
        Raises:
            OSError: If the shard is missing or ends before the member.
        """
        shard, member = _split(filepath)
        offset, size = map(int, member.split('/', 1)[0].split('+'))
        file = self._opened(shard)
        file.seek(offset)
        content = file.read(size)
        if len(content) != size:
            raise OSError(
                f"'{shard}' ends within the image: expected {size} "
                f'bytes at {offset}, found {len(content)}'
            )
        return content

    def _open_file(self, path: str):
        return open(path, 'rb')


@register_backend('imagelmdb', prefixes='imagelmdb')
class ImageLmdbBackend(_PackedBackend):
    """Reads ``imagelmdb://FOLDER/#KEY``, the value of a key."""

    def get(self, filepath: str) -> bytes:
        """
        Raises:
            OSError: If the database is missing or damaged, or has no such
                key.
        """
        import lmdb

        folder, key = _split(filepath)
        try:
            with self._opened(folder).begin() as transaction:
                content = transaction.get(key.encode())
        except lmdb.Error as error:
            raise OSError(f"LMDB '{folder}': {error}") from error
        if content is None:
            raise OSError(f"no key '{key}' in the LMDB '{folder}'")
        return content

    def _open_file(self, path: str):
        import lmdb

        return lmdb.open(path, readonly=True, lock=False, readahead=False)


def _split(uri: str) -> tuple[str, str]:
    return tuple(str(uri).split('://', 1)[1].rsplit('#', 1))


def write_index(folder: str, rows: Iterable[tuple[str, int]]):
    """Write ``index.tsv``, complete or not at all.

    Args:
        folder (str): Of the shards or of the LMDB.
        rows: What follows the folder in the URI, and the label, of each
            image.
    """
    path = Path(folder, INDEX)
    partial = path.with_suffix('.tmp')
    with open(partial, 'w') as file:
        file.writelines(f'{end}\t{label}\n' for end, label in rows)
    os.replace(partial, path)


def read_index(folder: str, storage: str) -> list[dict]:
    """Images of shards or an LMDB, in the order they were packed in.

    Args:
        folder (str): Holds ``index.tsv``.
        storage (str): ``shards`` or ``lmdb``.

    Returns:
        list[dict]: ``img_path``, a URI, and ``gt_label`` of each.

    Raises:
        ConfigError: If there is no index.
    """
    path = Path(folder, INDEX)
    if not path.is_file():
        raise ConfigError(
            f"storage='{storage}': '{path}' is missing; make it with python "
            f'tools/dataset_converters/pack_imagenet.py --format {storage}'
        )
    prefix = dict(shards='tarshard://', lmdb='imagelmdb://')[storage]
    with open(path) as file:
        rows = (line.rstrip('\n').rsplit('\t', 1) for line in file)
        return [
            dict(img_path=f'{prefix}{folder}/{end}', gt_label=int(label))
            for end, label in rows
        ]
