"""Segmentations side by side."""

from pathlib import Path

import numpy as np
from matplotlib.patches import Patch

from .figures import save, show, tile_grid, to_numpy

IGNORED = 255  # white


def colorize(labels: np.ndarray, palette) -> np.ndarray:
    """Labels [H, W] to colours [H, W, 3] uint8; a label outside the palette, an ignored pixel, is white."""
    palette = np.vstack(
        [np.asarray(palette, np.uint8), np.full((1, 3), IGNORED, np.uint8)]
    )
    inside = (labels >= 0) & (labels < len(palette) - 1)
    return palette[np.where(inside, labels, len(palette) - 1).astype(int)]


def pixel_accuracy(labels: np.ndarray, truth: np.ndarray, ignore_index: int) -> float:
    """The share of pixels labelled right, of those whose truth is not ignored; nan where all are."""
    valid = truth != ignore_index
    return float((labels == truth)[valid].mean()) if valid.any() else float('nan')


def draw_segmentation(
    images,
    truth,
    predictions: dict,
    palette,
    path: str | Path,
    ignore_index: int = 255,
    classes=None,
) -> None:
    """A row an image: image, truth, then each prediction with the share of pixels it labels right.

    Args:
        images: [B, H, W, 3] uint8
        truth: [B, H, W] labels
        predictions: {column title: labels [B, H, W]}
        palette: [K, 3], 0..255
        path: the PNG to write
        ignore_index: the label of pixels that do not count; drawn white in the truth.
        classes: K names; with them, a legend of the classes that occur.
    """
    images, truth = to_numpy(images), to_numpy(truth)
    predictions = {name: to_numpy(labels) for name, labels in predictions.items()}
    for name, labels in predictions.items():
        if labels.shape != truth.shape:
            raise ValueError(
                f"the labels of '{name}' have shape {labels.shape}, the truth {truth.shape}"
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
        figure.legend(
            handles=handles,
            loc='lower center',
            ncols=legend_columns,
            fontsize=7,
            frameon=False,
            handlelength=1,
            handleheight=1,
            columnspacing=1.2,
            labelspacing=0.3,
            borderaxespad=0.3,
        )
    save(figure, path)
