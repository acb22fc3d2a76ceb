"""Load a pre-training model and draw what its student and its teacher compute."""

import inspect
from collections.abc import Sequence

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate
from mmengine.registry import init_default_scope

import mmmaskdistill  # noqa: F401  registers the classes that the config names
from mmmaskdistill.datasets.draws import seed_generators
from mmmaskdistill.errors import ConfigError
from mmmaskdistill.models import MaskDistill, Teacher
from mmmaskdistill.models.checkpoints import load_model
from mmmaskdistill.registry import MODELS

from .configs import load_config
from .pipelines import training_pipeline


def build_pretraining(config: Config) -> MaskDistill:
    """Build the model of a pre-training config in the same way as a runner.

    Args:
        config (Config): A pre-training config.

    Returns:
        MaskDistill: The model, with the config's ``data_preprocessor``.

    Raises:
        ConfigError: If the config is not a pre-training config.
    """
    model = dict(config.model)
    if config.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', config.data_preprocessor)
    model = MODELS.build(model)
    if not isinstance(model, MaskDistill):
        raise ConfigError(
            f"the config's model is a {type(model).__name__}: expected a "
            'pre-training config, whose model is a MaskDistill'
        )
    return model


def make_teachers_random(cfg: dict | list | None) -> None:
    """Change a teacher's config so that the teacher is built with random weights.

    Building it then reads no checkpoint and needs no network. Teachers inside of
    other teachers, such as those of a ``TeacherList``, are changed too.

    Args:
        cfg (dict | list | None): Config of a teacher, or a part of it, changed in
            place. Every teacher whose class has an argument ``pretrained`` gets the
            value ``'random'`` for it.
    """
    if isinstance(cfg, (list, tuple)):
        for part in cfg:
            make_teachers_random(part)
    elif isinstance(cfg, dict):
        if _reads_weights(cfg.get('type')):
            cfg['pretrained'] = 'random'
            cfg.pop('checkpoint', None)  # It would be read in spite of 'random'.
        for part in cfg.values():
            make_teachers_random(part)


def _reads_weights(kind: str | type | None) -> bool:
    """Tell whether the ``type`` of a config is a teacher with ``pretrained``."""
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    return (
        isinstance(kind, type)
        and issubclass(kind, Teacher)
        and 'pretrained' in inspect.signature(kind).parameters
    )


def init_pretraining(
    config: str | Config, checkpoint: str | None = None, device: str = 'cpu'
) -> MaskDistill:
    """Build a pre-training model and load the weights of a checkpoint.

    Args:
        config (str | Config): A pre-training config, or the path of its file.
        checkpoint (str, optional): A checkpoint that this config trained.
            Defaults to None, which leaves the student untrained.
        device (str): Device of the model. Defaults to ``'cpu'``.

    Returns:
        MaskDistill: The model in eval mode. Its attribute ``cfg`` is the config,
        and its attribute ``trained`` tells whether a checkpoint was given.

    Raises:
        ConfigError: If the config is not a pre-training config.
        CheckpointError: If the checkpoint cannot be read, or does not contain
            every tensor of the model.
    """
    if not isinstance(config, Config):
        config = load_config(config)
    init_default_scope(config.get('default_scope', 'mmpretrain'))
    model = build_pretraining(config)
    model.trained = checkpoint is not None
    if checkpoint is None:
        model.init_weights()
    else:
        load_model(model, checkpoint)
    model.cfg = config
    return model.to(device).eval()


def show_pretraining(
    model: MaskDistill, images: Sequence[str], out: str, seed: int = 0
) -> None:
    """Draw images, masks, the teacher's and the student's features, and errors.

    The images pass through the config's training pipeline, so they are cropped
    and masked in the same way as in training.

    Args:
        model (MaskDistill): A model from :func:`init_pretraining`.
        images (Sequence[str]): Paths of the image files.
        out (str): Path of the PNG file to write.
        seed (int): Seed of the crops and masks. Defaults to 0.

    Raises:
        ConfigError: If the config has no training pipeline.
    """
    # matplotlib is slow to import, and the tools that train draw nothing.
    from mmmaskdistill.visualization import draw_pretraining

    seed_generators(seed)
    pipeline = Compose(training_pipeline(model.cfg))
    batch = default_collate([pipeline(dict(img_path=path)) for path in images])
    pictures = batch['inputs']
    pictures = pictures[0] if isinstance(pictures, list) else pictures
    pictures = pictures.permute(0, 2, 3, 1).numpy()  # [B, H, W, 3]
    pictures = np.ascontiguousarray(pictures[..., ::-1])  # BGR to RGB

    data = model.data_preprocessor(batch)
    sides = model.compare(**data)
    grid = model.backbone.grid
    mask, target, prediction, error = (
        tokens.unflatten(1, grid).cpu()
        for tokens in (sides.mask, sides.target, sides.prediction, sides.error)
    )
    teacher = model.teacher
    if teacher.vocab_size is not None:
        prediction = prediction.argmax(-1).where(~error.isnan(), -1)
    pairs = {teacher.name: (target, prediction)}
    if teacher.splits is not None:
        pairs = dict(
            zip(
                _distinct(teacher.names),
                zip(
                    target.split(teacher.splits, -1),
                    prediction.split(teacher.splits, -1),
                ),
            )
        )
    draw_pretraining(
        pictures,
        mask,
        pairs,
        error,
        out,
        student='student' if model.trained else 'student, untrained',
        distance=type(model.distance).__name__,
        patch_size=model.backbone.stride,
    )


def _distinct(names: Sequence[str]) -> list:
    """Number the names if two of them are the same."""
    if len(set(names)) == len(names):
        return list(names)
    return [f'{i}: {name}' for i, name in enumerate(names, 1)]
