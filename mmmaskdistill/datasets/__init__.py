from .jittered_crop import RandomJitteredCrop
from .masking import (BlockMaskGenerator, NoMaskGenerator,
                      UniformMaskGenerator)
from .texture_mosaics import TextureMosaicDataset

__all__ = [
    'BlockMaskGenerator', 'NoMaskGenerator', 'RandomJitteredCrop',
    'TextureMosaicDataset', 'UniformMaskGenerator'
]
