import torch
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import MODELS


@MODELS.register_module()
class CachedTeacher(nn.Module):
    """T computed once for each file, for pipelines without random crops.

    The features are kept in memory in half precision. They are those of a
    sample's index, so each sample must look the same to the teacher in every
    epoch: this is checked once, on the first batch that has samples which came
    before.

    Args:
        teacher (dict): The teacher to ask.

    Raises:
        ConfigError: If the samples have no ``sample_idx``, or a sample looks
            different to the teacher when it comes again.
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

    def match_grid(self, grid):
        self.teacher.match_grid(grid)

    def train(self, mode: bool = True):
        """A teacher never trains: it stays in eval mode."""
        return super().train(False)

    def forward(
        self, images: Tensor, data_samples: list[DataSample] | None = None
    ) -> Tensor:
        """Features [B, N, Dt] of normalized images [B, 3, H, W]."""
        if data_samples is None:
            return self.teacher(images)
        keys = [sample.get('sample_idx') for sample in data_samples]
        if None in keys:
            raise ConfigError(
                "CachedTeacher needs each data sample's sample_idx: have "
                'PackInputs keep it in meta_keys'
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
        """Compare cached samples with what the teacher says of them now."""
        cached = torch.stack([self._features[key] for key in keys])
        cached = cached.to(images.device, images.dtype)
        errors = (self.teacher(images) - cached).abs().amax((1, 2))
        worst = errors.argmax()
        # Half precision keeps 11 bits.
        if errors[worst] > 1e-2 * cached.abs().max():
            raise ConfigError(
                f'sample {keys[worst]} no longer has the features that were '
                f'cached (largest difference {errors[worst]:.3g}): take '
                'random crops, flips and colours out of the pipeline, or do '
                'without CachedTeacher'
            )
        self._checked = True
