import torch
from helpers.tiny import SWIN, masked
from mmengine.registry import init_default_scope
from mmpretrain.models import SwinTransformer

from mmmaskdistill.models import MaskedSwin


def test_masked_swin_loads_into_mmpretrains_swin():
    init_default_scope('mmpretrain')
    args = dict(SWIN, img_size=64)
    student, swin = MaskedSwin(**args), SwinTransformer(**args)
    student.init_weights()
    student.eval(), swin.eval()  # `eval` returns None here.
    missing, unused = swin.load_state_dict(student.state_dict(), strict=False)
    assert not missing and unused == ['mask_token']
    images, mask = masked(2, 2)
    nothing = torch.zeros_like(mask)
    torch.testing.assert_close(student(images, nothing), swin(images)[0].flatten(2).mT)
    student(images)[0].sum().backward()
    assert not [
        k for k, p in student.named_parameters() if p.requires_grad and p.grad is None
    ]
    hidden = student(images, mask)
    assert hidden.shape == (2, 4, 96)
    student.mask_token.data += 1
    assert not torch.allclose(student(images, mask), hidden)
