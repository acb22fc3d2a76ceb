"""Time a training step of ours against those of other libraries.

Both sides have the same weights, images and masks, are first shown to compute
the same loss, and then take turns in one process.

    python tools/analysis_tools/benchmark.py pretrain --against timm mmpretrain
"""
import argparse
import json
import os
from typing import Callable, Dict, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LR = 1e-9  # the weights stay what they are


class Side(NamedTuple):
    """One way to train.

    Attributes:
        loss: Gives the loss of the benchmark's batch.
        model: What is trained.
        optimizer: As users of this library would set it.
    """
    loss: Callable[[], Tensor]
    model: nn.Module
    optimizer: torch.optim.Optimizer

    def step(self):
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()


def pretraining(args, device) -> Dict[str, Side]:
    """Masked distillation from a random CLIP teacher, drop path 0."""
    import timm
    from mmpretrain.structures import DataSample

    from mmmaskdistill.datasets import BlockMaskGenerator
    from mmmaskdistill.models import MaskDistill
    from mmmaskdistill.models.backbones.mask_distill_vit import ARCHS
    arch = ARCHS[args.arch]
    side = args.img_size // 16
    with torch.device('meta'):
        channels = timm.create_model(args.teacher).num_features
    model = MaskDistill(
        backbone=dict(
            type='mmmaskdistill.MaskDistillViT',
            arch=arch,
            img_size=args.img_size),
        teacher=dict(
            type='mmmaskdistill.TimmTeacher',
            model_name=args.teacher,
            pretrained='random',
            img_size=args.img_size),
        normalizer=dict(type='mmmaskdistill.LayerNormalizer'),
        head=dict(
            type='mmmaskdistill.LinearHead',
            in_channels=arch['embed_dims'],
            out_channels=channels),
        loss=dict(type='mmmaskdistill.SmoothL1Loss'))
    model.init_weights()
    nn.init.normal_(model.backbone.rel_pos_bias.relative_position_bias_table)
    model.to(device).train()

    images = torch.randn(
        args.batch, 3, args.img_size, args.img_size, device=device)
    generate = BlockMaskGenerator(
        side, round(0.383 * side**2), min_num_patches=min(16, side))
    masks = torch.stack([
        torch.from_numpy(generate({})['mask']) for _ in range(args.batch)
    ]).to(device)
    samples = [DataSample(mask=mask) for mask in masks]
    hidden = masks.flatten(1).bool()

    def peer_loss(tokens: Tensor, head: nn.Linear) -> Tensor:
        with torch.no_grad():
            target, = model.teacher.model.forward_intermediates(
                images, indices=1, norm=False, output_fmt='NLC',
                intermediates_only=True)
            target = F.layer_norm(target, target.shape[-1:], eps=1e-6)
        return F.smooth_l1_loss(head(tokens[hidden]), target[hidden])

    sides = dict(
        ours=Side(
            lambda: model.loss([images, images], samples)['loss'], model,
            torch.optim.AdamW(
                model.parameters(), LR, weight_decay=0.05, fused=True)))
    for name in [name for name in PEERS if name in args.against]:
        student = PEERS[name](model.backbone, arch, args.img_size).to(device)
        head = nn.Linear(model.head.in_features, model.head.out_features)
        head.load_state_dict(model.head.state_dict())
        peer = nn.ModuleList([student, head]).to(device).train()

        def loss(student=student, head=head):
            return peer_loss(student(images, hidden), head)

        sides[name] = Side(
            loss, peer,
            torch.optim.AdamW(peer.parameters(), LR, weight_decay=0.05))
    return sides


class TimmStudent(nn.Module):
    """timm's BEiT v2, with patches hidden as its authors do it."""

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
            init_values=0.1)
        state = ours.state_dict()
        self.mask_token = nn.Parameter(state.pop('mask_token').clone())
        self.vit.load_state_dict(state)

    def forward(self, images: Tensor, hidden: Tensor) -> Tensor:
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
    """mmpretrain's BEiT pre-training ViT."""

    def __init__(self, ours: nn.Module, arch: dict, img_size: int):
        super().__init__()
        from mmpretrain.models.selfsup.beit import BEiTPretrainViT
        self.vit = BEiTPretrainViT(
            arch=arch,
            img_size=img_size,
            patch_size=16,
            layer_scale_init_value=0.1,
            final_norm=True)
        self.vit.init_weights()
        # Weights go the other way: ours reads mmpretrain's names.
        ours.load_state_dict(self.vit.state_dict())

    def forward(self, images: Tensor, hidden: Tensor) -> Tensor:
        return self.vit(images, hidden)[0][:, 1:]


PEERS = dict(mmpretrain=MMPretrainStudent, timm=TimmStudent)
JOBS = dict(pretrain=pretraining)


def check_equal(sides: Dict[str, Side]):
    """Refuse to time what does not compute the same."""
    ours = sides['ours'].loss().item()
    for name, side in sides.items():
        theirs = side.loss().item()
        if not abs(theirs - ours) <= 1e-4 * abs(ours):
            raise SystemExit(f'error: the loss of {name} is {theirs:.6f}, '
                             f'ours {ours:.6f}: these are not the same')


def measure_all(sides: Dict[str, Side], args, device) -> dict:
    """All figures of all sides."""
    from mmmaskdistill.apis import measure
    check_equal(sides)
    rate = measure.product_rate(device, torch.float32)
    seconds = measure.interleave(
        {name: side.step for name, side in sides.items()}, args.repeats,
        device)
    figures = {}
    for name, side in sides.items():
        times = measure.spread(seconds[name])
        flops = measure.count_flops(side.step)
        kept = measure.kept_bytes(side.loss, side.model.parameters())
        figures[name] = dict(
            seconds=seconds[name],
            **times,
            images_per_second=args.batch / times['median'],
            flops=flops,
            share_of_product_rate=flops / times['median'] / rate,
            kept_bytes_per_image=kept / args.batch,
            peak_bytes=measure.peak_bytes(side.step, device))
    return dict(
        job=args.job,
        machine=measure.machine(device),
        product_rate=rate,
        options=vars(args),
        sides=figures)


def print_table(result: dict):
    from prettytable import PrettyTable
    ours = result['sides']['ours']
    table = PrettyTable([
        'side', 'seconds (quartiles)', 'times ours', 'images/s', 'TFLOP',
        'share of product rate', 'kept MB an image', 'times ours ', 'peak GB'
    ], align='r')
    for name, side in result['sides'].items():
        table.add_row([
            name,
            f'{side["median"]:.3f} ({side["low"]:.3f} to {side["high"]:.3f})',
            f'{side["median"] / ours["median"]:.2f}',
            f'{side["images_per_second"]:.2f}',
            f'{side["flops"] / 1e12:.3f}',
            f'{side["share_of_product_rate"]:.0%}',
            f'{side["kept_bytes_per_image"] / 1e6:.1f}',
            f'{side["kept_bytes_per_image"] / ours["kept_bytes_per_image"]:.2f}',
            f'{side["peak_bytes"] / 1e9:.2f}' if side['peak_bytes'] else '-'
        ])
    print(table)
    print(f'{result["machine"]}; square matrix product '
          f'{result["product_rate"] / 1e9:.0f} GFLOP/s')


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('job', choices=JOBS, help='what is timed')
    parser.add_argument(
        '--against',
        nargs='*',
        choices=PEERS,
        default=list(PEERS),
        help='peers (default: all)')
    parser.add_argument(
        '--arch', default='base', help='arch of the ViT (%(default)s)')
    parser.add_argument(
        '--teacher',
        default='vit_base_patch16_clip_quickgelu_224.openai',
        help="timm's name of the teacher (%(default)s)")
    parser.add_argument(
        '--img-size', type=int, default=224, help='in pixels (%(default)s)')
    parser.add_argument(
        '--batch', type=int, default=8, help='images a step (%(default)s)')
    parser.add_argument(
        '--repeats', type=int, default=5, help='timed steps (%(default)s)')
    parser.add_argument(
        '--device', default='cpu', help='cpu or cuda (%(default)s)')
    parser.add_argument('--out', help='JSON file for the figures')
    return parser.parse_args()


def main():
    args = parse_args()
    import mmmaskdistill  # noqa: F401
    from mmengine.logging import MMLogger
    MMLogger.get_current_instance().setLevel('ERROR')  # only the table counts
    torch.manual_seed(0)
    device = torch.device(args.device)
    result = measure_all(JOBS[args.job](args, device), args, device)
    print_table(result)
    if args.out:
        with open(args.out + '.tmp', 'w') as file:
            json.dump(result, file, indent=2)
        os.replace(args.out + '.tmp', args.out)


if __name__ == '__main__':
    main()
