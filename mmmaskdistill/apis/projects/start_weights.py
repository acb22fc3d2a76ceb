"""Find the arguments of a ViT that pre-training starts from."""

from mmmaskdistill.errors import CheckpointError
from mmmaskdistill.models.backbones import MaskDistillViT
from mmmaskdistill.models.backbones.mask_distill_vit import ARCHS
from mmmaskdistill.models.checkpoints import load_backbone, read_weights, select_vit
from mmmaskdistill.models.checkpoints.formats import to_our_names

SMALL = dict(embed_dims=192, num_layers=4, num_heads=3, feedforward_channels=768)
HEAD_WIDTH = 64
FEWEST_BLOCKS = 4
PATCH_SIZES = (14, 16)
BLOCK_TABLE = 'blocks.0.attn.relative_position_bias_table'
SHARED_TABLE = 'rel_pos_bias.relative_position_bias_table'


def vit_of(checkpoint: str, in_channels: int = 3) -> dict:
    """Find the arguments of ``MaskDistillViT`` that fit a checkpoint.

    Args:
        checkpoint (str): A checkpoint of a ViT in any format that backbones load.
        in_channels (int): Number of channels of the images. Defaults to 3.

    Returns:
        dict: ``arch`` as a dict, and what else differs from the ViT's defaults.

    Raises:
        CheckpointError: If the file cannot be read or has no ViT that fits.
    """
    own, _ = select_vit(read_weights(checkpoint).tensors, checkpoint)
    own = to_our_names(own, [])
    blocks = {int(key.split('.')[1]) for key in own if key.startswith('blocks.')}
    try:
        kernel = own['patch_embed.proj.weight']
        hidden = own['blocks.0.mlp.fc1.weight'].shape[0]
    except KeyError as error:
        raise CheckpointError(
            f'--init {checkpoint!r}: it has no {error.args[0]!r}, so it is not a ViT'
        ) from error
    if kernel.shape[-1] not in PATCH_SIZES:
        raise CheckpointError(
            f'--init {checkpoint!r}: its ViT has patches of {kernel.shape[-1]} px, '
            f'expected {" or ".join(map(str, PATCH_SIZES))}'
        )
    if len(blocks) < FEWEST_BLOCKS:
        raise CheckpointError(
            f'--init {checkpoint!r}: its ViT has {len(blocks)} blocks, expected at '
            f'least {FEWEST_BLOCKS}, whose outputs segmentation uses'
        )
    width = kernel.shape[0]
    tables = [own[key] for key in (BLOCK_TABLE, SHARED_TABLE) if key in own]
    vit = dict(
        arch=dict(
            embed_dims=width,
            num_layers=len(blocks),
            num_heads=tables[0].shape[1] if tables else max(1, width // HEAD_WIDTH),
            feedforward_channels=hidden,
        )
    )
    if kernel.shape[-1] != 16:
        vit['patch_size'] = kernel.shape[-1]
    if 'pos_embed' in own:
        vit['use_abs_pos_emb'] = True
    if BLOCK_TABLE in own:
        vit['use_rel_pos_bias'] = True
    if SHARED_TABLE not in own:
        vit['use_shared_rel_pos_bias'] = False
    if 'blocks.0.gamma_1' not in own:
        vit['layer_scale_init_value'] = 0.0
    backbone = MaskDistillViT(**vit, in_channels=in_channels)
    load_backbone(backbone, checkpoint, inflate=in_channels != kernel.shape[1])
    return vit


def is_small(vit: dict) -> bool:
    """Tell whether a ViT is the student of the configs for machines without a GPU.

    Args:
        vit (dict): The ViT's arguments, from :func:`vit_of`.
    """
    return vit['arch'] == SMALL


def without_defaults(vit: dict) -> dict:
    """Leave out what the base configs have, and give known sizes their name.

    Args:
        vit (dict): The ViT's arguments, from :func:`vit_of`.

    Returns:
        dict: The arguments to write into configs.
    """
    vit = dict(vit)
    if not vit:
        return vit
    if vit['arch'] in (SMALL, ARCHS['base']):
        del vit['arch']
    else:
        names = {str(arch): name for name, arch in ARCHS.items()}
        vit['arch'] = names.get(str(vit['arch']), vit['arch'])
    return vit
