"""Discrete teachers, which return the token id of each patch in a codebook."""

import logging

import torch
from mmengine.logging import print_log
from mmpretrain.models.selfsup import VQKD
from mmpretrain.models.selfsup.cae import DALLEEncoder
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmmaskdistill.errors import CheckpointError, ConfigError, first_few
from mmmaskdistill.registry import MODELS

from ..checkpoints import read_weights
from .base import Teacher

WEIGHTS = 'https://download.openmmlab.com/mmselfsup/1.x/target_generator_ckpt/'


class _Tokenizer(Teacher):
    """A frozen tokenizer of mmpretrain as teacher T.

    Args:
        img_size (int | tuple[int, int]): Height and width of the images, in
            pixels.
        stride (int): Side of the square that one token stands for, in pixels.
        vocab_size (int): Number of tokens in the codebook.
        tokenizer (nn.Module): The tokenizer.
        checkpoint (str): File or address of the tokenizer's weights.
        pretrained (bool | str): True loads ``checkpoint``, ``'random'`` makes
            an untrained teacher.

    Raises:
        CheckpointError: If the weights cannot be read or do not fit.
        ConfigError: If ``pretrained`` is neither True nor ``'random'``.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int],
        stride: int,
        vocab_size: int,
        tokenizer: nn.Module,
        checkpoint: str,
        pretrained: bool | str,
    ):
        super().__init__(img_size, stride, vocab_size)
        self.vocab_size, self.in_channels = vocab_size, 3
        self.tokenizer = tokenizer
        self.requires_grad_(False).eval()
        if pretrained == 'random':
            print_log(
                f"The teacher {self.name} has random weights (pretrained='random'): "
                'what the student learns from it is of no use.',
                logger='current',
                level=logging.WARNING,
            )
        elif pretrained is True:
            self._load(checkpoint)
        else:
            raise ConfigError(f"pretrained={pretrained!r}: expected True or 'random'")

    def _load(self, checkpoint: str):
        missing, unused = self.tokenizer.load_state_dict(
            read_weights(checkpoint).tensors, strict=False
        )
        missing = [k for k, _ in self.tokenizer.named_parameters() if k in missing]
        if missing:
            raise CheckpointError(
                f'{checkpoint} does not fit the teacher {self.name}: the file '
                f'is missing {len(missing)} tensors of the model '
                f'({first_few(missing)}) and has {len(unused)} that the model '
                f'does not have ({first_few(unused)})'
            )


@MODELS.register_module()
class VQKDTeacher(_Tokenizer):
    """BEiT v2's tokenizer as teacher T, distilled from CLIP (arXiv 2208.06366).

    Its patches have 16 x 16 pixels.

    Args:
        arch (str | dict): Architecture of mmpretrain's ``BEiTViT``. Defaults
            to ``'base'``.
        img_size (int): Height and width of the images, in pixels. Defaults to
            224.
        vocab_size (int): Number of tokens in the codebook. Defaults to 8192.
        embed_dims (int): Width of a token in the codebook. Defaults to 32.
        checkpoint (str): File or address of weights of mmpretrain's ``VQKD``.
            Defaults to those that mmpretrain publishes for ViT-B/16.
        pretrained (bool | str): True loads ``checkpoint``, ``'random'`` makes
            an untrained teacher. Defaults to True.

    Raises:
        CheckpointError: If the weights cannot be read or do not fit.
        ConfigError: If ``pretrained`` is neither True nor ``'random'``.
    """

    def __init__(
        self,
        arch: str | dict = 'base',
        img_size: int = 224,
        vocab_size: int = 8192,
        embed_dims: int = 32,
        checkpoint: str = WEIGHTS + 'vqkd_encoder.pth',
        pretrained: bool | str = True,
    ):
        tokenizer = VQKD(
            dict(
                arch=arch,
                img_size=img_size,
                out_type='featmap',
                use_abs_pos_emb=True,
                use_rel_pos_bias=False,
                use_shared_rel_pos_bias=False,
                layer_scale_init_value=0.0,
            ),
            num_embed=vocab_size,
            embed_dims=embed_dims,
            quantize_kmeans_init=False,
        )
        # It would ask on the device, in every step, whether k-means has to be run.
        tokenizer.quantize.embedding.init_embed_ = _nothing_to_initialize
        super().__init__(img_size, 16, vocab_size, tokenizer, checkpoint, pretrained)

    @torch.no_grad()
    def forward(
        self, images: Tensor, data_samples: list[DataSample] | None = None
    ) -> Tensor:
        """Find the token of each patch.

        Args:
            images (Tensor): Normalized images [B, 3, H, W].
            data_samples (list[DataSample], optional): Not used.

        Returns:
            Tensor: Token ids [B, N] int64.
        """
        return self.tokenizer(images)


@MODELS.register_module()
class DALLETeacher(_Tokenizer):
    """The encoder of DALL-E's discrete VAE as teacher T; it is BEiT's tokenizer.

    A token stands for 8 x 8 pixels. For a student with patches of 16 x 16
    pixels, the teacher's images therefore have half the height and width of the
    student's.

    Pixels must have values of 0.1 to 0.9 (arXiv 2102.12092, appendix A.3). The
    data preprocessor produces them with ``second_mean=[-31.875] * 3`` and
    ``second_std=[318.75] * 3``.

    Args:
        img_size (int | tuple[int, int]): Height and width of the images, in
            pixels. Defaults to 112.
        vocab_size (int): Number of tokens in the codebook. Defaults to 8192.
        width (int): Channels of the first layers. Defaults to 256.
        checkpoint (str): File or address of weights of mmpretrain's
            ``DALLEEncoder``. Defaults to those that mmpretrain publishes.
        pretrained (bool | str): True loads ``checkpoint``, ``'random'`` makes
            an untrained teacher. Defaults to True.

    Raises:
        CheckpointError: If the weights cannot be read or do not fit.
        ConfigError: If ``pretrained`` is neither True nor ``'random'``.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 112,
        vocab_size: int = 8192,
        width: int = 256,
        checkpoint: str = WEIGHTS + 'dalle_encoder.pth',
        pretrained: bool | str = True,
    ):
        tokenizer = DALLEEncoder(n_hid=width, vocab_size=vocab_size)
        super().__init__(img_size, 8, vocab_size, tokenizer, checkpoint, pretrained)

    @torch.no_grad()
    def forward(
        self, images: Tensor, data_samples: list[DataSample] | None = None
    ) -> Tensor:
        """Find the token of each patch.

        Args:
            images (Tensor): Images [B, 3, H, W] with values of 0.1 to 0.9.
            data_samples (list[DataSample], optional): Not used.

        Returns:
            Tensor: Token ids [B, N] int64.
        """
        return self.tokenizer(images).argmax(1).flatten(1)


def _nothing_to_initialize(data: Tensor) -> None:
    """Do nothing: the codebook comes from a checkpoint, or is random."""
