"""Block masks against the procedure of BEiT v2, written out plainly."""

import math
import random

import numpy as np
import pytest
from scipy.stats import ks_2samp

from mmmaskdistill.datasets import BlockMaskGenerator
from mmmaskdistill.registry import TRANSFORMS

DRAWS = 10000
RECIPE = dict(input_size=(14, 14), num_masking_patches=75)


def reference_block(hidden, left, rows=14, columns=14):
    """(top, left, height, width) of the next block, None after ten misses."""
    for _ in range(10):
        area = random.uniform(16, left)
        aspect = math.exp(random.uniform(math.log(0.3), math.log(1 / 0.3)))
        height = int(round(math.sqrt(area * aspect)))
        width = int(round(math.sqrt(area / aspect)))
        if height >= rows or width >= columns:
            continue
        top = random.randint(0, rows - height)  # both ends included
        start = random.randint(0, columns - width)
        cells = {
            (i, j)
            for i in range(top, top + height)
            for j in range(start, start + width)
        }
        if 0 < len(cells - hidden) <= left:
            return top, start, height, width
    return None


def reference_mask():
    hidden = set()
    blocks = 0
    while len(hidden) < 75:
        block = reference_block(hidden, 75 - len(hidden))
        if block is None:
            visible = sorted({(i, j) for i in range(14) for j in range(14)} - hidden)
            hidden.update(random.sample(visible, 75 - len(hidden)))
            break
        top, start, height, width = block
        hidden |= {
            (i, j)
            for i in range(top, top + height)
            for j in range(start, start + width)
        }
        blocks += 1
    mask = np.zeros((14, 14), int)
    mask[tuple(zip(*hidden))] = 1
    return mask


def edges(mask):
    """Borders between hidden and visible patches: how scattered a mask is."""
    return (mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum()


@pytest.fixture(autouse=True)
def seed():
    random.seed(0)
    np.random.seed(0)


def test_masks_follow_the_recipe():
    generate = TRANSFORMS.build(dict(type='mmmaskdistill.BlockMaskGenerator', **RECIPE))
    ours = np.stack([generate({})['mask'] for _ in range(DRAWS)])
    assert (ours.sum((1, 2)) == 75).all() and set(np.unique(ours)) == {0, 1}
    reference = np.stack([reference_mask() for _ in range(DRAWS)])
    # Each patch's frequency: five standard errors of the difference of two.
    error = math.sqrt(2 * 0.25 / DRAWS)
    assert np.abs(ours.mean(0) - reference.mean(0)).max() < 5 * error
    scattered = [[edges(mask) for mask in masks] for masks in (ours, reference)]
    assert ks_2samp(*scattered).pvalue > 1e-3


def test_blocks_follow_the_recipe():
    generate = BlockMaskGenerator(**RECIPE)

    def block():
        mask = np.zeros((14, 14), int)
        assert generate._hide_block(mask, 75) == mask.sum()
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask.sum() == len(rows) * len(columns)  # one rectangle
        return rows[0], columns[0], len(rows), len(columns)

    ours = np.array([block() for _ in range(DRAWS)], float)
    reference = np.array([reference_block(set(), 75) for _ in range(DRAWS)], float)

    def described(blocks):
        top, start, height, width = blocks.T
        return dict(
            area=height * width,
            aspect=height / width,
            top=top / (14 - height),
            left=start / (14 - width),
        )

    for name, values in described(ours).items():
        match = ks_2samp(values, described(reference)[name])
        assert match.pvalue > 1e-3, name
    assert described(ours)['top'].max() == described(ours)['left'].max() == 1


@pytest.mark.parametrize('number', [1, 5, 35, 34])
def test_exact_number_on_a_small_or_oblong_grid(number):
    generate = BlockMaskGenerator((5, 7), number, min_num_patches=4)
    for _ in range(200):
        mask = generate({})['mask']
        assert mask.shape == (5, 7) and mask.sum() == number


@pytest.mark.parametrize('number', [0, 36])
def test_more_than_the_grid_is_refused(number):
    with pytest.raises(ValueError, match=f'num_masking_patches={number}'):
        BlockMaskGenerator((5, 7), number)
