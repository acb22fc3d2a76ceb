from .imagenet import ImageNet
from .jittered_crop import RandomJitteredCrop
from .loading import StrictLoadImageFromFile
from .masking import (
    BlockMaskGenerator,
    GumbelNoise,
    MaskGenerator,
    NoMaskGenerator,
    UniformMaskGenerator,
)
from .texture_mosaics import TextureMosaicDataset

__all__ = [
    'BlockMaskGenerator',
    'GumbelNoise',
    'ImageNet',
    'MaskGenerator',
    'NoMaskGenerator',
    'RandomJitteredCrop',
    'StrictLoadImageFromFile',
    'TextureMosaicDataset',
    'UniformMaskGenerator',
]
