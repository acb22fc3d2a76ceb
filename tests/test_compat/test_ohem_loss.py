"""mmseg's OHEM cross entropy with the arguments that heads give."""

import pytest
import torch
from mmseg.models.losses import OhemCrossEntropy
from torch.nn import functional as F

import mmmaskdistill  # noqa: F401
from mmmaskdistill.errors import ConfigError


@pytest.mark.parametrize('void', [255, 11])
def test_it_is_the_cross_entropy_of_hard_pixels(void):
    torch.manual_seed(0)
    logits, label = torch.randn(2, 3, 6, 8), torch.randint(0, 3, (2, 6, 8))
    label[:, :2] = void
    loss = OhemCrossEntropy(thres=0.5, min_kept=1)
    value = loss(logits, label, weight=None, ignore_index=void)
    pixels = F.cross_entropy(logits, label, ignore_index=void, reduction='none')
    hard = (label != void) & (torch.exp(-pixels) < 0.5)
    torch.testing.assert_close(value, pixels[hard].mean())
    with pytest.raises(ConfigError, match='set sampler=None of the head'):
        loss(logits, label, weight=torch.ones(2, 6, 8))
