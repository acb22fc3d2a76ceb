"""Find the files that are given, and name what is written for each of them."""

import glob
import os
import os.path as osp
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mmmaskdistill.datasets.folders import find_images
from mmmaskdistill.datasets.image_files import IMAGE_ENDINGS
from mmmaskdistill.datasets.result_names import distinct_names
from mmmaskdistill.errors import ConfigError, first_few

VIDEO_ENDINGS = (
    '.avi',
    '.m4v',
    '.mkv',
    '.mov',
    '.mp4',
    '.mpeg',
    '.mpg',
    '.webm',
    '.wmv',
)


ENDINGS = (*IMAGE_ENDINGS, *VIDEO_ENDINGS)
# Folders in that of the output.
WRITTEN = ('labels', 'overlay', 'probabilities')


class InputFile(NamedTuple):
    """A file to predict.

    Attributes:
        path (str): The image or video.
        name (str): The path, without an ending, of what is written for it, below the
            folder of the output and with slashes.
    """

    path: str
    name: str

    @property
    def is_video(self) -> bool:
        """Whether it is a video."""
        return self.path.lower().endswith(VIDEO_ENDINGS)


class Found(NamedTuple):
    """The files to predict.

    Attributes:
        files (list[InputFile]): The files, each of them once.
        left_out (dict[str, int]): How many files of each other ending the folders have.
    """

    files: list[InputFile]
    left_out: dict[str, int]


class Listed(NamedTuple):
    """What some inputs stand for.

    Attributes:
        files (dict[str, str]): The path or address of each file, and the folder below
            which its result is named. The folder is empty for an address.
        folders (list[str]): The folders that were given, or that a pattern matched.
        left_out (dict[str, int]): How many files of each other ending the folders have.
    """

    files: dict[str, str]
    folders: list[str]
    left_out: dict[str, int]


def list_files(
    inputs: Sequence[str | os.PathLike],
    endings: Sequence[str] = ENDINGS,
    outputs: Sequence[str | os.PathLike] = (),
) -> Listed:
    """List the files that are given on the command line of a tool.

    Args:
        inputs (Sequence[str | PathLike]): Files, folders, patterns such as
            ``'data/**/*_left.png'``, text files (``.txt``, ``.lst`` or ``.list``) with
            one path a line, relative to the text file's folder, or addresses.
        endings (Sequence[str]): Endings of the files that count in folders and
            patterns. Defaults to those of images and videos.
        outputs (Sequence[str | PathLike]): Folders of the output. Files in them are
            left out when a folder or a pattern is searched, but not if that folder, or
            the pattern's, is itself in an output folder. Defaults to none.

    Returns:
        Listed: The files in the order of the inputs, sorted within each.

    Raises:
        ConfigError: If an input does not exist, or has no such file.
    """
    roots, folders, left_out = {}, [], Counter()
    written = [osp.join(osp.realpath(out), '') for out in outputs]
    for given in map(os.fspath, inputs):
        if '://' in given:
            roots[given] = ''
            continue
        paths, root = _expand(given, tuple(endings))
        found = find_images(paths, endings)
        left_out.update(found.left_out)
        folders += [path for path in paths if osp.isdir(path)]
        # A file that is given by name counts wherever it is.
        searched = osp.isdir(paths[0]) or paths != [osp.expanduser(given)]
        hidden = tuple(out for out in written if searched and not _is_in(root, out))
        for path in found.files:
            if not (hidden and _is_in(path, hidden)):
                roots.setdefault(path, root)
    unique = {}
    for path, root in roots.items():
        unique.setdefault(path if '://' in path else osp.abspath(path), (path, root))
    if not unique:
        raise ConfigError(
            f'no images in {first_few([repr(os.fspath(path)) for path in inputs])} '
            'outside of the folder of the output, '
            f'{first_few([repr(os.fspath(out)) for out in outputs])}'
        )
    return Listed(dict(unique.values()), folders, dict(left_out))


def find_files(inputs: Sequence[str], out: str | None = None) -> Found:
    """Find images and videos, and give each of them a name of its own.

    A file in a folder is named after its path below the folder, without its ending.
    Files that would have the same name keep their endings, and if that is not enough,
    the folders above them, until all names differ. So does a file if what is written
    for it would have the name of a folder.

    Args:
        inputs (Sequence[str]): Images, videos, and what else :func:`list_files` takes.
        out (str, optional): Folder of the output. The folders in it that predictions
            are written to are left out, see :func:`list_files`. Defaults to None.

    Returns:
        Found: The files in the order of the inputs, sorted within each.

    Raises:
        ConfigError: If an input does not exist, or has neither an image nor a video.
    """
    outputs = [] if out is None else [osp.join(out, kind) for kind in WRITTEN]
    listed = list_files(inputs, ENDINGS, outputs)
    below = [_below(*pair) for pair in listed.files.items()]
    files = [InputFile(*pair) for pair in zip(listed.files, below)]
    # Of a video, there may be a folder of label maps.
    videos = [file.is_video for file in files]
    named = distinct_names(list(listed.files), below, videos)
    files = [InputFile(*pair) for pair in zip(listed.files, named)]
    return Found(files, listed.left_out)


def _expand(given: str, endings: tuple[str, ...]) -> tuple[list[str], str]:
    """Return the paths that an input stands for, and the folder of their names."""
    given = osp.expanduser(given)
    if osp.isdir(given):
        return [given], given
    if osp.exists(given) or not glob.has_magic(given):
        return [given], osp.dirname(given)
    paths = sorted(glob.glob(given, recursive=True))
    if not paths:
        raise ConfigError(
            f"no file fits the pattern '{given}' (from '{osp.abspath(osp.curdir)}')"
        )
    fixed = []
    for part in Path(given).parent.parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    known = [p for p in paths if p.lower().endswith(endings) or osp.isdir(p)]
    return known or paths, osp.join(*fixed) if fixed else ''


def _below(path: str, root: str) -> str:
    """Return a file's path below a folder, or its name if it is elsewhere."""
    if '://' in path:
        return PurePosixPath(path).name
    relative = osp.relpath(path, root or osp.curdir)
    if relative.split(os.sep)[0] == osp.pardir:
        relative = osp.basename(path)
    return Path(relative).as_posix()


def _is_in(path: str, folders: str | tuple[str, ...]) -> bool:
    """Tell whether a path is one of some folders or lies in one of them.

    The folders are real paths that end with a slash.
    """
    return osp.join(osp.realpath(path), '').startswith(folders)
