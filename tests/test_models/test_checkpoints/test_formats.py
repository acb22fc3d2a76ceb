"""MaskDistillViT computes the same features as models of other projects.

It loads the weights from those projects' checkpoint formats.
"""

import pytest
import torch
from mmengine.model import BaseModel
from mmpretrain.models import BEiTViT, MAEViT
from mmseg.models import MAE, BEiT
from safetensors.torch import save_file
from timm.layers import SwiGLUPacked
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import mmmaskdistill  # noqa: F401
from mmmaskdistill.engine import ResumableRunner
from mmmaskdistill.errors import CheckpointError
from mmmaskdistill.models import MaskDistillViT
from mmmaskdistill.models.checkpoints import load_backbone
from mmmaskdistill.models.checkpoints.formats import TRANSFORMERS, find_prefixes, rename

DEPTH, WIDTH, HEADS, HIDDEN, SIZE = 3, 48, 3, 96, 64
ARCH = dict(
    embed_dims=WIDTH, num_layers=DEPTH, num_heads=HEADS, feedforward_channels=HIDDEN
)
# The table of relative position biases is shared by all blocks, or every block has its
# own, or there is none.
PER_BLOCK = dict(use_rel_pos_bias=True, use_shared_rel_pos_bias=False)
SHARED = dict(use_rel_pos_bias=False, use_shared_rel_pos_bias=True)
NONE = dict(use_rel_pos_bias=False, use_shared_rel_pos_bias=False)
IMAGES = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def randomized(model):
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    model.eval()  # Some of mmpretrain's and mmseg's models return None.
    return model


def load(path, state, **options):
    """Load a file into a MaskDistillViT.

    Args:
        path (Path): The file.
        state (dict, optional): What to write to the file first.
        **options: Options of MaskDistillViT.

    Returns:
        tuple: The ViT, and the report of what was loaded.
    """
    if isinstance(state, dict):
        torch.save(state, path)
    vit = MaskDistillViT(ARCH, img_size=SIZE, **{'out_type': 'raw', **options}).eval()
    return vit, load_backbone(vit, str(path))


def assert_close(output, expected):
    scale = expected.abs().max().item()
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5 * scale)


def under(prefix, state):
    return {prefix + key: tensor for key, tensor in state.items()}


def timm_beit(**options):
    return randomized(
        Beit(
            img_size=SIZE,
            embed_dim=WIDTH,
            depth=DEPTH,
            num_heads=HEADS,
            mlp_ratio=HIDDEN / WIDTH,
            **{
                'init_values': 0.1,
                'use_abs_pos_emb': False,
                'global_pool': 'token',
                **options,
            },
        )
    )


@pytest.mark.parametrize('tables', [PER_BLOCK, SHARED])
@torch.no_grad()
def test_beit_pretraining_checkpoint_of_its_authors(tmp_path, tables):
    """A pre-training checkpoint contains more than the weights of the ViT.

    It also has a head for visual tokens, BEiT v2's patch aggregation blocks and the
    indices of relative positions.
    """
    beit = timm_beit(**tables)
    state = beit.state_dict()
    state['mask_token'] = torch.randn(1, 1, WIDTH)
    state['lm_head.weight'] = torch.zeros(8192, WIDTH)
    state['lm_head.bias'] = torch.zeros(8192)
    state['cls_pt_layers.0.norm1.weight'] = torch.zeros(WIDTH)
    index = 'rel_pos_bias' if tables is SHARED else 'blocks.0.attn'
    state[f'{index}.relative_position_index'] = torch.zeros(17, 17)
    vit, report = load(tmp_path / 'a.pth', dict(model=state), **tables)
    assert_close(vit(IMAGES)[0], beit.forward_features(IMAGES))
    assert torch.equal(vit.mask_token, state['mask_token'])
    total = len(vit.state_dict())
    assert report[0].endswith(f'{total} of {total} tensors matched')
    assert "not used: lm_head, 2 tensors (predicts BEiT's visual tokens)" in report
    assert any('cls_pt_layers, 1 tensors' in line for line in report)
    assert any('head, 2 tensors (classifier)' in line for line in report)


@torch.no_grad()
def test_fine_tuned_beit_of_its_authors(tmp_path):
    """timm's ``beitv2_*`` and the authors' files have mean pooling and fc_norm."""
    beit = timm_beit(global_pool='avg', **PER_BLOCK)
    state = beit.state_dict()
    vit, _ = load(
        tmp_path / 'a.pth',
        dict(module=state),
        out_type='avg_featmap',
        final_norm=False,
        **PER_BLOCK,
    )
    assert_close(
        vit(IMAGES)[0],
        beit.forward_head(beit.forward_features(IMAGES), pre_logits=True),
    )


@torch.no_grad()
def test_beit_upernet_checkpoint_of_its_authors(tmp_path):
    beit = timm_beit(**PER_BLOCK)
    state = under('backbone.', beit.state_dict())
    state['backbone.fpn1.0.weight'] = torch.zeros(WIDTH, WIDTH, 2, 2)
    state['decode_head.conv_seg.weight'] = torch.zeros(150, WIDTH, 1, 1)
    vit, report = load(
        tmp_path / 'a.pth', dict(state_dict=state, meta=dict(epoch=1)), **PER_BLOCK
    )
    assert_close(vit(IMAGES)[0], beit.forward_features(IMAGES))
    assert any('fpn1' in line and 'a neck' in line for line in report)


@pytest.mark.parametrize(
    'teacher',
    [
        {'teacher.net.class_embedding': torch.zeros(8)},
        under(
            'teacher.net.',
            VisionTransformer(depth=1, embed_dim=8, num_heads=1).state_dict(),
        ),
    ],
    ids=['clip', 'timm'],
)
@torch.no_grad()
def test_checkpoint_of_the_lightning_reimplementation(tmp_path, teacher):
    """bwconrad/masked-distillation trains timm's Beit with a mask token.

    The checkpoint contains the teacher as well.
    """
    beit = timm_beit(use_abs_pos_emb=True, global_pool='avg', **PER_BLOCK)
    state = under('student.', beit.state_dict())
    state['student.mask_token'] = torch.randn(1, 1, WIDTH)
    state['head.weight'] = torch.zeros(512, WIDTH)
    state.update(teacher)
    content = {
        'state_dict': state,
        'epoch': 3,
        'pytorch-lightning_version': '1.8',
        'hyper_parameters': dict(lr=1e-3),
    }
    vit, report = load(
        tmp_path / 'last.ckpt',
        content,
        use_abs_pos_emb=True,
        final_norm=False,
        **PER_BLOCK,
    )
    assert_close(vit(IMAGES)[0], beit.forward_features(IMAGES))
    assert "prefix 'student.'" in report[0]
    assert torch.equal(vit.mask_token, state['student.mask_token'])


@torch.no_grad()
def test_checkpoint_of_the_plain_torch_reimplementation(tmp_path):
    """drkostas/MaskDistill-PyTorch saves from DistributedDataParallel."""
    beit = timm_beit(**SHARED)
    state = under('module.student.', beit.state_dict())
    state['module.student.mask_token'] = torch.randn(1, 1, WIDTH)
    state['module.distill_head.weight'] = torch.zeros(512, WIDTH)
    vit, report = load(tmp_path / 'a.pth', dict(model=state, epoch=290))
    assert_close(vit(IMAGES)[0], beit.forward_features(IMAGES))
    assert "prefix 'student.'" in report[0]


@pytest.mark.parametrize('final_norm', [True, False])
@torch.no_grad()
def test_beit_of_mmseg(tmp_path, final_norm):
    beit = randomized(
        BEiT(
            img_size=SIZE,
            embed_dims=WIDTH,
            num_layers=DEPTH,
            num_heads=HEADS,
            mlp_ratio=HIDDEN // WIDTH,
            norm_cfg=dict(type='LN', eps=1e-6),
            out_indices=(0, 2),
            final_norm=final_norm,
        )
    )
    state = under('backbone.', beit.state_dict())
    state['decode_head.conv_seg.weight'] = torch.zeros(150, WIDTH, 1, 1)
    vit, report = load(
        tmp_path / 'a.pth',
        dict(state_dict=state),
        out_type='featmap',
        out_indices=(0, 2),
        final_norm=final_norm,
        **PER_BLOCK,
    )
    for output, expected in zip(vit(IMAGES), beit(IMAGES)):
        assert_close(output, expected)
    assert 'OpenMMLab format' in report[0]


@pytest.mark.parametrize('tables', [PER_BLOCK, SHARED, NONE])
@torch.no_grad()
def test_beit_of_mmpretrain(tmp_path, tables):
    options = dict(
        use_abs_pos_emb=tables is NONE,
        layer_scale_init_value=0.0 if tables is NONE else 0.1,
        out_type='avg_featmap',
        final_norm=tables is SHARED,
        **tables,
    )
    beit = randomized(BEiTViT(ARCH, SIZE, out_indices=[-1], **options))
    state = under('backbone.', beit.state_dict())
    # The checkpoint also contains BEiT v2's tokenizer, another ViT.
    state.update(under('target_generator.encoder.', beit.state_dict()))
    vit, _ = load(tmp_path / 'a.pth', dict(state_dict=state), **options)
    assert_close(vit(IMAGES)[0], beit(IMAGES)[0])


@pytest.mark.parametrize('decoder', [True, False])
@torch.no_grad()
def test_mae_of_its_authors(tmp_path, decoder):
    """The bias of the keys is dropped, which changes no feature."""
    mae = randomized(
        VisionTransformer(
            img_size=SIZE,
            embed_dim=WIDTH,
            depth=DEPTH,
            num_heads=HEADS,
            mlp_ratio=HIDDEN / WIDTH,
            num_classes=0,
        )
    )
    assert mae.blocks[0].attn.qkv.bias[WIDTH : 2 * WIDTH].abs().max() > 0.1
    state = mae.state_dict()
    if decoder:
        state['mask_token'] = torch.zeros(1, 1, 512)
        state['decoder_pos_embed'] = torch.zeros(1, 17, 512)
        state['decoder_blocks.0.norm1.weight'] = torch.zeros(512)
    vit, report = load(
        tmp_path / 'a.pth',
        dict(model=state),
        use_abs_pos_emb=True,
        layer_scale_init_value=0.0,
        **NONE,
    )
    assert_close(vit(IMAGES)[0], mae.forward_features(IMAGES))
    assert any('bias of the keys in 3 blocks' in line for line in report)
    assert decoder == any('dropped mask_token' in line for line in report)
    assert decoder == any("decoder_blocks, 1 tensors (MAE's" in line for line in report)


@torch.no_grad()
def test_mae_of_mmpretrain_and_mmseg(tmp_path):
    mae = randomized(
        MAEViT({**ARCH, 'feedforward_channels': HIDDEN}, SIZE, mask_ratio=0.0)
    )
    state = under('backbone.', mae.state_dict())
    state['neck.mask_token'] = torch.zeros(1, 1, 512)
    vit, _ = load(
        tmp_path / 'a.pth',
        dict(state_dict=state),
        use_abs_pos_emb=True,
        layer_scale_init_value=0.0,
        **NONE,
    )
    assert_close(vit(IMAGES)[0], mae(IMAGES, mask=None)[0])

    mae = randomized(
        MAE(
            img_size=SIZE,
            embed_dims=WIDTH,
            num_layers=DEPTH,
            num_heads=HEADS,
            mlp_ratio=HIDDEN // WIDTH,
            norm_cfg=dict(type='LN', eps=1e-6),
        )
    )
    vit, _ = load(
        tmp_path / 'b.pth',
        dict(state_dict=under('backbone.', mae.state_dict())),
        out_type='featmap',
        use_abs_pos_emb=True,
        final_norm=False,
        **PER_BLOCK,
    )
    assert_close(vit(IMAGES)[0], mae(IMAGES)[0])


def transformers_config(**options):
    transformers = pytest.importorskip('transformers')
    return transformers.BeitConfig(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=HIDDEN,
        image_size=SIZE,
        layer_norm_eps=1e-6,
        vocab_size=10,
        **options,
    )


@pytest.mark.parametrize('tables', [PER_BLOCK, SHARED, NONE])
@torch.no_grad()
def test_beit_of_transformers(tmp_path, tables):
    config = transformers_config(
        use_mask_token=True,
        use_mean_pooling=False,
        use_absolute_position_embeddings=tables is NONE,
        layer_scale_init_value=0.0 if tables is NONE else 0.1,
        use_relative_position_bias=tables is PER_BLOCK,
        use_shared_relative_position_bias=tables is SHARED,
    )
    from transformers import BeitModel

    beit = randomized(BeitModel(config))
    beit.save_pretrained(tmp_path)
    vit, report = load(
        tmp_path / 'model.safetensors',
        None,
        use_abs_pos_emb=tables is NONE,
        layer_scale_init_value=config.layer_scale_init_value,
        **tables,
    )
    assert_close(vit(IMAGES)[0], beit(IMAGES).last_hidden_state)
    assert torch.equal(vit.mask_token, beit.embeddings.mask_token)
    assert 'transformers format' in report[0]


@torch.no_grad()
def test_beit_of_transformers_with_heads(tmp_path):
    """Models with heads have the final norm in different places.

    The classifier has it in the pooling layer, masked image modeling next to the
    backbone.
    """
    config = transformers_config(use_relative_position_bias=True)
    from transformers import BeitForImageClassification, BeitForMaskedImageModeling

    beit = randomized(BeitForImageClassification(config))
    beit.save_pretrained(tmp_path)
    vit, _ = load(
        tmp_path / 'model.safetensors',
        None,
        out_type='avg_featmap',
        final_norm=False,
        **PER_BLOCK,
    )
    assert_close(vit(IMAGES)[0], beit.beit(IMAGES).pooler_output)

    beit = randomized(BeitForMaskedImageModeling(config))
    beit.save_pretrained(tmp_path)
    vit, _ = load(tmp_path / 'model.safetensors', None, **PER_BLOCK)
    logits = nn.functional.linear(
        vit(IMAGES)[0], beit.lm_head.weight, beit.lm_head.bias
    )
    assert_close(logits[:, 1:], beit(IMAGES).logits)


def test_names_can_be_translated_back():
    inverse = {own: foreign for foreign, own in TRANSFORMERS.items()}
    assert len(inverse) == len(TRANSFORMERS)
    for foreign in TRANSFORMERS:
        key = foreign.replace('*', '11') + '.weight'
        assert rename(rename(key, TRANSFORMERS), inverse) == key


def test_prefixes_of_students_are_found():
    keys = [
        'student.patch_embed.proj.weight',
        'teacher.patch_embed.proj.weight',
        'repatch_embed.proj.weight',
    ]
    assert find_prefixes(dict.fromkeys(keys)) == ['student.']


@pytest.mark.parametrize(
    'saved, wanted, message',
    [
        (dict(init_values=None), {}, 'set layer_scale_init_value=0 to match'),
        ({}, dict(layer_scale_init_value=0), 'set layer_scale_init_value=0.1 to match'),
        (dict(use_abs_pos_emb=True), {}, 'set use_abs_pos_emb=True to match'),
        ({}, dict(use_abs_pos_emb=True), 'set use_abs_pos_emb=False to match'),
        (
            PER_BLOCK,
            SHARED,
            'set use_rel_pos_bias=True, use_shared_rel_pos_bias=False to match',
        ),
        (SHARED, NONE, 'set use_shared_rel_pos_bias=True to match'),
        (NONE, SHARED, 'set use_shared_rel_pos_bias=False to match'),
        (dict(depth=4), {}, r'does not have \(blocks.3.*set arch and patch_s'),
    ],
)
def test_different_parts_are_refused_with_advice(tmp_path, saved, wanted, message):
    options = {**dict(depth=DEPTH), **SHARED, **saved}
    if saved is PER_BLOCK or saved is NONE:
        options['use_shared_rel_pos_bias'] = False
    depth = options.pop('depth')
    beit = Beit(
        img_size=SIZE,
        embed_dim=WIDTH,
        depth=depth,
        num_heads=HEADS,
        mlp_ratio=HIDDEN / WIDTH,
        global_pool='token',
        **{'init_values': 0.1, 'use_abs_pos_emb': False, **options},
    )
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / 'a.pth', beit.state_dict(), **wanted)


def test_load_state_dict_accepts_mmsegs_names():
    """MaskDistillViT replaces BEiT in a trained segmentor of mmseg."""
    beit = randomized(
        BEiT(
            img_size=SIZE,
            embed_dims=WIDTH,
            num_layers=DEPTH,
            num_heads=HEADS,
            mlp_ratio=HIDDEN // WIDTH,
        )
    )
    model = nn.Module()
    model.backbone = MaskDistillViT(ARCH, img_size=SIZE, final_norm=False, **PER_BLOCK)
    missing, unused = model.load_state_dict(
        under('backbone.', beit.state_dict()), strict=False
    )
    assert missing == ['backbone.mask_token'] and not unused
    assert torch.equal(
        model.backbone.blocks[2].mlp.fc2.weight, beit.layers[2].ffn.layers[1].weight
    )


class Pooled(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = MaskDistillViT(ARCH, img_size=SIZE, **PER_BLOCK)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, inputs, mode='loss'):
        (maps,) = self.backbone(torch.stack(inputs))
        return dict(loss=self.head(maps.mean((2, 3))).square().mean())


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_load_from_accepts_a_backbone_without_a_head(tmp_path, suffix):
    beit = timm_beit(**PER_BLOCK)
    path = str(tmp_path / f'beit{suffix}')
    if suffix == '.pth':
        torch.save(dict(model=beit.state_dict()), path)
    else:
        save_file(beit.state_dict(), path)

    def train(load_from):
        runner = ResumableRunner(
            Pooled(),
            str(tmp_path / 'run'),
            train_dataloader=dict(
                dataset=[dict(inputs=IMAGES[0])],
                sampler=dict(type='DefaultSampler'),
                collate_fn=dict(type='pseudo_collate'),
                batch_size=1,
                num_workers=0,
            ),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=1),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
            load_from=load_from,
            experiment_name=tmp_path.name,
        )
        return runner.train()

    backbone = train(path).backbone
    for key, tensor in beit.state_dict().items():
        if not key.startswith('head.'):
            assert torch.equal(backbone.state_dict()[key], tensor)
    torch.save(dict(conv1=torch.zeros(1)), tmp_path / 'resnet.pth')
    with pytest.raises(CheckpointError, match='no ViT in a known format'):
        train(str(tmp_path / 'resnet.pth'))


@torch.no_grad()
def test_vit_of_timm_with_layer_scale(tmp_path):
    """timm's VisionTransformer and DINOv2 name the layer scale ls1 and ls2."""
    reference = randomized(
        VisionTransformer(
            img_size=SIZE,
            embed_dim=WIDTH,
            depth=DEPTH,
            num_heads=HEADS,
            mlp_ratio=HIDDEN / WIDTH,
            num_classes=0,
            init_values=0.1,
        )
    )
    vit, _ = load(
        tmp_path / 'a.pth', reference.state_dict(), use_abs_pos_emb=True, **NONE
    )
    assert_close(vit(IMAGES)[0], reference.forward_features(IMAGES))
    assert torch.equal(vit.blocks[2].gamma_2, reference.blocks[2].ls2.gamma)


def test_student_is_chosen_before_the_teacher(tmp_path):
    """DINO and iBOT write both; only the student is in a DistributedDataParallel."""
    student, teacher = (timm_beit(**SHARED).state_dict() for _ in range(2))
    content = dict(
        student=under('module.backbone.', student), teacher=under('backbone.', teacher)
    )
    vit, report = load(tmp_path / 'a.pth', content)
    assert torch.equal(vit.cls_token, student['cls_token'])
    assert (
        "prefix 'student.module.backbone.' and not the teacher under "
        "'teacher.backbone.': "
    ) in report[0]


def test_lonely_teacher_must_be_chosen(tmp_path):
    path = tmp_path / 'a.pth'
    state = timm_beit(**SHARED).state_dict()
    with pytest.raises(CheckpointError, match="teacher, under 'teacher.'.*prefix="):
        load(path, dict(teacher=state))
    vit = MaskDistillViT(ARCH, img_size=SIZE)
    load_backbone(vit, str(path), prefix='teacher')
    assert torch.equal(vit.cls_token, state['cls_token'])


def test_registers_are_refused(tmp_path):
    registers = VisionTransformer(
        img_size=SIZE,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        reg_tokens=4,
        init_values=0.1,
    )
    with pytest.raises(
        CheckpointError, match=r'register tokens \(reg_token\).*without'
    ):
        load(tmp_path / 'a.pth', registers.state_dict(), use_abs_pos_emb=True, **NONE)


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(pre_norm=True), r'a norm before the blocks, as CLIP \(norm_pre.weight\)'),
        (dict(qk_norm=True), r'norms of queries and keys \(blocks.0.attn.q_norm'),
        (dict(mlp_layer=SwiGLUPacked), r'gated MLP \(SwiGLU, blocks.0.mlp.fc1.weight'),
        (dict(class_token=False, global_pool='avg'), r'no class token \(cls_token\)'),
    ],
)
def test_vits_of_other_kinds_are_refused_without_advice_to_set(
    tmp_path, settings, message
):
    other = VisionTransformer(
        img_size=SIZE, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, **settings
    )
    with pytest.raises(CheckpointError, match=message) as error:
        load(tmp_path / 'a.pth', other.state_dict(), use_abs_pos_emb=True, **NONE)
    assert ' set ' not in str(error.value)


def test_incomplete_projections_are_named(tmp_path):
    state = {
        'embeddings.patch_embeddings.projection.weight': torch.zeros(WIDTH, 3, 16, 16),
        'encoder.layer.0.attention.attention.query.weight': torch.zeros(WIDTH, WIDTH),
    }
    with pytest.raises(CheckpointError, match='but not blocks.0.attn.key.weight'):
        load(tmp_path / 'a.pth', state)
