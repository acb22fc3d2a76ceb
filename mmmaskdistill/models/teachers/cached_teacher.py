from typing import List, Optional

import torch
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmmaskdistill.registry import MODELS


@MODELS.register_module()
class CachedTeacher(nn.Module):
    """T computed once for each file, for pipelines without random crops.

    The features are kept in memory in half precision. They are those of a
    sample's index, so each sample must look the same to the teacher in every
    epoch: when the first batch comes for the second time, this is checked.

    Args:
        teacher (dict): The teacher to ask.

    Raises:
        ValueError: If the samples have no ``sample_idx``, or a sample looks
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

    def match_grid(self, grid):
        self.teacher.match_grid(grid)

    def train(self, mode: bool = True):
        """A teacher never trains: it stays in eval mode."""
        return super().train(False)

    def forward(self,
                images: Tensor,
                data_samples: Optional[List[DataSample]] = None) -> Tensor:
        """Features [B, N, Dt] of normalized images [B, 3, H, W]."""
        if data_samples is None:
            return self.teacher(images)
        keys = [sample.get('sample_idx') for sample in data_samples]
        if None in keys:
            raise ValueError("CachedTeacher needs each data sample's "
                             "sample_idx: have PackInputs keep it in meta_keys")
        new = [i for i, key in enumerate(keys) if key not in self._features]
        if new:
            for i, features in zip(new, self.teacher(images[new])):
                self._features[keys[i]] = features.to('cpu', torch.half)
        elif not self._checked:
            self._check(images[:1], keys[0])
        return torch.stack([self._features[key] for key in keys]).to(
            images.device, images.dtype, non_blocking=True)

    def _check(self, image: Tensor, key: int):
        """Compare a cached sample with what the teacher says of it now."""
        cached = self._features[key].to(image.device, image.dtype)
        error = (self.teacher(image)[0] - cached).abs().max()
        # Half precision keeps 11 bits.
        if error > 1e-2 * cached.abs().max():
            raise ValueError(
                f'sample {key} no longer has the features that were cached '
                f'(largest difference {error:.3g}): take random crops, flips '
                'and colours out of the pipeline, or do without CachedTeacher')
        self._checked = True
