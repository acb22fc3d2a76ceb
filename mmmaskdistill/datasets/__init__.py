from .jittered_crop import RandomJitteredCrop
from .masking import BlockMaskGenerator
from .texture_mosaics import TextureMosaicDataset

__all__ = [
    'BlockMaskGenerator', 'NoMaskGenerator', 'RandomJitteredCrop',
    'TextureMosaicDataset', 'UniformMaskGenerator'
]
