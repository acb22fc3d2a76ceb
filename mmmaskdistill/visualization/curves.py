"""Read the scalars that mmengine logs, and draw them as training curves."""

import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from .figures import DPI, save

SMOOTHING = 0.03  # Share of a curve's length that the moving mean averages over.


def read_scalars(path: str | Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read a file ``vis_data/scalars.json`` of mmengine.

    Each line of the file is a JSON object. If a step occurs twice, for example
    because the run was resumed, the later line counts. If the last line is
    incomplete, because the run was killed, it is left out.

    Args:
        path (str | Path): Path of the file.

    Returns:
        dict[str, tuple[np.ndarray, np.ndarray]]: The steps [n], in ascending
        order, and the values [n] of each scalar, by its name.

    Raises:
        ValueError: If a line other than the last one is not JSON.
    """
    lines = Path(path).read_text().splitlines()
    series = defaultdict(dict)
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError:
            if number == len(lines):
                break
            raise ValueError(
                f'{path}, line {number} is not valid JSON: {line[:40]!r}'
            ) from None
        step = record.pop('step', record.get('iter'))
        if step is None:
            continue
        for name, value in record.items():
            if isinstance(value, (int, float)):
                series[name][step] = value
    return {
        name: tuple(np.array(column) for column in zip(*sorted(values.items())))
        for name, values in series.items()
    }


def read_run(work_dir: str | Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read all scalars of a run, including the parts after it was resumed.

    Where two parts of the run overlap, the later part counts.

    Args:
        work_dir (str | Path): Work dir of the run.

    Returns:
        dict[str, tuple[np.ndarray, np.ndarray]]: The steps [n], in ascending
        order, and the values [n] of each scalar, by its name.

    Raises:
        ValueError: See :func:`read_scalars`.
    """
    curves = defaultdict(dict)
    for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        for name, (steps, values) in read_scalars(path).items():
            curves[name].update(zip(steps, values))
    return {
        name: tuple(np.array(column) for column in zip(*sorted(points.items())))
        for name, points in curves.items()
    }


def smooth(values: ArrayLike, window: int) -> np.ndarray:
    """Compute a centered moving mean.

    Near the ends, the mean is over fewer values. Values that are not finite are
    left out of the means.

    Args:
        values (ArrayLike): Values [n].
        window (int): Number of values to average over. An even number counts as
            the next larger odd number.

    Returns:
        np.ndarray: Means [n], NaN where a window has no finite value.
    """
    values = np.asarray(values, np.float64)
    finite = np.isfinite(values)
    half = window // 2
    sums = np.concatenate([[0], np.cumsum(np.where(finite, values, 0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    first = np.maximum(np.arange(len(values)) - half, 0)
    last = np.minimum(np.arange(len(values)) + half + 1, len(values))
    total, count = sums[last] - sums[first], counts[last] - counts[first]
    return np.divide(total, count, out=np.full(len(values), math.nan), where=count > 0)


def draw_curves(
    curves: dict[str, tuple[np.ndarray, np.ndarray]],
    path: str | Path,
    xlabel: str,
    ylabel: str,
) -> None:
    """Draw curves over a common axis.

    The values of a curve are drawn as a pale line, and their moving mean as a
    strong one.

    Args:
        curves (dict[str, tuple[np.ndarray, np.ndarray]]): Coordinates x [n] and
            y [n] of each curve, by its name. Several curves get a legend.
        path (str | Path): Path of the PNG file to write.
        xlabel (str): Label of the x-axis.
        ylabel (str): Label of the y-axis.
    """
    figure = Figure(
        figsize=(5.6, 3.2), dpi=DPI, facecolor='white', layout='constrained'
    )
    axes = figure.add_subplot()
    for index, (name, (x, y)) in enumerate(curves.items()):
        mean = smooth(y, max(1, round(SMOOTHING * len(y))))
        axes.plot(x, y, color=f'C{index}', alpha=0.25, linewidth=0.8)
        axes.plot(x, mean, color=f'C{index}', linewidth=1.6, label=name)
    axes.set_xlabel(xlabel, fontsize=9)
    axes.set_ylabel(ylabel, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.margins(x=0.02)
    axes.grid(color='0.9', linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)
    if len(curves) > 1:
        axes.legend(fontsize=8, frameon=False)
    save(figure, path)
