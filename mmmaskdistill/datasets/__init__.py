from .jittered_crop import RandomJitteredCrop
from .masking import (BlockMaskGenerator, GumbelNoise, NoMaskGenerator,
                      UniformMaskGenerator)
from .texture_mosaics import TextureMosaicDataset

__all__ = [
    'BlockMaskGenerator', 'GumbelNoise', 'NoMaskGenerator',
    'RandomJitteredCrop', 'TextureMosaicDataset', 'UniformMaskGenerator'
]
