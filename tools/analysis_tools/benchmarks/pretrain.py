"""Time and memory of a training step of masked-distillation pre-training.

The other libraries compute MaskDistill's loss with their own BEiT models as students
and timm's CLIP ViT as the teacher. For example:

  python tools/analysis_tools/benchmark.py pretrain --against timm --batch 4
"""

import argparse
from copy import deepcopy
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import sides as common
from .sides import Side, training

if TYPE_CHECKING:
    from mmpretrain.structures import DataSample

    from mmmaskdistill.models import MaskDistill

MASKED = 75 / 196  # the recipe's share of hidden patches


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this job."""
    common.add_arguments(parser, PEERS, img_size=224, batch=8)
    _add_models(parser)


def add_step_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this project's pre-training step, without other libraries.

    Args:
        parser (argparse.ArgumentParser): The parser of a job that measures this step.
    """
    parser.set_defaults(against=[])
    common.add_settings(parser, img_size=224, batch=8)
    _add_models(parser)


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--teacher',
        default='vit_base_patch16_clip_quickgelu_224.openai',
        metavar='MODEL',
        help='name of the timm model that is the teacher, with random weights '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--teacher-img-size',
        type=int,
        metavar='PIXELS',
        help='side of the square images that the teacher sees, if its patches are not '
        "as large as the student's: 196 for a ViT-L/14 (default: --img-size)",
    )
    parser.add_argument(
        '--attention',
        default='auto',
        metavar='WAY',
        help="how this project's student computes attention in training: recompute, "
        'gather, efficient or flex (default: %(default)s, the default of the student)',
    )
    parser.add_argument(
        '--checkpointing',
        action='store_true',
        help="compute the activations of this project's student again in the backward "
        'pass (with_cp=True of the backbone; default: keep them)',
    )


def run(args: argparse.Namespace) -> dict:
    """Measure all sides and print the table, see :func:`.sides.run`."""
    return common.run(args, build)


def build_ours(args: argparse.Namespace, predict: str = 'hidden') -> 'MaskDistill':
    """Build this project's model with random weights and a drop path rate of 0.

    Args:
        args (argparse.Namespace): The command line.
        predict (str): ``hidden`` for the paper's objective, or ``all`` for the loss at
            all patches. Defaults to ``hidden``.

    Returns:
        MaskDistill: The model in training mode, on the CPU.
    """
    import timm

    from mmmaskdistill.models import MaskDistill

    arch = common.vit_arch(args)
    with torch.device('meta'):
        channels = timm.create_model(args.teacher).num_features
    students = dict(hidden='MaskDistillViT', all='AllTokensViT')
    model = MaskDistill(
        backbone=dict(
            type=f'mmmaskdistill.{students[predict]}',
            arch=arch,
            img_size=args.img_size,
            attention=args.attention,
            with_cp=args.checkpointing,
        ),
        teacher=dict(
            type='mmmaskdistill.TimmTeacher',
            model_name=args.teacher,
            pretrained='random',
            img_size=args.teacher_img_size or args.img_size,
        ),
        normalizer=dict(type='mmmaskdistill.LayerNormalizer'),
        head=dict(
            type='mmmaskdistill.LinearHead',
            in_channels=arch['embed_dims'],
            out_channels=channels,
        ),
        loss=dict(type='mmmaskdistill.SmoothL1Loss'),
        predict=predict,
    )
    model.init_weights()
    nn.init.normal_(model.backbone.rel_pos_bias.relative_position_bias_table)
    return model.train()


def make_batch(
    args: argparse.Namespace, device: torch.device, masked: float = MASKED
) -> tuple[list[Tensor], list['DataSample']]:
    """Make random images and masks.

    Args:
        args (argparse.Namespace): The command line.
        device (torch.device): Device of the tensors.
        masked (float): Share of the patches that are hidden. Defaults to the recipe's.

    Returns:
        tuple[list[Tensor], list[DataSample]]: The student's and the teacher's images,
        ``[B, 3, H, W]`` each, and the data samples with ``mask``, ``hidden`` and
        ``visible``, as this project's data preprocessor gives them.
    """
    from mmpretrain.structures import DataSample

    from mmmaskdistill.datasets import BlockMaskGenerator, NoMaskGenerator
    from mmmaskdistill.models.layers import index_patches

    views = [
        torch.randn(args.batch, 3, size, size, device=device)
        for size in (args.img_size, args.teacher_img_size or args.img_size)
    ]
    side = args.img_size // 16
    if masked:
        generate = BlockMaskGenerator(
            side, round(masked * side**2), min_num_patches=min(16, side)
        )
    else:
        generate = NoMaskGenerator(side)
    masks = torch.stack(
        [torch.from_numpy(generate({})['mask']) for _ in range(args.batch)]
    )
    hidden = masks.flatten(1).bool()
    # As this project's data preprocessor does: the indices are made on the CPU.
    index = index_patches(hidden)
    samples = [
        DataSample(
            mask=mask.to(device), hidden=where.to(device), visible=rest.to(device)
        )
        for mask, where, rest in zip(masks, index.hidden, index.visible)
    ]
    return views, samples


def build(args: argparse.Namespace, device: torch.device) -> dict[str, Side]:
    """Build all sides with the same student, teacher, images and masks.

    Args:
        args (argparse.Namespace): The command line.
        device (torch.device): Device of the models and images.

    Returns:
        dict[str, Side]: The sides by name, ``ours`` first.
    """
    from mmmaskdistill.models.layers import thaw_layers

    model = build_ours(args)
    views, samples = make_batch(args, device)
    images, teacher_images = views
    hidden = torch.stack([sample.mask for sample in samples]).flatten(1).bool()

    teacher = deepcopy(model.teacher.model)
    # The teacher of the other libraries is exactly timm's model, without the faster
    # layers with which this project replaces those of a frozen model.
    thaw_layers(teacher)
    teacher.to(device)

    def peer_loss(tokens: Tensor, head: nn.Linear) -> Tensor:
        with torch.no_grad():
            (target,) = teacher.forward_intermediates(
                teacher_images,
                indices=1,
                norm=False,
                output_fmt='NLC',
                intermediates_only=True,
            )
            target = F.layer_norm(target, target.shape[-1:], eps=1e-6)
        return F.smooth_l1_loss(head(tokens[hidden]), target[hidden])

    peers = {}
    for name in [name for name in PEERS if name in args.against]:
        student = PEERS[name](model.backbone, common.vit_arch(args), args.img_size)
        head = nn.Linear(model.head.in_features, model.head.out_features)
        head.load_state_dict(model.head.state_dict())
        peer = nn.ModuleList([student, head]).to(device).train()

        def loss(student: nn.Module = student, head: nn.Module = head) -> Tensor:
            return peer_loss(student(images, hidden), head)

        peers[name] = training(loss, nn.ModuleList([peer, teacher]), fused=False)
    # Before this, weights are copied on the CPU. The teacher is not one of the model's
    # submodules.
    ours = nn.ModuleList([model.to(device), model.teacher])
    return dict(
        ours=training(lambda: model.loss(views, samples)['loss'], ours, fused=True),
        **peers,
    )


class TimmStudent(nn.Module):
    """timm's BEiT as a student; patches are hidden as in BEiT v2's own code.

    Args:
        ours (nn.Module): This project's student, whose weights are copied.
        arch (dict): Architecture of the ViT, see :func:`.sides.vit_arch`.
        img_size (int): Side of the images in pixels.
    """

    def __init__(self, ours: nn.Module, arch: dict, img_size: int):
        super().__init__()
        from timm.models.beit import Beit

        self.vit = Beit(
            img_size=img_size,
            patch_size=16,
            num_classes=0,
            global_pool='',
            embed_dim=arch['embed_dims'],
            depth=arch['num_layers'],
            num_heads=arch['num_heads'],
            use_abs_pos_emb=False,
            use_shared_rel_pos_bias=True,
            init_values=0.1,
        )
        state = ours.state_dict()
        self.mask_token = nn.Parameter(state.pop('mask_token').clone())
        self.vit.load_state_dict(state)

    def forward(self, images: Tensor, hidden: Tensor) -> Tensor:
        """Compute the features of all patches.

        Args:
            images (Tensor): ``[B, 3, H, W]``.
            hidden (Tensor): ``[B, N]`` bool, True for hidden patches.

        Returns:
            Tensor: ``[B, N, D]``.
        """
        vit = self.vit
        x = vit.patch_embed(images)
        w = hidden[..., None].type_as(x)
        x = x * (1 - w) + self.mask_token * w
        x = torch.cat([vit.cls_token.expand(len(x), -1, -1), x], 1)
        bias = vit.rel_pos_bias()
        for block in vit.blocks:
            x = block(x, shared_rel_pos_bias=bias)
        return vit.norm(x)[:, 1:]


class MMPretrainStudent(nn.Module):
    """mmpretrain's BEiT pre-training ViT as a student.

    Args:
        ours (nn.Module): This project's student, which gets the weights of
            mmpretrain's model.
        arch (dict): Architecture of the ViT, see :func:`.sides.vit_arch`.
        img_size (int): Side of the images in pixels.
    """

    def __init__(self, ours: nn.Module, arch: dict, img_size: int):
        super().__init__()
        from mmpretrain.models.selfsup.beit import BEiTPretrainViT

        self.vit = BEiTPretrainViT(
            arch=arch,
            img_size=img_size,
            patch_size=16,
            layer_scale_init_value=0.1,
            final_norm=True,
        )
        self.vit.init_weights()
        # The weights are copied from mmpretrain's model to this project's, and not
        # the other way round, because this project reads mmpretrain's names.
        ours.load_state_dict(self.vit.state_dict())

    def forward(self, images: Tensor, hidden: Tensor) -> Tensor:
        """Compute the features of all patches, as in :class:`TimmStudent`."""
        return self.vit(images, hidden)[0][:, 1:]


PEERS = dict(mmpretrain=MMPretrainStudent, timm=TimmStudent)
