import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def newer_transformers(tmp_path):
    """A folder with stand-ins for transformers 5 and for pycocotools."""
    for name, version in (('transformers', '5.0.0'), ('pycocotools', '2.0.8')):
        (tmp_path / name).mkdir()
        (tmp_path / name / '__init__.py').write_text('')
        info = tmp_path / f'{name}-{version}.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(
            f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n'
        )
    (tmp_path / 'transformers/modeling_utils.py').write_text(
        'class PreTrainedModel: pass'
    )
    return tmp_path


def run(folder, code):
    path = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'PYTHONPATH': path},
        capture_output=True,
        text=True,
    )


def test_unpatched_mmpretrain_fails_with_transformers_5(newer_transformers):
    unpatched = run(newer_transformers, 'import mmpretrain.models')
    assert unpatched.returncode != 0
    assert 'transformers' in unpatched.stderr


def test_patched_mmpretrain_imports_without_multimodal_models(newer_transformers):
    patched = run(
        newer_transformers,
        'import mmmaskdistill, mmpretrain.models\n'
        'from mmpretrain.registry import MODELS\n'
        'from mmpretrain.utils.dependency import satisfy_requirement\n'
        'assert satisfy_requirement("pycocotools")\n'
        'assert MODELS.get("ImageClassifier") is not None\n'
        'MODELS.build(dict(type="Flamingo"))',
    )
    assert 'requires extra multi-modal' in patched.stderr, patched.stderr
