"""Probes of frozen features against scikit-learn and plain loops."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.evaluation import (
    RidgeProbe,
    attention_distance,
    class_shares,
    confusion,
    mean_iou,
    nearest_neighbors,
)


def images(count=6, patches=9, channels=5, classes=3, seed=0):
    """Features and shares of images, in which shares depend on features linearly."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, patches, channels, generator=generator)
    mixing = torch.randn(channels, classes, generator=generator)
    noise = torch.randn(count, patches, classes, generator=generator)
    shares = (features @ mixing + 0.5 * noise).softmax(-1)
    shares[0, 0] = 0  # a patch without a labeled pixel
    return 3 + features, shares


def test_linear_probe_is_a_ridge_regression():
    features, shares = images()
    for strength in (1e-3, 1.0):
        probe = RidgeProbe(5, 3, strengths=[strength])
        for x, y in zip(features, shares):
            probe.add(x, y)
        probe.fit()
        x, y = (a.flatten(0, 1)[1:].double().numpy() for a in (features, shares))
        scale = ((x - x.mean(0)) ** 2).sum() / 5
        ridge = Ridge(alpha=strength * scale).fit(x, y)
        np.testing.assert_allclose(
            probe.predict(features[0]), ridge.predict(features[0]), rtol=1e-4, atol=1e-5
        )


def test_strength_is_the_best_of_two_halves():
    features, shares = images(count=4, patches=4)
    strengths = (1e-6, 0.3, 30.0)
    errors = []
    for strength in strengths:
        error = 0
        for half in (0, 1):
            fit, test = (slice(k, None, 2) for k in (half, 1 - half))
            rows = [
                tuple(a[part].flatten(0, 1) for a in (features, shares))
                for part in (fit, test)
            ]
            (x, y), (z, w) = [(a[b.sum(1) > 0], b[b.sum(1) > 0]) for a, b in rows]
            x, y, z, w = (a.double().numpy() for a in (x, y, z, w))
            scale = ((x - x.mean(0)) ** 2).sum() / 5
            ridge = Ridge(alpha=strength * scale).fit(x, y)
            error += ((ridge.predict(z) - w) ** 2).sum()
        errors.append(error)
    probe = RidgeProbe(5, 3, strengths)
    for x, y in zip(features, shares):
        probe.add(x, y)
    probe.fit()
    assert probe.strength == strengths[int(np.argmin(errors))]


def test_linear_probe_needs_two_images():
    probe = RidgeProbe(5, 3)
    with pytest.raises(ConfigError, match='2 training images or more, not 0'):
        probe.fit()


def test_shares_of_classes_leave_out_ignored_pixels():
    labels = torch.tensor([[0, 0, 1, 255], [2, 0, 255, 255]])
    shares = class_shares(labels, (1, 2), 3)
    torch.testing.assert_close(shares, torch.tensor([[0.75, 0, 0.25], [0, 1, 0]]))
    assert class_shares(torch.full((2, 2), 255), (1, 1), 3).tolist() == [[0, 0, 0]]


def test_mean_iou_is_that_of_the_classes_that_occur():
    labels = torch.tensor([[0, 0, 1, 255]])
    prediction = torch.tensor([[0, 1, 1, 2]])
    matrix = confusion(prediction, labels, 4)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [0] * 4, [0] * 4]
    assert mean_iou(matrix) == pytest.approx(100 * (1 / 2 + 1 / 2) / 2)


def test_nearest_neighbors_vote_by_similarity():
    generator = torch.Generator().manual_seed(0)
    train = torch.randn(40, 8, generator=generator)
    test = torch.randn(25, 8, generator=generator)
    labels = torch.randint(0, 4, (40,), generator=generator)
    reference = KNeighborsClassifier(
        5,
        weights=lambda distance: np.exp((1 - distance) / 0.07),
        metric='cosine',
        algorithm='brute',
    ).fit(train, labels)
    found = nearest_neighbors(train, labels, test, 4, k=5)
    assert found.tolist() == reference.predict(test).tolist()
    # More neighbors than images are all images.
    assert nearest_neighbors(train[:1], labels[:1], test, 4).unique() == labels[0]


def test_attention_distance_is_the_mean_length_of_the_way_to_the_keys():
    grid = (2, 3)
    weights = torch.rand(2, 4, 7, 7, generator=torch.Generator().manual_seed(0))
    weights = weights.softmax(-1)
    expected = torch.zeros(4)
    places = [(i, j) for i in range(2) for j in range(3)]
    for image in weights:
        for head, matrix in enumerate(image):
            for q, (a, b) in enumerate(places, 1):
                way = [math.hypot(a - c, b - d) for c, d in places]
                row = matrix[q, 1:]
                expected[head] += float(row @ torch.tensor(way) / row.sum()) / 12
    torch.testing.assert_close(attention_distance(weights, grid), expected)


def test_attention_distance_leaves_out_queries_that_see_the_class_token_only():
    weights = torch.rand(2, 4, 7, 7, generator=torch.Generator().manual_seed(0))
    weights[:, :, 2:4] = 0
    weights[:, :, 2:4, 0] = 1
    weights[:, 3] = 0
    # If these two queries attended to all patches alike, they would count.
    seen = weights[:, :3].clone()
    seen[:, :, 2:4] = 1
    of_all = attention_distance(seen, (2, 3))
    rows, columns = torch.arange(6) // 3, torch.arange(6) % 3
    ways = ((rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2).sqrt()
    uniform = ways[1:3].mean() * 2 / 6
    distance = attention_distance(weights, (2, 3))
    torch.testing.assert_close(distance[:3], (of_all - uniform) * 6 / 4)
    assert distance[3].isnan()
