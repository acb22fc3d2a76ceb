import pytest
import torch
from mmseg.models.losses import FocalLoss
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

import mmmaskdistill  # noqa: F401


@pytest.mark.parametrize('class_weight', [None, [1.0, 2.0, 3.0]])
@pytest.mark.parametrize('reduction', ['mean', 'sum', 'none'])
@pytest.mark.parametrize('weighted', [False, True])
def test_loss_is_that_of_torchvision(class_weight, reduction, weighted):
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 6, 8, requires_grad=True)
    label = torch.randint(0, 3, (2, 6, 8))
    label[:, :2] = 255
    weight = torch.rand(2, 6, 8) if weighted else None
    loss = FocalLoss(alpha=0.3, gamma=2.0, class_weight=class_weight, loss_weight=0.5)
    ours = loss(logits, label, weight, ignore_index=255, reduction_override=reduction)

    one_hot = F.one_hot(label.clamp(max=3), 4)[..., :3].movedim(-1, 1).float()
    pixels = sigmoid_focal_loss(logits, one_hot, alpha=0.3, gamma=2.0)
    pixels = pixels * (label != 255)[:, None]
    pixels = pixels * torch.tensor(class_weight or [1.0] * 3)[:, None, None]
    if weighted:
        pixels = pixels * weight[:, None]
    expected = 0.5 * dict(mean=pixels.mean(), sum=pixels.sum(), none=pixels)[reduction]
    torch.testing.assert_close(ours, expected)
    ours.sum().backward()
    assert logits.grad[:, :, :2].eq(0).all() and logits.grad[:, :, 2:].ne(0).all()


def test_labels_that_are_probabilities_stay():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 4, 4), torch.rand(2, 3, 4, 4).round()
    ours = FocalLoss(alpha=0.5)(logits, target)
    expected = sigmoid_focal_loss(logits, target, alpha=0.5, reduction='mean')
    torch.testing.assert_close(ours, expected)
