"""Cut a small segmentation and classification data set out of the photographs that scikit-image and scikit-learn ship.

A class is one source picture. Each source is split into a training and a validation region, and nothing is ever cut across that border.

    OUT/pretrain/*.jpg                         mosaics of the training regions, without labels
    OUT/ade/images/{training,validation}/*.jpg mosaics, ADE20K's folder layout
    OUT/ade/annotations/{...}/*.png            exact labels 1..K; 0, which ADE20K ignores, does not occur
    OUT/cls/{train,val}/CLASS/*.jpg            crops of a single source
    OUT/classes.json                           class names and a palette
    OUT/manifest.json                          the arguments and a checksum; written last

The same arguments give the same bytes. Nothing is downloaded.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

FORMAT = 1
VAL_FRACTION = 1 / 3
MAX_SOURCE_SIDE = 640
SCALES = (0.5, 1.5)
REGIONS = (2, 5)
MIN_REGION_AREA = 0.06
GREY_PROBABILITY = 0.3
JPEG = dict(
    format='JPEG', quality=95, subsampling=0
)  # 4:4:4, so that colours do not bleed over exact borders
OWN = ('pretrain', 'ade', 'cls', 'classes.json')


class Source(NamedTuple):
    """A picture inside an installed package; `val_side` is the side whose third is kept for validation.

    The sides were chosen so that what the picture shows can be seen in both regions.
    """

    name: str
    package: str
    file: str
    val_side: str
    color: tuple[int, int, int]


SOURCES = (
    Source('astronaut', 'skimage', 'data/astronaut.png', 'bottom', (245, 130, 49)),
    Source('brick', 'skimage', 'data/brick.png', 'right', (154, 99, 36)),
    Source('camera', 'skimage', 'data/camera.png', 'right', (0, 0, 117)),
    Source('cat', 'skimage', 'data/chelsea.png', 'left', (255, 216, 177)),
    Source('china', 'sklearn', 'datasets/images/china.jpg', 'left', (67, 99, 216)),
    Source('coffee', 'skimage', 'data/coffee.png', 'left', (128, 0, 0)),
    Source('coins', 'skimage', 'data/coins.png', 'right', (255, 225, 25)),
    Source('flower', 'sklearn', 'datasets/images/flower.jpg', 'bottom', (240, 50, 230)),
    Source('grass', 'skimage', 'data/grass.png', 'right', (60, 180, 75)),
    Source('gravel', 'skimage', 'data/gravel.png', 'right', (169, 169, 169)),
    Source('hubble', 'skimage', 'data/hubble_deep_field.jpg', 'right', (145, 30, 180)),
    Source('ihc', 'skimage', 'data/ihc.png', 'bottom', (220, 190, 255)),
    Source('moon', 'skimage', 'data/moon.png', 'bottom', (170, 255, 195)),
    Source('motorcycle', 'skimage', 'data/motorcycle_left.png', 'right', (230, 25, 75)),
    Source('page', 'skimage', 'data/page.png', 'left', (250, 190, 212)),
    Source('retina', 'skimage', 'data/retina.jpg', 'right', (70, 153, 144)),
    Source('rocket', 'skimage', 'data/rocket.jpg', 'right', (66, 212, 244)),
)


class Box(NamedTuple):
    top: int
    left: int
    bottom: int
    right: int


def split_boxes(height: int, width: int, val_side: str) -> tuple[Box, Box]:
    """The training box and the validation box of a picture: together the whole of it, and disjoint."""
    rows, cols = round(height * VAL_FRACTION), round(width * VAL_FRACTION)
    if val_side == 'left':
        train, val = Box(0, cols, height, width), Box(0, 0, height, cols)
    elif val_side == 'right':
        train, val = (
            Box(0, 0, height, width - cols),
            Box(0, width - cols, height, width),
        )
    elif val_side == 'top':
        train, val = Box(rows, 0, height, width), Box(0, 0, rows, width)
    elif val_side == 'bottom':
        train, val = (
            Box(0, 0, height - rows, width),
            Box(height - rows, 0, height, width),
        )
    else:
        raise ValueError(
            f"val_side is '{val_side}', expected left, right, top or bottom"
        )
    overlap_rows = min(train.bottom, val.bottom) - max(train.top, val.top)
    overlap_cols = min(train.right, val.right) - max(train.left, val.left)
    assert min(overlap_rows, overlap_cols) <= 0, f'{train} and {val} overlap'
    return train, val


def cut_region(picture: np.ndarray, box: Box) -> np.ndarray:
    """Cut `box` out of a picture [H, W, 3], then shrink it as much as the picture is too large.

    The cut comes first: no later step can see a pixel of the other region.
    """
    region = picture[box.top : box.bottom, box.left : box.right]
    shrink = MAX_SOURCE_SIDE / max(picture.shape[:2])
    if shrink < 1:
        region = cv2.resize(
            region, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA
        )
    return region


def sample_crop(
    region: np.ndarray, height: int, width: int, rng: np.random.Generator
) -> np.ndarray:
    """A crop of a region [H, W, 3] at a random scale, place, rotation by a multiple of 90 degrees and flip.

    The scale is raised where the region is too small for it. Of three places the one with most contrast is taken: a class cannot be
    told from an empty patch of sky.

    Returns:
        [height, width, 3] uint8
    """
    turns = int(rng.integers(4))
    if turns % 2:
        height, width = width, height
    smallest = max(SCALES[0], height / region.shape[0], width / region.shape[1])
    scale = np.exp(rng.uniform(np.log(smallest), np.log(max(SCALES[1], smallest))))
    rows, cols = max(1, int(height / scale)), max(1, int(width / scale))
    candidates = []
    for _ in range(3):
        top, left = (
            rng.integers(region.shape[0] - rows + 1),
            rng.integers(region.shape[1] - cols + 1),
        )
        candidates.append(region[top : top + rows, left : left + cols])
    crop = max(candidates, key=lambda candidate: candidate[::4, ::4].std())
    crop = cv2.resize(
        crop,
        (width, height),
        interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR,
    )
    crop = np.rot90(crop, turns)
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def jitter_tone(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random contrast and brightness of a crop [H, W, 3], in float32 grey levels."""
    mean = crop.mean(dtype=np.float32)
    return (crop - mean) * np.float32(rng.uniform(0.7, 1.3)) + mean * np.float32(
        rng.uniform(0.7, 1.3)
    )


def finish(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness of the whole image, sometimes without colour; float [H, W, 3] to uint8."""
    image = image * np.float32(rng.uniform(0.9, 1.1))
    if rng.random() < GREY_PROBABILITY:
        image = np.repeat(image @ np.float32([[0.299], [0.587], [0.114]]), 3, axis=2)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def partition(size: int, num_regions: int, rng: np.random.Generator) -> np.ndarray:
    """A Voronoi partition of the square with smoothly wavy borders.

    Returns:
        [size, size] integers in 0..num_regions - 1, each covering at least 6 % of the square
    """
    axis = np.arange(size, dtype=np.float32)
    while True:
        sites = rng.uniform(0, size, (num_regions, 2)).astype(np.float32)
        waves = rng.normal(0, 0.05 * size, (2, 6, 6)).astype(np.float32)
        y, x = (
            cv2.resize(wave, (size, size), interpolation=cv2.INTER_CUBIC)
            for wave in waves
        )
        y, x = y + axis[:, None], x + axis[None, :]
        distances = [(y - site[0]) ** 2 + (x - site[1]) ** 2 for site in sites]
        cells = np.argmin(distances, axis=0)
        if (
            np.bincount(cells.ravel(), minlength=num_regions).min()
            >= MIN_REGION_AREA * size * size
        ):
            return cells


def bounding_slices(inside: np.ndarray) -> tuple[slice, slice]:
    """The smallest rectangle around the True pixels of a mask [H, W]."""
    rows, cols = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)


def make_mosaic(
    regions: list[np.ndarray], size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A mosaic of two to five different sources.

    Args:
        regions: one picture [h, w, 3] a class, from `cut_region`.

    Returns:
        the image [size, size, 3] uint8 and the classes of its pixels [size, size] uint8 in 1..len(regions)
    """
    num_regions = int(rng.integers(REGIONS[0], REGIONS[1] + 1))
    classes = rng.choice(len(regions), num_regions, replace=False)
    cells = partition(size, num_regions, rng)
    image = np.empty((size, size, 3), np.float32)
    for cell, label in enumerate(classes):
        inside = cells == cell
        bounds = bounding_slices(inside)
        inside = inside[bounds]
        image[bounds][inside] = jitter_tone(
            sample_crop(regions[label], *inside.shape, rng), rng
        )[inside]
    return finish(image, rng), (classes + 1).astype(np.uint8)[cells]


def make_crop(region: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """An image [size, size, 3] uint8 of a single source."""
    return finish(jitter_tone(sample_crop(region, size, size, rng), rng), rng)


def find_source(source: Source) -> Path:
    """The picture's path inside its installed package, which is not imported."""
    spec = importlib.util.find_spec(source.package)
    folders = spec.submodule_search_locations if spec else []
    paths = [Path(folder, source.file) for folder in folders]
    for path in paths:
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"no picture '{source.file}' in the package '{source.package}': "
        'pip install "scikit-image>=0.20" "scikit-learn>=1.2"'
    )


def load_picture(path: Path) -> np.ndarray:
    """[H, W, 3] uint8, RGB."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert('RGB'))


def generate(
    args: argparse.Namespace, sources=SOURCES
) -> Iterator[tuple[str, np.ndarray]]:
    """Every file of the data set but the JSON: its path below OUT, and its pixels.

    Each image has a random generator of its own, so that the first files do not depend on how many there are.
    """
    train, val = [], []
    for source in sources:
        picture = load_picture(find_source(source))
        boxes = split_boxes(*picture.shape[:2], source.val_side)
        train.append(cut_region(picture, boxes[0]))
        val.append(cut_region(picture, boxes[1]))

    for index in range(args.num_pretrain):
        yield (
            f'pretrain/{index:06d}.jpg',
            make_mosaic(train, args.size, np.random.default_rng([args.seed, 0, index]))[
                0
            ],
        )

    for stream, split, regions, count in (
        (1, 'training', train, args.num_train),
        (2, 'validation', val, args.num_val),
    ):
        for index in range(count):
            image, labels = make_mosaic(
                regions, args.size, np.random.default_rng([args.seed, stream, index])
            )
            yield f'ade/images/{split}/{index:06d}.jpg', image
            yield f'ade/annotations/{split}/{index:06d}.png', labels

    for stream, split, regions, count in (
        (3, 'train', train, args.num_cls_train_per_class),
        (4, 'val', val, args.num_cls_val_per_class),
    ):
        for label, (source, region) in enumerate(zip(sources, regions)):
            for index in range(count):
                rng = np.random.default_rng([args.seed, stream, label, index])
                yield (
                    f'cls/{split}/{source.name}/{index:04d}.jpg',
                    make_crop(region, args.size, rng),
                )


def count_files(args: argparse.Namespace) -> int:
    crops = len(SOURCES) * (args.num_cls_train_per_class + args.num_cls_val_per_class)
    return args.num_pretrain + 2 * (args.num_train + args.num_val) + crops


def write_files(args: argparse.Namespace) -> str:
    """Write all images and return the SHA-256 of their paths and bytes."""
    checksum, start, total = hashlib.sha256(), time.time(), count_files(args)
    for done, (name, pixels) in enumerate(generate(args), 1):
        path = args.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(
            path, **(JPEG if path.suffix == '.jpg' else dict(format='PNG'))
        )
        checksum.update(name.encode() + path.read_bytes())
        if done % 1000 == 0 or done == total:
            print(
                f'{done:6d} of {total} files, {time.time() - start:.0f} s', flush=True
            )
    return checksum.hexdigest()


def describe(args: argparse.Namespace) -> dict:
    """All that the bytes of the data set follow from, as far as it can change."""
    settings = {key: value for key, value in vars(args).items() if key != 'out'}
    pictures = {
        source.name: hashlib.sha256(find_source(source).read_bytes()).hexdigest()
        for source in SOURCES
    }
    return dict(
        format=FORMAT, settings=settings, files=count_files(args), pictures=pictures
    )


def is_complete(out: Path, description: dict) -> bool:
    """Whether `out` holds the data set of this description; a manifest that cannot be read counts as none."""
    try:
        manifest = json.loads((out / 'manifest.json').read_text())
    except (FileNotFoundError, ValueError):
        return False
    same = all(manifest.get(key) == value for key, value in description.items())
    images = sum(len(files) for name in OWN for _, _, files in os.walk(out / name))
    return same and images == description['files'] and (out / 'classes.json').is_file()


def clear(out: Path) -> None:
    """Remove what an earlier run of this tool left, and nothing else.

    Raises:
        FileExistsError: there is a folder of one of our names that this tool did not make, ADE20K itself perhaps.
    """
    manifests = [out / 'manifest.json', out / 'manifest.json.partial']
    found = [out / name for name in OWN if (out / name).exists()]
    if found and not any(path.exists() for path in manifests):
        raise FileExistsError(
            f'{found[0]} exists and was not made by this tool: choose another folder'
        )
    if manifests[0].exists():
        print(
            f'{out} holds a data set of other arguments, or not all of it: it is made anew',
            flush=True,
        )
        # Renamed, not removed: an interruption from here on must leave the folder recognisable as ours, and incomplete.
        os.replace(*manifests)
    for path in found:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def build(args: argparse.Namespace) -> None:
    """Make the data set in `args.out`, unless it is there already."""
    description = describe(args)
    if is_complete(args.out, description):
        print(f'{args.out} is complete, nothing to do')
        return
    args.out.mkdir(parents=True, exist_ok=True)
    clear(args.out)
    partial = args.out / 'manifest.json.partial'
    partial.write_text('{}')
    checksum = write_files(args)
    names = dict(
        classes=[source.name for source in SOURCES],
        palette=[source.color for source in SOURCES],
    )
    (args.out / 'classes.json').write_text(json.dumps(names, indent=1) + '\n')
    partial.write_text(json.dumps(dict(description, sha256=checksum), indent=1) + '\n')
    os.replace(partial, args.out / 'manifest.json')
    print(
        f'{args.out}: {len(SOURCES)} classes, {args.num_pretrain} images without labels, {args.num_train} + {args.num_val} '
        f'mosaics, {args.num_cls_train_per_class} + {args.num_cls_val_per_class} crops a class'
    )


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'out', type=Path, metavar='OUT', help='folder to make the data set in'
    )
    counts = (
        ('--num-pretrain', 8000, 'mosaics without labels'),
        ('--num-train', 64, 'mosaics to train on'),
        ('--num-val', 200, 'mosaics to validate on'),
        ('--num-cls-train-per-class', 8, 'crops a class to train on'),
        ('--num-cls-val-per-class', 40, 'crops a class to validate on'),
    )
    for flag, default, what in counts:
        parser.add_argument(
            flag,
            type=int,
            default=default,
            metavar='N',
            help=f'{what} (default: {default})',
        )
    parser.add_argument(
        '--size',
        type=int,
        default=128,
        help='side of every image in pixels, 32 to 256 (default: 128)',
    )
    parser.add_argument(
        '--seed',
        type=int,
        default=0,
        help='another seed, another data set (default: 0)',
    )
    args = parser.parse_args(argv)
    for flag, _, _ in counts:
        value = getattr(args, flag[2:].replace('-', '_'))
        if value < 1:
            raise SystemExit(f'error: {flag} is {value}, expected at least 1')
    if not 32 <= args.size <= 256:
        raise SystemExit(f'error: --size is {args.size}, expected 32 to 256')
    if args.seed < 0:
        raise SystemExit(f'error: --seed is {args.seed}, expected 0 or more')
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        build(args)
    except OSError as error:
        raise SystemExit(f'error: {error}') from None


if __name__ == '__main__':
    main()
