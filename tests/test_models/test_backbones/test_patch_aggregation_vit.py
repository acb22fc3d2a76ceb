import pytest
import torch
from helpers.tiny import ARCH, masked

from mmmaskdistill.models import MaskDistillViT, PatchAggregationViT
from mmmaskdistill.models.checkpoints import load_backbone


def test_patch_aggregation_vit_returns_two_readouts(tmp_path):
    """The second output combines the last class token with earlier patch tokens."""
    images, mask = masked()
    student = PatchAggregationViT(early_layers=1, arch=ARCH, img_size=64).eval()
    student.init_weights()
    last, aggregated = student(images, mask)
    plain = MaskDistillViT(arch=ARCH, img_size=64).eval()
    torch.save(student.state_dict(), tmp_path / 'student.pth')
    load_backbone(plain, str(tmp_path / 'student.pth'))
    torch.testing.assert_close(last, plain(images, mask))

    tokens, grid = student._embed(images, mask)
    bias = student.rel_pos_bias(grid)
    early = student.blocks[0](tokens, grid, bias)
    late = student.blocks[1](early, grid, bias)
    tokens = torch.cat([late[:, :1], early[:, 1:]], 1)
    for block in student.cls_pt_layers:
        tokens = block(tokens, grid, bias)
    torch.testing.assert_close(aggregated, student.norm(tokens[:, 1:][mask]))
    with pytest.raises(ValueError, match='early_layers=2'):
        PatchAggregationViT(early_layers=2, arch=ARCH)
