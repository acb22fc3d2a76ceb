"""Draw how time and memory grow with the size of a model, an image or a batch."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from .figures import DPI, save

# For each measured quantity: its key in the results, its unit and the panel's title.
QUANTITIES = [
    ('median', 1, 'seconds'),
    ('kept_bytes_per_image', 1e6, 'kept for backward, MB per image'),
    ('peak_bytes', 1e6, 'peak memory, MB'),
]


def draw_scaling(sweeps: dict[str, list[dict]], path: str | Path) -> None:
    """Draw one row of panels per sweep, with logarithmic axes.

    Each panel has one curve for each of the compared implementations (``sides``).
    The x-axis is the number of tokens per call, or the number of blocks if the
    depth grows.

    Args:
        sweeps (dict[str, list[dict]]): For each quantity that grows (``size``,
            ``batch`` or ``depth``), the points that ``benchmark.py --sweep``
            measures. Each point has ``tokens`` and ``sides``, and also ``depth``
            if the depth grows.
        path (str | Path): Path of the PNG file to write.
    """
    kinds = [
        quantity
        for quantity in QUANTITIES
        if any(
            quantity[0] in side
            for points in sweeps.values()
            for point in points
            for side in point['sides'].values()
        )
    ]
    figure = Figure(
        figsize=(3.6 * len(kinds), 3 * len(sweeps)),
        dpi=DPI,
        facecolor='white',
        layout='constrained',
    )
    rows = figure.subplots(len(sweeps), len(kinds), squeeze=False)
    for row, (name, points) in zip(rows, sweeps.items()):
        across = 'depth' if name == 'depth' else 'tokens'
        # An implementation that ran out of memory at a point is missing there.
        sides = list(dict.fromkeys(s for point in points for s in point['sides']))
        for axes, (key, unit, title) in zip(row, kinds):
            for side in sides:
                curve = [
                    (point[across], point['sides'][side][key] / unit)
                    for point in points
                    if side in point['sides']
                ]
                axes.plot(*zip(*curve), marker='o', markersize=3, label=side)
            axes.set_xscale('log')
            axes.set_yscale('log')
            axes.set_xticks([point[across] for point in points])
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_minor_locator(NullLocator())
                axis.set_major_formatter('{x:g}')
            axes.set_title(title, fontsize=9)
            axes.set_xlabel(
                'blocks' if across == 'depth' else f'tokens per call ({name} grows)',
                fontsize=9,
            )
            axes.tick_params(labelsize=8)
            axes.grid(color='0.9', linewidth=0.6)
            axes.spines[['top', 'right']].set_visible(False)
        row[0].legend(fontsize=8, frameon=False)
    save(figure, path)
