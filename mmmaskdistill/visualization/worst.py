"""Draw the images of a test whose predictions are worst."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from .figures import legend_below, plain_text, save, show, tile_grid
from .segmentation import colorize

TILE = 2.2  # Side of a tile in inches: 352 pixels.
PIXELS = 512  # Longest side of an image that is drawn.
CAPTION = 0.36  # Two lines.
CAPTION_CHARACTERS = 40
COLUMNS = 5  # Classified images in a row.
PADDING = 235  # Light gray, unlike pixels without a label, which are white.
LEGEND = 60  # Largest number of classes in the legend.


def displayable(image: np.ndarray) -> np.ndarray:
    """Turn an image of any channels and depth into one that can be drawn.

    Of more than three channels, the first three are drawn; of two channels, the first.
    Values of other types than uint8 are stretched from the 2nd to the 98th percentile
    of all of them.

    Args:
        image (np.ndarray): [H, W, C] or [H, W]; three channels are red, green, blue.

    Returns:
        np.ndarray: Colors, uint8 [h, w, 3], with at most 512 pixels on a side.
    """
    image = image if image.ndim == 3 else image[..., None]
    image = image[..., :3] if image.shape[2] >= 3 else image[..., :1]
    shrink = PIXELS / max(image.shape[:2])
    if shrink < 1:
        size = tuple(max(1, round(shrink * side)) for side in image.shape[1::-1])
        image = np.ascontiguousarray(image)
        if image.dtype not in (np.uint8, np.uint16, np.float32):
            image = image.astype(np.float32)
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        image = image if image.ndim == 3 else image[..., None]
    if image.dtype != np.uint8:
        finite = image[np.isfinite(image)]
        low, high = np.percentile(finite, (2, 98)) if finite.size else (0, 1)
        image = np.nan_to_num((image - low) / max(high - low, 1e-12)).clip(0, 1)
        image = np.rint(255 * image).astype(np.uint8)
    return np.broadcast_to(image, (*image.shape[:2], 3))


def squared(image: np.ndarray) -> np.ndarray:
    """Put an image in the middle of a light gray square.

    Args:
        image (np.ndarray): [H, W, 3], uint8.

    Returns:
        np.ndarray: The square, uint8 [S, S, 3], where S is the longer side.
    """
    side = max(image.shape[:2])
    square = np.full((side, side, 3), PADDING, np.uint8)
    top, left = ((side - length) // 2 for length in image.shape[:2])
    square[top : top + image.shape[0], left : left + image.shape[1]] = image
    return square


def draw_worst_segmentations(
    images: Sequence[np.ndarray],
    truth: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    captions: Sequence[str],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]] | None,
    path: str | Path,
) -> None:
    """Draw one row per image with the image, its label and the prediction.

    A legend has the classes that occur, the most frequent ones first.

    Args:
        images (Sequence[np.ndarray]): Images, see :func:`displayable`.
        truth (Sequence[np.ndarray]): True labels [h, w] of each image. -1, drawn in
            white, is no class.
        predictions (Sequence[np.ndarray]): Predicted labels [h, w] of each image.
        captions (Sequence[str]): Text below each image.
        classes (Sequence[str]): Names of the K classes.
        palette (Sequence[Sequence[int]] | None): Colors of the K classes [K, 3],
            between 0 and 255. None chooses them.
        path (str | Path): Path of the PNG file to write.
    """
    if palette is None or len(palette) < len(classes):
        palette = np.random.default_rng(0).integers(0, 230, (len(classes), 3))
    pixels = np.zeros(len(classes), int)
    for labels in (*truth, *predictions):
        inside = labels[(labels >= 0) & (labels < len(classes))]
        pixels += np.bincount(inside.ravel(), minlength=len(classes))
    present = [k for k in np.argsort(-pixels, kind='stable') if pixels[k]][:LEGEND]
    entries = [
        (np.asarray(palette[k]) / 255, plain_text(str(classes[k]), 22)) for k in present
    ]
    if any((labels < 0).any() for labels in truth):
        entries.append(('white', '(no label)'))
    in_a_row = 4
    bottom = 0.15 + 0.17 * -(-len(entries) // in_a_row)
    figure, axes = tile_grid(
        len(images),
        ['image', 'label', 'prediction'],
        caption=CAPTION,
        bottom=bottom,
        tile=TILE,
    )
    for row, image in enumerate(images):
        show(axes[row, 0], squared(displayable(image)))
        for column, labels in ((1, truth[row]), (2, predictions[row])):
            show(axes[row, column], squared(colorize(labels, palette)))
        _caption(axes[row, 0], captions[row])
    handles = [
        Patch(facecolor=color, edgecolor='0.7', linewidth=0.5, label=name)
        for color, name in entries
    ]
    legend_below(figure, handles, in_a_row)
    save(figure, path)


def draw_worst_classifications(
    images: Sequence[np.ndarray], captions: Sequence[str], path: str | Path
) -> None:
    """Draw wrongly classified images with a text below each.

    Args:
        images (Sequence[np.ndarray]): Images, see :func:`displayable`.
        captions (Sequence[str]): Text below each image.
        path (str | Path): Path of the PNG file to write.
    """
    columns = min(COLUMNS, len(images))
    rows = -(-len(images) // columns)
    figure, axes = tile_grid(rows, [''] * columns, caption=CAPTION + 0.15, tile=TILE)
    for axis, image, caption in zip(axes.flat, images, captions):
        show(axis, squared(displayable(image)))
        _caption(axis, caption)
    save(figure, path)


def _caption(axis: Axes, text: str) -> None:
    axis.text(
        0,
        -0.02,
        '\n'.join(plain_text(line, CAPTION_CHARACTERS) for line in text.splitlines()),
        fontsize=7,
        color='0.2',
        ha='left',
        va='top',
        transform=axis.transAxes,
    )
