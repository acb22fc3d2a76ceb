import torch

from mmmaskdistill.models import LinearHead


def test_linear_head_is_a_product_with_small_weights():
    head = LinearHead(4, 6)
    head.init_weights()
    assert 0 < head.weight.abs().max() <= 0.02 and not head.bias.any()
    x = torch.randn(3, 4)
    torch.testing.assert_close(head(x), x @ head.weight.T)
