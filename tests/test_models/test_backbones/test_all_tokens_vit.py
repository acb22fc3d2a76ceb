import pytest
import torch
from helpers.tiny import ARCH, masked

from mmmaskdistill.models import AllTokensViT, MaskDistillViT
from mmmaskdistill.models.layers import index_patches, take


def test_all_tokens_vit_includes_the_hidden_tokens():
    images, mask = masked()
    student = AllTokensViT(arch=ARCH, img_size=64).eval()
    student.init_weights()
    only_hidden = MaskDistillViT(arch=ARCH, img_size=64).eval()
    only_hidden.load_state_dict(student.state_dict())
    tokens = student(images, mask)
    assert tokens.shape == (2, 16, 24)
    torch.testing.assert_close(tokens[mask], only_hidden(images, mask))
    nothing = torch.zeros_like(mask)
    torch.testing.assert_close(
        student(images, nothing), only_hidden(images)[0].flatten(2).mT
    )


@pytest.mark.parametrize('class_token', [False, True])
def test_only_the_tokens_that_are_asked_for_are_computed(class_token):
    images, mask = masked()
    student = AllTokensViT(arch=ARCH, img_size=64, class_token=class_token).eval()
    student.init_weights()
    where = index_patches(mask).visible
    if class_token:
        where = torch.nn.functional.pad(where + 1, (1, 0))
    computed = []
    student.norm.register_forward_hook(lambda *args: computed.append(args[1][0].shape))
    some = student(images, mask, None, where)
    everything = student(images, mask)
    torch.testing.assert_close(some, take(everything, where).flatten(0, 1))
    # The last block has computed nothing else.
    assert computed[0] == (where.numel(), 24)
