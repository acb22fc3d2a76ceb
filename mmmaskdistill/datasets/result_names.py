"""Name what is written for files, so that no result takes the place of another."""

import os
import os.path as osp
from collections.abc import Sequence
from itertools import count
from pathlib import Path, PurePosixPath

# Endings of what is written behind a name.
WRITTEN_ENDINGS = ('.jpg', '.mp4', '.npy', '.png', '.tif')


def distinct_names(
    paths: Sequence[str], below: Sequence[str], folders: Sequence[bool] | None = None
) -> list[str]:
    """Make names without an ending that differ, whatever their capitals.

    A file is named after its path below a folder, without its ending. Files that would
    have the same name keep their endings, and if that is not enough, the folders above
    them, until all names differ. So does a file if what is written for it would have
    the name of a folder.

    Args:
        paths (Sequence[str]): The files.
        below (Sequence[str]): Path of each file below a folder, with its ending.
        folders (Sequence[bool], optional): Whether what is written for a file may be a
            folder of its name. Defaults to None, to no file.

    Returns:
        list[str]: The names, with slashes.
    """
    folders = folders or [False] * len(paths)
    levels = [0] * len(paths)
    most = [2 + osp.abspath(path).count(os.sep) for path in paths]
    while True:
        names = [_name(*parts) for parts in zip(paths, below, levels)]
        lower = [name.lower() for name in names]
        taken = {str(p) for name in lower for p in PurePosixPath(name).parents}
        same = {}
        for i, name in enumerate(lower):
            same.setdefault(name, []).append(i)
        twice, longer = [], []
        for name, group in same.items():
            if len(group) == 1 and taken.isdisjoint(_written(name, folders[group[0]])):
                continue
            twice += group
            # The shortest first: `a.jpg` keeps its name, and `a.jpg.tif` its ending.
            able = [i for i in group if levels[i] < most[i]]
            lowest = min((levels[i] for i in able), default=0)
            longer += [i for i in able if levels[i] == lowest]
        if not longer:
            break
        for i in longer:
            levels[i] += 1
    # What is left differs only in capitals, or in the host of an address.
    used = set(lower)
    for i in twice:
        numbered = (f'{names[i]}-{number}' for number in count(1))
        names[i] = next(name for name in numbered if name.lower() not in used)
        used.add(names[i].lower())
    return names


def _written(name: str, folder: bool) -> list[str]:
    """List what may be written for a file, below the folder of the output."""
    written = [name + ending for ending in WRITTEN_ENDINGS]
    return [*written, name] if folder else written


def _name(path: str, below: str, level: int) -> str:
    """Return a longer name with every level."""
    if level == 0:
        return str(PurePosixPath(below).with_suffix(''))
    if level == 1 or '://' in path:
        return below
    parts = Path(osp.abspath(path)).parts[1:]  # without the root
    kept = min(len(PurePosixPath(below).parts) + level - 1, len(parts))
    return '/'.join(parts[-kept:])
