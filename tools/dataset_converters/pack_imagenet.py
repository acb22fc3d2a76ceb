"""Pack ImageNet's folders into tar shards (webdataset's format) or an LMDB.

    python tools/dataset_converters/pack_imagenet.py data/imagenet --format shards
    python tools/dataset_converters/pack_imagenet.py data/imagenet --format lmdb

write data/imagenet/train_shards and data/imagenet/train_lmdb, which
`train_dataloader.dataset.storage=shards` or `=lmdb` reads. Files are packed
as they are, damaged ones too. Shards made elsewhere, whose images have a
class index beside them (`NAME.jpg`, `NAME.cls`), need an index alone:

    python tools/dataset_converters/pack_imagenet.py data/imagenet --format shards --index-only
"""

import argparse
import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

IMAGES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.tif', '.ppm', '.pgm')
PAGE = 4096  # of an LMDB, in bytes

Sample = tuple[str, Path, int]  # name below the split's folder, file, label


def list_samples(data_root: str, split: str) -> list[Sample]:
    """The images of a split, in the order of mmpretrain's data set."""
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


def write_shards(samples: list[Sample], out: Path, size: int):
    """Write tar files of about ``size`` bytes, an image and its class a sample."""
    shard, tar = 0, None
    for name, path, label in samples:
        if tar is None:
            tar = tarfile.open(out / f'{shard:06d}.tar', 'w')
        # What follows the first dot is webdataset's name of a field.
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
        if tar.offset >= size:
            tar.close()
            shard, tar = shard + 1, None
    if tar:
        tar.close()


def index_shards(folder: Path) -> Iterator[tuple[str, int]]:
    """Place, name and class index of each image in the tar files."""
    shards = sorted(folder.glob('*.tar'))
    if not shards:
        raise SystemExit(f"error: no .tar files in '{folder}'")
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
                raise SystemExit(
                    f"error: '{shard}' has '{member.name}' and "
                    f"no '{key}.cls' with its class index"
                )
            place = f'{member.offset_data}+{member.size}'
            yield f'{shard.name}#{place}/{quote(member.name)}', labels[key]


def write_lmdb(samples: list[Sample], out: Path) -> Iterator[tuple[str, int]]:
    """Write a database of the images' files by their quoted names.

    Yields:
        tuple[str, int]: A line of its index.
    """
    try:
        import lmdb
    except ImportError:
        raise SystemExit('error: --format lmdb needs: pip install lmdb') from None
    pages = sum(path.stat().st_size // PAGE + 2 for _, path, _ in samples)
    database = lmdb.open(str(out), map_size=int(1.1 * pages * PAGE) + 2**24)
    for start in range(0, len(samples), 1000):
        with database.begin(write=True) as transaction:
            for name, path, label in samples[start : start + 1000]:
                transaction.put(quote(name).encode(), path.read_bytes())
                yield f'#{quote(name)}', label
    database.close()


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('data_root', help='e.g. data/imagenet')
    parser.add_argument('--format', choices=['shards', 'lmdb'], required=True)
    parser.add_argument(
        '--split',
        choices=['train', 'val'],
        default='train',
        help='folder below data_root (%(default)s)',
    )
    parser.add_argument(
        '--shard-size',
        type=int,
        default=1000,
        metavar='MB',
        help='size of a tar file (%(default)s)',
    )
    parser.add_argument(
        '--index-only', action='store_true', help='index the shards that are there'
    )
    return parser.parse_args()


def main():
    args = parse_args()
    from mmmaskdistill.datasets.storage import FOLDERS, write_index

    out = Path(args.data_root, args.split + FOLDERS[args.format])
    if args.index_only:
        if args.format != 'shards':
            raise SystemExit('error: --index-only is for --format shards')
        write_index(out, index_shards(out))
        return
    if not Path(args.data_root, args.split).is_dir():
        raise SystemExit(f"error: no folder '{Path(args.data_root, args.split)}'")
    if args.shard_size < 1:
        raise SystemExit(
            f'error: --shard-size is {args.shard_size}, expected at least 1'
        )
    if out.exists():
        raise SystemExit(f"error: '{out}' exists: remove it to pack anew")
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
