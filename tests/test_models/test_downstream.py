"""Each pre-trained student becomes the backbone of a classifier and a segmentor."""

import pytest
import torch
from helpers import tiny
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample

from mmmaskdistill.errors import CheckpointError
from mmmaskdistill.models import MaskDistill, MaskedTimm
from mmmaskdistill.registry import MODELS

ARCH = dict(tiny.ARCH, num_layers=4)
SWIN = tiny.SWIN
VIT = dict(type='mmmaskdistill.MaskDistillViT', arch=ARCH)
TABLE_PER_BLOCK = dict(use_rel_pos_bias=True, use_shared_rel_pos_bias=False)
ABSOLUTE_POSITIONS = dict(
    use_abs_pos_emb=True, use_shared_rel_pos_bias=False, layer_scale_init_value=0.0
)
FOUR_MAPS = dict(out_indices=(0, 1, 2, 3), final_norm=False)
# For each student, the backbone of pre-training, of classification and of segmentation,
# and the widths of the feature maps in segmentation. None stands for the same backbone
# as in pre-training.
STUDENTS = {
    'MaskDistillViT': (
        VIT,
        dict(VIT, **TABLE_PER_BLOCK),
        dict(VIT, **TABLE_PER_BLOCK, **FOUR_MAPS),
        [24] * 4,
    ),
    'AllTokensViT': (
        dict(VIT, type='mmmaskdistill.AllTokensViT'),
        dict(VIT, **TABLE_PER_BLOCK),
        dict(VIT, **TABLE_PER_BLOCK, **FOUR_MAPS),
        [24] * 4,
    ),
    'PatchAggregationViT': (
        dict(VIT, type='mmmaskdistill.PatchAggregationViT', early_layers=2),
        dict(VIT, **TABLE_PER_BLOCK),
        dict(VIT, **TABLE_PER_BLOCK, **FOUR_MAPS),
        [24] * 4,
    ),
    'VisibleViT': (
        dict(VIT, type='mmmaskdistill.VisibleViT'),
        dict(VIT, **ABSOLUTE_POSITIONS),
        dict(VIT, **ABSOLUTE_POSITIONS, **FOUR_MAPS),
        [24] * 4,
    ),
    'MaskedSwin': (
        dict(type='mmmaskdistill.MaskedSwin', **SWIN),
        dict(type='mmpretrain.SwinTransformer', **SWIN),
        dict(type='mmpretrain.SwinTransformer', out_indices=(0, 1, 2, 3), **SWIN),
        [12, 24, 48, 96],
    ),
    # The out_indices are those of configs/unified/README.md; a CNN has four strides.
    'MaskedTimm, ResNet': (
        dict(type='mmmaskdistill.MaskedTimm', model_name='test_resnet'),
        None,
        dict(out_indices=(-4, -3, -2, -1)),
        [32, 48, 192, 96],
    ),
    'MaskedTimm, ConvNeXt': (
        dict(type='mmmaskdistill.MaskedTimm', model_name='test_convnext'),
        None,
        dict(out_indices=(-4, -3, -2, -1)),
        [24, 32, 48, 64],
    ),
    'MaskedTimm, ViT': (
        dict(type='mmmaskdistill.MaskedTimm', model_name='vit_tiny_patch16_224'),
        None,
        dict(out_indices=(3, 5, 7, 11)),
        [192] * 4,
    ),
}


@pytest.fixture
def student(request, tmp_path):
    """A student's name, a checkpoint of its pre-training, and the student itself."""
    torch.manual_seed(0)
    backbone = dict(STUDENTS[request.param][0], img_size=64)
    built = MODELS.build(backbone)
    side = built.grid[0]
    stride = 64 // side
    head = dict(
        type='mmmaskdistill.LinearHead',
        in_channels=built.width,
        out_channels=3 * stride**2,
    )
    if request.param == 'VisibleViT':
        head.update(
            type='mmmaskdistill.DecoderHead',
            grid=side,
            embed_dims=16,
            num_layers=1,
            num_heads=2,
        )
    model = MaskDistill(
        backbone=backbone,
        teacher=dict(type='mmmaskdistill.PixelTeacher', patch_size=stride, img_size=64),
        normalizer=dict(type='mmmaskdistill.NoNormalizer'),
        head=head,
        loss=dict(type='mmmaskdistill.L1Loss'),
    )
    model.init_weights()
    path = str(tmp_path / 'epoch_300.pth')
    torch.save(dict(state_dict=model.state_dict()), path)
    # Some of mmpretrain's backbones return None from `eval`.
    model.eval()
    return request.param, path, model.backbone


def pretrained(backbone, path, **more):
    """Return the backbone with the init_cfg that configs/unified/README.md names."""
    return dict(
        backbone,
        init_cfg=dict(type='Pretrained', checkpoint=path, prefix='backbone.'),
        **more,
    )


def check_gradients(model, loss):
    """Check that every trained parameter has a gradient.

    DistributedDataParallel refuses parameters that get none.
    """
    loss.backward()
    assert not [
        k for k, p in model.named_parameters() if p.requires_grad and p.grad is None
    ]


@pytest.mark.parametrize('student', STUDENTS, indirect=True)
def test_classifier_starts_from_the_student(student):
    name, path, trained = student
    before, after, _, channels = STUDENTS[name]
    model = MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            backbone=pretrained(after or before, path, img_size=64),
            neck=dict(type='mmpretrain.GlobalAveragePooling'),
            head=dict(
                type='mmpretrain.LinearClsHead', num_classes=5, in_channels=channels[-1]
            ),
        )
    )
    model.init_weights()
    model.eval()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(
        model.backbone(images)[-1], trained(images)[-1], rtol=1e-4, atol=1e-4
    )
    model.train()
    samples = [DataSample().set_gt_label(k) for k in (1, 3)]
    check_gradients(model, model.loss(images, samples)['loss'])


@pytest.mark.parametrize('student', STUDENTS, indirect=True)
def test_segmentor_starts_from_the_student(student):
    """Images have twice the size, so tensors that depend on it are resized."""
    name, path, trained = student
    before, _, after, channels = STUDENTS[name]
    backbone = after if 'type' in after else dict(before, **after)
    plain = 'ViT' in name
    model = MODELS.build(
        dict(
            type='mmmaskdistill.EncoderDecoder',
            backbone=pretrained(backbone, path, img_size=128),
            neck=dict(
                type='mmseg.Feature2Pyramid',
                embed_dim=channels[0],
                rescales=[4, 2, 1, 0.5],
            )
            if plain
            else None,
            decode_head=dict(
                type='mmmaskdistill.UPerHead',
                in_channels=channels,
                in_index=[0, 1, 2, 3],
                channels=8,
                num_classes=5,
                align_corners=False,
            ),
            test_cfg=ConfigDict(mode='slide', crop_size=(128, 128), stride=(64, 64)),
        )
    )
    model.init_weights()
    kept = trained.state_dict()
    same = [
        k
        for k, v in model.backbone.state_dict().items()
        if k in kept and torch.equal(v, kept[k])
    ]
    resized = ('pos_embed', 'relative_position')
    assert not [
        k
        for k in kept
        if k not in same
        and k in model.backbone.state_dict()
        and not any(part in k for part in resized)
    ]
    model.eval()
    maps = model.backbone(torch.randn(1, 3, 128, 128))
    strides = [128 // x.shape[-1] for x in maps]
    assert strides == ([16] * 4 if plain else [4, 8, 16, 32])
    assert [x.shape[1] for x in maps] == channels
    model.train()
    samples = [
        SegDataSample(gt_sem_seg=PixelData(data=torch.randint(5, (1, 128, 128))))
        for _ in range(2)
    ]
    losses = model.loss(torch.randn(2, 3, 128, 128), samples)
    check_gradients(model, losses['decode.loss_ce'])
    logits = model.eval().inference(
        torch.randn(1, 3, 128, 192), [dict(ori_shape=(128, 192), img_shape=(128, 192))]
    )
    assert logits.shape == (1, 5, 128, 192)


def test_position_embedding_is_resized_as_in_timm():
    small = MaskedTimm('vit_tiny_patch16_224', img_size=64)
    large = MaskedTimm('vit_tiny_patch16_224', img_size=128)
    torch.nn.init.normal_(small.timm_model.pos_embed)
    large.load_state_dict(small.state_dict())
    given = small.timm_model.pos_embed[:, 1:].mT.unflatten(2, (4, 4))
    resized = large.timm_model.pos_embed
    torch.testing.assert_close(resized[:, 0], small.timm_model.pos_embed[:, 0])
    torch.testing.assert_close(
        resized[:, 1:].mT.unflatten(2, (8, 8)),
        torch.nn.functional.interpolate(given, (8, 8), mode='bicubic', antialias=True),
    )


def test_checkpoint_without_the_right_prefix_is_refused(tmp_path):
    """mmengine would only warn, and load nothing."""
    state = MaskedTimm('test_resnet', img_size=64).state_dict()
    path = str(tmp_path / 'epoch_300.pth')
    torch.save({f'backbone.{k}': v for k, v in state.items()}, path)
    backbone = MaskedTimm(
        'test_resnet', img_size=64, init_cfg=dict(type='Pretrained', checkpoint=path)
    )
    with pytest.raises(CheckpointError, match="prefix='backbone.'"):
        backbone.init_weights()
