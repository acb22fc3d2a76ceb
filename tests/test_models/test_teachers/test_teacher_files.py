"""Teachers from files in the formats in which CLIP models are published."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from timm.models import generate_default_cfgs, register_model
from timm.models.vision_transformer import _create_vision_transformer
from torch import nn

from mmmaskdistill.models import TimmTeacher

open_clip = pytest.importorskip('open_clip')
# The width of the image tower, and that of the space which images share with text.
WIDTH, SHARED = 64, 24
# Images of 64 pixels have 16 x 16 patches, images of 56 pixels have 14 x 14, as images
# of 224 and 196 pixels have for CLIP ViT-L/14.
PATCH = 4
default_cfgs = generate_default_cfgs(
    {
        'tiny_clip.test': dict(
            input_size=(3, 64, 64),
            fixed_input_size=True,
            num_classes=SHARED,
            classifier='head',
            first_conv='patch_embed.proj',
        )
    }
)


@register_model
def tiny_clip(pretrained=False, **kwargs):
    """A small version of timm's ``vit_base_patch16_clip_quickgelu_224``."""
    return _create_vision_transformer(
        'tiny_clip',
        pretrained,
        **{
            **dict(
                patch_size=PATCH,
                embed_dim=WIDTH,
                depth=2,
                num_heads=2,
                pre_norm=True,
                norm_layer=partial(nn.LayerNorm, eps=1e-5),
                act_layer='quick_gelu',
            ),
            **kwargs,
        },
    )


def build_clip(image_size=64):
    """Build open_clip's model, whose state dict has OpenAI's keys."""
    return open_clip.CLIP(
        embed_dim=SHARED,
        vision_cfg=dict(
            image_size=image_size,
            patch_size=PATCH,
            width=WIDTH,
            layers=2,
            head_width=32,
        ),
        text_cfg=dict(context_length=8, vocab_size=50, width=16, heads=2, layers=1),
        quick_gelu=True,
    ).eval()


class Archive(nn.Module):
    """The model with its sizes in buffers, as in OpenAI's TorchScript archives."""

    def __init__(self, clip):
        super().__init__()
        self.visual = clip.visual
        self.transformer = clip.transformer
        self.token_embedding = clip.token_embedding
        self.register_buffer('input_resolution', torch.tensor(64))

    def forward(self, image):
        return self.visual(image)


def assert_close(output, expected):
    """Compare two tensors with a relative error of 1e-5 in the norm."""
    assert (output - expected).norm() < 1e-5 * expected.norm()


@torch.no_grad()
def expected(clip, images, features):
    tower = clip.visual
    tokens = tower.transformer(tower._embeds(images))[:, 1:]
    if features == 'block':
        return tokens
    tokens = tower.ln_post(tokens)
    return tokens if features == 'norm' else tokens @ tower.proj


def as_state_dict(clip, path):
    torch.save(clip.state_dict(), path)


def as_training_checkpoint(clip, path):
    state = {f'module.{k}': v for k, v in clip.state_dict().items()}
    torch.save(dict(epoch=3, name='run', state_dict=state), path)


def as_safetensors(clip, path):
    from safetensors.torch import save_file

    save_file(clip.state_dict(), path)


def as_archive(clip, path):
    traced = torch.jit.trace(
        Archive(clip), torch.zeros(1, 3, 64, 64), check_trace=False
    )
    traced.half().save(path)


@pytest.mark.parametrize('size', [64, 56, 96])
@pytest.mark.parametrize(
    'write', [as_state_dict, as_training_checkpoint, as_safetensors, as_archive]
)
def test_features_equal_those_of_open_clip(tmp_path, write, size):
    clip = build_clip()
    for parameter in clip.parameters():
        nn.init.normal_(parameter, std=0.2)
    # OpenAI publishes in half precision. Rounding the weights first lets both models
    # have the same numbers.
    clip = clip.half().float()
    path = tmp_path / ('a.safetensors' if write is as_safetensors else 'a.pt')
    if write is as_archive:
        write(clip, path)
    else:
        write(clip.half(), path)
    clip = clip.float()

    larger = build_clip(size)
    state = clip.state_dict()
    open_clip.model.resize_pos_embed(state, larger)
    larger.load_state_dict(state)
    images = torch.randn(2, 3, size, size)
    for features in ('block', 'norm', 'proj'):
        teacher = TimmTeacher(
            'tiny_clip', checkpoint=str(path), features=features, img_size=size
        )
        target = expected(larger, images, features)
        assert teacher.channels == target.shape[2]
        assert_close(teacher(images), target)


def as_openai(clip):
    """Rename the weights of transformers' image tower as in OpenAI's files."""
    names = {
        'vision_model.': '',
        'embeddings.class_embedding': 'class_embedding',
        'embeddings.patch_embedding': 'conv1',
        'embeddings.position_embedding.weight': 'positional_embedding',
        'pre_layrnorm': 'ln_pre',
        'post_layernorm': 'ln_post',
        'encoder.layers': 'transformer.resblocks',
        'self_attn.out_proj': 'attn.out_proj',
        'layer_norm': 'ln_',
        'mlp.fc1': 'mlp.c_fc',
        'mlp.fc2': 'mlp.c_proj',
    }
    state = {}
    for key, tensor in clip.state_dict().items():
        for name, openai_name in names.items():
            key = key.replace(name, openai_name)
        state[key] = tensor
    state['proj'] = state.pop('visual_projection.weight').T
    for key in [key for key in state if '.q_proj.' in key]:
        fused = key.replace('self_attn.q_proj.', 'attn.in_proj_')
        state[fused] = torch.cat(
            [state.pop(key.replace('q_proj', f'{part}_proj')) for part in 'qkv']
        )
    return {f'visual.{key}': tensor for key, tensor in state.items()}


@pytest.mark.parametrize('size', [64, 56, 96])
@torch.no_grad()
def test_features_equal_those_of_transformers(tmp_path, size):
    transformers = pytest.importorskip('transformers')

    def build(image_size):
        return transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(
                hidden_size=WIDTH,
                intermediate_size=4 * WIDTH,
                projection_dim=SHARED,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=image_size,
                patch_size=PATCH,
                hidden_act='quick_gelu',
            )
        ).eval()

    clip = build(64)
    for parameter in clip.parameters():
        nn.init.normal_(parameter, std=0.2)
    path = str(tmp_path / 'clip.pt')
    torch.save(as_openai(clip), path)

    # transformers resizes the position embedding without antialiasing, other libraries
    # with it. The test therefore resizes it by itself.
    larger = build(size)
    state = clip.state_dict()
    key = 'vision_model.embeddings.position_embedding.weight'
    grid = state[key][1:].T.unflatten(1, (16, 16))
    grid = F.interpolate(
        grid[None], 2 * (size // PATCH,), mode='bicubic', antialias=True
    )
    state[key] = torch.cat([state[key][:1], grid[0].flatten(1).T])
    larger.load_state_dict(state)

    images = torch.randn(2, 3, size, size)
    block = larger(images, output_hidden_states=True).hidden_states[-1][:, 1:]
    norm = larger.vision_model.post_layernorm(block)
    proj = larger.visual_projection(norm)
    for features, target in dict(block=block, norm=norm, proj=proj).items():
        teacher = TimmTeacher(
            'tiny_clip', checkpoint=path, features=features, img_size=size
        )
        assert_close(teacher(images), target)


@pytest.mark.parametrize('wrapped', [False, True])
@pytest.mark.parametrize('proj', ['', 'linear'])
def test_features_equal_those_of_open_clip_with_a_timm_tower(tmp_path, wrapped, proj):
    from open_clip.timm_model import TimmModel

    tower = TimmModel(
        'tiny_clip', SHARED, image_size=64, pool='token', proj=proj
    ).eval()
    for parameter in tower.parameters():
        nn.init.normal_(parameter, std=0.2)
    state = {f'visual.{k}': v for k, v in tower.state_dict().items()}
    state['text.token_embedding.weight'] = torch.zeros(50, 16)
    if wrapped:
        state = dict(state_dict={f'module.{k}': v for k, v in state.items()})
    path = str(tmp_path / 'a.pt')
    torch.save(state, path)

    images = torch.randn(2, 3, 64, 64)
    trunk = tower.trunk
    with torch.no_grad():
        x = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(images)))
        block = trunk.blocks(x)[:, 1:]
        norm = trunk.norm(block)
        head = tower.head.proj if proj else trunk.head
        targets = dict(block=block, norm=norm, proj=head(norm))
    for features, target in targets.items():
        teacher = TimmTeacher(
            'tiny_clip', checkpoint=path, features=features, img_size=64
        )
        assert_close(teacher(images), target)
