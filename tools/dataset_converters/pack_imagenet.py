r"""Pack ImageNet's image folders into tar shards or into an LMDB database.

The shards have webdataset's format and are written to DATA_ROOT/train_shards, the
database is written to DATA_ROOT/train_lmdb. Image files are copied unchanged, even
if they are damaged. For example:

  python tools/dataset_converters/pack_imagenet.py data/imagenet --format shards
  python tools/dataset_converters/pack_imagenet.py data/imagenet --format lmdb

To train from the packed images, give tools/train.py the option

  --cfg-options train_dataloader.dataset.storage=shards

or storage=lmdb. Each folder also gets an index of its images, the file index.tsv.
If another program has made the shards, and each image NAME.jpg in them comes with
a file NAME.cls that holds its class index, then only index.tsv is missing:

  python tools/dataset_converters/pack_imagenet.py data/imagenet \
      --format shards --index-only
"""

import argparse
import io
import os
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

# command_line.py is in tools/.
sys.path.append(str(Path(__file__).resolve().parents[1]))
from command_line import fail

IMAGES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.tif', '.ppm', '.pgm')
PAGE = 4096  # size in bytes of a page of an LMDB database

# Path of an image below the split's folder, path of its file, class index.
Sample = tuple[str, Path, int]


def list_samples(data_root: str, split: str) -> list[Sample]:
    """List the images of a split in the order of mmpretrain's data set.

    Args:
        data_root (str): Folder of ImageNet, such as ``data/imagenet``.
        split (str): Folder below ``data_root``, ``train`` or ``val``. The file
            ``meta/SPLIT.txt``, if there is one, lists its images and labels.

    Returns:
        list[tuple[str, Path, int]]: For each image, its path below the split's
        folder, the path of its file and its class index.
    """
    from mmpretrain.datasets import CustomDataset

    names = Path('meta', f'{split}.txt')
    has_names = Path(data_root, names).is_file()
    dataset = CustomDataset(
        data_root=data_root, data_prefix=split, ann_file=str(names) if has_names else ''
    )
    folder = Path(data_root, split)
    samples = map(dataset.get_data_info, range(len(dataset)))
    return [
        (
            str(Path(sample['img_path']).relative_to(folder)),
            Path(sample['img_path']),
            sample['gt_label'],
        )
        for sample in samples
    ]


def write_shards(samples: list[Sample], out: Path, size: int) -> None:
    """Write the tar shards ``000000.tar``, ``000001.tar`` and so on.

    Each sample consists of two members, the image file and a file ``.cls`` with
    its class index.

    Args:
        samples (list[tuple[str, Path, int]]): Images from :func:`list_samples`.
        out (Path): Folder for the shards.
        size (int): Size of a shard in bytes. A shard is finished once it has
            reached this size.
    """
    first, shard = 0, 0
    while first < len(samples):
        with tarfile.open(out / f'{shard:06d}.tar', 'w') as tar:
            while first < len(samples) and tar.offset < size:
                _add_sample(tar, *samples[first])
                first += 1
        shard += 1


def _add_sample(tar: tarfile.TarFile, name: str, path: Path, label: int):
    # In webdataset's format, a field's name begins at the first dot of the file
    # name, so the stem must not contain dots.
    stem, extension = os.path.splitext(name)
    folder, stem = os.path.split(stem)
    key = os.path.join(folder, stem.replace('.', '_'))
    for field, content in (
        (extension.lower(), path.read_bytes()),
        ('.cls', str(label).encode()),
    ):
        member = tarfile.TarInfo(key + field)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


def index_shards(folder: Path) -> Iterator[tuple[str, int]]:
    """Find the images in the tar shards of a folder.

    Args:
        folder (Path): Folder with the ``.tar`` files.

    Yields:
        tuple[str, int]: For each image, ``SHARD#OFFSET+SIZE/NAME`` (offset and
        size in bytes, the name percent-encoded) and its class index.

    Raises:
        SystemExit: If the folder has no shards or an image has no class index.
    """
    shards = sorted(folder.glob('*.tar'))
    if not shards:
        fail(f"no .tar files in '{folder}'")
    for shard in shards:
        images, labels = [], {}
        with tarfile.open(shard) as tar:
            for member in tar:
                folder_name, name = os.path.split(member.name)
                stem, _, field = name.partition('.')
                key = os.path.join(folder_name, stem)
                if field == 'cls':
                    labels[key] = int(tar.extractfile(member).read())
                elif f'.{field.lower()}' in IMAGES:
                    images.append((key, member))
        for key, member in images:
            if key not in labels:
                fail(
                    f"'{shard}' has the image '{member.name}' but "
                    f"no file '{key}.cls' with its class index"
                )
            place = f'{member.offset_data}+{member.size}'
            yield f'{shard.name}#{place}/{quote(member.name)}', labels[key]


def write_lmdb(samples: list[Sample], out: Path) -> Iterator[tuple[str, int]]:
    """Write the image files to an LMDB database.

    The key of a file is its percent-encoded name.

    Args:
        samples (list[tuple[str, Path, int]]): Images from :func:`list_samples`.
        out (Path): Folder of the database.

    Yields:
        tuple[str, int]: For each image, ``#KEY`` and its class index, as soon as
        the image has been written.

    Raises:
        SystemExit: If the package lmdb is not installed.
    """
    try:
        import lmdb
    except ImportError:
        fail('--format lmdb needs: pip install lmdb')
    pages = sum(path.stat().st_size // PAGE + 2 for _, path, _ in samples)
    database = lmdb.open(str(out), map_size=int(1.1 * pages * PAGE) + 2**24)
    for start in range(0, len(samples), 1000):
        with database.begin(write=True) as transaction:
            for name, path, label in samples[start : start + 1000]:
                transaction.put(quote(name).encode(), path.read_bytes())
                yield f'#{quote(name)}', label
    database.close()


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'data_root',
        metavar='DATA_ROOT',
        help='folder of ImageNet, for example data/imagenet',
    )
    parser.add_argument(
        '--format',
        choices=['shards', 'lmdb'],
        required=True,
        help='what to write: tar shards or an LMDB database (required)',
    )
    parser.add_argument(
        '--split',
        choices=['train', 'val'],
        default='train',
        help='folder of images below DATA_ROOT (default: %(default)s)',
    )
    parser.add_argument(
        '--shard-size',
        type=int,
        default=1000,
        metavar='MB',
        help='size of a tar shard in megabytes of 10^6 bytes (default: %(default)s)',
    )
    parser.add_argument(
        '--index-only',
        action='store_true',
        help='only write the index of shards that already exist (default: off)',
    )
    return parser.parse_args()


def main() -> None:
    """Check the command line, then pack the images or index the shards."""
    args = parse_args()
    from mmmaskdistill.datasets.storage import FOLDERS, write_index

    out = Path(args.data_root, args.split + FOLDERS[args.format])
    if args.index_only:
        if args.format != 'shards':
            fail('--index-only works only with --format shards')
        write_index(out, index_shards(out))
        return
    if not Path(args.data_root, args.split).is_dir():
        fail(f"folder '{Path(args.data_root, args.split)}' not found")
    if args.shard_size < 1:
        fail(f'--shard-size is {args.shard_size}, expected at least 1')
    if out.exists():
        fail(f"'{out}' exists: remove it to pack the images again")
    samples = list_samples(args.data_root, args.split)
    partial = out.with_name(out.name + '.tmp')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    if args.format == 'shards':
        write_shards(samples, partial, args.shard_size * 1000**2)
        write_index(partial, index_shards(partial))
    else:
        write_index(partial, write_lmdb(samples, partial))
    partial.rename(out)
    print(f'{len(samples)} images in {out}')


if __name__ == '__main__':
    main()
