from collections.abc import Sequence

import torch
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import MODELS


@MODELS.register_module()
class TeacherList(nn.Module):
    """T of several teachers: their features side by side, each normalized.

    Goes with ``HeadList`` and ``LossList``, which have a head, a loss and a
    weight for each; N is ``NoNormalizer``.

    Args:
        teachers (list[dict]): Teachers of continuous features.
        normalizers (list[dict]): N of each.
        views (list[dict], optional): ``mean`` and ``std``, of values 0 to 255,
            that each wants, the first of them what the data preprocessor
            gives. Defaults to None, all see the same.

    Raises:
        ConfigError: If there are not as many of each, or a teacher is
            discrete, learns, or gives a class token.
    """

    def __init__(
        self,
        teachers: Sequence[dict],
        normalizers: Sequence[dict],
        views: Sequence[dict] | None = None,
    ):
        super().__init__()
        counts = [len(teachers), len(normalizers)]
        counts += [] if views is None else [len(views)]
        if len(set(counts)) > 1:
            raise ConfigError(
                f'TeacherList has {counts[0]} teachers, '
                f'{counts[1]} normalizers and '
                f'{counts[-1]} views: give as many of each'
            )
        self.teachers = nn.ModuleList(MODELS.build(cfg) for cfg in teachers)
        self.normalizers = nn.ModuleList(MODELS.build(cfg) for cfg in normalizers)
        for teacher in self.teachers:
            if (
                getattr(teacher, 'vocab_size', None)
                or getattr(teacher, 'class_token', False)
                or hasattr(teacher, 'follow')
            ):
                raise ConfigError(
                    f'TeacherList has {type(teacher).__name__}: take frozen '
                    'teachers of continuous features, of patches alone'
                )
        self.views = [
            tuple(torch.tensor(view[key]).view(3, 1, 1) for key in ('mean', 'std'))
            for view in views or []
        ]
        self.name = ' + '.join(teacher.name for teacher in self.teachers)
        self.splits = [teacher.channels for teacher in self.teachers]
        self.channels = sum(self.splits)
        self.eval()

    @property
    def grid(self) -> tuple[int, int]:
        return self.teachers[0].grid

    def match_grid(self, grid: tuple[int, int]):
        """Raise a ConfigError if a teacher cannot have the student's grid."""
        for teacher in self.teachers:
            teacher.match_grid(grid)

    def train(self, mode: bool = True):
        """A teacher never trains: it stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(
        self, images: Tensor, data_samples: list[DataSample] | None = None
    ) -> Tensor:
        """Normalized features [B, N, sum of Dt] of images [B, 3, H, W]."""
        return torch.cat(
            [
                normalizer(teacher(self._view(images, k), data_samples))
                for k, (teacher, normalizer) in enumerate(
                    zip(self.teachers, self.normalizers)
                )
            ],
            -1,
        )

    def _view(self, images: Tensor, k: int) -> Tensor:
        """The images under the k-th teacher's mean and std."""
        if not self.views or k == 0:
            return images
        (mean, std), (own_mean, own_std) = (
            [value.to(images) for value in self.views[i]] for i in (0, k)
        )
        return (images * std + mean - own_mean) / own_std
