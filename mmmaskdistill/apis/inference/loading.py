"""Load what was trained."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device

from mmmaskdistill.errors import ConfigError, first_line

from .adapters import merge_adapters
from .building import build
from .loaded_model import LoadedModel
from .sources import find_trained


def load_model(
    model: str | Path | Config,
    checkpoint: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    trust_checkpoint: bool = False,
) -> LoadedModel:
    """Load a trained model: a segmentor, a classifier, or a pre-trained student.

    A checkpoint is enough, since it carries the config that trained it and the names
    and colors of the classes. Nothing is downloaded, and no other file is read, except
    for adapters of LoRA: their checkpoints lack the weights that they adapt.

    Args:
        model (str | Path | Config): A checkpoint of a run or of
            ``tools/model_converters/publish_model.py`` (``.pth`` or ``.safetensors``),
            a folder in the layout of Hugging Face, or the work dir of a run. Or else a
            config, followed by its checkpoint.
        checkpoint (str | Path, optional): The checkpoint, if ``model`` is a config.
            Defaults to None.
        device (str | torch.device, optional): Device of the model. Defaults to None,
            the GPU if there is one.
        trust_checkpoint (bool): Whether the checkpoint may run any code: its config is
            then run as a program and not only read, and it may hold more than tensors.
            Defaults to False.

    Returns:
        LoadedModel: The model, in eval mode.

    Raises:
        ConfigError: If there is no model for images in the config, or the device does
            not exist.
        CheckpointError: If the checkpoint cannot be read, does not fit the config, is
            given without a config and carries none, or carries one that is more than
            plain data.

    Examples:
        >>> model = load_model('work_dirs/segment/iter_160000.pth')
        >>> result = model.predict('street.jpg')
        >>> result.labels.shape, result.classes[result.labels[0, 0]]
        ((480, 640), 'sky')
    """
    device = usable_device(device)
    trained = merge_adapters(find_trained(model, checkpoint, trust_checkpoint))
    network, task = build(trained)
    return LoadedModel(network, task, trained, device)


def usable_device(device: str | torch.device | None) -> torch.device:
    """Return a device after a check that it is there.

    Args:
        device (str | torch.device, optional): The device. None is the GPU if there is
            one.

    Raises:
        ConfigError: If there is no such device.
    """
    device = get_device() if device is None else device
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f'device={str(device)!r} cannot be used: {first_line(error)}'
        ) from error
    return device
