import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.momentum_runs import Recorder, batch, build, make_runner
from mmengine.optim import build_optim_wrapper

from mmmaskdistill.errors import ConfigError


def test_features_are_the_mean_of_normalized_block_outputs():
    """As in data2vec, outputs of the last blocks are layer-normed and averaged."""
    model = build()
    images, _ = batch()
    student = model.backbone.eval()
    tokens, grid = student._embed(images)
    expected = 0
    for i, block in enumerate(student.blocks):
        tokens = block(tokens, grid, student.rel_pos_bias(grid))
        if i:
            expected = expected + F.layer_norm(tokens[:, 1:], (24,)) / 2
    torch.testing.assert_close(model.teacher(images), expected, rtol=1e-4, atol=1e-4)


def test_teacher_moves_towards_the_student_in_each_update():
    model = build(momentum=0.75)
    name = 'blocks.0.mlp.fc1.weight'
    start = model.backbone.get_parameter(name).detach().clone()
    weight = dict(model.teacher.model.named_buffers())[name]
    assert torch.equal(weight, start)
    with torch.no_grad():
        model.backbone.get_parameter(name).add_(1.0)
    model.teacher.update(model.backbone)
    torch.testing.assert_close(weight, start + 0.25)
    model.teacher.update(model.backbone)
    torch.testing.assert_close(weight, start + 0.25 + 0.75 * 0.25)
    images, samples = batch()
    for mode in (True, False):
        model.train(mode)
        model.loss(images, samples)
        torch.testing.assert_close(weight, start + 0.25 + 0.75 * 0.25)
        assert not any(module.training for module in model.teacher.modules())


@pytest.mark.parametrize('options', [dict(foreach=False), dict(fused=True), {}])
def test_teacher_that_nobody_updates_is_refused(options):
    """The second step is refused, because the teacher has not followed the first."""
    model = build().train()
    images, samples = batch()
    optimizer = torch.optim.AdamW(model.parameters(), **options)
    # Two batches without a step between them are accumulated gradients.
    for _ in range(2):
        model.loss(images, samples)['loss'].backward()
    optimizer.step()
    with pytest.raises(ConfigError, match='MomentumTeacherHook.*teacher.update'):
        model.loss(images, samples)
    model.eval().loss(images, samples)
    model.train().teacher.update(model.backbone)
    for _ in range(2):
        model.loss(images, samples)['loss'].backward()
        optimizer.step()


def test_loading_weights_before_training_is_no_step():
    model, trained = build().train(), build(momentum=0.5)
    with torch.no_grad():
        trained.backbone.cls_token.add_(1.0)
    model.load_state_dict(trained.state_dict())
    images, samples = batch()
    for _ in range(2):
        assert model.loss(images, samples)['loss'].isfinite()


def test_teacher_is_in_checkpoints_but_not_in_optimizers():
    model = build()
    saved = {k for k in model.state_dict() if k.startswith('teacher.')}
    assert 'teacher.model.blocks.0.mlp.fc1.weight' in saved
    assert not [k for k, _ in model.named_parameters() if 'teacher' in k]
    optim = build_optim_wrapper(model, dict(optimizer=dict(type='AdamW', lr=1e-3)))
    seen = {id(p) for g in optim.param_groups for p in g['params']}
    assert not seen & {id(b) for b in model.teacher.buffers()}
    copy = deepcopy(model)
    assert copy.teacher is not model.teacher
    assert set(copy.state_dict()) == set(model.state_dict())
    assert model.double().teacher.model.cls_token.dtype == torch.float64


@pytest.mark.parametrize('accumulate', [1, 2])
def test_resumed_run_equals_an_uninterrupted_one(tmp_path, accumulate):

    def train(work_dir, iterations, resume=False):
        runner = make_runner(tmp_path / work_dir, iterations, resume, accumulate)
        runner.train()
        return runner.model.state_dict()

    whole = train('whole', 6)
    train('parts', 2)
    parts = train('parts', 6, resume=True)
    assert set(whole) == set(parts)
    for key, tensor in whole.items():
        assert torch.equal(tensor, parts[key]), key


@pytest.mark.parametrize('accumulate', [1, 2])
def test_hook_updates_once_per_step_of_the_optimizer(tmp_path, accumulate):
    """The teacher is the moving average of the students after each step.

    Each checkpoint contains student and teacher after the same step.
    """
    recorder = Recorder()
    runner = make_runner(tmp_path, 7, accumulate=accumulate, hooks=[recorder])
    runner.train()
    expected, steps = recorder.first, 0
    for i, (student, teacher) in enumerate(zip(recorder.student, recorder.teacher), 1):
        # The last iteration makes a step, whatever has been accumulated.
        if i % accumulate == 0 or i == 7:
            expected = 0.9 * expected + 0.1 * student
            steps += 1
        torch.testing.assert_close(teacher, expected)
        saved = torch.load(tmp_path / f'iter_{i}.pth', weights_only=False)
        saved = saved['state_dict']
        assert torch.equal(saved['backbone.cls_token'], student)
        assert torch.equal(saved['teacher.model.cls_token'], teacher)
    assert steps == (7 if accumulate == 1 else 4)


def test_students_it_cannot_follow_are_refused():
    with pytest.raises(ConfigError, match='MaskedTimm'):
        build(
            backbone=dict(
                type='mmmaskdistill.MaskedTimm', model_name='test_vit', img_size=64
            )
        )
    with pytest.raises(ConfigError, match='num_layers=9'):
        build(teacher=dict(type='mmmaskdistill.MomentumTeacher', num_layers=9))


def test_hook_without_a_teacher_to_update_is_refused(tmp_path):
    pixels = build(
        teacher=dict(type='mmmaskdistill.PixelTeacher', img_size=64),
        head=dict(type='mmmaskdistill.LinearHead', in_channels=24, out_channels=768),
        data_preprocessor=dict(type='SelfSupDataPreprocessor'),
    )
    with pytest.raises(ConfigError, match='PixelTeacher: remove it from custom_hooks'):
        make_runner(tmp_path, 1, model=pixels).train()


TWO_PROCESSES = """
import sys
from pathlib import Path
import torch
sys.path[:0] = sys.argv[2:]
from command_line import leave_process_group
from mmengine.dist import all_gather
from helpers.momentum_runs import Recorder, make_runner

recorder = Recorder()
runner = make_runner(
    sys.argv[1], 4, accumulate=2, hooks=[recorder], launcher='pytorch', samples=4
)
runner.train()
assert len(recorder.student) == 4
expected = recorder.first
for i, (student, teacher) in enumerate(zip(recorder.student, recorder.teacher), 1):
    if i % 2 == 0:
        expected = 0.9 * expected + 0.1 * student
    torch.testing.assert_close(teacher, expected)
    first, second = all_gather(teacher)
    assert torch.equal(first, second)
assert not torch.equal(recorder.first, expected)
del runner
leave_process_group()
threads = Path('/proc/self/task').glob('*/comm')
assert not any('gloo' in thread.read_text() for thread in threads)
"""


def test_processes_have_the_same_teacher(tmp_path):
    script = tmp_path / 'train.py'
    script.write_text(TWO_PROCESSES)
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    tests = Path(__file__).parents[2]
    subprocess.run(
        [
            *command,
            '--nproc_per_node=2',
            script,
            tmp_path,
            tests,
            tests.parent / 'tools',
        ],
        check=True,
        timeout=300,
    )
