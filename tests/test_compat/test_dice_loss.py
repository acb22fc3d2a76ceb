"""mmseg's Dice loss, against its formula over the pixels that count."""

import pytest
import torch
from mmseg.models.losses import DiceLoss
from torch.nn import functional as F

import mmmaskdistill  # noqa: F401

VALID = slice(2, None)  # The first two rows are ignored.


def make(classes=3, void=255):
    torch.manual_seed(0)
    logits = torch.randn(2, classes, 6, 8, requires_grad=True)
    label = torch.randint(0, max(classes, 2), (2, 6, 8))
    label[:, :2] = void
    return logits, label


def dice(probability, one_hot, naive):
    p, t = (x[:, :, VALID].flatten(1) for x in (probability, one_hot))
    if naive:
        return 1 - (2 * (p * t).sum(1) + 1e-3) / (p.sum(1) + t.sum(1) + 1e-3)
    return 1 - 2 * (p * t).sum(1) / ((p * p).sum(1) + (t * t).sum(1) + 2e-3)


@pytest.mark.parametrize('use_sigmoid', [True, False])
@pytest.mark.parametrize('naive', [True, False])
@pytest.mark.parametrize('void', [255, 11])
def test_ignored_pixels_do_not_count(use_sigmoid, naive, void):
    logits, label = make(void=void)
    loss = DiceLoss(use_sigmoid=use_sigmoid, naive_dice=naive, loss_weight=0.5)
    value = loss(logits, label, ignore_index=void)
    probability = logits.sigmoid() if use_sigmoid else logits.softmax(1)
    one_hot = F.one_hot(label.clamp(max=3), 4)[..., :3].movedim(-1, 1).float()
    expected = 0.5 * dice(probability, one_hot, naive).mean()
    torch.testing.assert_close(value, expected)
    value.backward()
    assert logits.grad[:, :, :2].eq(0).all() and logits.grad[:, :, VALID].ne(0).all()


def test_a_single_channel_is_label_1():
    logits, label = make(classes=1)
    value = DiceLoss()(logits, label, reduction_override='none')
    one_hot = (label == 1)[:, None].float()
    torch.testing.assert_close(value, dice(logits.sigmoid(), one_hot, False))


def test_labels_that_are_probabilities_stay():
    logits, _ = make()
    target = torch.rand_like(logits)
    original = DiceLoss.forward.__wrapped__
    loss = DiceLoss()
    torch.testing.assert_close(loss(logits, target), original(loss, logits, target))
