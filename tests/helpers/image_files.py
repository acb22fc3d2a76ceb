"""Random images and labels, written to files."""

import numpy as np
from PIL import Image


def save(array, path, **options):
    """Write an image file, of 8 bits unless it is 16 bits, and the folders above it."""
    array = np.asarray(array)
    path.parent.mkdir(parents=True, exist_ok=True)
    if array.dtype != np.uint16:
        array = array.astype(np.uint8)
    Image.fromarray(array).save(path, **options)


def picture(height=48, width=64, channels=3):
    return np.random.randint(0, 256, (height, width, channels))


def labels(height=48, width=64, classes=3):
    return np.random.randint(0, classes, (height, width))
