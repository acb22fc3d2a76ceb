from .channels import ChannelStatistics, measure_channels
from .classes import ClassRow, ClassTable
from .folder_segmentation import FolderSegDataset, for_validation
from .folders import (
    FoundImages,
    ImageFolder,
    Pairs,
    common_suffixes,
    find_images,
    find_images_and_labels,
    find_labels,
    pair_labels,
    separate_labels,
)
from .image_files import (
    IMAGE_ENDINGS,
    ImageInfo,
    UnreadableImage,
    image_info,
    read_image,
)
from .imagenet import ImageNet
from .jittered_crop import RandomJitteredCrop
from .label_maps import LoadLabels, read_label, read_palette, read_values
from .loading import LoadImage, StrictLoadImageFromFile
from .masking import (
    BlockMaskGenerator,
    GumbelNoise,
    MaskGenerator,
    NoMaskGenerator,
    UniformMaskGenerator,
)
from .texture_mosaics import TextureMosaicDataset

__all__ = [
    'IMAGE_ENDINGS',
    'BlockMaskGenerator',
    'ChannelStatistics',
    'ClassRow',
    'ClassTable',
    'FolderSegDataset',
    'FoundImages',
    'GumbelNoise',
    'ImageFolder',
    'ImageInfo',
    'ImageNet',
    'LoadImage',
    'LoadLabels',
    'MaskGenerator',
    'NoMaskGenerator',
    'Pairs',
    'RandomJitteredCrop',
    'StrictLoadImageFromFile',
    'TextureMosaicDataset',
    'UniformMaskGenerator',
    'UnreadableImage',
    'common_suffixes',
    'find_images',
    'find_images_and_labels',
    'find_labels',
    'for_validation',
    'image_info',
    'measure_channels',
    'pair_labels',
    'read_image',
    'read_label',
    'read_palette',
    'read_values',
    'separate_labels',
]
