import importlib
import pkgutil
import subprocess
import sys

import mmcv
import pytest
import torch
import torch.nn.functional as F
from mmengine.utils.dl_utils import mmcv_full_available

from mmmaskdistill.compat import compiled_ops

without_ops = pytest.mark.skipif(mmcv_full_available(), reason='mmcv is compiled here')


@without_ops
def test_unpatched_mmcv_cannot_import_its_ops():
    run = subprocess.run(
        [sys.executable, '-c', 'import mmcv.ops'], capture_output=True, text=True
    )
    assert run.returncode != 0
    assert "No module named 'mmcv._ext'" in run.stderr


def test_mmseg_and_mmpretrain_can_be_imported():
    importlib.import_module('mmseg.models')
    importlib.import_module('mmpretrain.models')


@without_ops
def test_placeholder_module_is_removed_after_the_import():
    assert 'mmcv._ext' not in sys.modules
    assert not mmcv_full_available()
    if hasattr(pkgutil, 'find_loader'):
        assert pkgutil.find_loader('mmcv._ext') is None


@without_ops
def test_calling_a_missing_op_names_it_and_the_package_with_it():
    from mmcv.ops import ModulatedDeformConv2dPack

    conv = ModulatedDeformConv2dPack(1, 1, 1)
    with pytest.raises(
        NotImplementedError, match="'modulated_deform_conv.*mmcv==2.1.0"
    ):
        conv(torch.zeros(1, 1, 2, 2))


def test_ops_written_in_plain_torch_work():
    from mmcv.ops import point_sample

    image = torch.rand(1, 2, 4, 5)
    points = torch.rand(1, 3, 2)
    expected = F.grid_sample(image, 2 * points[:, :, None] - 1, align_corners=False)[
        ..., 0
    ]
    torch.testing.assert_close(point_sample(image, points), expected)


def test_compiled_mmcv_is_not_patched(tmp_path, monkeypatch):
    (tmp_path / '_ext.py').write_text('nms = "compiled"')
    monkeypatch.setattr(mmcv, '__path__', [str(tmp_path), *mmcv.__path__])
    monkeypatch.delitem(sys.modules, 'mmcv.ops')
    compiled_ops.apply()
    assert 'mmcv.ops' not in sys.modules
    assert 'mmcv._ext' not in sys.modules
