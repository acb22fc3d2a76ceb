from .masking import BlockMaskGenerator
from .texture_mosaics import TextureMosaicDataset
from .two_size_crop import RandomResizedCropTwoSizes

__all__ = [
    'BlockMaskGenerator', 'RandomResizedCropTwoSizes', 'TextureMosaicDataset'
]
