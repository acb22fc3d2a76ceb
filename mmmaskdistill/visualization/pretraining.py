"""What the student sees, what it should predict and what it predicts."""
from pathlib import Path

import numpy as np
from matplotlib import colormaps

from .features import fit_pca_basis, pca_colors
from .figures import GAP, MARGIN, TILE, save, show, tile_grid, to_numpy

ABSENT = 0.92  # light grey: hidden from the student in its input, not predicted in its output


def hide_patches(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """An image [H, W, 3] with the patches of a mask [h, w] painted grey; h and w divide H and W."""
    height, width = image.shape[0] // mask.shape[0], image.shape[1] // mask.shape[1]
    if (height * mask.shape[0], width * mask.shape[1]) != image.shape[:2]:
        raise ValueError(f'an image of {image.shape[:2]} pixels has no grid of {mask.shape} patches')
    pixels = np.kron(mask, np.ones((height, width), bool)).astype(bool)
    return np.where(pixels[..., None], np.uint8(255 * ABSENT), image)


def draw_pretraining(images, masks, teacher, student, path: str | Path) -> None:
    """A row an image: image, masked image, teacher's features, student's predictions, error.

    Features are coloured by the principal components of the teacher's, the student's too. The error of a token is its mean absolute
    difference over the channels.

    Args:
        images: [B, H, W, 3] uint8
        masks: [B, h, w] bool, True = hidden from the student
        teacher: [B, h, w, D], the normalized targets
        student: [B, h, w, D]; NaN where there is no prediction, which is left blank
        path: the PNG to write
    """
    images, masks, teacher, student = (to_numpy(array) for array in (images, masks, teacher, student))
    if teacher.shape != student.shape:
        raise ValueError(f"the teacher's features have shape {teacher.shape}, the student's {student.shape}")
    basis = fit_pca_basis(teacher)
    errors = np.abs(teacher - student).mean(axis=-1)
    blank = np.isnan(errors)
    colors = np.where(blank[..., None], ABSENT, pca_colors(student, basis))
    limit = max(np.nanmax(errors), 1e-6)

    heat_map = colormaps['magma'].with_extremes(bad=str(ABSENT))
    titles = ['image', 'masked', 'teacher', 'student', 'error']
    figure, axes = tile_grid(len(images), titles, right=0.5)
    for row, image in enumerate(images):
        show(axes[row, 0], image)
        show(axes[row, 1], hide_patches(image, masks[row]))
        show(axes[row, 2], pca_colors(teacher[row], basis))
        show(axes[row, 3], colors[row])
        heat = show(axes[row, 4], np.ma.masked_array(errors[row], blank[row]), vmin=0, vmax=limit, cmap=heat_map)
    width, height = figure.get_size_inches()
    left = MARGIN + 5 * (TILE + GAP)
    bar = figure.add_axes((left / width, MARGIN / height, 0.1 / width, TILE / height))
    figure.colorbar(heat, cax=bar).ax.tick_params(labelsize=7, length=2)
    save(figure, path)
