"""Make a small data set for segmentation and classification.

The images are cut out of 17 photographs and textures that the packages
scikit-image and scikit-learn contain; nothing is downloaded. Each of these source
pictures is one class. It is divided into a training region and a validation region,
and no image contains pixels of both. The same arguments always produce the same
files, byte for byte. For example:

  python tools/dataset_converters/texture_mosaics.py data/texture_mosaics

The tool writes, in the folder OUT:

  pretrain/*.jpg                           mosaics of training regions, no labels
  ade/images/{training,validation}/*.jpg   mosaics, in the folders of ADE20K
  ade/annotations/{training,validation}/*.png
                                           the class of each pixel, from 1 to 17
                                           (0, which ADE20K ignores, is not used)
  cls/{train,val}/CLASS/*.jpg              crops of a single source picture
  classes.json                             names and colors of the classes
  manifest.json                            arguments and checksum, written last
"""

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

# command_line.py is in tools/.
sys.path.append(str(Path(__file__).resolve().parents[1]))
from command_line import fail

FORMAT = 1
VAL_FRACTION = 1 / 3
MAX_SOURCE_SIDE = 640
SCALES = (0.5, 1.5)
REGIONS = (2, 5)
MIN_REGION_AREA = 0.06
GREY_PROBABILITY = 0.3
# Full color resolution (4:4:4) keeps the colors of one region from bleeding into
# the next one, so that the labels stay exact at the borders.
JPEG = dict(format='JPEG', quality=95, subsampling=0)
# Everything in the output folder that belongs to the data set.
OWN = ('pretrain', 'ade', 'cls', 'classes.json')


class Source(NamedTuple):
    """A source picture inside an installed package.

    Attributes:
        name (str): Name of the class.
        package (str): Package that contains the picture.
        file (str): Path of the picture below the package's folder.
        val_side (str): ``left``, ``right``, ``top`` or ``bottom``: the third of
            the picture on this side is kept for validation. The sides were chosen
            so that the subject of the picture is visible in both regions.
        color (tuple[int, int, int]): RGB color of the class in drawings.
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
    """A rectangle of pixels; ``bottom`` and ``right`` are just outside of it."""

    top: int
    left: int
    bottom: int
    right: int


def split_boxes(height: int, width: int, val_side: str) -> tuple[Box, Box]:
    """Divide a picture into a training box and a validation box.

    The two boxes do not overlap and together cover the whole picture.

    Args:
        height (int): Height of the picture in pixels.
        width (int): Width of the picture in pixels.
        val_side (str): Side of the validation box, see :class:`Source`.

    Returns:
        tuple[Box, Box]: The training box and the validation box.

    Raises:
        ValueError: If ``val_side`` is not the name of a side.
    """
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
    """Cut a box out of a picture and shrink it if the picture is too large.

    The box is cut out first, so that resizing cannot mix in pixels from outside
    of it.

    Args:
        picture (np.ndarray): RGB picture, ``[H, W, 3]`` uint8.
        box (Box): Part of the picture to cut out.

    Returns:
        np.ndarray: The region, ``[h, w, 3]`` uint8. It is scaled by the factor
        that makes the longer side of the whole picture ``MAX_SOURCE_SIDE``
        pixels, but never enlarged.
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
    """Cut a random crop out of a region.

    Scale, position, rotation (by a multiple of 90 degrees) and flip are random.
    The smallest scale is raised if the region is too small for it. Of three random
    positions, the one with the highest contrast is used, because nobody could
    recognize the class from an empty piece of sky.

    Args:
        region (np.ndarray): ``[H, W, 3]`` uint8, from :func:`cut_region`.
        height (int): Height of the crop in pixels.
        width (int): Width of the crop in pixels.
        rng (np.random.Generator): Source of randomness.

    Returns:
        np.ndarray: The crop, ``[height, width, 3]`` uint8.
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
    """Change contrast and brightness of a crop at random.

    Args:
        crop (np.ndarray): ``[H, W, 3]`` uint8.
        rng (np.random.Generator): Source of randomness.

    Returns:
        np.ndarray: The changed crop, ``[H, W, 3]`` float32, not clipped to the
        range from 0 to 255.
    """
    mean = crop.mean(dtype=np.float32)
    return (crop - mean) * np.float32(rng.uniform(0.7, 1.3)) + mean * np.float32(
        rng.uniform(0.7, 1.3)
    )


def finish(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change the brightness of an image at random and sometimes remove its color.

    Args:
        image (np.ndarray): ``[H, W, 3]`` float32, gray levels from 0 to 255.
        rng (np.random.Generator): Source of randomness.

    Returns:
        np.ndarray: The finished image, ``[H, W, 3]`` uint8.
    """
    image = image * np.float32(rng.uniform(0.9, 1.1))
    if rng.random() < GREY_PROBABILITY:
        image = np.repeat(image @ np.float32([[0.299], [0.587], [0.114]]), 3, axis=2)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def partition(size: int, num_regions: int, rng: np.random.Generator) -> np.ndarray:
    """Divide a square into the cells of a Voronoi diagram with wavy borders.

    Args:
        size (int): Side of the square in pixels.
        num_regions (int): Number of cells.
        rng (np.random.Generator): Source of randomness.

    Returns:
        np.ndarray: Number of the cell that each pixel belongs to,
        ``[size, size]``, from 0 to ``num_regions - 1``. Each cell covers at least
        6 % of the square (``MIN_REGION_AREA``).
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
    """Find the smallest rectangle around the True pixels of a mask.

    Args:
        inside (np.ndarray): ``[H, W]`` bool with at least one True pixel.

    Returns:
        tuple[slice, slice]: Rows and columns of the rectangle.
    """
    rows, cols = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)


def make_mosaic(
    regions: list[np.ndarray], size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Make a mosaic of two to five different source pictures.

    Args:
        regions (list[np.ndarray]): One region per class, ``[h, w, 3]`` uint8, from
            :func:`cut_region`.
        size (int): Side of the mosaic in pixels.
        rng (np.random.Generator): Source of randomness.

    Returns:
        tuple[np.ndarray, np.ndarray]: The image, ``[size, size, 3]`` uint8, and
        the class of each pixel, ``[size, size]`` uint8, from 1 to
        ``len(regions)``.
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
    """Make an image of a single source picture.

    Args:
        region (np.ndarray): ``[H, W, 3]`` uint8, from :func:`cut_region`.
        size (int): Side of the image in pixels.
        rng (np.random.Generator): Source of randomness.

    Returns:
        np.ndarray: The image, ``[size, size, 3]`` uint8.
    """
    return finish(jitter_tone(sample_crop(region, size, size, rng), rng), rng)


def find_source(source: Source) -> Path:
    """Find the file of a source picture without importing its package.

    Args:
        source (Source): The source picture.

    Returns:
        Path: Path of the file.

    Raises:
        FileNotFoundError: If the package is not installed or does not contain the
            picture.
    """
    spec = importlib.util.find_spec(source.package)
    folders = spec.submodule_search_locations if spec else []
    paths = [Path(folder, source.file) for folder in folders]
    for path in paths:
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"the package '{source.package}' is not installed or does not contain the "
        f"picture '{source.file}': run "
        'pip install "scikit-image>=0.20" "scikit-learn>=1.2"'
    )


def load_picture(path: Path) -> np.ndarray:
    """Read a picture as an RGB array ``[H, W, 3]`` uint8."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert('RGB'))


def generate(
    args: argparse.Namespace, sources: Sequence[Source] = SOURCES
) -> Iterator[tuple[str, np.ndarray]]:
    """Generate all images and label maps of the data set.

    Each image has its own random generator. Its content therefore does not depend
    on the number of images.

    Args:
        args (argparse.Namespace): The command line, see :func:`parse_args`.
        sources (Sequence[Source]): The source pictures.

    Yields:
        tuple[str, np.ndarray]: Path below the output folder and pixels of one
        file: an image ``[size, size, 3]`` or a label map ``[size, size]``, uint8.
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
    """Return the number of images and label maps of the data set."""
    crops = len(SOURCES) * (args.num_cls_train_per_class + args.num_cls_val_per_class)
    return args.num_pretrain + 2 * (args.num_train + args.num_val) + crops


def write_files(args: argparse.Namespace) -> str:
    """Write all images and label maps.

    Args:
        args (argparse.Namespace): The command line, see :func:`parse_args`.

    Returns:
        str: The SHA-256 checksum of the paths and contents of all files.
    """
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
    """Describe everything that determines the content of the data set.

    Args:
        args (argparse.Namespace): The command line, see :func:`parse_args`.

    Returns:
        dict: ``format`` (version of this tool's output), ``settings`` (the
        options), ``files`` (number of images and label maps) and ``pictures``
        (checksums of the source pictures).
    """
    settings = {key: value for key, value in vars(args).items() if key != 'out'}
    pictures = {
        source.name: hashlib.sha256(find_source(source).read_bytes()).hexdigest()
        for source in SOURCES
    }
    return dict(
        format=FORMAT, settings=settings, files=count_files(args), pictures=pictures
    )


def is_complete(out: Path, description: dict) -> bool:
    """Check whether a folder contains the complete data set of a description.

    Args:
        out (Path): The folder. If its manifest is missing or cannot be read, the
            data set counts as incomplete.
        description (dict): The result of :func:`describe`.

    Returns:
        bool: Whether the manifest has the same description and no file is missing.
    """
    try:
        manifest = json.loads((out / 'manifest.json').read_text())
    except (FileNotFoundError, ValueError):
        return False
    same = all(manifest.get(key) == value for key, value in description.items())
    images = sum(len(files) for name in OWN for _, _, files in os.walk(out / name))
    return same and images == description['files'] and (out / 'classes.json').is_file()


def clear(out: Path) -> None:
    """Remove the files of an earlier run of this tool, and nothing else.

    Args:
        out (Path): The output folder.

    Raises:
        FileExistsError: If the folder contains files under the names that this
            tool uses but has no manifest of this tool. It may then be, for
            example, ADE20K itself.
    """
    manifests = [out / 'manifest.json', out / 'manifest.json.partial']
    found = [out / name for name in OWN if (out / name).exists()]
    if found and not any(path.exists() for path in manifests):
        raise FileExistsError(
            f'{found[0]} exists and was not made by this tool: choose another folder'
        )
    if manifests[0].exists():
        print(
            f'{out} holds a data set that is incomplete or was made with other '
            'arguments: it is made anew',
            flush=True,
        )
        # If the run is interrupted from here on, the next run must recognize the
        # folder as this tool's and as incomplete. The manifest is therefore
        # renamed and not removed.
        os.replace(*manifests)
    for path in found:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def build(args: argparse.Namespace) -> None:
    """Make the data set in ``args.out``, unless it is already complete.

    Args:
        args (argparse.Namespace): The command line, see :func:`parse_args`.

    Raises:
        FileExistsError: If the folder contains files that this tool has not made.
        FileNotFoundError: If a source picture is missing.
    """
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
        f'{args.out}: {len(SOURCES)} classes, {args.num_pretrain} images without '
        f'labels, {args.num_train} + {args.num_val} mosaics, '
        f'{args.num_cls_train_per_class} + {args.num_cls_val_per_class} crops per '
        'class (training + validation)'
    )


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line.

    Args:
        argv (list[str] | None): The arguments. Defaults to None, which reads those
            of the process.

    Returns:
        argparse.Namespace: The values of the options.

    Raises:
        SystemExit: If a value is out of range.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'out', type=Path, metavar='OUT', help='folder to make the data set in'
    )
    counts = (
        ('--num-pretrain', 8000, 'number of mosaics for pre-training'),
        ('--num-train', 64, 'number of labeled mosaics to train on'),
        ('--num-val', 200, 'number of labeled mosaics to validate on'),
        ('--num-cls-train-per-class', 8, 'number of crops per class to train on'),
        ('--num-cls-val-per-class', 40, 'number of crops per class to validate on'),
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
        metavar='PIXELS',
        help='side of every image in pixels, from 32 to 256 (default: 128)',
    )
    parser.add_argument(
        '--seed',
        type=int,
        default=0,
        metavar='N',
        help='seed of the random generators; each seed makes a different data set '
        '(default: 0)',
    )
    args = parser.parse_args(argv)
    for flag, _, _ in counts:
        value = getattr(args, flag[2:].replace('-', '_'))
        if value < 1:
            fail(f'{flag} is {value}, expected at least 1')
    if not 32 <= args.size <= 256:
        fail(f'--size is {args.size}, expected 32 to 256')
    if args.seed < 0:
        fail(f'--seed is {args.seed}, expected 0 or more')
    return args


def main(argv: list[str] | None = None) -> None:
    """Make the data set that the command line describes.

    Args:
        argv (list[str] | None): The arguments, see :func:`parse_args`.

    Raises:
        SystemExit: If an option is wrong or the data set cannot be made.
    """
    args = parse_args(argv)
    try:
        build(args)
    except OSError as error:
        fail(error)


if __name__ == '__main__':
    main()
