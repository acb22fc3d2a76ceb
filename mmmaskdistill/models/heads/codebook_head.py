from mmmaskdistill.registry import MODELS

from .linear_head import LinearHead


@MODELS.register_module()
class CodebookHead(LinearHead):
    """H: scores of a discrete teacher's tokens, one linear layer.

    Args:
        in_channels (int): Width Ds of the student.
        vocab_size (int): Tokens of the teacher's codebook.
    """

    def __init__(self, in_channels: int, vocab_size: int):
        super().__init__(in_channels, vocab_size)
