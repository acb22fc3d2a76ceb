"""Draw how each axis of an ablation changes a metric."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from .figures import DPI, save

PANEL = 0.5  # Inches per value of an axis.
HEIGHT = 2.6  # Inches.


def draw_ablation(
    panels: dict[str, dict[str, Iterable[float]]],
    path: str | Path,
    ylabel: str,
    reference: Sequence[float] = (),
) -> None:
    """Draw one panel for each axis of an ablation.

    A panel shows a point for each run, and the mean and the standard deviation of
    the runs with the same value of the axis.

    Args:
        panels (dict[str, dict[str, Iterable[float]]]): For each axis and each of
            its values, the metric of the runs. A value without runs keeps its
            place on the axis.
        path (str | Path): Path of the PNG file to write.
        ylabel (str): Name of the metric.
        reference (Sequence[float]): The metric of the runs without pre-training,
            whose mean is drawn as a line. Defaults to ``()``, no line.
    """
    counts = [len(values) for values in panels.values()]
    figure = Figure(
        figsize=(0.9 + sum(0.4 + PANEL * count for count in counts), HEIGHT),
        dpi=DPI,
        facecolor='white',
        layout='constrained',
    )
    panes = figure.subplots(
        1,
        len(panels),
        sharey=True,
        squeeze=False,
        width_ratios=[count + 0.8 for count in counts],
    )[0]
    for axes, (axis, values) in zip(panes, panels.items()):
        for place, numbers in enumerate(values.values()):
            numbers = np.asarray(list(numbers), np.float64)
            if not len(numbers):
                continue
            spread = numbers.std(ddof=1) if len(numbers) > 1 else math.nan
            axes.plot(
                np.full(len(numbers), place - 0.15),
                numbers,
                'o',
                color='C0',
                alpha=0.45,
                markersize=4,
                markeredgewidth=0,
            )
            axes.errorbar(
                place + 0.1,
                numbers.mean(),
                spread,
                fmt='_',
                color='C3',
                markersize=11,
                markeredgewidth=1.8,
                capsize=3,
            )
        if len(reference):
            _draw_reference(axes, reference)
        axes.set_title(axis, fontsize=9)
        axes.set_xticks(range(len(values)), values, rotation=30, ha='right', fontsize=7)
        axes.set_xlim(-0.6, len(values) - 0.4)
        axes.tick_params(axis='y', labelsize=8)
        axes.grid(axis='y', color='0.9', linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[['top', 'right']].set_visible(False)
    panes[0].set_ylabel(ylabel, fontsize=9)
    if len(reference):
        panes[0].legend(fontsize=7, frameon=False)
    save(figure, path)


def draw_budgets(
    curves: dict[str, Sequence[tuple[float, Sequence[float]]]],
    path: str | Path,
    ylabel: str,
    reference: Sequence[float] = (),
) -> None:
    """Draw how a metric grows with the length of the training.

    A curve connects the means over the runs. Each run is a pale point, and bars show
    the standard deviation.

    Args:
        curves (dict[str, Sequence[tuple[float, Sequence[float]]]]): For each curve
            its points: the minutes of the training, and the metric of each run.
        path (str | Path): Path of the PNG file to write.
        ylabel (str): Name of the metric.
        reference (Sequence[float]): The metric of the runs without pre-training,
            whose mean is drawn as a line. Defaults to ``()``, no line.
    """
    figure = Figure(
        figsize=(5.6, 4.2), dpi=DPI, facecolor='white', layout='constrained'
    )
    axes = figure.add_subplot()
    for index, (name, points) in enumerate(curves.items()):
        points = sorted((x, values) for x, values in points if len(values))
        color = f'C{index}'
        for x, values in points:
            axes.plot(
                [x] * len(values), values, 'o', color=color, alpha=0.35, markersize=3
            )
        axes.errorbar(
            [x for x, _ in points],
            [np.mean(values) for _, values in points],
            [np.std(v, ddof=1) if len(v) > 1 else 0 for _, v in points],
            color=color,
            marker='_',
            linewidth=1.5,
            capsize=3,
            label=name,
        )
    if len(reference):
        _draw_reference(axes, reference)
    axes.set_xscale('log')
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter('{x:g}')
    axes.minorticks_off()
    axes.set_xlabel('minutes of pre-training', fontsize=9)
    axes.set_ylabel(ylabel, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color='0.9', linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)
    figure.legend(loc='outside upper left', fontsize=8, frameon=False)
    save(figure, path)


def _draw_reference(axes: Axes, values: Sequence[float]):
    """Draw the mean of the runs without pre-training as a line."""
    axes.axhline(
        np.mean(values), color='0.4', linewidth=1, linestyle='--', label='from scratch'
    )
