import pytest
import torch
from mmpretrain.models import TIMMBackbone
from mmpretrain.structures import DataSample

from mmmaskdistill.models import MaskDistill, MaskedTimm


@pytest.mark.parametrize('fill', ['learned', 'mean'])
@pytest.mark.parametrize(
    'name', ['test_vit', 'test_resnet', 'test_convnext', 'test_efficientnet']
)
def test_masked_timm_hides_patches_and_loads_into_mmpretrain(name, fill):
    student = MaskedTimm(name, img_size=64, fill=fill)
    h, w = student.grid
    mask = torch.zeros(2, h * w, dtype=torch.bool)
    mask[:, ::2] = True
    images = torch.randn(2, 3, 64, 64)
    pixels = mask.unflatten(1, (h, w))[:, None]
    for dim in (2, 3):
        pixels = pixels.repeat_interleave(64 // h, dim)
    student.eval()
    tokens = student(images, mask)
    assert tokens.shape == (2, h * w, student.width)
    torch.testing.assert_close(student(images.masked_fill(pixels, 9.0), mask), tokens)

    teacher = dict(type='mmmaskdistill.PixelTeacher', patch_size=64 // h, img_size=64)
    channels = 3 * (64 // h) ** 2
    model = MaskDistill(
        backbone=dict(
            type='mmmaskdistill.MaskedTimm', model_name=name, img_size=64, fill=fill
        ),
        teacher=teacher,
        normalizer=dict(type='mmmaskdistill.NoNormalizer'),
        head=dict(
            type='mmmaskdistill.LinearHead',
            in_channels=student.width,
            out_channels=channels,
        ),
        loss=dict(type='mmmaskdistill.L1Loss'),
    )
    samples = [DataSample().set_mask(m) for m in mask]
    model.loss(images, samples)['loss'].backward()
    # DistributedDataParallel refuses parameters that get no gradient.
    assert not [k for k, p in model.named_parameters() if p.grad is None]
    depths = [
        model.backbone.get_layer_depth(k, 'backbone.')
        for k, _ in model.named_parameters()
    ]
    assert len({total for _, total in depths}) == 1
    assert {depth for depth, _ in depths} == set(range(depths[0][1]))

    # After pre-training it is a backbone, and mmpretrain's TIMMBackbone loads it.
    student(images)[-1].sum().backward()
    assert not [
        k for k, p in student.named_parameters() if p.requires_grad and p.grad is None
    ]
    size = dict(img_size=64) if 'vit' in name else {}
    backbone = TIMMBackbone(name, **size)
    missing, unused = backbone.load_state_dict(student.state_dict(), strict=False)
    above = ('timm_model.head', 'timm_model.conv_head', 'timm_model.bn2')
    assert not [k for k in missing if not k.startswith(above)]
    assert set(unused) <= {'mask_token'}


@pytest.mark.parametrize('name', ['test_vit', 'test_resnet', 'test_convnext'])
def test_gradients_are_small_at_the_start(name):
    """From a hidden color of zero, those of a ConvNeXt have a norm of 60000."""
    student = MaskedTimm(name, img_size=64)
    student.init_weights()
    mask = torch.arange(student.grid[0] ** 2).expand(2, -1) % 2 > 0
    tokens = student(torch.randn(2, 3, 64, 64), mask)
    student.mask_token.requires_grad_()
    (tokens * torch.randn_like(tokens)).mean().backward()
    norms = [p.grad.norm() for p in student.parameters() if p.grad is not None]
    assert 0 < torch.stack(norms).norm() < 3


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(fill='noise'), "fill='noise': expected 'learned' or 'mean'"),
        (dict(model_name='resnet_nonsense'), "'resnet_nonsense' is not a model"),
    ],
)
def test_masked_timm_refuses_wrong_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        MaskedTimm(**{'model_name': 'test_resnet', **wrong})
