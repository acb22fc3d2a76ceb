from torch import nn

from mmmaskdistill.errors import ConfigError


class Teacher(nn.Module):
    """T on a fixed patch grid, which never trains.

    A subclass's ``forward(images, data_samples=None)`` maps normalized images
    [B, 3, H, W] to features [B, N, Dt], or to token ids [B, N] int64 if it has
    a ``vocab_size``.

    Args:
        img_size (int | tuple[int, int]): Height and width in pixels.
        stride (int): Pixels from one feature to the next.
        channels (int): Dt, or the size of a discrete teacher's vocabulary.

    Attributes:
        grid (tuple[int, int]): Patch grid (h, w) of the features.
        vocab_size (int | None): Tokens of a discrete teacher, None if it is
            not.
    """

    vocab_size = None

    def __init__(self, img_size, stride: int, channels: int):
        super().__init__()
        if isinstance(img_size, int):
            img_size = (img_size, img_size)
        self.grid = tuple(side // stride for side in img_size)
        self.stride = stride
        self.channels = channels

    @property
    def name(self) -> str:
        return type(self).__name__

    def match_grid(self, grid: tuple[int, int]):
        """Raise a ConfigError if the student's patch grid is another."""
        if self.grid != tuple(grid):
            side = ' x '.join(str(patches * self.stride) for patches in grid)
            raise ConfigError(
                f'the teacher {self.name} gives a grid of {self.grid[0]} x '
                f'{self.grid[1]}, the student one of {grid[0]} x {grid[1]}: '
                f'feed the teacher {side} pixels (its img_size, and its size '
                'in the pipeline)'
            )

    def train(self, mode: bool = True):
        """A teacher never trains: it stays in eval mode."""
        return super().train(False)
