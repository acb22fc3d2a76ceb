import pytest
import torch
import torch.nn.functional as F
from helpers import tiny
from mmpretrain.structures import DataSample

from mmmaskdistill.errors import ConfigError

CLIP = dict(mean=[120.0, 110.0, 100.0], std=[70.0, 60.0, 50.0])
HALF = dict(mean=[127.0] * 3, std=[128.0] * 3)
VIT, PIXELS, LINEAR = tiny.TEACHER, tiny.PIXELS, tiny.LINEAR


def build(teacher=None, head=None, loss=None, normalizer='NoNormalizer'):
    model = tiny.build(
        teacher={
            'type': 'mmmaskdistill.TeacherList',
            'teachers': [VIT, PIXELS],
            'normalizers': [
                dict(type='mmmaskdistill.LayerNormalizer'),
                dict(type='mmmaskdistill.L2Normalizer'),
            ],
            'views': [CLIP, HALF],
            **(teacher or {}),
        },
        normalizer=dict(type=f'mmmaskdistill.{normalizer}'),
        head={
            'type': 'mmmaskdistill.HeadList',
            'heads': [dict(LINEAR, out_channels=64), dict(LINEAR, out_channels=768)],
            **(head or {}),
        },
        loss={
            'type': 'mmmaskdistill.LossList',
            'losses': [
                dict(type='mmmaskdistill.SmoothL1Loss'),
                dict(type='mmmaskdistill.MSELoss'),
            ],
            'channels': [64, 768],
            'weights': [1.0, 0.5],
            **(loss or {}),
        },
    )
    return model.eval()


def test_each_teacher_has_its_own_view_normalizer_head_and_loss():
    model = build()
    pictures = 255 * torch.rand(2, 3, 64, 64)

    def view(mean, std):
        return (pictures - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(
            3, 1, 1
        )

    mask = torch.arange(16) < 6
    hidden = mask.expand(2, -1)
    vit, pixels = model.teacher.teachers
    first = F.layer_norm(vit(view(**CLIP)), (64,), eps=1e-6)[hidden]
    second = F.normalize(pixels(view(**HALF)), dim=-1)[hidden]
    tokens = model.backbone(pictures, hidden)
    expected = F.smooth_l1_loss(model.head[0](tokens), first) + 0.5 * F.mse_loss(
        model.head[1](tokens), second
    )
    loss = model.loss([pictures, view(**CLIP)], [DataSample().set_mask(mask)] * 2)[
        'loss'
    ]
    torch.testing.assert_close(loss, expected)
    assert not any('teacher' in key for key in model.state_dict())
    assert 0 < model.head[1].weight.abs().max() <= 0.02


@pytest.mark.parametrize(
    'parts, message',
    [
        (dict(loss=dict(channels=[768, 64])), '[768, 64]'),
        (dict(loss=dict(weights=[1.0])), 'weights=[1.0]'),
        (dict(loss=dict(type='mmmaskdistill.LossList', losses=[])), '0 losses'),
        (dict(teacher=dict(views=[CLIP])), '1 views'),
        (
            dict(
                teacher=dict(teachers=[VIT, dict(type='mmmaskdistill.MomentumTeacher')])
            ),
            'MomentumTeacher',
        ),
        (
            dict(teacher=dict(teachers=[dict(VIT, class_token=True), PIXELS])),
            'patches alone',
        ),
        (dict(normalizer='L2Normalizer'), 'L2Normalizer would mix them'),
        (
            dict(
                head=dict(
                    heads=[
                        dict(LINEAR, out_channels=64),
                        dict(LINEAR, in_channels=5, out_channels=768),
                    ]
                )
            ),
            '[24, 5]',
        ),
    ],
)
def test_lists_that_do_not_fit_are_refused(parts, message):
    with pytest.raises(ConfigError) as error:
        build(**parts)
    assert message in str(error.value)


def test_teacher_list_needs_a_head_list_and_a_loss_list():
    with pytest.raises(ConfigError, match='HeadList and LossList'):
        tiny.build(
            teacher=dict(
                type='mmmaskdistill.TeacherList',
                teachers=[PIXELS],
                normalizers=[dict(type='mmmaskdistill.NoNormalizer')],
            ),
            normalizer=dict(type='mmmaskdistill.NoNormalizer'),
            head=dict(LINEAR, out_channels=768),
            loss=dict(type='mmmaskdistill.MSELoss'),
        )
