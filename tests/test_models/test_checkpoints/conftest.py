"""A small student, its checkpoint and a backbone that can start from it."""

import pytest
import torch
from helpers import tiny
from mmengine.logging import MMLogger

from mmmaskdistill.models import MaskDistillViT

ARCH = dict(tiny.ARCH, num_layers=3)


@pytest.fixture
def student():
    vit = MaskDistillViT(ARCH, img_size=64)
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter)
    return vit


@pytest.fixture
def pretrained(student, tmp_path):
    path = tmp_path / 'pretrained.pth'
    state = {f'backbone.{k}': v for k, v in student.state_dict().items()}
    state['head.weight'] = torch.zeros(3, 24)
    torch.save(dict(state_dict=state, meta=dict(iter=7)), path)
    return str(path)


@pytest.fixture
def log(caplog):
    """A function that returns the lines logged so far."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield lambda: [
        line for record in caplog.records for line in record.message.split('\n')
    ]
    logger.removeHandler(caplog.handler)


@pytest.fixture
def downstream():
    """A function that builds the backbone of a downstream task."""

    def build(**kwargs):
        return MaskDistillViT(
            **{
                'arch': ARCH,
                'img_size': 64,
                'use_rel_pos_bias': True,
                'use_shared_rel_pos_bias': False,
                'final_norm': False,
                **kwargs,
            }
        )

    return build
