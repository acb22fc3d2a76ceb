"""What the converters refuse; tests/test_tools shows that other libraries agree."""

import pytest
import torch

from mmmaskdistill.errors import CheckpointError
from mmmaskdistill.models.checkpoints import read_weights
from mmmaskdistill.models.checkpoints.export import publish, read_vit


@pytest.mark.parametrize(
    'change, message',
    [
        (
            {'dist_token': torch.ones(24)},
            r"prefix '': 1 tensors that the backbone does not have \(dist_token\)",
        ),
        ({'blocks.1.mlp.fc1.bias': torch.ones(2)}, r'is \(2,\), not \(48,\)'),
        ({'blocks.1.mlp.fc1.bias': None}, r'missing .* \(blocks.1.mlp.fc1.bias\)'),
    ],
)
def test_vits_that_differ_from_beit_are_refused(student, tmp_path, change, message):
    state = {**student.state_dict(), **change}
    path = str(tmp_path / 'a.pth')
    torch.save({key: v for key, v in state.items() if v is not None}, path)
    with pytest.raises(CheckpointError, match=f'no ViT like BEiT.*{message}'):
        read_vit(path)


def test_backbones_are_published_without_their_prefix(student, pretrained, tmp_path):
    weights, out = read_weights(pretrained), str(tmp_path / 'a.pth')
    path, count = publish(weights, pretrained, out, backbone=True)
    assert count == len(student.state_dict())
    assert torch.load(path)['state_dict'].keys() == student.state_dict().keys()
    with pytest.raises(CheckpointError, match='no weights of a backbone'):
        publish(read_weights(path), path, out, backbone=True)
