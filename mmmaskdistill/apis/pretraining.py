"""A pre-trained student and its teacher, looked at from a notebook."""
from typing import Sequence, Union

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate
from mmengine.registry import init_default_scope

import mmmaskdistill  # noqa: F401  registers what the config names
from mmmaskdistill.datasets.draws import seed_generators
from mmmaskdistill.engine.checkpoints import check_coverage
from mmmaskdistill.errors import ConfigError
from mmmaskdistill.models import MaskDistill
from mmmaskdistill.models.weights import read_state_dict
from mmmaskdistill.registry import MODELS
from mmmaskdistill.visualization import draw_pretraining
from .configs import load_config


def init_pretraining(config: Union[str, Config],
                     checkpoint: str,
                     device: str = 'cpu') -> MaskDistill:
    """Build a pre-training model with the weights of a checkpoint.

    Args:
        config (str | Config): A pre-training config.
        checkpoint (str): A checkpoint of that config.
        device (str): Where to put the model. Defaults to ``'cpu'``.

    Returns:
        MaskDistill: The model in eval mode; its ``cfg`` is the config.

    Raises:
        ConfigError: If the config is not one of pre-training.
        CheckpointError: If the checkpoint is not one of that config.
    """
    if not isinstance(config, Config):
        config = load_config(config)
    init_default_scope(config.get('default_scope', 'mmpretrain'))
    model = MODELS.build(config.model)
    if not isinstance(model, MaskDistill):
        raise ConfigError(
            f'the config\'s model is a {type(model).__name__}: expected the '
            'MaskDistill of a pre-training config')
    weights = read_state_dict(checkpoint)
    check_coverage(model, weights, checkpoint)
    model.load_state_dict(weights, strict=False)
    model.cfg = config
    return model.to(device).eval()


def show_pretraining(model: MaskDistill,
                     images: Sequence[str],
                     out: str,
                     seed: int = 0):
    """Draw images, masks, the teacher's and the student's features.

    Images go through the config's own training pipeline, so they are cropped
    and masked as in training.

    Args:
        model (MaskDistill): Of :func:`init_pretraining`.
        images (Sequence[str]): Image files.
        out (str): PNG to write.
        seed (int): Of the masks and crops. Defaults to 0.
    """
    seed_generators(seed)
    pipeline = Compose(model.cfg.train_dataloader.dataset.pipeline)
    batch = default_collate([pipeline(dict(img_path=path)) for path in images])
    pictures = batch['inputs']
    pictures = pictures[0] if isinstance(pictures, list) else pictures
    pictures = pictures.permute(0, 2, 3, 1).numpy()  # [B, H, W, 3]
    pictures = np.ascontiguousarray(pictures[..., ::-1])  # BGR to RGB

    data = model.data_preprocessor(batch)
    masks = torch.stack([sample.mask for sample in data['data_samples']]).bool()
    features = model.predict_features(data['inputs'], masks.flatten(1))
    student, teacher = (
        tokens.unflatten(1, masks.shape[1:]).cpu() for tokens in features)
    draw_pretraining(pictures, masks.cpu(), teacher, student, out)
