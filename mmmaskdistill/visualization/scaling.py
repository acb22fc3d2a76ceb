"""Time and memory as a model, an image or a batch grows."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from .figures import DPI, save

# Of a side: key, unit and title.
QUANTITIES = [
    ('median', 1, 'seconds'),
    ('kept_bytes_per_image', 1e6, 'kept for backward, MB an image'),
    ('peak_bytes', 1e6, 'peak memory, MB'),
]


def draw_scaling(sweeps: dict[str, list[dict]], path: str | Path) -> None:
    """One row of curves a sweep, one curve a side, logarithmic axes.

    Args:
        sweeps (dict[str, list[dict]]): By what grows (``size``, ``batch`` or
            ``depth``) the points of ``benchmark.py --sweep``, each with
            ``tokens`` and ``sides``. Time and memory are drawn against the
            tokens of a call, or the depth where that is what grows.
        path (str | Path): PNG file to write.
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
        # Out of memory, a side has no point.
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
                'blocks' if across == 'depth' else f'tokens a call ({name} grows)',
                fontsize=9,
            )
            axes.tick_params(labelsize=8)
            axes.grid(color='0.9', linewidth=0.6)
            axes.spines[['top', 'right']].set_visible(False)
        row[0].legend(fontsize=8, frameon=False)
    save(figure, path)
