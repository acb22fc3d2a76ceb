"""Several teachers that are distilled at once."""

from collections.abc import Sequence

import torch
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.registry import MODELS

from ..contracts import check_part
from ..normalizers import Normalizer
from .base import Teacher


@MODELS.register_module()
class TeacherList(Teacher):
    """Several teachers as one teacher T.

    The features of each teacher are normalized by a normalizer of its own and
    concatenated along the channels. The algorithm's normalizer N is therefore
    ``NoNormalizer``. ``HeadList`` and ``LossList`` have a head, a loss and a
    weight for each teacher.

    Args:
        teachers (list[dict]): Configs of the teachers. Their features must be
            continuous.
        normalizers (list[dict]): Config of the normalizer of each teacher.
        views (list[dict], optional): The ``mean`` and ``std`` of pixels, in
            values 0 to 255, that each teacher expects. Those of the first
            teacher must be the ones with which the data preprocessor
            normalizes the teacher's view. Defaults to None: all teachers see
            the same images.

    Attributes:
        name (str): Names of all teachers.
        splits (list[int]): Channels Dt of each teacher.
        channels (int): Sum of the channels of all teachers.
        img_size, grid, stride: Those of the first teacher.

    Raises:
        ConfigError: If the numbers of teachers, normalizers and views differ,
            or a teacher returns token ids or a class token, or follows the
            student.
    """

    def __init__(
        self,
        teachers: Sequence[dict],
        normalizers: Sequence[dict],
        views: Sequence[dict] | None = None,
    ):
        counts = [len(teachers), len(normalizers)]
        counts += [] if views is None else [len(views)]
        if len(set(counts)) > 1:
            raise ConfigError(
                f'TeacherList has {counts[0]} teachers, '
                f'{counts[1]} normalizers and '
                f'{counts[-1]} views: give the same number of each'
            )
        teachers = [check_part(MODELS.build(cfg), Teacher) for cfg in teachers]
        for teacher in teachers:
            if teacher.vocab_size or teacher.class_token or teacher.follows_student:
                raise ConfigError(
                    f'TeacherList cannot use {type(teacher).__name__} as it is '
                    'configured: use frozen teachers that return continuous '
                    'features of the patches alone'
                )
        splits = [teacher.channels for teacher in teachers]
        super().__init__(teachers[0].img_size, teachers[0].stride, sum(splits))
        self.splits = splits
        self.grid = teachers[0].grid
        self.in_channels = teachers[0].in_channels
        self.teachers = nn.ModuleList(teachers)
        self.normalizers = nn.ModuleList(
            check_part(MODELS.build(cfg), Normalizer) for cfg in normalizers
        )
        # As a buffer, they move to the device once and not in each step.
        views = [[view['mean'], view['std']] for view in views or []]
        self.register_buffer(
            'views',
            torch.tensor(views).view(-1, 2, 3, 1, 1) if views else None,
            persistent=False,
        )
        self.eval()

    @property
    def name(self) -> str:
        """Names of all teachers, for messages."""
        return ' + '.join(self.names)

    @property
    def names(self) -> list[str]:
        """Name of each teacher."""
        return [teacher.name for teacher in self.teachers]

    def match_grid(self, grid: tuple[int, int]) -> None:
        """Fit all teachers to the student's patch grid, or raise an error.

        Args:
            grid (tuple[int, int]): Patch grid (h, w) of the student.

        Raises:
            ConfigError: If a teacher cannot have this patch grid.
        """
        for teacher in self.teachers:
            teacher.match_grid(grid)
        self.grid = self.teachers[0].grid

    @torch.no_grad()
    def forward(
        self, images: Tensor, data_samples: list[DataSample] | None = None
    ) -> Tensor:
        """Compute the normalized features of all teachers.

        Args:
            images (Tensor): Images [B, 3, H, W], normalized as the first
                teacher expects them.
            data_samples (list[DataSample], optional): Data samples, passed on
                to each teacher.

        Returns:
            Tensor: Features [B, N, sum of Dt], in the order of the teachers.
        """
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
        """Normalize images as the k-th teacher expects them."""
        if self.views is None or k == 0:
            return images
        (mean, std), (own_mean, own_std) = self.views[0], self.views[k]
        return (images * std + mean - own_mean) / own_std
