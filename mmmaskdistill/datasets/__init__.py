from .texture_mosaics import TextureMosaicDataset

__all__ = ['TextureMosaicDataset']
