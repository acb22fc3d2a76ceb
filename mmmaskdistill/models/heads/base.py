"""The base class of all heads H, which says what a head owes."""

from torch import Tensor, nn


class Head(nn.Module):
    """A head H: it maps the student's tokens to predictions of the targets.

    A subclass implements :meth:`forward` and sets the two widths. A layer of
    another library becomes a head by inheriting from this class as well, last:
    ``class LinearHead(nn.Linear, Head)``.

    Attributes:
        in_features (int): Width Ds of the student's tokens. Each subclass sets it.
        out_features (int): Channels Dt of the predictions, or the number of scores
            if the teacher returns token ids. Each subclass sets it.
        decodes_visible (bool): Whether the head is a decoder, which takes the
            tokens of a student that sees visible patches only, and the mask.
            Defaults to False.
        grid (tuple[int, int] | None): Patch grid (h, w) that the head is made for.
            Defaults to None: any.
        class_token (bool): Whether a decoder predicts the teacher's class token,
            too. Defaults to False.
        splits (list[int] | None): Channels of the predictions for each of several
            teachers. Defaults to None: one teacher.
    """

    in_features: int
    out_features: int
    decodes_visible: bool = False
    grid: tuple[int, int] | None = None
    class_token: bool = False
    splits: list[int] | None = None

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Predict the targets.

        Args:
            tokens (Tensor): The student's tokens [..., Ds]. For a decoder
                [B, 1+V, Ds], the class token and the V visible patches of each
                image.
            mask (Tensor, optional): The mask m, [B, N] bool, True = hidden. Only
                decoders are given it.

        Returns:
            Tensor: Predictions [..., Dt]. From a decoder, those of all patches,
            [B, N, Dt], or [B, 1+N, Dt] with ``class_token``.
        """
        raise NotImplementedError(f'{type(self).__name__} must implement forward')

    def init_weights(self) -> None:
        """Draw the initial weights. By default they stay as torch draws them."""
