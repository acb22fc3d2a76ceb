"""The base class of all teachers T, which says what a teacher owes."""

import torch
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmmaskdistill.errors import ConfigError

from ..layers import select


class Teacher(nn.Module):
    """A teacher T: it computes the features that the student predicts.

    A subclass implements :meth:`forward`. The attributes below have defaults that
    suit a frozen model which returns features of the patches; a teacher that
    offers more sets them, and implements the method that belongs to it.

    A teacher never trains: it stays in eval mode. A subclass with weights freezes
    them, ``self.requires_grad_(False).eval()``, and its ``forward`` runs under
    ``torch.no_grad()``.

    Args:
        img_size (int | tuple[int, int]): Height and width of the images, in
            pixels.
        stride (int): Distance between neighboring features, in pixels.
        channels (int): Channels Dt of the features, or the size of the
            vocabulary if the teacher returns token ids.

    Attributes:
        name (str): Name of the teacher in messages and pictures. Defaults to the
            name of the class.
        names (list[str]): Name of the teacher of each entry of ``splits``.
            Defaults to the teacher's own name.
        img_size (tuple[int, int]): Height and width of the images, in pixels.
        grid (tuple[int, int]): Patch grid (h, w) of the features, N = h*w.
        stride (int): Distance between neighboring features, in pixels.
        channels (int): Channels Dt of the features, or the size of the
            vocabulary.
        vocab_size (int | None): Size of the vocabulary of a discrete teacher,
            which returns token ids. Defaults to None: the features are
            continuous.
        class_token (bool): Whether the features of the class token come before
            those of the patches, [B, 1+N, Dt]. They always count in the loss.
            Defaults to False.
        in_channels (int | None): Number of channels that the images must have.
            Defaults to None: any number.
        splits (list[int] | None): Channels of each of several teachers whose
            normalized features are concatenated. Defaults to None: one teacher.
        can_skip (bool): Whether :meth:`at` computes less than :meth:`forward`.
            Defaults to False.
        returns_attention (bool): Whether :meth:`attend` can be used. Defaults to
            False.
        follows_student (bool): Whether the teacher learns from the student by
            :meth:`follow` and :meth:`update`. It then belongs to the model's
            checkpoints. Defaults to False: the teacher is frozen.
    """

    vocab_size: int | None = None
    in_channels: int | None = None
    class_token: bool = False
    splits: list[int] | None = None
    can_skip: bool = False
    returns_attention: bool = False
    follows_student: bool = False
    # What to do about another patch grid, besides feeding images of another size.
    _grid_advice = ''

    def __init__(self, img_size: int | tuple[int, int], stride: int, channels: int):
        super().__init__()
        if isinstance(img_size, int):
            img_size = (img_size, img_size)
        self.img_size = tuple(img_size)
        self.grid = tuple(side // stride for side in self.img_size)
        self.stride = stride
        self.channels = channels

    @property
    def name(self) -> str:
        """Name of the teacher in messages and pictures."""
        return type(self).__name__

    @property
    def names(self) -> list[str]:
        """Name of the teacher of each entry of ``splits``."""
        return [self.name]

    def forward(
        self, images: Tensor, data_samples: list[DataSample] | None = None
    ) -> Tensor:
        """Compute the features T(x) of images.

        Args:
            images (Tensor): Normalized images [B, C, H, W], where C is
                ``in_channels``, in most cases 3.
            data_samples (list[DataSample], optional): The data samples of the
                images. Defaults to None.

        Returns:
            Tensor: Features [B, N, Dt], or [B, 1+N, Dt] with ``class_token``, or
            token ids [B, N] int64 if there is a ``vocab_size``.
        """
        raise NotImplementedError(f'{type(self).__name__} must implement forward')

    @torch.no_grad()
    def at(self, images: Tensor, where: Tensor) -> Tensor:
        """Compute the features of some tokens only.

        By default all features are computed and some are selected. A teacher that
        can do with less overrides this and sets ``can_skip``.

        Args:
            images (Tensor): Normalized images [B, 3, H, W].
            where (Tensor): Tokens to return, [B, N] bool, or [B, 1+N] with
                ``class_token``; or their indices [B, M] int64.

        Returns:
            Tensor: Features [where.sum(), Dt], image by image.
        """
        return select(self(images), where)

    def attend(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the features and the class token's attention to each patch.

        Args:
            images (Tensor): Normalized images [B, 3, H, W].

        Returns:
            tuple[Tensor, Tensor]: The features as :meth:`forward` returns them,
            and the attention [B, N], averaged over the heads.

        Raises:
            ConfigError: If the teacher does not set ``returns_attention``.
        """
        raise ConfigError(f'the teacher {self.name} returns no attention')

    def follow(self, student: nn.Module) -> None:
        """Start as a copy of the student.

        It is called once, when the model is built. Afterwards all attributes of
        the teacher are known.

        Args:
            student (nn.Module): The student.

        Raises:
            ConfigError: If the teacher does not set ``follows_student``, or cannot
                follow this student.
        """
        raise ConfigError(f'the teacher {self.name} does not follow the student')

    def update(self, student: nn.Module, momentum: float | None = None) -> None:
        """Move one step towards the student, after a step of the optimizer.

        ``MomentumTeacherHook`` calls it. Tensors are changed in place.

        Args:
            student (nn.Module): The student that was given to :meth:`follow`.
            momentum (float, optional): Weight of the teacher's old weights; 0
                copies the student. Defaults to None, the teacher's own value.

        Raises:
            ConfigError: If the teacher does not set ``follows_student``.
        """
        raise ConfigError(f'the teacher {self.name} does not follow the student')

    def match_grid(self, grid: tuple[int, int]) -> None:
        """Fit the teacher to the student's patch grid, or raise an error.

        Args:
            grid (tuple[int, int]): Patch grid (h, w) of the student.

        Raises:
            ConfigError: If the teacher cannot have this patch grid.
        """
        if self.grid != tuple(grid):
            side = ' x '.join(str(patches * self.stride) for patches in grid)
            raise ConfigError(
                f'the teacher {self.name} has a grid of {self.grid[0]} x '
                f'{self.grid[1]} patches, the student has one of {grid[0]} x '
                f'{grid[1]}: feed the teacher {side} pixels (set its img_size '
                f'and its image size in the pipeline){self._grid_advice}'
            )

    def train(self, mode: bool = True) -> 'Teacher':
        """Stay in eval mode, whatever the mode of the model around it."""
        return super().train(False)
