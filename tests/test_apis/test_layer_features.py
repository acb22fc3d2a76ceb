"""Class tokens and patch features of any layer of any model."""

import pytest
import torch
from helpers import tiny
from mmpretrain.models import ResNet
from mmpretrain.models import VisionTransformer as MMPretrainViT

from mmmaskdistill.apis.layer_features import layer_reader
from mmmaskdistill.errors import ConfigError
from mmmaskdistill.models import (
    CachedTeacher,
    DALLETeacher,
    MaskDistillViT,
    PixelTeacher,
    TimmTeacher,
)

ARCH = dict(tiny.ARCH, num_layers=3)


def images(height=64, width=64):
    return torch.randn(2, 3, height, width)


def vit(**kwargs):
    model = MaskDistillViT(ARCH, img_size=64, **kwargs)
    model.init_weights()
    for norm in (model.norm, getattr(model, 'fc_norm', None)):
        if isinstance(norm, torch.nn.LayerNorm):
            torch.nn.init.normal_(norm.weight, 1)
    return model.eval()


def raw(model, x, layer):
    """The tokens of a block, before any norm."""
    model.out_indices, model.out_type = [layer], 'raw'
    norm, model.norm = model.norm, torch.nn.Identity()
    (tokens,) = model(x)
    model.norm = norm
    return tokens


def same(features, tokens, grid):
    torch.testing.assert_close(features.cls, tokens[:, 0])
    torch.testing.assert_close(features.mean, tokens[:, 1:].mean(1))
    torch.testing.assert_close(features.patches.flatten(2), tokens[:, 1:].mT)
    assert features.patches.shape[2:] == grid


@torch.no_grad()
def test_blocks_of_a_vit_with_and_without_the_final_norm():
    model, x = vit(), images(48, 64)
    readers = {norm: layer_reader(model, [-1, 0], norm) for norm in ('last', 'all')}
    readers['none'] = layer_reader(model, [0, 2, -1], 'none')
    before = dict(vars(model))
    found = {norm: reader(x) for norm, reader in readers.items()}
    assert vars(model).keys() == before.keys()
    assert (model.out_indices, model.out_type) == ([2], 'featmap')
    assert isinstance(model.norm, torch.nn.LayerNorm)
    first, last = raw(model, x, 0), raw(model, x, 2)
    for norm, normed in {'last': (0, 1), 'all': (1, 1), 'none': (0, 0)}.items():
        assert readers[norm].layers == [0, 2] and readers[norm].has_class_token
        for features, tokens, is_normed in zip(found[norm], (first, last), normed):
            same(features, model.norm(tokens) if is_normed else tokens, (3, 4))


@torch.no_grad()
def test_the_mean_is_what_the_head_of_a_classifier_reads():
    model, x = vit(out_type='avg_featmap', final_norm=False), images()
    (expected,) = model(x)
    (features,) = layer_reader(model)(x)
    torch.testing.assert_close(features.mean, expected)
    (plain,) = layer_reader(model, norm='none')(x)
    torch.testing.assert_close(plain.mean, raw(model, x, 2)[:, 1:].mean(1))


@torch.no_grad()
@pytest.mark.parametrize('out_type', ['cls_token', 'avg_featmap'])
def test_vits_of_mmpretrain(out_type):
    arch = dict(ARCH, num_layers=2)
    model = MMPretrainViT(arch, 64, 16, out_type=out_type)
    model.eval()
    x = images()
    (expected,) = model(x)
    (features,) = layer_reader(model)(x)
    torch.testing.assert_close(features[out_type == 'avg_featmap'], expected)
    model.out_type = 'raw'
    (tokens,) = model(x)
    torch.testing.assert_close(features.cls, tokens[:, 0])
    torch.testing.assert_close(features.patches.flatten(2), tokens[:, 1:].mT)
    (plain,) = layer_reader(model, [1], 'none')(x)
    torch.testing.assert_close(model.ln1(plain.cls), features.cls)


@torch.no_grad()
@pytest.mark.parametrize(
    'name', ['test_vit', 'test_vit3', 'test_convnext', 'resnet10t']
)
def test_models_of_timm(name):
    teacher = TimmTeacher(name, pretrained='random', img_size=64)
    model, x = teacher.model, images()
    last, features = (
        layer_reader(teacher, [1, -1])(x)[0],
        layer_reader(teacher, [-1])(x),
    )
    tokens = model.forward_features(x)
    if tokens.ndim == 4:
        torch.testing.assert_close(features[0].patches, tokens)
        torch.testing.assert_close(features[0].mean, tokens.mean((2, 3)))
        assert features[0].cls is None
    else:
        prefix = model.num_prefix_tokens
        patches = features[0].patches.flatten(2).mT
        torch.testing.assert_close(patches, tokens[:, prefix:])
        torch.testing.assert_close(features[0].mean, tokens[:, prefix:].mean(1))
        if model.cls_token is not None:
            torch.testing.assert_close(features[0].cls, tokens[:, 0])
    maps = model.forward_intermediates(x, indices=[1], intermediates_only=True)
    torch.testing.assert_close(last.patches, maps[0])
    several = layer_reader(teacher, [-1, 1])
    assert several.layers == [1, len(model.feature_info) - 1]
    torch.testing.assert_close(several(x)[1].patches, features[0].patches)


@torch.no_grad()
def test_a_teacher_without_a_layer_is_read_as_the_student_reads_it():
    x = images()
    teacher = TimmTeacher('test_vit', pretrained='random', img_size=64, layer=1)
    reader = layer_reader(teacher)
    (features,) = reader(x)
    torch.testing.assert_close(features.patches.flatten(2).mT, teacher(x))
    assert not teacher.class_token and reader.layers == [1]
    teacher.class_token = True
    torch.testing.assert_close(features.cls, teacher(x)[:, 0])

    pixels = PixelTeacher(img_size=64)
    (features,) = layer_reader(pixels)(x)
    torch.testing.assert_close(features.patches.flatten(2).mT, pixels(x))
    assert features.cls is None
    with pytest.raises(ConfigError, match='PixelTeacher has no layers to choose from'):
        layer_reader(pixels, [2])

    cached = CachedTeacher(dict(tiny.TEACHER))
    (features,) = layer_reader(cached)(x)
    torch.testing.assert_close(features.patches.flatten(2).mT, cached.teacher(x))


@torch.no_grad()
def test_other_backbones_return_the_layers_of_their_config():
    model = ResNet(18, out_indices=(1, 3))
    model.eval()
    x = images()
    expected = model(x)
    (features,) = layer_reader(model)(x)
    torch.testing.assert_close(features.patches, expected[1])
    torch.testing.assert_close(features.mean, expected[1].mean((2, 3)))
    reader = layer_reader(model, [3, 1])
    torch.testing.assert_close(reader(x)[0].patches, expected[reader.layers[0] == 3])
    assert layer_reader(model, [-1]).layers == [3]
    with pytest.raises(ConfigError) as caught:
        layer_reader(model, [0])
    assert str(caught.value) == (
        'layers=0: ResNet returns the layers 1, 3 only, see out_indices in its config'
    )
    with pytest.raises(ConfigError, match='can neither be left out nor'):
        layer_reader(model, norm='none')


class _AllStages(torch.nn.Module):
    def forward(self, x):
        return x, 2 * x


@torch.no_grad()
def test_a_backbone_that_names_no_layers_is_read_at_its_end():
    x = images()
    reader = layer_reader(_AllStages())
    torch.testing.assert_close(reader(x)[0].patches, 2 * x)
    assert reader.layers == [-1]
    with pytest.raises(ConfigError, match='_AllStages returns the layers -1 only'):
        layer_reader(_AllStages(), [1])
    with pytest.raises(
        ConfigError, match=r'Identity returns .*: expected feature maps'
    ):
        layer_reader(torch.nn.Identity())(torch.zeros(2, 8))


def test_layers_and_norms_that_do_not_exist():
    with pytest.raises(ConfigError) as caught:
        layer_reader(vit(), [1, 3])
    assert str(caught.value) == (
        'layers=1, 3: MaskDistillViT has 3 layers, expected -3 to 2'
    )
    with pytest.raises(ConfigError, match='has no final norm'):
        layer_reader(vit(final_norm=False), [1], 'all')
    with pytest.raises(ConfigError, match="norm='first': expected one of last, all"):
        layer_reader(vit(), norm='first')
    hiera = TimmTeacher('hiera_tiny_224', pretrained='random')
    with pytest.raises(ConfigError, match='does not apply the final norm of hiera'):
        layer_reader(hiera, [-1])(images(224, 224))


def test_token_ids_are_no_features():
    settings = {k: v for k, v in tiny.TOKENIZER.items() if k != 'type'}
    with pytest.raises(ConfigError, match='DALLETeacher returns token ids'):
        layer_reader(DALLETeacher(**settings))
