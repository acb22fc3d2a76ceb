"""All models of MMMaskDistill. Importing this package registers them."""

from .backbones import (
    AllTokensViT,
    MaskDistillViT,
    MaskedSwin,
    MaskedTimm,
    PatchAggregationViT,
    VisibleViT,
)
from .heads import (
    CodebookHead,
    DecoderHead,
    HeadList,
    LinearHead,
    MLPHead,
    PromptDecoderHead,
)
from .losses import CrossEntropyLoss, L1Loss, LossList, MSELoss, SmoothL1Loss
from .normalizers import (
    BatchNormalizer,
    InstanceNormalizer,
    L2Normalizer,
    LayerNormalizer,
    NoNormalizer,
    PatchPixelNormalizer,
)
from .segmentors import EncoderDecoder, UPerHead
from .selfsup import AttentionMask, MaskDistill, TwoViewDataPreprocessor
from .teachers import (
    CachedTeacher,
    DALLETeacher,
    HOGTeacher,
    MomentumTeacher,
    PixelTeacher,
    TeacherList,
    TimmTeacher,
    VQKDTeacher,
)

__all__ = [
    'AllTokensViT',
    'AttentionMask',
    'BatchNormalizer',
    'CachedTeacher',
    'CodebookHead',
    'CrossEntropyLoss',
    'DALLETeacher',
    'DecoderHead',
    'EncoderDecoder',
    'HOGTeacher',
    'HeadList',
    'InstanceNormalizer',
    'L1Loss',
    'L2Normalizer',
    'LayerNormalizer',
    'LinearHead',
    'LossList',
    'MLPHead',
    'MSELoss',
    'MaskDistill',
    'MaskDistillViT',
    'MaskedSwin',
    'MaskedTimm',
    'MomentumTeacher',
    'NoNormalizer',
    'PatchAggregationViT',
    'PatchPixelNormalizer',
    'PixelTeacher',
    'PromptDecoderHead',
    'SmoothL1Loss',
    'TeacherList',
    'TimmTeacher',
    'TwoViewDataPreprocessor',
    'UPerHead',
    'VQKDTeacher',
    'VisibleViT',
]
