"""Find the config, the weights and the class names of what was trained."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope, Registry
from torch import Tensor

from mmmaskdistill.compat.named_types import check_scope, only_parts, refuse_files
from mmmaskdistill.errors import CheckpointError, ConfigError
from mmmaskdistill.models.checkpoints.files import find_file, read_weights

from ..configs import load_config
from ..pipelines import test_dataset
from .stored_config import read_config

CONFIG_ENDINGS = ('.py', '.json', '.yml', '.yaml')


class Trained(NamedTuple):
    """What was trained.

    Attributes:
        config (Config): The config that trained it.
        tensors (dict[str, Tensor]): Its weights.
        meta (dict): The data set's meta information, such as ``classes`` and
            ``palette``; empty if neither the checkpoint nor the config has any.
        checkpoint (str): The checkpoint's name, for messages.
        trusted (bool): Whether the config may name any Python object as a part.
    """

    config: Config
    tensors: dict[str, Tensor]
    meta: dict
    checkpoint: str
    trusted: bool

    @contextmanager
    def building(self, settings: Any = None) -> Iterator[None]:
        """Build parts of the config: names are looked up in the config's toolkit.

        Args:
            settings (Any): What is to be built. Defaults to None.

        Yields:
            None: Unless the config is trusted, only registered parts are built inside
            the ``with`` statement.

        Raises:
            CheckpointError: If the config names anything else.
        """
        scope = self.config.get('default_scope')
        if not self.trusted:
            check_scope(scope, repr(self.checkpoint))
            refuse_files(settings, repr(self.checkpoint))
        limit = nullcontext() if self.trusted else only_parts(repr(self.checkpoint))
        with limit, DefaultScope.overwrite_default_scope(scope):
            yield


def find_trained(
    model: Any, checkpoint: str | None = None, trust_checkpoint: bool = False
) -> Trained:
    """Read a checkpoint and its config.

    Args:
        model (str | Path | Config): A checkpoint, a folder with one, or a config.
        checkpoint (str | Path, optional): The checkpoint, if ``model`` is a config.
            Defaults to None.
        trust_checkpoint (bool): See :func:`.load_model`.

    Returns:
        Trained: What was found.

    Raises:
        ConfigError: If a config is given without a checkpoint, or two checkpoints.
        CheckpointError: If the checkpoint cannot be read, or is given without a config
            and carries none.
    """
    config = None
    if isinstance(model, Config):
        config = model
    elif os.fspath(model).endswith(CONFIG_ENDINGS):
        config = load_config(os.fspath(model))
    if config is None:
        if checkpoint is not None:
            raise ConfigError(
                f'load_model({os.fspath(model)!r}, {os.fspath(checkpoint)!r}): '
                'expected a checkpoint alone, or a config, which ends with .py, and '
                'its checkpoint'
            )
        checkpoint = model
    elif checkpoint is None:
        raise ConfigError(
            f'{getattr(config, "filename", None) or "Config"!r} is a config: give its '
            'checkpoint, too'
        )
    path = find_file(os.fspath(checkpoint))
    tensors, meta = read_weights(path, trust_checkpoint=trust_checkpoint)
    trusted = trust_checkpoint or config is not None
    if config is None:
        text = meta.get('cfg')
        if text is None:
            raise CheckpointError(
                f'checkpoint {path!r} holds weights without a config: give the config '
                'that trained it as well (load_model(CONFIG, CHECKPOINT), or --config '
                'CONFIG)'
            )
        config = read_config(text, repr(path), trust_checkpoint)
    trained = Trained(config, tensors, {}, path, trusted)
    return trained._replace(meta=_data_meta(meta, trained))


def find_class(registry: Registry, kind: str | type) -> type | None:
    """Return the class that a ``type`` stands for, in the scope that is set.

    Args:
        registry (Registry): The registry.
        kind (str | type): The ``type``.

    Returns:
        type | None: The class, or None if nothing is registered under the name.
    """
    if not isinstance(kind, str):
        return kind
    with registry.switch_scope_and_registry(None) as current:
        return current.get(kind)


def _data_meta(meta: dict, trained: Trained) -> dict:
    """Return the class names and colors: the checkpoint's, or else the config's."""
    found = meta.get('dataset_meta')
    if not (isinstance(found, dict) and found.get('classes')):
        found = dict(classes=meta.get('CLASSES'), palette=meta.get('PALETTE'))
    if found['classes']:
        return dict(found)
    dataset = test_dataset(trained.config) or {}
    kind = None
    # A data set of the user's own may not be there.
    with suppress(CheckpointError), trained.building():
        kind = find_class(DATASETS, dataset.get('type'))
    known = getattr(kind, 'METAINFO', None) or {}
    return {**known, **(dataset.get('metainfo') or {})}


def names_of(meta: dict) -> tuple[str, ...] | None:
    """Return the names of the classes.

    Args:
        meta (dict): A data set's meta information.

    Returns:
        tuple[str, ...] | None: The names, or None if there are none.
    """
    classes = meta.get('classes')
    if not isinstance(classes, Sequence) or isinstance(classes, str) or not classes:
        return None
    return tuple(str(name) for name in classes)
