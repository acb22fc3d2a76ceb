from .imagenet import ImageNet
from .jittered_crop import RandomJitteredCrop
from .loading import FastLoadImageFromFile
from .masking import (BlockMaskGenerator, GumbelNoise, NoMaskGenerator,
                      UniformMaskGenerator)
from .texture_mosaics import TextureMosaicDataset

__all__ = [
    'BlockMaskGenerator', 'FastLoadImageFromFile', 'GumbelNoise', 'ImageNet',
    'NoMaskGenerator', 'RandomJitteredCrop', 'TextureMosaicDataset',
    'UniformMaskGenerator'
]
