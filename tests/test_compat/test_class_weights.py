import pytest
import torch
from mmseg.models.losses import CrossEntropyLoss, cross_entropy_loss
from torch.nn import functional as F

from mmmaskdistill.compat.class_weights import total_weight

WEIGHTS = [1.0, 2.0, 3.0]


def batch(ignored=True, ignore_index=255):
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 8, 10, requires_grad=True)
    label = torch.randint(0, 3, (2, 8, 10))
    if ignored:
        label[:, :2] = ignore_index
        label[1, :, 5:] = ignore_index
    return logits, label


@pytest.mark.parametrize('ignored', [True, False])
@pytest.mark.parametrize('avg_non_ignore', [True, False])
@pytest.mark.parametrize('ignore_index', [255, 1, -100])
def test_loss_is_the_weighted_mean_of_torch(ignored, avg_non_ignore, ignore_index):
    logits, label = batch(ignored, ignore_index)
    loss = CrossEntropyLoss(class_weight=WEIGHTS, avg_non_ignore=avg_non_ignore)
    ours = loss(logits, label, ignore_index=ignore_index)
    (gradient,) = torch.autograd.grad(ours, logits)
    expected = F.cross_entropy(
        logits, label, torch.tensor(WEIGHTS), ignore_index=ignore_index
    )
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0])


def test_a_picture_without_labels_gives_zero():
    logits, label = batch()
    label[:] = 255
    loss = CrossEntropyLoss(class_weight=WEIGHTS)(logits, label, ignore_index=255)
    assert loss.item() == 0


def test_losses_without_class_weights_and_with_other_reductions_stay():
    logits, label = batch()
    for options in (
        dict(),
        dict(avg_non_ignore=True),
        dict(class_weight=WEIGHTS, reduction='none'),
        dict(class_weight=WEIGHTS, reduction='sum'),
    ):
        loss = CrossEntropyLoss(**options)
        ours = loss(logits, label, ignore_index=255)
        loss.cls_criterion = cross_entropy_loss.cross_entropy.__wrapped__
        assert torch.equal(ours, loss(logits, label, ignore_index=255))


def test_weights_of_the_binary_loss_belong_to_classes():
    logits, label = batch()
    loss = CrossEntropyLoss(use_sigmoid=True, class_weight=WEIGHTS)
    ours = loss(logits, label, ignore_index=255)
    one_hot = F.one_hot(label.clamp(max=3), 4)[..., :3].permute(0, 3, 1, 2).float()
    pixels = F.binary_cross_entropy_with_logits(
        logits,
        one_hot,
        pos_weight=torch.tensor(WEIGHTS)[:, None, None],
        reduction='none',
    )
    valid = (label != 255)[:, None]
    torch.testing.assert_close(ours, (pixels * valid).mean())


def test_weights_are_summed_in_float32():
    """Their sum would be infinite in float16."""
    label = torch.zeros(1, 300, 300, dtype=torch.long)
    weights = torch.tensor([9.0, 1.0], dtype=torch.float16)
    assert total_weight(label, weights, 255).item() == 9 * 300**2
