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


@TRANSFORMS.register_module()
class BlockMaskGenerator(MaskGenerator):
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
        num_masking_patches (int): Number of patches to hide.
        min_num_patches (int): Smallest area of a block, in patches. Defaults to
            16.
        max_num_patches (int, optional): Largest area of a block, in patches.
            Defaults to ``num_masking_patches``.
        min_aspect (float): Smallest ratio of a block's height to its width.
            Defaults to 0.3.
        max_aspect (float, optional): Largest ratio of a block's height to its
            width. Defaults to ``1 / min_aspect``.

    Raises:
        ConfigError: If the patch grid has fewer patches than are to be hidden, or
            none is to be hidden.
    """

    def __init__(
        self,
        input_size: int | tuple[int, int],
        num_masking_patches: int,
        min_num_patches: int = 16,
        max_num_patches: int | None = None,
        min_aspect: float = 0.3,
        max_aspect: float | None = None,
    ):
        super().__init__(input_size)
        _check_count(num_masking_patches, self.input_size)
        self.num_masking_patches = num_masking_patches
        self.min_num_patches = min_num_patches
        self.max_num_patches = max_num_patches or num_masking_patches
        self.log_aspect = (math.log(min_aspect), math.log(max_aspect or 1 / min_aspect))

    def draw(self) -> np.ndarray:
        """Draw blocks, [h, w] int64, 1 = hidden."""
        mask = np.zeros(self.input_size, np.int64)
        left = self.num_masking_patches
        while left:
            hidden = self._hide_block(mask, left)
            if not hidden:
                visible = np.flatnonzero(mask == 0)
                mask.flat[np.random.choice(visible, left, replace=False)] = 1
                break
            left -= hidden
        return mask

    def _hide_block(self, mask: np.ndarray, left: int) -> int:
        """Hide one block with at most ``left`` new patches.

        Returns:
            int: Number of patches that the block hides and that were visible
            before, or 0 if ten blocks were rejected.
        """
        rows, columns = self.input_size
        most = min(left, self.max_num_patches)
        for _ in range(10):
            area = np.random.uniform(self.min_num_patches, most)
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
class UniformMaskGenerator(MaskGenerator):
    """Hide squares of patches, drawn uniformly, and the same number in every image.

    MAE hides single patches (arXiv 2111.06377), SimMIM squares of 32 x 32 pixels
    (arXiv 2111.09886).

    Args:
        input_size (int | tuple[int, int]): Rows and columns of the patch grid.
        num_masking_patches (int): Number of patches to hide, a multiple of
            ``unit`` squared.
        unit (int): Side of a square, in patches. It must divide the rows and the
            columns of the patch grid. Defaults to 1.

    Raises:
        ConfigError: If the patch grid has fewer patches than are to be hidden, if
            none is to be hidden, or if the patch grid or the patches to hide do
            not consist of whole squares.
    """

    def __init__(
        self, input_size: int | tuple[int, int], num_masking_patches: int, unit: int = 1
    ):
        super().__init__(input_size)
        _check_count(num_masking_patches, self.input_size)
        if (
            any(side % unit for side in self.input_size)
            or num_masking_patches % unit**2
        ):
            raise ConfigError(
                f'unit={unit}: the grid {self.input_size} and '
                f'num_masking_patches={num_masking_patches} must consist of '
                f'squares of {unit} x {unit} patches'
            )
        self.num_masking_patches = num_masking_patches
        self.unit = unit

    def draw(self) -> np.ndarray:
        """Draw squares, [h, w] int64, 1 = hidden."""
        rows, columns = (side // self.unit for side in self.input_size)
        mask = np.zeros(rows * columns, np.int64)
        mask[
            np.random.permutation(len(mask))[: self.num_masking_patches // self.unit**2]
        ] = 1
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


def _check_count(hidden: int, grid: tuple[int, int]):
    if not 0 < hidden <= math.prod(grid):
        raise ConfigError(
            f'num_masking_patches={hidden}: expected 1 to '
            f'{math.prod(grid)}, the number of patches of the grid {grid}'
        )
