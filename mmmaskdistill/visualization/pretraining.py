"""Draw what the student sees, what it should predict and what it predicts."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from torch import Tensor

from .features import fit_pca_basis, pca_colors
from .figures import GAP, MARGIN, TILE, save, show, tile_grid, to_numpy

# Light gray, for patches that are hidden in the input or not predicted.
ABSENT = 0.92


def hide_patches(
    image: np.ndarray, mask: np.ndarray, patch_size: int | None = None
) -> np.ndarray:
    """Paint the hidden patches of an image gray.

    Args:
        image (np.ndarray): Image [H, W, 3], uint8.
        mask (np.ndarray): Mask [h, w], bool, True = hidden.
        patch_size (int, optional): Side of a patch in pixels. The edge of the
            image may cut the last row and the last column of patches. Defaults
            to None, which requires that h divides H and w divides W.

    Returns:
        np.ndarray: The painted image [H, W, 3], uint8.

    Raises:
        ValueError: If the patches of the mask do not cover the image exactly.
    """
    height, width = (
        (patch_size, patch_size)
        if patch_size
        else (image.shape[0] // mask.shape[0], image.shape[1] // mask.shape[1])
    )
    # The numbers of patches are rounded up, because the image may cut the last ones.
    if (-(-image.shape[0] // height), -(-image.shape[1] // width)) != mask.shape:
        raise ValueError(
            f'an image of {image.shape[:2]} pixels has no grid of {mask.shape} '
            f'patches of {height} x {width} pixels: the mask must be made for this '
            'image size and patch size'
        )
    pixels = np.kron(mask, np.ones((height, width), bool)).astype(bool)[
        : image.shape[0], : image.shape[1]
    ]
    return np.where(pixels[..., None], np.uint8(255 * ABSENT), image)


def code_colors(codes: np.ndarray) -> np.ndarray:
    """Choose a color for each token id of a codebook.

    The colors are random, so neighboring ids do not look alike. An id always has
    the same color.

    Args:
        codes (np.ndarray): Token ids [...]. The id -1 means that there is none.

    Returns:
        np.ndarray: Colors [..., 3] between 0 and 1. The id -1 is light gray.
    """
    codes = np.asarray(codes)
    palette = np.random.default_rng(0).uniform(0.05, 0.85, (max(codes.max(), 0) + 1, 3))
    return np.where(codes[..., None] < 0, ABSENT, palette[codes])


def _color_pair(
    teacher: np.ndarray, student: np.ndarray, blank: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Color the teacher's and the student's patches alike, [B, h, w, 3] each."""
    if teacher.shape != student.shape:
        raise ValueError(
            f"the teacher's features have shape {teacher.shape}, but the student's "
            f'have shape {student.shape}: expected the same shape'
        )
    if teacher.ndim == 3:
        return code_colors(teacher), code_colors(student)
    basis = fit_pca_basis(teacher)
    return pca_colors(teacher, basis), np.where(
        blank[..., None], ABSENT, pca_colors(student, basis)
    )


def draw_pretraining(
    images: np.ndarray | Tensor,
    masks: np.ndarray | Tensor,
    pairs: dict[str, tuple[np.ndarray | Tensor, np.ndarray | Tensor]],
    errors: np.ndarray | Tensor,
    path: str | Path,
    student: str = 'student',
    distance: str = 'error',
    patch_size: int | None = None,
) -> None:
    """Draw one row per image that compares the student with the teacher.

    The columns show the image, the masked image, the teacher's features, the
    student's predictions and the error of each patch. The principal components of
    the teacher's features determine the colors of the student's predictions, too.
    Token ids have one color each. Each of several teachers has its own two columns
    under its name.

    Args:
        images (np.ndarray | Tensor): Images [B, H, W, 3], uint8.
        masks (np.ndarray | Tensor): Masks [B, h, w], bool, True = hidden from the
            student.
        pairs (dict[str, tuple[np.ndarray | Tensor, np.ndarray | Tensor]]): Targets
            and predictions by the teacher's name: features [B, h, w, D] each, or
            token ids [B, h, w] each, with -1 where there is no prediction.
        errors (np.ndarray | Tensor): Error of each patch [B, h, w]. Patches
            without a prediction are NaN and are drawn light gray.
        path (str | Path): Path of the PNG file to write.
        student (str): Title of the predictions. Defaults to ``'student'``.
        distance (str): Name of the error's measure, which is written next to the
            color bar. Defaults to ``'error'``.
        patch_size (int, optional): Side of a patch in pixels. Defaults to None,
            which requires that h divides H and w divides W.

    Raises:
        ValueError: If targets and predictions differ in shape, or the masks do
            not cover the images exactly.
    """
    images, masks, errors = (to_numpy(array) for array in (images, masks, errors))
    blank = np.isnan(errors)
    titles, columns = ['image', 'masked'], []
    for name, (target, prediction) in pairs.items():
        columns += _color_pair(to_numpy(target), to_numpy(prediction), blank)
        titles += (
            ['teacher', student] if len(pairs) == 1 else [name, f'{student}: {name}']
        )
    low = min(np.nanmin(errors), 0)  # A cosine loss can be negative.
    high = max(np.nanmax(errors), low + 1e-6)

    heat_map = colormaps['magma'].with_extremes(bad=str(ABSENT))
    figure, axes = tile_grid(len(images), [*titles, 'error'], right=0.7)
    for row, image in enumerate(images):
        show(axes[row, 0], image)
        show(axes[row, 1], hide_patches(image, masks[row], patch_size))
        for column, colors in enumerate(columns, 2):
            show(axes[row, column], colors[row])
        heat = show(
            axes[row, -1],
            np.ma.masked_array(errors[row], blank[row]),
            vmin=low,
            vmax=high,
            cmap=heat_map,
        )
    width, height = figure.get_size_inches()
    left = MARGIN + axes.shape[1] * (TILE + GAP)
    bar = figure.add_axes((left / width, MARGIN / height, 0.1 / width, TILE / height))
    figure.colorbar(heat, cax=bar).ax.tick_params(labelsize=7, length=2)
    bar.set_ylabel(distance, fontsize=7)
    save(figure, path)
