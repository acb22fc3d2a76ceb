"""Storage backends that read images inside tar shards or an LMDB.

The name of a packed image is a URI. mmengine's ``fileio.get``, and with it any
loader that calls it, takes this URI in place of a path::

    tarshard://data/imagenet/train_shards/000012.tar#offset+size/name
    imagelmdb://data/imagenet/train_lmdb/#name

Shards and LMDB have a table of contents, ``index.tsv``. It has one line for each
image with two columns: the part of its URI after the folder, and its label.
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
    """Keep up to ``MAX_OPEN`` files open in each process."""

    def __init__(self):
        self._open, self._process = OrderedDict(), os.getpid()

    def _opened(self, path: str):
        if self._process != os.getpid():
            # A forked process shares the position in an open file with its
            # parent, so it has to open the file again.
            self._open, self._process = OrderedDict(), os.getpid()
        if path not in self._open:
            self._open[path] = self._open_file(path)
            if len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)[1].close()
        return self._open[path]

    def get_text(self, filepath: str, encoding: str = 'utf-8') -> str:
        """Read a packed file as text.

        Args:
            filepath (str): URI of the file.
            encoding (str): Encoding of the text. Defaults to ``'utf-8'``.

        Returns:
            str: Content of the file.

        Raises:
            OSError: If the file cannot be read.
        """
        return self.get(filepath).decode(encoding)


@register_backend('tarshard', prefixes='tarshard')
class TarShardBackend(_PackedBackend):
    """Reads a member of a tar file, ``tarshard://TAR#OFFSET+SIZE/NAME``."""

    def get(self, filepath: str) -> bytes:
        """Read a member of a tar file.

        Args:
            filepath (str): URI of the member.

        Returns:
            bytes: Content of the member.

        Raises:
            OSError: If the tar file is missing or ends before the member does.
        """
        shard, member = _split(filepath)
        offset, size = map(int, member.split('/', 1)[0].split('+'))
        file = self._opened(shard)
        file.seek(offset)
        content = file.read(size)
        if len(content) != size:
            raise OSError(
                f"'{shard}' ends within the image: expected {size} bytes at "
                f'offset {offset}, found {len(content)}'
            )
        return content

    def _open_file(self, path: str):
        return open(path, 'rb')


@register_backend('imagelmdb', prefixes='imagelmdb')
class ImageLmdbBackend(_PackedBackend):
    """Reads the value of a key in an LMDB, ``imagelmdb://FOLDER/#KEY``.

    mmengine's ``LmdbBackend`` reads a single LMDB, whose folder is an argument of the
    backend and not part of the name. It returns None for a missing key, and goes on
    using in a forked process what its parent has opened.
    """

    def get(self, filepath: str) -> bytes:
        """Read the value of a key in an LMDB.

        Args:
            filepath (str): URI of the value.

        Returns:
            bytes: The value.

        Raises:
            OSError: If the LMDB is missing or damaged, or has no such key.
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


def write_index(folder: str, rows: Iterable[tuple[str, int]]) -> None:
    """Write ``index.tsv``, either completely or not at all.

    Args:
        folder (str): Folder of the shards or of the LMDB.
        rows (Iterable[tuple[str, int]]): For each image the part of its URI after
            the folder, and its label.
    """
    path = Path(folder, INDEX)
    partial = path.with_suffix('.tmp')
    with open(partial, 'w') as file:
        file.writelines(f'{end}\t{label}\n' for end, label in rows)
    os.replace(partial, path)


def read_index(folder: str, storage: str) -> list[dict]:
    """List the images of shards or of an LMDB, in the order of packing.

    Args:
        folder (str): Folder that contains ``index.tsv``.
        storage (str): ``'shards'`` or ``'lmdb'``.

    Returns:
        list[dict]: ``img_path``, which is a URI, and ``gt_label`` of each image.

    Raises:
        ConfigError: If ``index.tsv`` is missing.
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
