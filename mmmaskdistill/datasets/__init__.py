from .masking import BlockMaskGenerator
from .texture_mosaics import TextureMosaicDataset

__all__ = ['BlockMaskGenerator', 'TextureMosaicDataset']
