"""A teacher whose features are computed once and kept in memory."""

import torch
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import MODELS


@MODELS.register_module()
class CachedTeacher(nn.Module):
    """A teacher T that is run once per file, for pipelines without random crops.

    The features are kept in CPU memory in half precision, under the
    ``sample_idx`` of each sample. Therefore a sample must look the same to the
    teacher in every epoch. This is checked once, on the first batch that
    contains samples which have been seen before.

    Args:
        teacher (dict): Config of the teacher that computes the features.

    Attributes:
        name (str): Name of the teacher in messages.
        grid (tuple[int, int]): Patch grid (h, w) of the features, N = h*w.
        channels (int): Channels Dt of the features.
        class_token (bool): Whether the features contain the class token.
    """

    def __init__(self, teacher: dict):
        super().__init__()
        self.teacher = MODELS.build(teacher)
        self._features = {}
        self._checked = False
        self.eval()

    name = property(lambda self: self.teacher.name)
    grid = property(lambda self: self.teacher.grid)
    channels = property(lambda self: self.teacher.channels)
    class_token = property(lambda self: getattr(self.teacher, 'class_token', False))

    def match_grid(self, grid: tuple[int, int]) -> None:
        """Fit the teacher to the student's patch grid, or raise an error.

        Args:
            grid (tuple[int, int]): Patch grid (h, w) of the student.

        Raises:
            ConfigError: If the teacher cannot have this patch grid.
        """
        self.teacher.match_grid(grid)

    def train(self, mode: bool = True) -> 'CachedTeacher':
        """Stay in eval mode, whatever the mode of the model around it."""
        return super().train(False)

    def forward(
        self, images: Tensor, data_samples: list[DataSample] | None = None
    ) -> Tensor:
        """Look up the features of a batch, and compute those that are missing.

        Args:
            images (Tensor): Normalized images [B, 3, H, W].
            data_samples (list[DataSample], optional): Data samples with a
                ``sample_idx``. Defaults to None, which computes all features
                and leaves the cache alone.

        Returns:
            Tensor: Features [B, N, Dt], or [B, 1+N, Dt] if the teacher returns
            its class token.

        Raises:
            ConfigError: If a data sample has no ``sample_idx``, or looks
                different to the teacher than it did before.
        """
        if data_samples is None:
            return self.teacher(images)
        keys = [sample.get('sample_idx') for sample in data_samples]
        if None in keys:
            raise ConfigError(
                'CachedTeacher needs the sample_idx of each data sample: add '
                'sample_idx to the meta_keys of PackInputs'
            )
        known = [i for i, key in enumerate(keys) if key in self._features]
        if known and not self._checked:
            self._check(images[known], [keys[i] for i in known])
        new = [i for i in range(len(keys)) if i not in known]
        if new:
            for i, features in zip(new, self.teacher(images[new])):
                self._features[keys[i]] = features.to('cpu', torch.half)
        return torch.stack([self._features[key] for key in keys]).to(
            images.device, images.dtype, non_blocking=True
        )

    def _check(self, images: Tensor, keys: list[int]):
        """Compare the cached features of images with newly computed ones."""
        cached = torch.stack([self._features[key] for key in keys])
        cached = cached.to(images.device, images.dtype)
        errors = (self.teacher(images) - cached).abs().amax((1, 2))
        worst = errors.argmax()
        # Half precision has 11 significant bits, so rounding alone stays far
        # below this tolerance.
        if errors[worst] > 1e-2 * cached.abs().max():
            raise ConfigError(
                f'sample {keys[worst]} no longer has the features that were '
                f'cached for it (largest difference {errors[worst]:.3g}): take '
                'random crops, flips and color changes out of the pipeline, or '
                'use the teacher without CachedTeacher'
            )
        self._checked = True
