"""Block masks against a plain implementation of BEiT v2's procedure."""

import math
import random

import numpy as np
import pytest
from scipy.stats import ks_2samp

from mmmaskdistill.datasets import BlockMaskGenerator, UniformMaskGenerator
from mmmaskdistill.datasets.draws import Place, at_place
from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import TRANSFORMS

DRAWS = 10000
RECIPE = dict(input_size=(14, 14), num_masking_patches=75)


def reference_block(hidden, left, rows=14, columns=14):
    """Draw (top, left, height, width) of a block, or None after ten failures."""
    for _ in range(10):
        area = random.uniform(16, left)
        aspect = math.exp(random.uniform(math.log(0.3), math.log(1 / 0.3)))
        height = round(math.sqrt(area * aspect))
        width = round(math.sqrt(area / aspect))
        if height >= rows or width >= columns:
            continue
        top = random.randint(0, rows - height)  # randint includes both ends
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
    """Count the borders between hidden and visible patches.

    The count measures how scattered a mask is.
    """
    return (mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum()


@pytest.fixture(autouse=True)
def seed():
    random.seed(0)
    np.random.seed(0)


def test_masks_have_the_distribution_of_the_reference():
    generate = TRANSFORMS.build(dict(type='mmmaskdistill.BlockMaskGenerator', **RECIPE))
    generated = np.stack([generate({})['mask'] for _ in range(DRAWS)])
    assert (generated.sum((1, 2)) == 75).all() and set(np.unique(generated)) == {0, 1}
    reference = np.stack([reference_mask() for _ in range(DRAWS)])
    # The standard error of the difference between two frequencies of a patch.
    error = math.sqrt(2 * 0.25 / DRAWS)
    assert np.abs(generated.mean(0) - reference.mean(0)).max() < 5 * error
    borders = [[edges(mask) for mask in masks] for masks in (generated, reference)]
    assert ks_2samp(*borders).pvalue > 1e-3


def test_blocks_have_the_distribution_of_the_reference():
    generate = BlockMaskGenerator(**RECIPE)

    def block():
        mask = np.zeros((14, 14), int)
        assert generate._hide_block(mask, 16, 75) == mask.sum()
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        # The hidden patches form one full rectangle.
        assert mask.sum() == len(rows) * len(columns)
        return rows[0], columns[0], len(rows), len(columns)

    generated = np.array([block() for _ in range(DRAWS)], float)
    reference = np.array([reference_block(set(), 75) for _ in range(DRAWS)], float)

    def properties(blocks):
        top, start, height, width = blocks.T
        return dict(
            area=height * width,
            aspect=height / width,
            top=top / (14 - height),
            left=start / (14 - width),
        )

    for name, values in properties(generated).items():
        match = ks_2samp(values, properties(reference)[name])
        assert match.pvalue > 1e-3, name
    # The last row and the last column are reached.
    assert properties(generated)['top'].max() == 1
    assert properties(generated)['left'].max() == 1


@pytest.mark.parametrize('number', [1, 5, 35, 34])
def test_number_of_hidden_patches_is_exact_on_an_oblong_grid(number):
    generate = BlockMaskGenerator((5, 7), number, min_num_patches=4)
    for _ in range(200):
        mask = generate({})['mask']
        assert mask.shape == (5, 7) and mask.sum() == number


@pytest.mark.parametrize('number', [0, 36])
def test_numbers_of_patches_outside_the_grid_are_refused(number):
    with pytest.raises(ValueError, match=f'num_masking_patches={number}'):
        BlockMaskGenerator((5, 7), number)


@pytest.mark.parametrize('kind', [BlockMaskGenerator, UniformMaskGenerator])
def test_number_of_hidden_patches_may_follow_the_progress_of_the_run(kind):
    generate = kind((5, 7), dict(start=0, end=20, until=0.5))
    for progress, hidden in ((0, 0), (0.1, 4), (0.26, 10), (0.5, 20), (0.9, 20)):
        with at_place(Place(progress, 0.5)):
            assert generate({})['mask'].sum() == hidden
    # Pictures are drawn as at the end of the run.
    assert generate({})['mask'].sum() == 20
    with at_place(Place(None, 0.5)), pytest.raises(ConfigError, match='max_epochs'):
        generate({})


def test_squares_of_patches_stay_whole_while_their_number_changes():
    generate = UniformMaskGenerator(8, dict(start=0, end=40), unit=2)
    for progress in (0.1, 0.33, 0.77):
        with at_place(Place(progress, 0.5)):
            mask = generate({})['mask']
        assert mask.sum() == 4 * round(40 * progress / 4)
        squares = mask.reshape(4, 2, 4, 2).sum((1, 3))
        assert set(squares.flat) <= {0, 4}
    with pytest.raises(ConfigError, match='squares of 2 x 2'):
        UniformMaskGenerator(8, dict(start=2, end=40), unit=2)


def test_some_batches_hide_nothing():
    generate = BlockMaskGenerator(8, 20, unmasked_batches=0.25)
    hidden = []
    for uniform in (0.1, 0.24, 0.26, 0.9):
        with at_place(Place(0.5, uniform)):
            hidden.append(generate({})['mask'].sum())
    assert hidden == [0, 0, 20, 20]
    assert generate({})['mask'].sum() == 20
    with pytest.raises(ConfigError, match='unmasked_batches=1'):
        BlockMaskGenerator(8, 20, unmasked_batches=1)


@pytest.mark.parametrize('number', [dict(start=0, end=0), dict(start=0, end=65)])
def test_numbers_that_leave_the_grid_are_refused(number):
    with pytest.raises(ConfigError, match='expected 1 to 64'):
        BlockMaskGenerator(8, number)


@pytest.mark.parametrize('number', [0.4, 20.5, dict(start=0, end=0.4)])
def test_shares_are_not_numbers_of_patches(number):
    with pytest.raises(ConfigError, match='a number of patches and not a share .* 26'):
        BlockMaskGenerator(8, number)


@pytest.mark.parametrize('share', ['0.5', True, None, dict(start=0, end=0.5), -0.1])
def test_shares_of_batches_that_are_no_shares_are_refused(share):
    with pytest.raises(ConfigError, match='unmasked_batches=.*: expected a share'):
        UniformMaskGenerator(8, 20, unmasked_batches=share)
