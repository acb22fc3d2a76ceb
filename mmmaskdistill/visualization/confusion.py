"""Draw a confusion matrix."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from .figures import DPI, plain_text, save

# Lengths are in inches.
CELL = (0.13, 0.6)  # Side of a cell, at least and at most.
MATRIX = 9  # Side of the matrix, between these limits.
LEGIBLE = 0.3  # Side of a cell that a number fits in.
NAMED = 200  # Largest number of classes whose names are shown.
NAME_CHARACTERS = 28


def draw_confusion(
    matrix: np.ndarray, classes: Sequence[str], path: str | Path, unit: str = 'pixels'
) -> None:
    """Draw which classes are predicted as which, as shares of each true class.

    The color of a cell grows with the square root of the share, so that frequent
    mistakes of a few percent can be seen. Up to about 30 classes, the cells contain the
    shares in percent, and up to 200 classes, rows and columns have names. The row of a
    class that does not occur is gray.

    Args:
        matrix (np.ndarray): Counts [K, K]; the rows are the true classes.
        classes (Sequence[str]): Names of the K classes.
        path (str | Path): Path of the PNG file to write.
        unit (str): What is counted. Defaults to ``'pixels'``.

    Raises:
        ValueError: If there is not a name for each row.
    """
    matrix = np.asarray(matrix, float)
    number = len(classes)
    if matrix.shape != (number, number):
        raise ValueError(
            f'the matrix has shape {matrix.shape}, but there are {number} names: '
            'expected a row and a column for each name'
        )
    totals = matrix.sum(1, keepdims=True)
    shares = np.full_like(matrix, np.nan)
    np.divide(100 * matrix, totals, out=shares, where=totals > 0)

    cell = float(np.clip(MATRIX / number, *CELL))
    if number > NAMED:
        cell = MATRIX / number
    size = number * cell
    font = min(9.0, 0.7 * 72 * cell) if number <= NAMED else 0
    names = [plain_text(str(name), NAME_CHARACTERS) for name in classes]
    longest = max(map(len, names)) if font else 0
    margin = 0.5 + 0.62 * font / 72 * longest
    head, right = 0.55, 0.9
    width = max(margin + size + right, 4.6)
    height = max(head + size + margin, 2.6)

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor='white')
    axes = figure.add_axes(
        (margin / width, 1 - (head + size) / height, size / width, size / height)
    )
    colors = colormaps['Blues'].with_extremes(bad='0.9')
    image = axes.imshow(
        shares, cmap=colors, norm=PowerNorm(0.5, 0, 100), interpolation='nearest'
    )
    axes.set_xlabel('predicted')
    axes.set_ylabel('true')
    if font:
        axes.set_xticks(range(number), names, rotation=90, fontsize=font)
        axes.set_yticks(range(number), names, fontsize=font)
        axes.tick_params(length=0, pad=2)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    if cell >= LEGIBLE:
        for row, column in zip(*np.nonzero(np.nan_to_num(shares) >= 0.5)):
            share = shares[row, column]
            axes.text(
                column,
                row,
                f'{share:.0f}',
                ha='center',
                va='center',
                fontsize=min(9, 72 * cell * 0.32),
                color='white' if share > 40 else '0.15',
            )
    bar_height = min(size, 3.0)
    bar = figure.add_axes(
        (
            (margin + size + 0.15) / width,
            1 - (head + bar_height) / height,
            0.15 / width,
            bar_height / height,
        )
    )
    figure.colorbar(image, cax=bar, ticks=[0, 1, 5, 10, 25, 50, 100])
    bar.tick_params(labelsize=7)
    figure.text(
        0.1 / width,
        1 - 0.12 / height,
        f'{unit.capitalize()} of each true class by\npredicted class, in percent',
        fontsize=9,
        ha='left',
        va='top',
    )
    save(figure, path)
