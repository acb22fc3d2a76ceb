import torch
from helpers.tiny import ARCH, masked

from mmmaskdistill.models import MaskDistillViT, VisibleViT
from mmmaskdistill.models.checkpoints import load_backbone


def test_visible_vit_does_not_see_hidden_patches(tmp_path):
    images, mask = masked()
    student = VisibleViT(arch=ARCH, img_size=64).eval()
    student.init_weights()
    tokens = student(images, mask)
    assert tokens.shape == (2, 10, 24)
    pixels = mask.unflatten(1, (4, 4))[:, None]
    pixels = pixels.repeat_interleave(16, 2).repeat_interleave(16, 3)
    torch.testing.assert_close(student(images.masked_fill(pixels, 9.0), mask), tokens)

    # After pre-training, MaskDistillViT loads its weights.
    torch.save(student.state_dict(), tmp_path / 'student.pth')
    backbone = MaskDistillViT(
        arch=ARCH,
        img_size=64,
        use_abs_pos_emb=True,
        use_shared_rel_pos_bias=False,
        layer_scale_init_value=0.0,
    ).eval()
    load_backbone(backbone, str(tmp_path / 'student.pth'))
    every = student(images, torch.zeros_like(mask))[:, 1:]
    torch.testing.assert_close(backbone(images)[0].flatten(2).mT, every)
