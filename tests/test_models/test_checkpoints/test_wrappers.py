"""Weights under the keys and prefixes under which training codes save them."""

import pytest
import timm
import torch
from helpers import tiny

from mmmaskdistill.errors import CheckpointError
from mmmaskdistill.models import MaskDistillViT
from mmmaskdistill.models.checkpoints import load_backbone


def build():
    return MaskDistillViT(
        tiny.ARCH, img_size=64, use_abs_pos_emb=True, use_shared_rel_pos_bias=False
    )


@pytest.fixture(scope='module')
def weights():
    torch.manual_seed(0)
    return {k: torch.randn_like(v) for k, v in build().state_dict().items()}


@pytest.fixture(scope='module')
def other(weights):
    """Those of a teacher or an average, which must not be taken."""
    return {k: torch.zeros_like(v) for k, v in weights.items()}


def named(start, weights):
    return {start + key: value for key, value in weights.items()}


FORMS = {
    'plain': lambda w, o: w,
    'student and teacher': lambda w, o: dict(student=w, teacher=o, epoch=3),
    'DDP student': lambda w, o: dict(
        student=named('module.backbone.', w), teacher=named('backbone.', o)
    ),
    'nested': lambda w, o: dict(state_dict=dict(student=w, teacher=o)),
    'compiled': lambda w, o: named('_orig_mod.', w),
    'DDP and compiled': lambda w, o: named('module._orig_mod.', w),
    'compiled block': lambda w, o: {
        k.replace('blocks.0.', 'blocks.0._orig_mod.'): v for k, v in w.items()
    },
    'compiled student': lambda w, o: {
        **named('student.backbone._orig_mod.', w),
        **named('teacher.backbone._orig_mod.', o),
    },
    **{
        start: lambda w, o, start=start: dict(model=named(start, w))
        for start in ('backbone.', 'encoder.', 'model.', 'module.encoder.', 'visual.')
    },
    'average next to the model': lambda w, o: dict(model=w, model_ema=o),
    'average of mmengine': lambda w, o: dict(
        state_dict=named('backbone.', w), ema_state_dict=named('module.backbone.', o)
    ),
    'average alone': lambda w, o: dict(model_ema=w),
    'mmengine average alone': lambda w, o: dict(
        ema_state_dict={**named('module.', w), 'steps': torch.tensor(1)}
    ),
    'key of another code': lambda w, o: dict(
        network=w, optimizer=dict(state={0: dict(step=torch.tensor(1))}, groups=[])
    ),
}


@pytest.mark.parametrize('form', FORMS)
def test_weights_are_found(form, weights, other, tmp_path):
    path = str(tmp_path / 'a.pth')
    torch.save(FORMS[form](weights, other), path)
    model = build()
    load_backbone(model, path)
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights[key]), key


def test_one_of_several_networks_is_chosen_by_its_key(weights, other, tmp_path):
    """As in checkpoints of I-JEPA."""
    path = str(tmp_path / 'a.pth')
    torch.save(dict(encoder=named('module.', weights), target_encoder=other), path)
    model = build()
    with pytest.raises(CheckpointError, match=r"several ViTs.*'encoder.*prefix="):
        load_backbone(model, path)
    load_backbone(model, path, prefix='encoder.module.')
    assert torch.equal(model.cls_token, weights['cls_token'])


def test_what_holds_no_weights_is_refused_with_its_keys(tmp_path):
    path = str(tmp_path / 'a.pth')
    torch.save(dict(epoch=1, optimizer=dict(state={}), args=dict(lr=0.1)), path)
    with pytest.raises(
        CheckpointError,
        match="holds no weights, only a dict with 'epoch', 'optimizer', 'args': ",
    ):
        load_backbone(build(), path)


@pytest.mark.parametrize('start', ['', 'backbone.', 'student.backbone.', 'module.'])
@pytest.mark.parametrize('name', ['reg_token', 'register_tokens', 'storage_tokens'])
def test_registers_are_refused_under_any_name(start, name, weights, tmp_path):
    path = str(tmp_path / 'a.pth')
    registers = {**weights, name: torch.randn(1, 4, 24)}
    torch.save(named(start, registers), path)
    with pytest.raises(CheckpointError, match=rf'register tokens \({name}\).*without'):
        load_backbone(build(), path)


@pytest.mark.parametrize('start', ['', 'model.'])
def test_layer_scale_of_timm_is_read(start, tmp_path):
    torch.manual_seed(0)
    options = dict(img_size=64, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2)
    vit = timm.create_model(
        'vit_tiny_patch16_224', init_values=0.5, num_classes=0, **options
    )
    path = str(tmp_path / 'a.pth')
    torch.save(named(start, vit.state_dict()), path)
    model = build().eval()
    load_backbone(model, path)
    images = torch.randn(2, 3, 64, 64)
    expected = vit.eval().forward_features(images)[:, 1:]
    (ours,) = model(images)
    torch.testing.assert_close(ours.flatten(2).mT, expected, rtol=1e-4, atol=1e-4)
