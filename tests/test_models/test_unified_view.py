"""Each method has mmpretrain's loss for the same weights, images and masks."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import init_default_scope
from mmpretrain.models.selfsup import (
    EVA,
    MAE,
    MILAN,
    VQKD,
    BEiT,
    BEiTPretrainViT,
    MAEViT,
    MaskFeat,
    MaskFeatViT,
    MILANViT,
    SimMIM,
)
from mmpretrain.models.selfsup.cae import DALLEEncoder
from mmpretrain.structures import DataSample

from mmmaskdistill.models import MaskDistill, Teacher
from mmmaskdistill.models.checkpoints import load_backbone
from mmmaskdistill.models.checkpoints.formats import to_our_names
from mmmaskdistill.registry import MODELS

ARCH = dict(embed_dims=48, num_layers=2, num_heads=3, feedforward_channels=192)
BEIT = dict(type='MaskDistillViT', arch=ARCH, img_size=64)
CLOSE = dict(rtol=1e-5, atol=1e-5)


def build(**kwargs):
    kwargs = {
        name: dict(
            part,
            type=part['type']
            if '.' in part['type']
            else f'mmmaskdistill.{part["type"]}',
        )
        if isinstance(part, dict)
        else part
        for name, part in kwargs.items()
    }
    model = MaskDistill(**kwargs)
    model.init_weights()
    return model.eval()


def perturb(model):
    """Add noise to all parameters.

    Biases start as zeros and norms as ones, which would hide mistakes.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if 'pos_embed' not in name:
                p += 0.05 * torch.randn(p.shape, generator=generator)
    return model.eval()


def samples(mask):
    return [DataSample().set_mask(m.long()) for m in mask]


def uniform_mask(batch, side, hidden):
    rank = torch.rand(batch, side**2).argsort(1).argsort(1)
    return (rank < hidden).unflatten(1, (side, side))


def copy_backbone(source, target, tmp_path):
    torch.save(source.state_dict(), tmp_path / 'source.pth')
    load_backbone(target, str(tmp_path / 'source.pth'))


def fix_masking(backbone, mask, monkeypatch):
    """Make MAEViT draw the given mask [B, N]."""
    noise = mask.float() + torch.linspace(0, 0.5, mask.shape[1])
    monkeypatch.setattr(torch, 'rand', lambda *size, **kwargs: noise)
    backbone.mask_ratio = float(mask[0].float().mean())


def build_sparse(**kwargs):
    """Build a model with MAE's student and decoder on 4 x 4 patches."""
    return build(
        backbone=dict(type='VisibleViT', arch=ARCH, img_size=64),
        head=dict(
            type='DecoderHead',
            in_channels=48,
            out_channels=kwargs.pop('channels'),
            grid=4,
            embed_dims=32,
            num_layers=2,
            num_heads=4,
        ),
        **kwargs,
    )


def build_mmpretrain_sparse(cls, channels=None, **kwargs):
    model = cls(
        backbone=dict(type=MAEViT, arch=ARCH, img_size=64),
        neck=dict(
            type='MAEPretrainDecoder',
            num_patches=16,
            embed_dim=48,
            decoder_embed_dim=32,
            decoder_depth=2,
            decoder_num_heads=4,
            predict_feature_dim=channels,
        ),
        data_preprocessor=dict(type='SelfSupDataPreprocessor'),
        **kwargs,
    )
    model.init_weights()
    return perturb(model)


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


@pytest.mark.parametrize(
    'norm_pix, normalizer', [(True, 'PatchPixelNormalizer'), (False, 'NoNormalizer')]
)
def test_mae_equals_mmpretrains(norm_pix, normalizer, tmp_path, monkeypatch):
    reference = build_mmpretrain_sparse(
        MAE,
        head=dict(
            type='MAEPretrainHead',
            norm_pix=norm_pix,
            patch_size=16,
            loss=dict(type='PixelReconstructionLoss', criterion='L2'),
        ),
    )
    model = build_sparse(
        teacher=dict(type='PixelTeacher', img_size=64),
        normalizer=dict(type=normalizer),
        loss=dict(type='MSELoss'),
        channels=768,
    )
    copy_backbone(reference.backbone, model.backbone, tmp_path)
    model.head.load_state_dict(reference.neck.state_dict())
    images = torch.randn(2, 3, 64, 64)
    mask = uniform_mask(2, 4, 12)
    loss = model.loss(images, samples(mask))['loss']
    loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    fix_masking(reference.backbone, mask.flatten(1), monkeypatch)
    torch.testing.assert_close(reference.loss(images, [])['loss'], loss, **CLOSE)


@MODELS.register_module()
class FixedTeacher(Teacher):
    """A teacher that returns the given features for all images."""

    def __init__(self, features, class_token=False):
        super().__init__(64, stride=16, channels=features.shape[-1])
        self.features, self.class_token = features, class_token

    def forward(self, images, data_samples=None):
        return self.features


class Tokens(torch.nn.Module):
    """A target generator with mmpretrain's interface.

    It returns features with a class token, and attention.
    """

    def __init__(self, features):
        super().__init__()
        self.features = features

    def forward(self, images):
        return F.pad(self.features, (0, 0, 1, 0)), None


def test_eva_with_maes_student_equals_mmpretrains(tmp_path, monkeypatch):
    features = torch.randn(2, 16, 24)
    reference = build_mmpretrain_sparse(
        EVA,
        channels=24,
        target_generator=Tokens(features),
        head=dict(
            type='MIMHead',
            loss=dict(type='CosineSimilarityLoss', shift_factor=2.0, scale_factor=2.0),
        ),
    )
    model = build_sparse(
        teacher=dict(type='FixedTeacher', features=features),
        normalizer=dict(type='L2Normalizer'),
        loss=dict(
            type='mmpretrain.CosineSimilarityLoss', shift_factor=2.0, scale_factor=2.0
        ),
        channels=24,
    )
    copy_backbone(reference.backbone, model.backbone, tmp_path)
    model.head.load_state_dict(reference.neck.state_dict())
    images = torch.randn(2, 3, 64, 64)
    mask = uniform_mask(2, 4, 12)
    loss = model.loss(images, samples(mask))['loss']
    fix_masking(reference.backbone, mask.flatten(1), monkeypatch)
    torch.testing.assert_close(reference.loss(images, [])['loss'], loss, **CLOSE)


class TokensAndAttention(Tokens):
    def forward(self, images):
        return self.features, torch.ones(2, 17, 17)


COSINE = dict(
    type='mmpretrain.CosineSimilarityLoss', shift_factor=2.0, scale_factor=2.0
)


class MaskTokens(MaskFeatViT):
    """EVA's student with mask tokens; mmpretrain's EVA has MAE's student."""

    def forward(self, images):
        mask = self.mask.flatten(1)
        return super().forward(images, mask)[:, 1:], mask.float(), None


class LinearNeck(torch.nn.Linear):
    def forward(self, tokens, ids_restore):
        return super().forward(tokens)


def test_eva_equals_mmpretrains(tmp_path):
    """The parts are those of configs/unified/eva.py."""
    features = torch.randn(2, 16, 24)
    reference = EVA(
        backbone=dict(type=MaskTokens, arch=ARCH, img_size=64),
        neck=LinearNeck(48, 24),
        target_generator=Tokens(features),
        head=dict(type='MIMHead', loss=dict(type='CosineSimilarityLoss')),
        data_preprocessor=dict(type='SelfSupDataPreprocessor'),
    )
    reference.init_weights()
    perturb(reference)
    model = build(
        backbone=dict(
            type='MaskDistillViT',
            arch=ARCH,
            img_size=64,
            use_abs_pos_emb=True,
            use_shared_rel_pos_bias=False,
            layer_scale_init_value=0.0,
        ),
        teacher=dict(type='FixedTeacher', features=features),
        normalizer=dict(type='L2Normalizer'),
        head=dict(type='LinearHead', in_channels=48, out_channels=24),
        loss=dict(type='mmpretrain.CosineSimilarityLoss'),
    )
    copy_backbone(reference.backbone, model.backbone, tmp_path)
    model.head.load_state_dict(reference.neck.state_dict())
    images = torch.randn(2, 3, 64, 64)
    reference.backbone.mask = mask = uniform_mask(2, 4, 6)
    torch.testing.assert_close(
        reference.loss(images, [])['loss'],
        model.loss(images, samples(mask))['loss'],
        **CLOSE,
    )


def test_milan_equals_mmpretrains(tmp_path, monkeypatch):
    """The student's class token predicts that of CLIP."""
    features = torch.randn(2, 17, 24)
    reference = MILAN(
        backbone=dict(type=MILANViT, arch=ARCH, img_size=64, mask_ratio=0.75),
        neck=dict(
            type='MILANPretrainDecoder',
            num_patches=16,
            embed_dim=48,
            decoder_embed_dim=32,
            decoder_depth=2,
            decoder_num_heads=4,
            predict_feature_dim=24,
        ),
        target_generator=TokensAndAttention(features),
        head=dict(type='MIMHead', loss=dict(COSINE, type='CosineSimilarityLoss')),
        data_preprocessor=dict(type='SelfSupDataPreprocessor'),
    )
    reference.init_weights()
    perturb(reference)
    model = build(
        backbone=dict(type='VisibleViT', arch=ARCH, img_size=64),
        teacher=dict(type='FixedTeacher', features=features, class_token=True),
        normalizer=dict(type='L2Normalizer'),
        head=dict(
            type='PromptDecoderHead',
            in_channels=48,
            out_channels=24,
            grid=4,
            embed_dims=32,
            num_layers=2,
            num_heads=4,
            class_token=True,
        ),
        loss=COSINE,
        predict='all',
    )
    copy_backbone(reference.backbone, model.backbone, tmp_path)
    model.head.load_state_dict(reference.neck.state_dict())
    images = torch.randn(2, 3, 64, 64)
    mask = uniform_mask(2, 4, 12)
    order = mask.flatten(1).byte().argsort(dim=1, stable=True)
    monkeypatch.setattr(torch, 'multinomial', lambda *args, **kwargs: order)
    torch.testing.assert_close(
        reference.loss(images, [])['loss'],
        model.loss(images, samples(mask))['loss'],
        **CLOSE,
    )


class MapOfTokens(BEiTPretrainViT):
    """A ViT that returns a feature map, as mmpretrain's SimMIM expects of Swin."""

    def forward(self, images, mask):
        tokens = super().forward(images, mask)[-1][:, 1:]
        return (tokens.mT.unflatten(2, mask.shape[1:]),)


def test_simmim_with_a_vit_equals_mmpretrains(tmp_path):
    """The parts are those of configs/unified/simmim.py."""
    reference = SimMIM(
        backbone=dict(type=MapOfTokens, arch=ARCH, img_size=64),
        neck=dict(type='SimMIMLinearDecoder', in_channels=48, encoder_stride=16),
        head=dict(
            type='SimMIMHead',
            patch_size=16,
            loss=dict(type='PixelReconstructionLoss', criterion='L1', channel=3),
        ),
    )
    reference.init_weights()
    perturb(reference)
    model = build(
        backbone=BEIT,
        teacher=dict(type='PixelTeacher', img_size=64),
        normalizer=dict(type='NoNormalizer'),
        head=dict(type='LinearHead', in_channels=48, out_channels=768),
        loss=dict(type='L1Loss'),
    )
    copy_backbone(reference.backbone, model.backbone, tmp_path)
    copy_pixel_head(reference.neck.decoder[0], model.head)
    images = torch.randn(2, 3, 64, 64)
    mask = uniform_mask(2, 4, 9)
    torch.testing.assert_close(
        reference.loss(images, samples(mask))['loss'],
        model.loss(images, samples(mask))['loss'],
        **CLOSE,
    )


def copy_pixel_head(source, target):
    """Copy a head before PixelShuffle to one that predicts MAE's patches.

    PixelShuffle orders the outputs by channel and then by pixel, MAE's patches by
    pixel and then by channel.
    """
    for name, p in target.named_parameters():
        value = source.get_parameter(name).data.reshape(p.shape)
        p.data = value.unflatten(0, (3, -1)).transpose(0, 1).flatten(0, 1)


def test_simmim_with_swin_equals_mmpretrains():
    swin = dict(
        arch=dict(embed_dims=12, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 3]),
        img_size=128,
        stage_cfgs=dict(block_cfgs=dict(window_size=4)),
    )
    reference = SimMIM(
        backbone=dict(type='SimMIMSwinTransformer', **swin),
        neck=dict(type='SimMIMLinearDecoder', in_channels=96, encoder_stride=32),
        head=dict(
            type='SimMIMHead',
            patch_size=4,
            loss=dict(type='PixelReconstructionLoss', criterion='L1', channel=3),
        ),
    )
    reference.init_weights()
    perturb(reference)
    model = build(
        backbone=dict(type='MaskedSwin', **swin),
        teacher=dict(type='PixelTeacher', patch_size=32, img_size=128),
        normalizer=dict(type='NoNormalizer'),
        head=dict(type='LinearHead', in_channels=96, out_channels=3072),
        loss=dict(type='L1Loss'),
    )
    model.backbone.load_state_dict(reference.backbone.state_dict())
    copy_pixel_head(reference.neck.decoder[0], model.head)
    images = torch.randn(2, 3, 128, 128)
    mask = uniform_mask(2, 4, 9)
    loss = model.loss(images, samples(mask))['loss']
    fine = mask.repeat_interleave(8, 1).repeat_interleave(8, 2)
    torch.testing.assert_close(
        reference.loss(images, samples(fine))['loss'], loss, **CLOSE
    )


def test_maskfeat_equals_mmpretrains(tmp_path):
    reference = MaskFeat(
        backbone=dict(type=MaskFeatViT, arch=ARCH, img_size=224),
        neck=dict(type='LinearNeck', in_channels=48, out_channels=108, norm_cfg=None),
        head=dict(
            type='MIMHead', loss=dict(type='PixelReconstructionLoss', criterion='L2')
        ),
        target_generator=dict(type='HOGGenerator', nbins=9, pool=8, gaussian_window=16),
    )
    reference.init_weights()
    perturb(reference)
    model = build(
        backbone=dict(
            type='MaskDistillViT',
            arch=ARCH,
            layer_scale_init_value=0.0,
            use_abs_pos_emb=True,
            use_shared_rel_pos_bias=False,
        ),
        teacher=dict(type='HOGTeacher'),
        normalizer=dict(type='NoNormalizer'),
        head=dict(type='LinearHead', in_channels=48, out_channels=108),
        loss=dict(type='MSELoss'),
    )
    copy_backbone(reference.backbone, model.backbone, tmp_path)
    model.head.load_state_dict(reference.neck.fc.state_dict())
    images = torch.randn(2, 3, 224, 224)
    mask = uniform_mask(2, 14, 78)
    torch.testing.assert_close(
        reference.loss(images, samples(mask))['loss'],
        model.loss(images, samples(mask))['loss'],
        **CLOSE,
    )


def build_mmpretrain_beit(**kwargs):
    model = BEiT(
        backbone=dict(
            type='BEiTPretrainViT', arch=ARCH, img_size=64, **kwargs.pop('backbone', {})
        ),
        data_preprocessor=dict(type='SelfSupDataPreprocessor'),
        **kwargs,
    )
    model.init_weights()
    return perturb(model)


def test_beit_equals_mmpretrains(tmp_path):
    reference = build_mmpretrain_beit(
        head=dict(
            type='BEiTV1Head',
            embed_dims=48,
            num_embed=40,
            loss=dict(type='CrossEntropyLoss'),
        ),
        target_generator=DALLEEncoder(n_hid=8, vocab_size=40),
    )
    for p in reference.target_generator.parameters():
        p.data.normal_(std=0.5)
    model = build(
        backbone=BEIT,
        teacher=dict(
            type='DALLETeacher',
            img_size=32,
            vocab_size=40,
            width=8,
            pretrained='random',
        ),
        normalizer=dict(type='NoNormalizer'),
        head=dict(type='CodebookHead', in_channels=48, vocab_size=40),
        loss=dict(type='CrossEntropyLoss'),
    )
    copy_backbone(reference.backbone, model.backbone, tmp_path)
    model.head.load_state_dict(reference.head.cls_head.state_dict())
    model.teacher.tokenizer.load_state_dict(reference.target_generator.state_dict())
    views = [torch.randn(2, 3, 64, 64), torch.rand(2, 3, 32, 32)]
    assert len(model.teacher(views[1]).unique()) > 2
    mask = uniform_mask(2, 4, 6)
    torch.testing.assert_close(
        reference.loss(views, samples(mask))['loss'],
        model.loss(views, samples(mask))['loss'],
        **CLOSE,
    )


def test_beit_v2_equals_mmpretrains(tmp_path):
    depth = dict(ARCH, depth=ARCH['num_layers'])
    vqkd = VQKD(
        dict(
            arch=ARCH,
            img_size=64,
            out_type='featmap',
            use_abs_pos_emb=True,
            use_rel_pos_bias=False,
            use_shared_rel_pos_bias=False,
            layer_scale_init_value=0.0,
        ),
        num_embed=40,
        embed_dims=8,
        quantize_kmeans_init=False,
    )
    reference = build_mmpretrain_beit(
        backbone=dict(out_indices=[-2, -1], final_norm=False),
        neck=dict(type='BEiTV2Neck', num_layers=2, early_layers=1, backbone_arch=depth),
        head=dict(
            type='BEiTV2Head',
            embed_dims=48,
            num_embed=40,
            loss=dict(type='CrossEntropyLoss'),
        ),
        target_generator=vqkd,
    )
    model = build(
        backbone=dict(BEIT, type='PatchAggregationViT', early_layers=1),
        teacher=dict(
            type='VQKDTeacher',
            arch=ARCH,
            img_size=64,
            vocab_size=40,
            embed_dims=8,
            pretrained='random',
        ),
        normalizer=dict(type='NoNormalizer'),
        head=dict(type='CodebookHead', in_channels=48, vocab_size=40),
        loss=dict(type='CrossEntropyLoss'),
    )
    state = reference.backbone.state_dict()
    for key, tensor in reference.neck.state_dict().items():
        layer, _, rest = key.removeprefix('patch_aggregation.').partition('.')
        state[
            f'layers.{2 + int(layer)}.{rest}' if layer.isdigit() else f'ln1.{rest}'
        ] = tensor
    renamed = {}
    for key, tensor in to_our_names(state, []).items():
        for i in range(2):
            key = key.replace(f'blocks.{2 + i}', f'cls_pt_layers.{i}')
        renamed[key] = tensor
    missing, _ = model.backbone.load_state_dict(renamed, strict=False)
    assert not missing
    model.head.load_state_dict(reference.head.cls_head.state_dict())
    model.teacher.tokenizer.load_state_dict(reference.target_generator.state_dict())
    views = [torch.randn(2, 3, 64, 64), torch.rand(2, 3, 64, 64)]
    assert len(model.teacher(views[1]).unique()) > 2
    mask = uniform_mask(2, 4, 6)
    losses = reference.loss(views, samples(mask))
    loss = model.loss(views, samples(mask))['loss']
    torch.testing.assert_close(losses['loss_1'] + losses['loss_2'], loss, **CLOSE)
    loss.backward()
    assert not [k for k, p in model.named_parameters() if p.grad is None]
