"""Generators of the mask m, which says which patches the student does not see.

The patch grid (h, w) of a mask is called ``grid`` everywhere else. Here the option
has the name ``input_size``, because mmpretrain's mask generators have it.
"""

import math

import numpy as np
import torch
from mmcv.transforms import BaseTransform

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import TRANSFORMS
from mmmaskdistill.schedules import parse_ramp

from .draws import current_place


class MaskGenerator(BaseTransform):
    """Base class of transforms that draw the mask m.

    A subclass implements :meth:`draw`. Its random numbers come from numpy's global
    generator, which the runner seeds for each sample. Any other transform that adds
    ``mask`` to the results, such as mmpretrain's, can be used as well.

    Args:
        input_size (int | tuple[int, int]): Rows and columns of the patch grid.

    Attributes:
        input_size (tuple[int, int]): Rows h and columns w of the patch grid.
    """

    def __init__(self, input_size: int | tuple[int, int]):
        self.input_size = _grid(input_size)

    def draw(self) -> np.ndarray:
        """Draw the mask of one image.

        Returns:
            np.ndarray: The mask, [h, w] int64, 1 = hidden.
        """
        raise NotImplementedError(f'{type(self).__name__} must implement draw')

    def transform(self, results: dict) -> dict:
        """Add ``mask`` to the results, [h, w] int64, 1 = hidden."""
        results['mask'] = self.draw()
        return results

    def __repr__(self) -> str:
        options = ', '.join(f'{key}={value}' for key, value in vars(self).items())
        return f'{type(self).__name__}({options})'


class CountedMaskGenerator(MaskGenerator):
    """Base class of generators that hide the same number of patches in every image.

    The number may change during the run, from batch to batch. All images of a batch
    hide the same number of patches, on all ranks. Outside of a training run, when
    pictures are drawn, for example, it has the value of the run's end.

    Args:
        input_size (int | tuple[int, int]): Rows and columns of the patch grid.
        num_masking_patches (int | dict): Number of patches to hide, or the arguments
            of a :class:`~mmmaskdistill.schedules.Ramp` between two such numbers, such
            as ``dict(start=0, end=75)``, whose value is rounded.
        unmasked_batches (float): Share of the batches in which nothing is hidden.
            They are drawn at random. Defaults to 0.

    Raises:
        ConfigError: If the patch grid has fewer patches than are to be hidden, if
            none is ever to be hidden, if their number is not a whole number, or if
            ``unmasked_batches`` is not at least 0 and less than 1.
    """

    def __init__(
        self,
        input_size: int | tuple[int, int],
        num_masking_patches: int | dict,
        unmasked_batches: float = 0.0,
    ):
        super().__init__(input_size)
        self.num_masking_patches = num_masking_patches
        self._ramp = parse_ramp(num_masking_patches, 'num_masking_patches')
        most = max(self._ramp.start, self._ramp.end)
        if not 0 < most <= math.prod(self.input_size):
            raise ConfigError(
                f'num_masking_patches={num_masking_patches}: expected 1 to '
                f'{math.prod(self.input_size)}, the number of patches of the grid '
                f'{self.input_size}'
            )
        if any(
            number != round(number) for number in (self._ramp.start, self._ramp.end)
        ):
            raise ConfigError(
                f'num_masking_patches={num_masking_patches}: expected a number of '
                'patches and not a share of them, such as '
                f'{round(0.4 * math.prod(self.input_size))} for 40 % of the grid '
                f'{self.input_size}'
            )
        if (
            isinstance(unmasked_batches, bool)
            or not isinstance(unmasked_batches, (int, float))
            or not 0 <= unmasked_batches < 1
        ):
            raise ConfigError(
                f'unmasked_batches={unmasked_batches!r}: expected a share of the '
                'batches, at least 0 and less than 1'
            )
        self.unmasked_batches = unmasked_batches

    def hidden_at(self, progress: float) -> set[int]:
        """Return how many patches a batch may hide at a progress of the run.

        Args:
            progress (float): Share of the run that lies behind, from 0 to 1.

        Returns:
            set[int]: The numbers of hidden patches: one, and 0 if there are unmasked
            batches.
        """
        numbers = {round(self._ramp(progress))}
        return numbers | {0} if self.unmasked_batches else numbers

    def count(self) -> int:
        """Return how many patches the sample that is being loaded hides."""
        place = current_place()
        if place is None:
            return round(self._ramp(1.0))
        if place.uniform < self.unmasked_batches:
            return 0
        if self._ramp.start != self._ramp.end and place.progress is None:
            raise ConfigError(
                f'num_masking_patches={self.num_masking_patches} changes during the '
                'run, whose length is not known: use a train_cfg with max_epochs or '
                'max_iters'
            )
        return round(self._ramp(place.progress or 0.0))

    def __repr__(self) -> str:
        options = ', '.join(
            f'{key}={value}' for key, value in vars(self).items() if key[0] != '_'
        )
        return f'{type(self).__name__}({options})'


@TRANSFORMS.register_module()
class BlockMaskGenerator(CountedMaskGenerator):
    """Hide rectangular blocks of patches, and the same number in every image.

    Blocks are drawn until enough patches are hidden. The area of a block is drawn
    uniformly between ``min_num_patches`` and the number of patches left to hide
    (or ``max_num_patches``, if this is less), its aspect ratio log-uniformly and
    its position uniformly. A block is accepted if it is lower and narrower than
    the patch grid and if the number of patches that it hides in addition is at
    least 1 and at most this upper limit. When ten blocks in a row have been
    rejected, the patches left to hide are drawn one by one.

    This is the procedure of BEiT v2's public code (arXiv 2208.06366).
    mmpretrain's ``BEiTMaskGenerator`` has the same arguments, but never hides the
    last row and the last column of patches, and goes on drawing blocks where this
    generator draws single patches.

    Args:
        input_size (int | tuple[int, int]): Rows and columns of the patch grid.
        num_masking_patches (int | dict): Number of patches to hide, or how it
            changes during the run, see :class:`CountedMaskGenerator`.
        min_num_patches (int): Smallest area of a block, in patches. It is the number
            of patches to hide, if this is less. Defaults to 16.
        max_num_patches (int, optional): Largest area of a block, in patches.
            Defaults to the number of patches to hide.
        min_aspect (float): Smallest ratio of a block's height to its width.
            Defaults to 0.3.
        max_aspect (float, optional): Largest ratio of a block's height to its
            width. Defaults to ``1 / min_aspect``.
        unmasked_batches (float): Share of the batches in which nothing is hidden.
            Defaults to 0.

    Raises:
        ConfigError: See :class:`CountedMaskGenerator`.
    """

    def __init__(
        self,
        input_size: int | tuple[int, int],
        num_masking_patches: int | dict,
        min_num_patches: int = 16,
        max_num_patches: int | None = None,
        min_aspect: float = 0.3,
        max_aspect: float | None = None,
        unmasked_batches: float = 0.0,
    ):
        super().__init__(input_size, num_masking_patches, unmasked_batches)
        self.min_num_patches = min_num_patches
        self.max_num_patches = max_num_patches
        self.log_aspect = (math.log(min_aspect), math.log(max_aspect or 1 / min_aspect))

    def draw(self) -> np.ndarray:
        """Draw blocks, [h, w] int64, 1 = hidden."""
        mask = np.zeros(self.input_size, np.int64)
        left = count = self.count()
        smallest = min(self.min_num_patches, count)
        largest = self.max_num_patches or count
        while left:
            hidden = self._hide_block(mask, smallest, min(left, largest))
            if not hidden:
                visible = np.flatnonzero(mask == 0)
                mask.flat[np.random.choice(visible, left, replace=False)] = 1
                break
            left -= hidden
        return mask

    def _hide_block(self, mask: np.ndarray, least: int, most: int) -> int:
        """Hide one block of an area of ``least`` to ``most`` patches.

        Returns:
            int: Number of patches that the block hides and that were visible
            before, or 0 if ten blocks were rejected.
        """
        rows, columns = self.input_size
        for _ in range(10):
            area = np.random.uniform(least, most)
            aspect = math.exp(np.random.uniform(*self.log_aspect))
            height = round(math.sqrt(area * aspect))
            width = round(math.sqrt(area / aspect))
            if height >= rows or width >= columns:
                continue
            top = np.random.randint(rows - height + 1)
            start = np.random.randint(columns - width + 1)
            block = mask[top : top + height, start : start + width]
            new = block.size - int(block.sum())
            if 0 < new <= most:
                block[:] = 1
                return new
        return 0


@TRANSFORMS.register_module()
class UniformMaskGenerator(CountedMaskGenerator):
    """Hide squares of patches, drawn uniformly, and the same number in every image.

    MAE hides single patches (arXiv 2111.06377), SimMIM squares of 32 x 32 pixels
    (arXiv 2111.09886).

    Args:
        input_size (int | tuple[int, int]): Rows and columns of the patch grid.
        num_masking_patches (int | dict): Number of patches to hide, a multiple of
            ``unit`` squared, or how it changes during the run, see
            :class:`CountedMaskGenerator`. A number that changes is rounded to whole
            squares.
        unit (int): Side of a square, in patches. It must divide the rows and the
            columns of the patch grid. Defaults to 1.
        unmasked_batches (float): Share of the batches in which nothing is hidden.
            Defaults to 0.

    Raises:
        ConfigError: If the patch grid or the patches to hide do not consist of whole
            squares. See also :class:`CountedMaskGenerator`.
    """

    def __init__(
        self,
        input_size: int | tuple[int, int],
        num_masking_patches: int | dict,
        unit: int = 1,
        unmasked_batches: float = 0.0,
    ):
        super().__init__(input_size, num_masking_patches, unmasked_batches)
        if isinstance(unit, bool) or not isinstance(unit, int) or unit < 1:
            raise ConfigError(
                f'unit={unit!r}: expected the side of a square, 1 or more'
            )
        counts = (self._ramp.start, self._ramp.end)
        if any(side % unit for side in self.input_size) or any(
            count % unit**2 for count in counts
        ):
            raise ConfigError(
                f'unit={unit}: the grid {self.input_size} and '
                f'num_masking_patches={num_masking_patches} must consist of '
                f'squares of {unit} x {unit} patches'
            )
        self.unit = unit

    def hidden_at(self, progress: float) -> set[int]:
        """Return how many patches a batch may hide, in whole squares.

        Args:
            progress (float): Share of the run that lies behind, from 0 to 1.

        Returns:
            set[int]: See :meth:`CountedMaskGenerator.hidden_at`.
        """
        numbers = super().hidden_at(progress)
        return {self.unit**2 * self._squares(number) for number in numbers}

    def _squares(self, patches: int) -> int:
        return round(patches / self.unit**2)

    def draw(self) -> np.ndarray:
        """Draw squares, [h, w] int64, 1 = hidden."""
        rows, columns = (side // self.unit for side in self.input_size)
        mask = np.zeros(rows * columns, np.int64)
        squares = self._squares(self.count())
        mask[np.random.permutation(len(mask))[:squares]] = 1
        square = np.ones((self.unit, self.unit), np.int64)
        return np.kron(mask.reshape(rows, columns), square)


@TRANSFORMS.register_module()
class NoMaskGenerator(MaskGenerator):
    """Hide no patch, for plain feature distillation, which predicts all patches.

    Args:
        input_size (int | tuple[int, int]): Rows and columns of the patch grid.
    """

    def draw(self) -> np.ndarray:
        """Return the mask, [h, w] int64, all 0."""
        return np.zeros(self.input_size, np.int64)


@TRANSFORMS.register_module()
class GumbelNoise(BaseTransform):
    """Draw noise from which the model makes a mask, as ``AttentionMask`` does.

    ``PackInputs(algorithm_keys=['noise'])`` puts it into the data sample.

    Args:
        input_size (int | tuple[int, int]): Rows and columns of the patch grid.
    """

    def __init__(self, input_size: int | tuple[int, int]):
        self.input_size = _grid(input_size)

    def transform(self, results: dict) -> dict:
        """Add ``noise`` to the results, a tensor [h, w] float32 of Gumbel noise."""
        noise = np.random.gumbel(size=self.input_size)
        # `PackInputs` turns only masks into tensors.
        results['noise'] = torch.from_numpy(noise.astype(np.float32))
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(input_size={self.input_size})'


def _grid(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)
