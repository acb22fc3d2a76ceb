"""Layers after the last output of a backbone get no gradient, and ask for none."""

import pytest
import torch
from helpers import tiny
from torch.nn.parallel import DistributedDataParallel

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.models import MaskDistillViT, MaskedSwin, MaskedTimm

ARCH = dict(tiny.ARCH, num_layers=4)


def vit(out_indices, **options):
    return MaskDistillViT(ARCH, img_size=64, out_indices=out_indices, **options)


def timm_vit(out_indices):
    return MaskedTimm('test_vit', img_size=160, out_indices=out_indices)


def timm_cnn(out_indices):
    return MaskedTimm('test_resnet', img_size=64, out_indices=out_indices)


def timm_convnext(out_indices):
    return MaskedTimm('test_convnext', img_size=64, out_indices=out_indices)


def swin(out_indices):
    return MaskedSwin(img_size=64, out_indices=out_indices, **tiny.SWIN)


CASES = [
    (vit, (1,), 64),
    (vit, (0, 2), 64),
    (lambda i: vit(i, out_type='avg_featmap'), (1,), 64),
    (lambda i: vit(i, use_rel_pos_bias=True, use_shared_rel_pos_bias=False), (1,), 64),
    (swin, (0, 1), 64),
    (timm_vit, (0, 2), 160),
    (timm_cnn, (0, 1), 64),
    (timm_convnext, (1,), 64),
]


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def unused(model):
    return {k for k, p in model.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize('build, out_indices, size', CASES)
def test_distributed_training_finds_a_gradient_for_each_parameter(
    process_group, build, out_indices, size
):
    torch.manual_seed(0)
    model = build(out_indices)
    model.train()
    model = DistributedDataParallel(model)
    images = torch.randn(2, 3, size, size)
    for _ in range(2):
        # In the second step torch complains about gradients that did not come.
        loss = sum(out.square().mean() for out in model(images))
        loss.backward()
    for key, parameter in model.module.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key


@pytest.mark.parametrize('build, out_indices, size', CASES)
def test_outputs_keys_and_rates_do_not_depend_on_unused_layers(
    build, out_indices, size
):
    last = 3  # in all models of the list
    model, whole = build(out_indices), build((*out_indices, last))
    for module in (*model.modules(), *whole.modules()):
        module.training = False
    images = torch.randn(2, 3, size, size)
    shapes = {k: v.shape for k, v in model.state_dict().items()}
    content = {k: v for k, v in whole.state_dict().items() if k in shapes}
    assert set(content) == set(shapes)
    model.load_state_dict(content)
    for ours, expected in zip(model(images), whole(images)):
        torch.testing.assert_close(ours, expected)
    assert unused(model) > unused(whole)
    if isinstance(model, MaskDistillViT):
        assert model.drop_path_rates == whole.drop_path_rates


def test_frozen_and_unused_blocks():
    model = vit((1,), frozen_stages=1, drop_path_rate=0.3)
    model.train()
    names = {key.split('.')[1] for key in unused(model) if key.startswith('blocks')}
    assert names == {'0', '2', '3'}
    assert {'norm.weight', 'norm.bias', 'mask_token'} <= unused(model)
    assert model.drop_path_rates == pytest.approx([0, 0.1, 0.2, 0.3])


def test_all_layers_are_used_by_default():
    for model in (vit(-1), vit((0, -1)), swin((3,)), timm_cnn((-1,)), timm_vit((-1,))):
        assert unused(model) <= {'mask_token'}
        assert model.trains_all_layers


def test_students_that_leave_out_layers_are_refused():
    with pytest.raises(ConfigError) as error:
        tiny.build(backbone=dict(tiny.STUDENT, arch=ARCH, out_indices=(0, 2)))
    assert str(error.value) == (
        'the student MaskDistillViT has out_indices=[0, 2], which leave out its last '
        'layers, but pre-training needs all of them: remove out_indices from the '
        'backbone'
    )
