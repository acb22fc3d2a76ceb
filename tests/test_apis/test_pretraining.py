"""Building of pre-training models, from mmmaskdistill/apis/pretraining.py."""

import inspect
import subprocess
import sys

import pytest

from mmmaskdistill import apis
from mmmaskdistill.apis import make_teachers_random
from mmmaskdistill.models import Teacher
from mmmaskdistill.registry import MODELS

TEACHERS = {
    name: kind
    for name, kind in MODELS.module_dict.items()
    if inspect.isclass(kind) and issubclass(kind, Teacher)
}
WITH_WEIGHTS = {'TimmTeacher', 'DALLETeacher', 'VQKDTeacher'}
SMALL = dict(
    TimmTeacher=dict(model_name='test_vit', img_size=64),
    DALLETeacher=dict(width=8),
    VQKDTeacher=dict(
        arch=dict(embed_dims=24, num_layers=1, num_heads=3, feedforward_channels=48)
    ),
)


@pytest.mark.parametrize('name', sorted(TEACHERS))
def test_teacher_with_weights_becomes_random(name):
    cfg = dict(type=f'mmmaskdistill.{name}', checkpoint='no.pth')
    make_teachers_random(cfg)
    assert (cfg.get('pretrained') == 'random') == (name in WITH_WEIGHTS)
    assert ('checkpoint' in cfg) == (name not in WITH_WEIGHTS)


@pytest.mark.parametrize('name', sorted(WITH_WEIGHTS))
def test_random_teacher_is_built_without_its_checkpoint(name):
    cfg = dict(type=f'mmmaskdistill.{name}', checkpoint='no.pth', **SMALL[name])
    make_teachers_random(cfg)
    assert isinstance(MODELS.build(cfg), TEACHERS[name])


def test_teachers_inside_of_teachers_become_random():
    inner = [
        dict(type='mmmaskdistill.TimmTeacher', checkpoint='no.pth'),
        dict(type=TEACHERS['TimmTeacher']),
    ]
    make_teachers_random(
        dict(
            type='mmmaskdistill.CachedTeacher',
            teacher=dict(type='mmmaskdistill.TeacherList', teachers=inner),
        )
    )
    assert [cfg['pretrained'] for cfg in inner] == ['random', 'random']
    assert 'checkpoint' not in inner[0]


def test_model_without_a_teacher_has_nothing_to_change():
    make_teachers_random(None)


def test_functions_for_notebooks_are_exported_without_matplotlib():
    """Training draws nothing, and must not wait a second for matplotlib."""
    assert all(callable(getattr(apis, name)) for name in apis.__all__)
    code = 'import sys, mmmaskdistill.apis; print("matplotlib" in sys.modules)'
    done = subprocess.run(
        [sys.executable, '-c', code], check=True, capture_output=True, text=True
    )
    assert done.stdout.split()[-1] == 'False'
