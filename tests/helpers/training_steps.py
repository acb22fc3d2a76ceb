"""A step of pre-training at a tiny size, on any device."""

import torch
from helpers import tiny
from mmpretrain.structures import DataSample

PREPROCESSOR = dict(
    type='mmmaskdistill.TwoViewDataPreprocessor',
    mean=[124, 116, 104],
    std=[58, 57, 57],
    second_mean=[127, 127, 127],
    second_std=[128, 128, 128],
    to_rgb=True,
    non_blocking=True,
)


def pretraining(device, drop_path_rate=0.0, num_layers=3, **backbone):
    """Build the model with the same weights whenever it is called."""
    torch.manual_seed(0)
    model = tiny.build(
        backbone=dict(
            tiny.STUDENT,
            arch=dict(tiny.ARCH, num_layers=num_layers),
            drop_path_rate=drop_path_rate,
            **backbone,
        ),
        data_preprocessor=PREPROCESSOR,
    )
    torch.nn.init.normal_(model.backbone.rel_pos_bias.relative_position_bias_table)
    return model.to(device).train()


def batch(number=0, size=4):
    """A batch on the CPU, as the data loader makes it."""
    generator = torch.Generator().manual_seed(number)
    images = torch.randint(256, (size, 3, 64, 64), generator=generator)
    masks = torch.rand(size, 16, generator=generator).argsort(1) < 6
    return dict(
        inputs=images.to(torch.uint8), data_samples=[DataSample(mask=m) for m in masks]
    )


def loss_of(model, data):
    data = model.data_preprocessor(data, True)
    return model.loss(**data)['loss']


def loss_and_gradients(model, data):
    """The loss and the gradient of each parameter that has one."""
    model.zero_grad()
    loss = loss_of(model, data)
    loss.backward()
    return loss.detach(), {
        n: p.grad for n, p in model.named_parameters() if p.grad is not None
    }
