"""Draw segmentations next to each other."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.patches import Patch
from torch import Tensor

from .figures import legend_below, save, show, tile_grid, to_numpy

IGNORED = 255  # White.


def colorize(
    labels: np.ndarray, palette: Sequence[Sequence[int]] | np.ndarray
) -> np.ndarray:
    """Color a map of labels.

    Args:
        labels (np.ndarray): Labels [H, W].
        palette (Sequence[Sequence[int]] | np.ndarray): Colors of the K classes
            [K, 3], between 0 and 255.

    Returns:
        np.ndarray: Colors [H, W, 3], uint8. Labels outside the palette, such as
        those of ignored pixels, are white.
    """
    palette = np.vstack(
        [np.asarray(palette, np.uint8), np.full((1, 3), IGNORED, np.uint8)]
    )
    inside = (labels >= 0) & (labels < len(palette) - 1)
    return palette[np.where(inside, labels, len(palette) - 1).astype(int)]


def pixel_accuracy(labels: np.ndarray, truth: np.ndarray, ignore_index: int) -> float:
    """Compute the share of pixels whose label is correct.

    Args:
        labels (np.ndarray): Predicted labels [H, W].
        truth (np.ndarray): True labels [H, W].
        ignore_index (int): True label of the pixels that do not count.

    Returns:
        float: The share, between 0 and 1. NaN if all pixels are ignored.
    """
    valid = truth != ignore_index
    return float((labels == truth)[valid].mean()) if valid.any() else float('nan')


def draw_segmentation(
    images: np.ndarray | Tensor,
    truth: np.ndarray | Tensor,
    predictions: dict[str, np.ndarray | Tensor],
    palette: Sequence[Sequence[int]] | np.ndarray,
    path: str | Path,
    ignore_index: int = 255,
    classes: Sequence[str] | None = None,
) -> None:
    """Draw one row per image with the image, the truth and all predictions.

    Below each prediction stands the share of pixels whose label is correct.

    Args:
        images (np.ndarray | Tensor): Images [B, H, W, 3], uint8.
        truth (np.ndarray | Tensor): True labels [B, H, W].
        predictions (dict[str, np.ndarray | Tensor]): Predicted labels [B, H, W]
            by the title of their column.
        palette (Sequence[Sequence[int]] | np.ndarray): Colors of the K classes
            [K, 3], between 0 and 255.
        path (str | Path): Path of the PNG file to write.
        ignore_index (int): True label of the pixels that do not count. Defaults
            to 255.
        classes (Sequence[str], optional): Names of the K classes. If they are
            given, a legend shows the classes that occur. Defaults to None.

    Raises:
        ValueError: If the shapes of the truth and of a prediction differ.
    """
    images, truth = to_numpy(images), to_numpy(truth)
    predictions = {name: to_numpy(labels) for name, labels in predictions.items()}
    for name, labels in predictions.items():
        if labels.shape != truth.shape:
            raise ValueError(
                f"the labels of '{name}' have shape {labels.shape}, but the truth "
                f'has shape {truth.shape}: expected the same shape'
            )
    columns = ['image', 'truth', *predictions]
    present = np.unique([truth, *predictions.values()])
    present = present[(present != ignore_index) & (present < len(palette))]
    legend_columns = max(2, int(1.3 * len(columns)))
    bottom = 0.12 + 0.17 * -(-len(present) // legend_columns) if classes else 0

    figure, axes = tile_grid(len(images), columns, caption=0.17, bottom=bottom)
    for row, image in enumerate(images):
        show(axes[row, 0], image)
        for axis, labels in zip(axes[row, 1:], [truth, *predictions.values()]):
            show(axis, colorize(labels[row], palette))
        for axis, labels in zip(axes[row, 2:], predictions.values()):
            accuracy = pixel_accuracy(labels[row], truth[row], ignore_index)
            axis.text(
                0.5,
                -0.02,
                f'{100 * accuracy:.0f} % of pixels',
                fontsize=7,
                color='0.3',
                ha='center',
                va='top',
                transform=axis.transAxes,
            )
    if classes:
        handles = [
            Patch(color=np.asarray(palette[label]) / 255, label=classes[label])
            for label in present
        ]
        legend_below(figure, handles, legend_columns)
    save(figure, path)
