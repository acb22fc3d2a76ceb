import torch

from mmmaskdistill.models import MLPHead


def test_mlp_head_has_the_configured_layers():
    head = MLPHead(4, 6, hidden_channels=5, num_layers=3)
    head.init_weights()
    shapes = [tuple(p.shape) for p in head.parameters() if p.ndim == 2]
    assert shapes == [(5, 4), (5, 5), (6, 5)]
    assert all(0 < p.abs().max() <= 0.02 for p in head.parameters() if p.ndim == 2)
    assert head(torch.randn(2, 3, 4)).shape == (2, 3, 6)
