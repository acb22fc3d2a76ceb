"""What the student sees, what it should predict and what it predicts."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps

from .features import fit_pca_basis, pca_colors
from .figures import GAP, MARGIN, TILE, save, show, tile_grid, to_numpy

ABSENT = 0.92  # light grey: hidden from the student in its input, not predicted in its output


def hide_patches(
    image: np.ndarray, mask: np.ndarray, patch_size: int | None = None
) -> np.ndarray:
    """An image [H, W, 3] with the patches of a mask [h, w] painted grey.

    Args:
        patch_size: side of a patch in pixels; the last row and column may be cut. None when h and w divide H and W.
    """
    height, width = (
        (patch_size, patch_size)
        if patch_size
        else (image.shape[0] // mask.shape[0], image.shape[1] // mask.shape[1])
    )
    # the patches that it takes to cover the image
    if (-(-image.shape[0] // height), -(-image.shape[1] // width)) != mask.shape:
        raise ValueError(
            f'an image of {image.shape[:2]} pixels has no grid of {mask.shape} patches'
        )
    pixels = np.kron(mask, np.ones((height, width), bool)).astype(bool)[
        : image.shape[0], : image.shape[1]
    ]
    return np.where(pixels[..., None], np.uint8(255 * ABSENT), image)


def code_colors(codes: np.ndarray) -> np.ndarray:
    """A colour for each token id of a codebook, [...] to [..., 3] in 0..1; neighbouring ids look nothing alike, -1 is blank."""
    codes = np.asarray(codes)
    palette = np.random.default_rng(0).uniform(0.05, 0.85, (max(codes.max(), 0) + 1, 3))
    return np.where(codes[..., None] < 0, ABSENT, palette[codes])


def _color_pair(
    teacher: np.ndarray, student: np.ndarray, blank: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Colours [B, h, w, 3] of both, comparable."""
    if teacher.shape != student.shape:
        raise ValueError(
            f"the teacher's features have shape {teacher.shape}, the student's {student.shape}"
        )
    if teacher.ndim == 3:
        return code_colors(teacher), code_colors(student)
    basis = fit_pca_basis(teacher)
    return pca_colors(teacher, basis), np.where(
        blank[..., None], ABSENT, pca_colors(student, basis)
    )


def draw_pretraining(
    images,
    masks,
    pairs: dict,
    errors,
    path: str | Path,
    student: str = 'student',
    distance: str = 'error',
    patch_size: int | None = None,
) -> None:
    """A row an image: image, masked image, teacher's features and student's predictions, error.

    Features are coloured by the principal components of the teacher's, the student's too; token ids have a colour each. Of several
    teachers each has its two columns, under its name.

    Args:
        images: [B, H, W, 3] uint8
        masks: [B, h, w] bool, True = hidden from the student
        pairs: {teacher's name: (targets, predictions)}, [B, h, w, D] each, or token ids [B, h, w], -1 where there is no prediction
        errors: [B, h, w]; NaN where there is no prediction, which is left blank
        path: the PNG to write
        student: title of the predictions
        distance: what an error is
        patch_size: side of a patch in pixels; None when h and w divide H and W
    """
    images, masks, errors = (to_numpy(array) for array in (images, masks, errors))
    blank = np.isnan(errors)
    titles, columns = ['image', 'masked'], []
    for name, (ours, theirs) in pairs.items():
        columns += _color_pair(to_numpy(ours), to_numpy(theirs), blank)
        titles += (
            ['teacher', student] if len(pairs) == 1 else [name, f'{student}: {name}']
        )
    low = min(np.nanmin(errors), 0)  # a cosine's is below 0
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
