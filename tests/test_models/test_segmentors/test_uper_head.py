"""UPerHead against mmseg's UPerHead."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from mmmaskdistill.models.segmentors.uper_head import conv_of_resized
from mmmaskdistill.registry import MODELS


def build(scope, **options):
    torch.manual_seed(0)
    head = MODELS.build(
        dict(
            type=f'{scope}.UPerHead',
            in_channels=[8] * 4,
            in_index=[0, 1, 2, 3],
            pool_scales=(1, 2),
            channels=6,
            num_classes=5,
            dropout_ratio=0.0,
            **options,
        )
    )
    return head.double()


def maps(*sizes):
    torch.manual_seed(1)
    return [
        torch.randn(2, 8, *size, dtype=torch.double, requires_grad=True)
        for size in sizes
    ]


@pytest.mark.parametrize(
    'options',
    [
        dict(norm_cfg=dict(type='BN'), align_corners=False),
        dict(norm_cfg=None, align_corners=True),
        dict(norm_cfg=dict(type='BN'), act_cfg=None, align_corners=False),
        dict(conv_cfg=dict(type='ConvAWS'), align_corners=False),
    ],
)
@pytest.mark.parametrize(
    'sizes',
    [
        [(16, 16), (8, 8), (4, 4), (2, 2)],
        [(15, 21), (8, 11), (4, 5), (2, 3)],
    ],
)
def test_features_and_gradients_equal_mmsegs(options, sizes):
    head, reference = build('mmmaskdistill', **options), build('mmseg', **options)
    head.load_state_dict(reference.state_dict())
    inputs, same_inputs = maps(*sizes), maps(*sizes)
    out, expected = head(inputs), reference(same_inputs)
    torch.testing.assert_close(out, expected)
    weights = torch.randn_like(out)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    for x, y in zip(inputs, same_inputs):
        torch.testing.assert_close(x.grad, y.grad)
    for (name, p), q in zip(head.named_parameters(), reference.parameters()):
        torch.testing.assert_close(p.grad, q.grad, msg=name)
    for p, q in zip(head.buffers(), reference.buffers()):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize('align_corners', [True, False])
@pytest.mark.parametrize('size', [(10, 14), (5, 7), (13, 9), (3, 3)])
def test_convolution_of_a_resized_map_equals_the_plain_one(size, align_corners):
    (x,) = maps((5, 7))
    weight = torch.randn(3, 8, 3, 3, dtype=torch.double)
    resized = F.interpolate(x, size, mode='bilinear', align_corners=align_corners)
    torch.testing.assert_close(
        conv_of_resized(x, weight, size, align_corners),
        F.conv2d(resized, weight, padding=1),
    )


def test_coarse_levels_are_convolved_at_their_own_size():
    """The last convolution runs on each level before the level is enlarged.

    The FLOPs of a level's part of this convolution are therefore proportional to
    the level's own area.
    """
    flops = []
    for scope in ('mmmaskdistill', 'mmseg'):
        head = build(scope, align_corners=False)
        head.fpn_bottleneck.conv.weight.requires_grad_(False)
        with FlopCounterMode(display=False) as counter:
            head(maps((64, 64), (32, 32), (16, 16), (8, 8)))
        flops.append(counter.get_total_flops())
    # FLOPs of a 3 x 3 convolution from 6 to 6 channels at full size, for two images.
    full = 2 * 2 * 6 * 6 * 9 * 64**2
    resizing = sum(
        2 * 2 * 6 * (9 * side * side * 64 + 3 * side * 64 * 64) for side in (32, 16, 8)
    )
    assert flops[1] - flops[0] == full * (3 - 1 / 4 - 1 / 16 - 1 / 64) - resizing
