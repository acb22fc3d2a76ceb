"""Pictures of ablations."""

import numpy as np
import pytest

from mmmaskdistill.visualization import ablation


def test_points_mean_and_standard_deviation_are_drawn(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(ablation, 'save', lambda figure, path: figures.append(figure))
    panels = {
        'loss': {'l1': [1.0, 2.0, 6.0], 'mse': [4.0]},
        'mask': {'block': [1.0, 2.0, 6.0], 'none': []},
    }
    ablation.draw_ablation(
        panels, tmp_path / 'a.png', ylabel='mIoU', reference=[0.5, 1.5]
    )

    loss, mask = figures[0].axes
    assert [axes.get_title() for axes in (loss, mask)] == ['loss', 'mask']
    assert loss.get_ylabel() == 'mIoU'
    assert [label.get_text() for label in mask.get_xticklabels()] == ['block', 'none']
    points = [line for line in loss.lines if line.get_marker() == 'o']
    np.testing.assert_array_equal(points[0].get_ydata(), [1, 2, 6])
    center, _, (bar,) = loss.containers[0]
    assert center.get_ydata() == [3]
    (_, low), (_, high) = bar.get_segments()[0]
    # 1, 2 and 6 have the mean 3 and the variance 14 / 2.
    assert (low, high) == pytest.approx((3 - 7**0.5, 3 + 7**0.5))
    assert len(mask.containers) == 1
    for axes in (loss, mask):
        (line,) = (line for line in axes.lines if line.get_linestyle() == '--')
        assert list(line.get_ydata()) == [1, 1]


def test_picture_is_written_to_a_new_folder(tmp_path):
    ablation.draw_ablation(
        {'loss': {'l1': [1.0, 2.0]}}, tmp_path / 'new' / 'a.png', ylabel='mIoU'
    )
    assert (tmp_path / 'new' / 'a.png').stat().st_size > 1000


def test_curves_over_the_budget_connect_the_means(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(ablation, 'save', lambda figure, path: figures.append(figure))
    curves = {
        'all': [(10.0, [4.0]), (3.0, [1.0, 2.0, 6.0]), (30.0, [])],
        'hidden': [(3.0, [0.5])],
    }
    ablation.draw_budgets(curves, tmp_path / 'a.png', ylabel='mIoU', reference=[1, 3])
    (axes,) = figures[0].axes
    line, _, (bars,) = axes.containers[0]
    np.testing.assert_array_equal(line.get_xydata(), [(3, 3), (10, 4)])
    (_, low), (_, high) = bars.get_segments()[0]
    assert (low, high) == pytest.approx((3 - 7**0.5, 3 + 7**0.5))
    labels = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert labels == ['from scratch', 'all', 'hidden']
    assert axes.get_xscale() == 'log' and axes.get_ylabel() == 'mIoU'
    low, high = axes.get_xlim()
    ticks = {t.get_text(): t.get_position()[0] for t in axes.get_xticklabels()}
    inside = {text: x for text, x in ticks.items() if low <= x <= high}
    assert inside == {'5': 5, '10': 10}
    (scratch,) = (x for x in axes.lines if x.get_linestyle() == '--')
    assert list(scratch.get_ydata()) == [2, 2]
