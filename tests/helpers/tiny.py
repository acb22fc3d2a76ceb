"""The tiny model of the tests: it learns from a random teacher, on 4 x 4 patches.

A test that needs another size or another part says so:

    tiny.build(head=dict(tiny.LINEAR, out_channels=192))
    MaskDistillViT(dict(tiny.ARCH, num_layers=4))
"""

import torch

from mmmaskdistill.models import MaskDistill

ARCH = dict(embed_dims=24, num_layers=2, num_heads=3, feedforward_channels=48)
STUDENT = dict(type='mmmaskdistill.MaskDistillViT', arch=ARCH, img_size=64)
TEACHER = dict(
    type='mmmaskdistill.TimmTeacher',
    model_name='test_vit',
    pretrained='random',
    img_size=64,
)
LINEAR = dict(type='mmmaskdistill.LinearHead', in_channels=24, out_channels=64)
PARTS = dict(
    backbone=STUDENT,
    teacher=TEACHER,
    normalizer=dict(type='mmmaskdistill.LayerNormalizer'),
    head=LINEAR,
    loss=dict(type='mmmaskdistill.SmoothL1Loss'),
)

# Parts that predict pixels, without a network as a teacher.
PIXELS = dict(type='mmmaskdistill.PixelTeacher', img_size=64)
PIXEL_PARTS = dict(
    teacher=PIXELS,
    normalizer=dict(type='mmmaskdistill.NoNormalizer'),
    head=dict(LINEAR, out_channels=768),
    loss=dict(type='mmmaskdistill.MSELoss'),
)

# A student, a tokenizer and a decoder of another kind, as small.
SWIN = dict(
    arch=dict(embed_dims=12, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 3]),
    stage_cfgs=dict(block_cfgs=dict(window_size=2)),
)
TOKENIZER = dict(
    type='mmmaskdistill.DALLETeacher',
    img_size=32,
    vocab_size=40,
    width=8,
    pretrained='random',
)
DECODER = dict(
    type='mmmaskdistill.DecoderHead',
    in_channels=24,
    out_channels=768,
    grid=4,
    embed_dims=16,
    num_layers=1,
    num_heads=2,
)


def build(**parts) -> MaskDistill:
    """Build the model, with other parts or more of them, and initialize its weights."""
    model = MaskDistill(**{**PARTS, **parts})
    model.init_weights()
    return model


def masked(side: int = 4, hidden: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images of 64 pixels, and masks that hide the first and the last patches."""
    mask = torch.zeros(2, side**2, dtype=torch.bool)
    mask[0, :hidden] = mask[1, -hidden:] = True
    return torch.randn(2, 3, 64, 64), mask
