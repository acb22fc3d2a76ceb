"""Recognize files that are taken for checkpoints and are something else."""

import zipfile
from pathlib import Path

UNPACK = 'unpack it and give the file inside'
CONVERT = (
    'which this project does not read. Convert its weights to a .safetensors file '
    'or a state dict saved by torch.save'
)
DOWNLOAD = (
    'which is what a server sends instead of a file that it does not give away. '
    'Download the file again, in a browser if a login is needed'
)
STARTS = (
    (
        b'version https://git-lfs',
        'a pointer of Git LFS to a file that was not downloaded. Run git lfs pull in '
        'its repository, or download the file',
    ),
    (b'<', f'a web page or XML text, {DOWNLOAD}'),
    (b'\x1f\x8b', f'a gzip archive: {UNPACK}'),
    (b'BZh', f'a bzip2 archive: {UNPACK}'),
    (b'\xfd7zXZ', f'an xz archive: {UNPACK}'),
    (b'7z\xbc\xaf', f'a 7-Zip archive: {UNPACK}'),
    (b'Rar!', f'a RAR archive: {UNPACK}'),
    (b'\x89HDF', f'an HDF5 file (Keras, for example), {CONVERT}'),
    (b'\x93NUMPY', f'a NumPy array, {CONVERT}'),
    (b'GGUF', f'a GGUF file, {CONVERT}'),
)


def foreign_kind(path: str | Path) -> str | None:
    """Say what a file is that torch cannot read.

    Args:
        path (str | Path): The file.

    Returns:
        str | None: What it is and what to do, such as ``'a gzip archive: unpack it and
        give the file inside'``; None if it is of no kind that is known here.
    """
    path = Path(path)
    with path.open('rb') as file:
        head = file.read(512)
    if not head:
        return 'an empty file. Download or copy it again'
    text = head.lstrip(b'\xef\xbb\xbf \t\r\n')
    for start, kind in STARTS:
        if text.startswith(start) or head.startswith(start):
            return kind
    if text.startswith((b'{', b'[')):
        return f'JSON text, {DOWNLOAD}'
    if head[257:262] == b'ustar':
        return f'a tar archive: {UNPACK}'
    if zipfile.is_zipfile(path):
        return _kind_of_zip(path)
    if path.suffix in ('.onnx', '.tflite', '.pb', '.h5', '.keras'):
        return f'a {path.suffix} file, {CONVERT}'
    return None


def _kind_of_zip(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith('data.pkl') for name in names):
        return None  # torch wrote it
    if names and all(name.endswith('.npy') for name in names):
        return f'a NumPy archive (.npz), {CONVERT}'
    if any(name.endswith('.h5') for name in names):
        return f'a file of Keras, {CONVERT}'
    return f'a zip archive: {UNPACK}'
