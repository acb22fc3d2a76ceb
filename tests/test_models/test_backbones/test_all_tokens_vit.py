import torch
from helpers.tiny import ARCH, masked

from mmmaskdistill.models import AllTokensViT, MaskDistillViT


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
