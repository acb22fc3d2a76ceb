"""The base class of teachers that have a fixed patch grid."""

from torch import nn

from mmmaskdistill.errors import ConfigError


class Teacher(nn.Module):
    """A teacher T with a fixed patch grid. It never trains.

    A subclass implements ``forward(images, data_samples=None)``, which maps
    normalized images [B, 3, H, W] to features [B, N, Dt] or, if the teacher has
    a ``vocab_size``, to token ids [B, N] int64.

    Args:
        img_size (int | tuple[int, int]): Height and width of the images, in
            pixels.
        stride (int): Distance between neighboring features, in pixels.
        channels (int): Channels Dt of the features, or the size of the
            vocabulary if the teacher returns token ids.

    Attributes:
        grid (tuple[int, int]): Patch grid (h, w) of the features, N = h*w.
        vocab_size (int | None): Size of the vocabulary of a discrete teacher,
            which returns token ids. None if the features are continuous.
    """

    vocab_size: int | None = None

    def __init__(self, img_size: int | tuple[int, int], stride: int, channels: int):
        super().__init__()
        if isinstance(img_size, int):
            img_size = (img_size, img_size)
        self.grid = tuple(side // stride for side in img_size)
        self.stride = stride
        self.channels = channels

    @property
    def name(self) -> str:
        """Name of the teacher in messages."""
        return type(self).__name__

    def match_grid(self, grid: tuple[int, int]) -> None:
        """Check that the teacher has the student's patch grid.

        Args:
            grid (tuple[int, int]): Patch grid (h, w) of the student.

        Raises:
            ConfigError: If the teacher's patch grid differs.
        """
        if self.grid != tuple(grid):
            side = ' x '.join(str(patches * self.stride) for patches in grid)
            raise ConfigError(
                f'the teacher {self.name} has a grid of {self.grid[0]} x '
                f'{self.grid[1]} patches, the student has one of {grid[0]} x '
                f'{grid[1]}: feed the teacher {side} pixels (set its img_size '
                'and its image size in the pipeline)'
            )

    def train(self, mode: bool = True) -> 'Teacher':
        """Stay in eval mode, whatever the mode of the model around it."""
        return super().train(False)
