"""What the pictures of this folder share: a grid of equal tiles with column titles, and saving."""

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 160
TILE = 1.4  # inches; 224 pixels
GAP = 0.06
LINE = 0.17  # of a title
TITLE_CHARACTERS = 18
MARGIN = 0.08


def to_numpy(array) -> np.ndarray:
    """A numpy array of an array or a tensor on any device."""
    if hasattr(array, 'detach'):
        array = array.detach().cpu()
        array = array.float() if array.is_floating_point() else array
    return np.asarray(array)


def tile_grid(
    num_rows: int,
    titles: list[str],
    caption: float = 0,
    bottom: float = 0,
    right: float = 0,
) -> tuple[Figure, np.ndarray]:
    """A figure of square tiles, a title above each column; a long title takes several lines.

    Args:
        caption: inches below every tile.
        bottom: inches below the grid.
        right: inches to the right of the grid.

    Returns:
        the figure and its axes [num_rows, len(titles)]
    """
    titles = [
        '\n'.join(textwrap.fill(line, TITLE_CHARACTERS) for line in title.splitlines())
        for title in titles
    ]
    head = LINE * max(title.count('\n') + 1 for title in titles)
    step_x, step_y = TILE + GAP, TILE + GAP + caption
    width = 2 * MARGIN + len(titles) * step_x - GAP + right
    height = MARGIN + head + num_rows * step_y - GAP + max(bottom, MARGIN)
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor='white')
    axes = np.empty((num_rows, len(titles)), dtype=object)
    for row in range(num_rows):
        for column, title in enumerate(titles):
            left, top = MARGIN + column * step_x, MARGIN + head + row * step_y
            box = (left / width, 1 - (top + TILE) / height, TILE / width, TILE / height)
            axes[row, column] = figure.add_axes(box)
            axes[row, column].set_axis_off()
            if row == 0:
                axes[row, column].set_title(title, fontsize=9, pad=5)
    return figure, axes


def show(axes: Axes, pixels: np.ndarray, **kwargs):
    """An image [H, W, 3] or map [h, w] that fills its tile, pixels kept sharp."""
    return axes.imshow(pixels, interpolation='nearest', aspect='auto', **kwargs)


def save(figure: Figure, path: str | Path) -> None:
    """Write a PNG, making its folder where there is none."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, format='png')
