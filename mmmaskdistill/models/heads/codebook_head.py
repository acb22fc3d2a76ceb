"""A head for discrete teachers."""

from mmmaskdistill.registry import MODELS

from .linear_head import LinearHead


@MODELS.register_module()
class CodebookHead(LinearHead):
    """The head H for a discrete teacher: one linear layer that scores its tokens.

    It maps the student's tokens [..., Ds] to scores [..., vocab_size].

    Args:
        in_channels (int): Width Ds of the student's tokens.
        vocab_size (int): Number of tokens in the teacher's codebook.
    """

    def __init__(self, in_channels: int, vocab_size: int):
        super().__init__(in_channels, vocab_size)
