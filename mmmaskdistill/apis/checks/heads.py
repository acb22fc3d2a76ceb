"""The heads that a config declares: how many classes, and what they ignore."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mmengine.registry import MODELS
from mmpretrain.models.heads import ClsHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead

from .known import is_known

# Losses that stop at labels beyond the classes.
CROSS_ENTROPIES = ('CrossEntropyLoss', 'OhemCrossEntropy', 'FocalLoss')
# Heads of mmseg whose classes are not those of the data set: edges, depth.
OTHER_CLASSES = ('STDCHead', 'DepthHead', 'VPDDepthHead')


@dataclass
class Head:
    """A head of a segmentor or a classifier.

    Attributes:
        option (str): Where it is in the config, such as ``model.decode_head``.
        kind (type): Its class.
        cfg (dict): Its config.
        num_classes (int): Number of classes that it tells apart.
    """

    option: str
    kind: type
    cfg: dict
    num_classes: int

    @property
    def labels(self) -> int:
        """Number of its labels, of which a single channel tells two apart."""
        single = self.segments and self.cfg.get('out_channels', self.num_classes) == 1
        return max(self.num_classes, 2) if single else self.num_classes

    @property
    def segments(self) -> bool:
        """Whether it is a segmentation head whose loss is known here."""
        return (
            issubclass(self.kind, BaseDecodeHead)
            and is_known(self.kind)
            and self.kind.__name__ not in OTHER_CLASSES
        )

    @property
    def classifies(self) -> bool:
        """Whether it is a classification head."""
        return issubclass(self.kind, ClsHead) and is_known(self.kind)

    @property
    def losses(self) -> list[tuple[str, dict]]:
        """The configs of its losses, each with its place in the config."""
        name = 'loss_decode' if self.segments else 'loss'
        default = inspect.signature(self.kind).parameters.get(name)
        losses = self.cfg.get(name, getattr(default, 'default', None))
        if losses is None and self.segments:
            losses = dict(type='CrossEntropyLoss')
        if isinstance(losses, dict):
            return [(f'{self.option}.{name}', losses)]
        if not isinstance(losses, (list, tuple)):
            return []
        return [(f'{self.option}.{name}.{k}', loss) for k, loss in enumerate(losses)]

    @property
    def refuses_labels(self) -> bool:
        """Whether a label beyond the classes stops the training."""
        if self.classifies:
            return True
        return self.segments and any(
            name_of(loss.get('type')) in CROSS_ENTROPIES
            for _, loss in self.losses
            if isinstance(loss, dict)
        )

    @property
    def ignore_index(self) -> int:
        """Label that a segmentation head leaves out of its loss."""
        return self.cfg.get('ignore_index', 255)


def find_heads(cfg: dict) -> list[Head]:
    """Find the heads of a config's model that tell classes apart.

    Args:
        cfg (dict): The config. Its ``default_scope`` must be set.

    Returns:
        list[Head]: The heads with a ``num_classes``, without those of a teacher.
    """
    return list(_walk(cfg.get('model'), 'model', cfg.get('default_scope')))


def data_preprocessor(cfg: dict) -> tuple[str, dict]:
    """Return the data preprocessor of a config and where it is.

    Args:
        cfg (dict): The config.

    Returns:
        tuple[str, dict]: The option and the config of the data preprocessor, as
        mmengine's runner chooses it: the model's own one if it has one.
    """
    option, model = 'model', cfg.get('model') or {}
    for inner in ('module', 'segmentor', 'model'):
        if isinstance(model.get(inner), dict) and 'backbone' not in model:
            option, model = f'{option}.{inner}', model[inner]
    own = model.get('data_preprocessor')
    if isinstance(own, dict):
        return f'{option}.data_preprocessor', own
    return 'data_preprocessor', cfg.get('data_preprocessor') or {}


def name_of(kind: Any) -> str:
    """Return the name of a class without its scope."""
    return kind.rpartition('.')[2] if isinstance(kind, str) else kind.__name__


def model_class(kind: Any, scope: str | None) -> type:
    """Return the class that a ``type`` of a model names, or else ``object``.

    Args:
        kind (Any): The ``type``, a name or a class.
        scope (str, optional): The config's default scope.
    """
    if isinstance(kind, str):
        name = f'{scope}.{kind}' if scope and '.' not in kind else kind
        try:
            kind = MODELS.get(name)
        except Exception:  # a library that is not installed
            return object
    return kind if isinstance(kind, type) else object


def _walk(node: Any, option: str, scope: str | None) -> Iterator[Head]:
    if isinstance(node, (list, tuple)):
        for k, item in enumerate(node):
            yield from _walk(item, f'{option}.{k}', scope)
    if not isinstance(node, dict):
        return
    count = node.get('num_classes')
    inside = ('loss', 'data_preprocessor', 'backbone', 'neck', 'teacher', 'cfg')
    if isinstance(count, int) and node.get('type') and option != 'model':
        yield Head(option, model_class(node['type'], scope), node, count)
    for key, value in node.items():
        if not any(word in key for word in inside):
            yield from _walk(value, f'{option}.{key}', scope)
