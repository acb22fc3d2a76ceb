"""Build a trained model from its config and its weights alone."""

from copy import deepcopy
from typing import Any

from mmengine.config import ConfigDict
from mmengine.logging import print_log
from mmengine.model import BaseDataPreprocessor, BaseModel, revert_sync_batchnorm
from torch import Tensor, nn

from mmmaskdistill.errors import CheckpointError, ConfigError, first_few, first_line
from mmmaskdistill.models import MaskDistill, Student
from mmmaskdistill.models.checkpoints import check_model, describe, fit
from mmmaskdistill.registry import MODELS

from .sources import Trained, find_class

# Settings that name files of weights from which the training started.
START_WEIGHTS = ('init_cfg', 'pretrained', 'checkpoint_path')


class StudentModel(BaseModel):
    """The student of a pre-training model with its normalization of images.

    Args:
        backbone (Student): The student.
        data_preprocessor (BaseDataPreprocessor): Normalizes the images of the student.
    """

    def __init__(self, backbone: Student, data_preprocessor: BaseDataPreprocessor):
        super().__init__(data_preprocessor)
        self.backbone = backbone

    def forward(
        self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor'
    ) -> tuple[Tensor, ...]:
        """Compute the student's feature maps, see its ``forward`` without a mask."""
        return self.backbone(inputs)


def build(trained: Trained) -> tuple[nn.Module, str]:
    """Build a model and load its weights. Nothing else is read.

    Of a pre-training model, only the student is built, and no teacher.

    Args:
        trained (Trained): The config and the weights.

    Returns:
        tuple[nn.Module, str]: The model on the CPU, in eval mode, and its task:
        ``'segmentation'``, ``'classification'`` or ``'pretraining'``.

    Raises:
        ConfigError: If the config has no model, or one of another task.
        CheckpointError: If the weights do not fit the model.
    """
    config = trained.config
    if not (isinstance(config.get('model'), dict) and config.model):
        raise ConfigError(
            f'the config of {trained.checkpoint!r} has no model: expected a config '
            'that trains one'
        )
    settings = without_start_weights(config.model)
    if config.get('data_preprocessor') is not None:
        settings.setdefault('data_preprocessor', deepcopy(config.data_preprocessor))
    tensors = trained.tensors
    with trained.building():
        pretraining = _is_pretraining(settings)
    if pretraining:
        # Nothing else of it is built, and its teacher may name files and addresses.
        parts = ('backbone', 'data_preprocessor')
        settings = {key: settings[key] for key in parts if key in settings}
    with trained.building(settings):
        try:
            model = (_student_model if pretraining else MODELS.build)(settings)
        except CheckpointError:
            raise
        except Exception as error:
            raise ConfigError(
                f'the model in the config of {trained.checkpoint!r} cannot be built: '
                f'{type(error).__name__}: {first_line(error)}'
            ) from error
    task = 'pretraining' if pretraining else _task_of(model)
    if pretraining:
        own = {k: v for k, v in tensors.items() if k.startswith('backbone.')}
        tensors = own or {f'backbone.{k}': v for k, v in tensors.items()}
    model = revert_sync_batchnorm(model)
    _check_complete(model, trained.checkpoint)
    fitted, report = fit(model, tensors)
    check_model(report, trained.checkpoint)
    model.load_state_dict(fitted, strict=False)
    if report.notes:
        lines = describe(report, f'model from {trained.checkpoint}')
        print_log('\n  '.join(lines), logger='current')
    return model.eval().requires_grad_(False), task


def without_start_weights(node: Any) -> Any:
    """Copy the config of a model without the files that only its training needs.

    These are the weights from which it started, and files of the losses' class weights.

    Args:
        node (Any): The config, or a part of it.

    Returns:
        Any: The copy.
    """
    if isinstance(node, dict):
        return ConfigDict(
            {
                key: without_start_weights(value)
                for key, value in node.items()
                if 'type' not in node
                or not (
                    key in START_WEIGHTS
                    or (key == 'class_weight' and isinstance(value, str))
                )
            }
        )
    if isinstance(node, (list, tuple)):
        return type(node)(without_start_weights(item) for item in node)
    return deepcopy(node)


def _check_complete(model: nn.Module, checkpoint: str):
    """Refuse a model that does not save all of its weights."""
    saved = model.state_dict()
    left_out = [name for name, _ in model.named_parameters() if name not in saved]
    if left_out:
        raise CheckpointError(
            f'checkpoint {checkpoint!r} cannot be complete: a model of this kind saves '
            f'no {first_few(left_out)}'
        )


def _is_pretraining(settings: dict) -> bool:
    kind = find_class(MODELS, settings.get('type'))
    return isinstance(kind, type) and issubclass(kind, MaskDistill)


def _student_model(settings: dict) -> StudentModel:
    """Build the student and what normalizes its images."""
    given = settings.get('data_preprocessor') or {}
    preprocessor = MODELS.build(
        dict(
            type='mmpretrain.ClsDataPreprocessor',
            mean=given.get('mean'),
            std=given.get('std'),
            to_rgb=given.get('to_rgb', False),
        )
    )
    return StudentModel(MODELS.build(settings['backbone']), preprocessor)


def _task_of(model: nn.Module) -> str:
    from mmpretrain.models import BaseClassifier
    from mmseg.models import BaseSegmentor, DepthEstimator

    if isinstance(model, BaseSegmentor) and not isinstance(model, DepthEstimator):
        return 'segmentation'
    if isinstance(model, BaseClassifier):
        return 'classification'
    raise ConfigError(
        f"the config's model is a {type(model).__name__}: expected one that segments "
        '(mmseg), classifies (mmpretrain) or is pre-trained (MaskDistill)'
    )
