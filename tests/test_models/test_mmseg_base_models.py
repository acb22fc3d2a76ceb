"""mmseg's base models train with MaskDistillViT in place of their backbones.

Widths are made small, and everything else stays as mmseg has it.
"""

from pathlib import Path

import mmseg
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmmaskdistill.models import MaskDistillViT

FOLDER = Path(mmseg.__file__).parent / '.mim/configs/_base_/models'
NAMES = sorted(path.stem for path in FOLDER.glob('*.py'))
WIDTH = 16
# What an ordinary segmentor on feature maps cannot train, and why.
NOT_HERE = {
    'psanet_r50-d8': 'its head calls an operator of compiled mmcv',
    'san_vit-b16': "its image encoder is CLIP's, with the text encoder's classes",
    'vpd_sd': 'its backbone is the diffusion model that it is named for',
}
# Parts with a width that no backbone sets.
MORE = {
    'deeplabv3plus_r50-d8': dict(decode_head=dict(c1_in_channels=WIDTH)),
    'fastfcn_r50-d32_jpu_psp': dict(
        neck=dict(mid_channels=WIDTH), decode_head=dict(in_channels=4 * WIDTH)
    ),
    'setr_mla': dict(
        neck=dict(out_channels=WIDTH),
        decode_head=dict(mla_channels=WIDTH // 4),
    ),
    'dpt_vit-b16': dict(
        backbone=dict(output_cls_token=True),
        decode_head=dict(embed_dims=WIDTH, post_process_channels=[WIDTH] * 4),
    ),
    # Its head pools windows of 49 x 49.
    'lraspp_m-v3-d8': dict(backbone=dict(patch_size=1, img_size=50), size=50),
}


def narrow(node):
    """Give all inputs the backbone's width, and all parts a small width."""
    if isinstance(node, list):
        return [narrow(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: narrow(value) for key, value in node.items()}
    if node.get('type') == 'SyncBN':
        node['type'] = 'BN'
    for key in ('in_channels', 'embed_dim', 'channels', 'out_channels'):
        if key in node:
            many = isinstance(node[key], (list, tuple))
            node[key] = type(node[key])([WIDTH] * len(node[key])) if many else WIDTH
    return node


def count_maps(model):
    """How many feature maps the neck or else the heads take."""
    neck = model.get('neck') or {}
    if neck.get('type') == 'JPU' or 'in_channels' in neck:
        return len(neck['in_channels'])
    if 'rescales' in neck:
        return len(neck['rescales'])
    heads = []
    for name in ('decode_head', 'auxiliary_head'):
        part = model.get(name) or []
        heads += part if isinstance(part, list) else [part]
    last = 0
    for head in heads:
        index = head.get('in_index', -1)
        last = max(last, *(index if isinstance(index, (list, tuple)) else [index, 0]))
    return max(last + 1, 4)


@pytest.fixture(scope='module')
def batch():
    torch.manual_seed(0)
    labels = torch.randint(0, 19, (2, 1, 64, 64))
    labels[:, :, :8] = 255
    return torch.randn(2, 3, 64, 64), labels


@pytest.mark.parametrize('name', NAMES)
def test_base_model_trains_one_step(name, batch):
    if name in NOT_HERE:
        pytest.skip(NOT_HERE[name])
    init_default_scope('mmseg')
    config = Config.fromfile(FOLDER / f'{name}.py', format_python_code=False)
    more = dict(MORE.get(name, {}))
    size = more.pop('size', 64)
    model = config.model.to_dict()
    for part in ('decode_head', 'auxiliary_head', 'neck'):
        if part in model:
            model[part] = narrow(model[part])
    maps = count_maps(model)
    model.update(
        data_preprocessor=None,
        pretrained=None,
        backbone=dict(
            type='mmmaskdistill.MaskDistillViT',
            arch=dict(
                embed_dims=WIDTH,
                num_layers=maps,
                num_heads=2,
                feedforward_channels=WIDTH,
            ),
            img_size=64,
            out_indices=list(range(maps)),
        ),
    )
    for part, options in more.items():
        model[part].update(options)
    torch.manual_seed(0)
    model = MODELS.build(ConfigDict(model))
    model.init_weights()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    images, labels = batch
    labels = torch.where(labels == 255, 255, labels % model.num_classes)
    samples = [
        SegDataSample(
            gt_sem_seg=PixelData(data=label[:, :size, :size]),
            metainfo=dict(img_shape=(size, size), pad_shape=(size, size)),
        )
        for label in labels
    ]
    loss, _ = model.parse_losses(model.loss(images[..., :size, :size], samples))
    loss.backward()
    optimizer.step()
    assert loss.isfinite() and loss > 0
    gradients = {
        key: parameter.grad
        for key, parameter in model.backbone.named_parameters()
        if parameter.grad is not None
    }
    assert 'patch_embed.proj.weight' in gradients
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_nearly_all_base_models_are_covered():
    assert len(NAMES) - len(NOT_HERE) >= 42
    assert set(NOT_HERE) <= set(NAMES)


def test_maps_are_contiguous_unless_a_config_says_otherwise():
    arch = dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=8)
    images = torch.randn(2, 3, 64, 96)
    torch.manual_seed(0)
    vit = MaskDistillViT(arch, out_indices=(0, 1)).eval()
    outs = vit(images)
    assert all(out.is_contiguous() and out.shape == (2, 8, 4, 6) for out in outs)
    vit.contiguous_maps = False
    for out, view in zip(outs, vit(images)):
        assert torch.equal(out, view) and view._is_view()


def test_pairs_of_map_and_class_token():
    arch = dict(embed_dims=8, num_layers=3, num_heads=2, feedforward_channels=8)
    images = torch.randn(2, 3, 64, 96)
    vit = MaskDistillViT(arch, out_indices=(0, 2), output_cls_token=True).eval()
    pairs = vit(images)
    vit.output_cls_token = False
    maps = vit(images)
    vit.out_type = 'cls_token'
    tokens = vit(images)
    assert len(pairs) == 2
    for pair, feature_map, token in zip(pairs, maps, tokens):
        assert torch.equal(pair[0], feature_map) and torch.equal(pair[1], token)
    with pytest.raises(ValueError, match="expected 'featmap'"):
        MaskDistillViT(arch, out_type='avg_featmap', output_cls_token=True)
