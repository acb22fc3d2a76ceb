"""Draw and save grids of equal tiles with titles above the columns."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

# Lengths are in inches.
DPI = 160
TILE = 1.4  # Side of a tile: 224 pixels.
GAP = 0.06  # Space between tiles.
LINE = 0.17  # Height of a line of a title.
TITLE_CHARACTERS = 18  # Maximum length of a line of a title.
MARGIN = 0.08  # Space around the grid.


def to_numpy(array: np.ndarray | Tensor) -> np.ndarray:
    """Convert an array, or a tensor on any device, to a NumPy array.

    Args:
        array (np.ndarray | Tensor): The array. A tensor of floating-point
            numbers is converted to float32.

    Returns:
        np.ndarray: The array on the CPU.
    """
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        array = array.float() if array.is_floating_point() else array
    return np.asarray(array)


def plain_text(text: str, characters: int) -> str:
    """Prepare a text of unknown content, such as the name of a class, for a figure.

    Matplotlib would read formulas between dollar signs, leave a legend's entry out if
    it begins with an underscore, and fail on the name of a file that is not UTF-8.

    Args:
        text (str): The text.
        characters (int): Maximum length. The middle of a longer text is left out.

    Returns:
        str: What to give to matplotlib.
    """
    text = text.encode(errors='backslashreplace').decode()
    if len(text) > characters:
        end = characters // 2
        text = f'{text[: characters - end - 1]}…{text[-end:]}'
    text = text.replace('$', r'\$')
    return f' {text}' if text.startswith('_') else text


def tile_grid(
    num_rows: int,
    titles: list[str],
    caption: float = 0,
    bottom: float = 0,
    right: float = 0,
    tile: float = TILE,
) -> tuple[Figure, np.ndarray]:
    """Make a figure of square tiles with a title above each column.

    A long title is split into several lines.

    Args:
        num_rows (int): Number of rows of tiles.
        titles (list[str]): The title of each column.
        caption (float): Space below every tile in inches. Defaults to 0.
        bottom (float): Space below the grid in inches. Defaults to 0.
        right (float): Space to the right of the grid in inches. Defaults to 0.
        tile (float): Side of a tile in inches. Defaults to 1.4.

    Returns:
        tuple[Figure, np.ndarray]: The figure, and the axes of its tiles
        [num_rows, len(titles)].
    """
    titles = [
        '\n'.join(textwrap.fill(line, TITLE_CHARACTERS) for line in title.splitlines())
        for title in titles
    ]
    head = LINE * max(title.count('\n') + 1 for title in titles)
    step_x, step_y = tile + GAP, tile + GAP + caption
    width = 2 * MARGIN + len(titles) * step_x - GAP + right
    height = MARGIN + head + num_rows * step_y - GAP + max(bottom, MARGIN)
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor='white')
    axes = np.empty((num_rows, len(titles)), dtype=object)
    for row in range(num_rows):
        for column, title in enumerate(titles):
            left, top = MARGIN + column * step_x, MARGIN + head + row * step_y
            box = (left / width, 1 - (top + tile) / height, tile / width, tile / height)
            axes[row, column] = figure.add_axes(box)
            axes[row, column].set_axis_off()
            if row == 0:
                axes[row, column].set_title(title, fontsize=9, pad=5)
    return figure, axes


def show(axes: Axes, pixels: np.ndarray, **kwargs) -> AxesImage:
    """Draw an image that fills its tile, with sharp edges between its pixels.

    Args:
        axes (Axes): The axes of the tile.
        pixels (np.ndarray): An image [H, W, 3] or a map [h, w].
        **kwargs: Further arguments of ``Axes.imshow``.

    Returns:
        AxesImage: The image that was drawn.
    """
    return axes.imshow(pixels, interpolation='nearest', aspect='auto', **kwargs)


def legend_below(figure: Figure, handles: Sequence[Artist], columns: int) -> None:
    """Draw the legend of a grid into the space below it.

    Args:
        figure (Figure): The figure, see ``bottom`` of :func:`tile_grid`.
        handles (Sequence[Artist]): The entries, with their labels.
        columns (int): Number of entries in a row.
    """
    figure.legend(
        handles=handles,
        loc='lower center',
        ncols=columns,
        fontsize=7,
        frameon=False,
        handlelength=1,
        handleheight=1,
        columnspacing=1.2,
        labelspacing=0.3,
        borderaxespad=0.3,
    )


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as a PNG file.

    Args:
        figure (Figure): The figure.
        path (str | Path): Path of the file. Its folder is made if it does not
            exist.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, format='png')
