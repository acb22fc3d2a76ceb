"""Which patches are hidden from the student."""

import math

import numpy as np
from mmcv.transforms import BaseTransform

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import TRANSFORMS


@TRANSFORMS.register_module()
class BlockMaskGenerator(BaseTransform):
    """Hide rectangular blocks of patches, the same number in every image.

    Blocks are drawn until the number is reached: area uniform between
    ``min_num_patches`` and what is left to hide, aspect ratio log-uniform,
    place uniform. A block is taken if it hides something new, but not too
    much. After ten blocks in a row that are not taken, the few patches left to
    hide are drawn one by one.

    This is the procedure of BEiT v2's public code (arXiv 2208.06366).
    mmpretrain's ``BEiTMaskGenerator``, whose arguments these are, never hides
    the last row and column of patches, and draws on where this one scatters.

    Adds the key ``mask``: [h, w] int64, 1 = hidden.

    Args:
        input_size (int | tuple[int, int]): Patch grid, rows and columns.
        num_masking_patches (int): Patches to hide.
        min_num_patches (int): Least area of a block, in patches. Defaults to
            16.
        max_num_patches (int, optional): Largest area of a block. Defaults to
            ``num_masking_patches``.
        min_aspect (float): Least ratio of a block's height to its width.
            Defaults to 0.3.
        max_aspect (float, optional): Largest one. Defaults to
            ``1 / min_aspect``.

    Raises:
        ConfigError: If there are fewer patches than to hide, or none to hide.
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
        self.input_size = _grid(input_size)
        _check_count(num_masking_patches, self.input_size)
        self.num_masking_patches = num_masking_patches
        self.min_num_patches = min_num_patches
        self.max_num_patches = max_num_patches or num_masking_patches
        self.log_aspect = (math.log(min_aspect), math.log(max_aspect or 1 / min_aspect))

    def transform(self, results: dict) -> dict:
        mask = np.zeros(self.input_size, np.int64)
        left = self.num_masking_patches
        while left:
            hidden = self._hide_block(mask, left)
            if not hidden:
                visible = np.flatnonzero(mask == 0)
                mask.flat[np.random.choice(visible, left, replace=False)] = 1
                break
            left -= hidden
        results['mask'] = mask
        return results

    def _hide_block(self, mask: np.ndarray, left: int) -> int:
        """Hide one block of at most ``left`` new patches.

        Returns:
            int: New patches hidden, 0 if ten blocks did not fit.
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

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(input_size={self.input_size}, '
            f'num_masking_patches={self.num_masking_patches}, '
            f'min_num_patches={self.min_num_patches}, '
            f'max_num_patches={self.max_num_patches})'
        )


@TRANSFORMS.register_module()
class UniformMaskGenerator(BaseTransform):
    """Hide squares of patches drawn uniformly, as many in every image.

    MAE draws single patches (arXiv 2111.06377), SimMIM squares of 32 pixels
    (arXiv 2111.09886).

    Adds the key ``mask``: [h, w] int64, 1 = hidden.

    Args:
        input_size (int | tuple[int, int]): Patch grid, rows and columns.
        num_masking_patches (int): Patches to hide, a multiple of ``unit``
            squared.
        unit (int): Side of a square, in patches; divides the grid's sides.
            Defaults to 1.

    Raises:
        ConfigError: If there are fewer patches than to hide, none to hide, or
            squares do not fit them.
    """

    def __init__(
        self, input_size: int | tuple[int, int], num_masking_patches: int, unit: int = 1
    ):
        self.input_size = _grid(input_size)
        _check_count(num_masking_patches, self.input_size)
        if (
            any(side % unit for side in self.input_size)
            or num_masking_patches % unit**2
        ):
            raise ConfigError(
                f'unit={unit}: squares of {unit} x {unit} patches do not fill '
                f'the grid {self.input_size} and num_masking_patches='
                f'{num_masking_patches}'
            )
        self.num_masking_patches = num_masking_patches
        self.unit = unit

    def transform(self, results: dict) -> dict:
        rows, columns = (side // self.unit for side in self.input_size)
        mask = np.zeros(rows * columns, np.int64)
        mask[
            np.random.permutation(len(mask))[: self.num_masking_patches // self.unit**2]
        ] = 1
        square = np.ones((self.unit, self.unit), np.int64)
        results['mask'] = np.kron(mask.reshape(rows, columns), square)
        return results

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(input_size={self.input_size}, '
            f'num_masking_patches={self.num_masking_patches}, '
            f'unit={self.unit})'
        )


@TRANSFORMS.register_module()
class NoMaskGenerator(BaseTransform):
    """Hide nothing: plain feature distillation, which predicts all patches.

    Adds the key ``mask``: [h, w] int64, all 0.

    Args:
        input_size (int | tuple[int, int]): Patch grid, rows and columns.
    """

    def __init__(self, input_size: int | tuple[int, int]):
        self.input_size = _grid(input_size)

    def transform(self, results: dict) -> dict:
        results['mask'] = np.zeros(self.input_size, np.int64)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(input_size={self.input_size})'


@TRANSFORMS.register_module()
class GumbelNoise(BaseTransform):
    """Noise for masks that the model itself makes, such as ``AttentionMask``.

    Adds the key ``mask``: [h, w] float32, standard Gumbel.

    Args:
        input_size (int | tuple[int, int]): Patch grid, rows and columns.
    """

    def __init__(self, input_size: int | tuple[int, int]):
        self.input_size = _grid(input_size)

    def transform(self, results: dict) -> dict:
        noise = np.random.gumbel(size=self.input_size)
        results['mask'] = noise.astype(np.float32)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(input_size={self.input_size})'


def _grid(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _check_count(hidden: int, grid: tuple[int, int]):
    if not 0 < hidden <= math.prod(grid):
        raise ConfigError(
            f'num_masking_patches={hidden}: expected 1 to '
            f'{math.prod(grid)}, the patches of the grid {grid}'
        )
