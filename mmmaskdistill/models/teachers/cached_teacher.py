"""A teacher whose features are computed once and kept in memory."""

from pathlib import Path

import torch
from mmengine.dist import get_world_size
from mmengine.logging import print_log
from mmpretrain.structures import DataSample
from torch import Tensor

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import MODELS

from ..checkpoints import read_weights, write_weights
from ..contracts import check_part
from .base import Teacher


@MODELS.register_module()
class CachedTeacher(Teacher):
    """A teacher T that is run once per file, for pipelines without random crops.

    The features are computed in float32, also where the run uses mixed precision, and
    kept in CPU memory in half precision, under the ``sample_idx`` of each sample.
    Therefore a sample must look the same to the
    teacher in every epoch. This is checked once, on the first batch that
    contains samples which have been seen before.

    All attributes are those of the teacher that computes the features, with two
    exceptions: ``can_skip`` is False, because other patches are hidden in later
    epochs, and ``returns_attention`` is False, because attention is not kept.

    Args:
        teacher (dict): Config of the teacher that computes the features.
        file (str, optional): File that keeps the features for later runs with the
            same teacher and images. It is read if it exists. Otherwise a run of one
            process writes it as soon as it has seen a whole batch of images again;
            a run of several processes writes no file, because each of them sees
            other images. Defaults to None.

    Raises:
        ConfigError: If the teacher returns token ids or follows the student, or if
            the file holds something else than features of this teacher's width.
    """

    def __init__(self, teacher: dict, file: str | None = None):
        teacher = check_part(MODELS.build(teacher), Teacher)
        if teacher.follows_student:
            raise ConfigError(
                f'CachedTeacher cannot keep the features of {teacher.name}, which '
                'change while the student learns: use it without CachedTeacher'
            )
        if teacher.vocab_size is not None:
            raise ConfigError(
                'CachedTeacher keeps features in half precision, which cannot hold '
                f'the token ids of {teacher.name}: use it without CachedTeacher'
            )
        super().__init__(teacher.img_size, teacher.stride, teacher.channels)
        self.teacher = teacher
        self.grid = teacher.grid
        self.in_channels = teacher.in_channels
        self.class_token = teacher.class_token
        self.splits = teacher.splits
        self.file = file
        self._features = {}
        self._checked = False
        self._kept = file is None or get_world_size() > 1
        if file is not None and Path(file).is_file():
            self._features = self._read()
            self._kept = True
        self.eval()

    @property
    def name(self) -> str:
        """Name of the teacher that computes the features."""
        return self.teacher.name

    @property
    def names(self) -> list[str]:
        """Names of the teachers that compute the features."""
        return self.teacher.names

    def match_grid(self, grid: tuple[int, int]) -> None:
        """Fit the teacher to the student's patch grid, or raise an error.

        Args:
            grid (tuple[int, int]): Patch grid (h, w) of the student.

        Raises:
            ConfigError: If the teacher cannot have this patch grid.
        """
        self.teacher.match_grid(grid)
        self.grid = self.teacher.grid

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
            Tensor: Features [B, N, Dt] of the type of the images, or [B, 1+N, Dt] if
            the teacher returns its class token.

        Raises:
            ConfigError: If a data sample has no ``sample_idx``, or looks
                different to the teacher than it did before.
        """
        if data_samples is None:
            return self.teacher(images)
        with torch.autocast(images.device.type, enabled=False):
            return self._look_up(images, data_samples)

    def _look_up(self, images: Tensor, data_samples: list[DataSample]) -> Tensor:
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
        elif not self._kept:
            self._write()
        return torch.stack([self._features[key] for key in keys]).to(
            images.device, images.dtype, non_blocking=True
        )

    def _read(self) -> dict[int, Tensor]:
        """Read the features of an earlier run."""
        stored = read_weights(self.file).tensors
        keys, features = stored.get('keys'), stored.get('features')
        if (
            keys is None
            or features is None
            or features.shape[:1] != keys.shape
            or features.shape[2:] != (self.channels,)
        ):
            raise ConfigError(
                f'{self.file!r} does not hold features of {self.channels} channels, '
                f'as {self.name} computes them: remove it, or give file another value'
            )
        print_log(
            f'features of {len(keys)} images are read from {self.file!r}',
            logger='current',
        )
        return dict(zip(keys.tolist(), features))

    def _write(self):
        """Write the features for later runs."""
        keys = torch.tensor(list(self._features))
        features = torch.stack(list(self._features.values()))
        write_weights(dict(keys=keys, features=features), self.file)
        self._kept = True

    def _check(self, images: Tensor, keys: list[int]):
        """Compare the cached features of images with newly computed ones."""
        cached = torch.stack([self._features[key] for key in keys])
        cached = cached.to(images.device, images.dtype)
        errors = (self.teacher(images) - cached).abs().amax((1, 2))
        worst = errors.argmax()
        # Half precision has 11 significant bits, so rounding alone stays far
        # below this tolerance.
        advice = (
            f'. If {self.file!r} is of other images or another teacher, remove it'
            if self.file is not None
            else ''
        )
        if errors[worst] > 1e-2 * cached.abs().max():
            raise ConfigError(
                f'sample {keys[worst]} no longer has the features that were '
                f'cached for it (largest difference {errors[worst]:.3g}): take '
                'random crops, flips and color changes out of the pipeline, or '
                f'use the teacher without CachedTeacher{advice}'
            )
        self._checked = True
