"""Errors of torch in a training are explained in the terms of a config."""

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.registry import MODELS, OPTIMIZERS, PARAM_SCHEDULERS
from mmseg.models import FCNHead
from torch import nn
from torch.nn import functional as F

from mmmaskdistill.apis.checks import explain_failure

CFG = dict(train_dataloader=dict(batch_size=1))
FCN = dict(in_channels=3, channels=4, num_classes=2)
LOGITS = torch.zeros(1, 3, 2, 2)


@pytest.mark.parametrize(
    ('fail', 'message'),
    [
        (
            lambda: nn.BatchNorm2d(3)(torch.zeros(1, 3, 1, 1)),
            'batch norm cannot normalize a single value (train_dataloader.batch_size=1',
        ),
        (
            lambda: F.cross_entropy(LOGITS, torch.full((1, 2, 2), 7)),
            'a label has the value 7, which is neither one of the classes of a head',
        ),
        (
            lambda: nn.Conv2d(9, 2, 1)(torch.zeros(1, 4, 2, 2)),
            'a layer is made for 9 channels and gets 4: set in_channels of the head',
        ),
        (
            lambda: FCNHead(in_index=2, **FCN)._transform_inputs([LOGITS]),
            'a head reads a map that is not there: its in_index counts the maps of',
        ),
        (
            lambda: BaseModule(norm_cfg={}),
            "a part of the model passes 'norm_cfg' on to BaseModule, which does not",
        ),
        (
            lambda: F.one_hot(torch.tensor(7), 3),
            'a label is neither one of the classes of a head nor ignored: tools/',
        ),
        (
            lambda: torch.stack([torch.zeros(2), torch.zeros(3)]),
            'the images or labels of a batch cannot be stacked (stack expects each ',
        ),
    ],
)
def test_what_torch_says_is_explained(fail, message):
    with pytest.raises((ValueError, IndexError, RuntimeError, TypeError)) as error:
        fail()
    assert explain_failure(error.value, CFG).startswith(message)


def test_memory_and_other_errors():
    error = torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB\nmore')
    assert explain_failure(error, CFG) == (
        "the GPU's memory is not enough (CUDA out of memory. Tried to allocate 2 GiB): "
        'set a smaller train_dataloader.batch_size (it is 1), a smaller crop, or '
        'model.backbone.with_cp=True'
    )
    assert explain_failure(RuntimeError('mat1 and mat2'), CFG) is None


def test_what_a_class_does_not_take_is_found_in_the_config():
    sgd = dict(type='SGD', lr=0.1, betas=(0.9, 0.98))
    cfg = Config(dict(optim_wrapper=dict(optimizer=sgd), hooks=[dict(type='SGD')]))
    with pytest.raises(TypeError) as error:
        OPTIMIZERS.build(dict(sgd, params=[torch.zeros(1)]))
    assert explain_failure(error.value, cfg) == (
        "SGD does not take 'betas' (optim_wrapper.optimizer.betas): remove it. If a "
        'base config sets it for another type, add _delete_=True to your dict with '
        "type='SGD', which then replaces that of the base config"
    )
    with pytest.raises(KeyError) as error:
        MODELS.build(dict(type='UperHaed'))
    assert explain_failure(error.value, cfg).startswith(
        'the config names UperHaed, which is not in the mmengine::model registry: '
    )


def test_names_of_registries_may_have_spaces():
    with pytest.raises(KeyError) as error:
        PARAM_SCHEDULERS.build(dict(type='PloyLR'))
    assert explain_failure(error.value, {}).startswith(
        'the config names PloyLR, which is not in the '
    )
