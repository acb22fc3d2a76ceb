"""What a trained model says about an image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .inputs import as_picture
from .palettes import colors_of


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The class of each pixel of an image.

    Attributes:
        labels (ndarray): [H, W] at the image's own size, uint8, or uint16 for more than
            255 classes. Value i is ``classes[i]``.
        probabilities (ndarray | None): [C, H, W] float32, or None if they were not
            asked for.
        classes (tuple[str, ...] | None): Names of the C classes, if they are known.
        palette (list[list[int]]): RGB color of each class, 0 to 255.
        source (Any): The image that was given: its path, a PIL image or an array.
        reader (Callable): Makes a picture [H, W, 3] uint8 RGB of it.
    """

    labels: np.ndarray
    probabilities: np.ndarray | None
    classes: tuple[str, ...] | None
    palette: list[list[int]]
    source: Any = field(default=None, repr=False)
    reader: Callable[[Any], np.ndarray] = field(default=as_picture, repr=False)

    def colors(self) -> np.ndarray:
        """Color the labels.

        Returns:
            ndarray: [H, W, 3] uint8 RGB.
        """
        # One more color, black, for labels that are no class.
        table = np.zeros((2 ** (8 * self.labels.itemsize), 3), np.uint8)
        table[: len(self.palette)] = self.palette
        return table[self.labels]

    def overlay(self, opacity: float = 0.5) -> np.ndarray:
        """Blend the colors of the classes over the image.

        Args:
            opacity (float): 0 shows the image alone, 1 the colors alone. Defaults to
                0.5.

        Returns:
            ndarray: [H, W, 3] uint8 RGB. An image of a single channel is shown in gray,
            and of one with more than three channels the first three are shown. Values
            that are not 8 bit are stretched to the range of the image.

        Raises:
            ValueError: If the opacity is not between 0 and 1.
            UnreadableImage: If the image's file does not exist any more.
        """
        if not 0 <= opacity <= 1:
            raise ValueError(f'opacity={opacity}: expected 0 to 1')
        picture = self.reader(self.source)
        mixed = picture * np.float32(1 - opacity) + self.colors() * np.float32(opacity)
        return np.rint(mixed).astype(np.uint8)

    def shares(self) -> np.ndarray:
        """Measure the share of the pixels that each class has.

        Returns:
            ndarray: [C] float64, whose sum is 1.
        """
        counts = np.bincount(self.labels.ravel(), minlength=len(self.palette))
        return counts / self.labels.size


@dataclass(frozen=True, eq=False)
class Classification:
    """The classes of an image.

    Attributes:
        scores (ndarray): [C] float32, the probability of each class.
        classes (tuple[str, ...] | None): Names of the C classes, if they are known.
        source (Any): The image that was given: its path, a PIL image or an array.
    """

    scores: np.ndarray
    classes: tuple[str, ...] | None
    source: Any = field(default=None, repr=False)

    @property
    def label(self) -> int:
        """The number of the class with the highest score."""
        return int(self.scores.argmax())

    @property
    def name(self) -> str:
        """The name of this class, or its number if the names are not known."""
        return self.top(1)[0][0]

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """List the classes with the highest scores.

        Args:
            count (int): How many classes. Defaults to 5.

        Returns:
            list[tuple[str, float]]: Names, or numbers if the names are not known, and
            scores; the highest first. Fewer than ``count`` if there are fewer classes.
        """
        order = np.argsort(-self.scores, kind='stable')[:count]
        names = self.classes or [str(i) for i in range(len(self.scores))]
        return [(names[i], float(self.scores[i])) for i in order]


@dataclass(frozen=True, eq=False)
class Features:
    """What a pre-trained student computes from an image.

    Attributes:
        patches (ndarray): [h, w, D] float32, the last layer's features of the patches,
            after the final norm if there is one.
        cls (ndarray | None): [D] float32, the class token, or None if the student has
            none.
        source (Any): The image that was given: its path, a PIL image or an array.
    """

    patches: np.ndarray
    cls: np.ndarray | None
    source: Any = field(default=None, repr=False)

    @property
    def mean(self) -> np.ndarray:
        """The mean over the patches, [D] float32."""
        return self.patches.mean((0, 1))


Result = Segmentation | Classification | Features


def complete_palette(
    palette: Sequence[Sequence[int]] | None, number: int
) -> list[list[int]]:
    """Return one color for each class.

    Args:
        palette (Sequence[Sequence[int]], optional): Known colors, RGB. Those of a
            palette that is too short are completed.
        number (int): Number of classes.

    Returns:
        list[list[int]]: The colors.

    Raises:
        TypeError: If a color is not a sequence of numbers.
        ValueError: If a color does not have three numbers from 0 to 255.
    """
    known = [[int(part) for part in color] for color in palette or []]
    for color in known:
        if len(color) != 3 or not all(0 <= part <= 255 for part in color):
            raise ValueError(f'expected colors of three numbers, 0 to 255, not {color}')
    return (known + colors_of(number)[len(known) :])[:number]
