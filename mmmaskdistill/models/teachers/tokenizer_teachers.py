"""Discrete teachers: T gives the id of each patch's token in a codebook."""

import logging

import torch
from mmengine.logging import print_log
from mmpretrain.models.selfsup import VQKD
from mmpretrain.models.selfsup.cae import DALLEEncoder
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmmaskdistill.errors import CheckpointError, ConfigError
from mmmaskdistill.registry import MODELS

from ..weights import first_few, read_state_dict
from .base import Teacher

WEIGHTS = 'https://download.openmmlab.com/mmselfsup/1.x/target_generator_ckpt/'


class _Tokenizer(Teacher):
    """A tokenizer of mmpretrain, frozen."""

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
        self.vocab_size = vocab_size
        self.tokenizer = tokenizer
        self.requires_grad_(False).eval()
        if pretrained == 'random':
            print_log(
                f'The teacher {self.name} has random weights, as asked: what '
                'the student learns from it is of no use.',
                logger='current',
                level=logging.WARNING,
            )
        elif pretrained is True:
            self._load(checkpoint)
        else:
            raise ConfigError(f"pretrained={pretrained!r}: expected True or 'random'")

    def _load(self, checkpoint: str):
        missing, unused = self.tokenizer.load_state_dict(
            read_state_dict(checkpoint), strict=False
        )
        missing = [k for k, _ in self.tokenizer.named_parameters() if k in missing]
        if missing:
            raise CheckpointError(
                f'{checkpoint} does not fit the teacher {self.name}: '
                f'{len(missing)} tensors missing ({first_few(missing)}), '
                f'{len(unused)} not known ({first_few(unused)})'
            )


@MODELS.register_module()
class VQKDTeacher(_Tokenizer):
    """T: BEiT v2's tokenizer, distilled from CLIP (arXiv 2208.06366).

    Args:
        arch (str | dict): Architecture of mmpretrain's ``BEiTViT``. Defaults
            to ``'base'``.
        img_size (int): Side of the image, in pixels. Defaults to 224.
        vocab_size (int): Tokens of the codebook. Defaults to 8192.
        embed_dims (int): Width of the codebook. Defaults to 32.
        checkpoint (str): Weights of mmpretrain's ``VQKD``. Defaults to
            mmpretrain's own of ViT-B/16.
        pretrained (bool | str): ``'random'`` asks for an untrained teacher.
            Defaults to True.

    Raises:
        CheckpointError: If the weights cannot be read or do not fit.
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
        super().__init__(img_size, 16, vocab_size, tokenizer, checkpoint, pretrained)

    @torch.no_grad()
    def forward(
        self, images: Tensor, data_samples: list[DataSample] | None = None
    ) -> Tensor:
        """Token ids [B, N] of normalized images [B, 3, H, W]."""
        return self.tokenizer(images)


@MODELS.register_module()
class DALLETeacher(_Tokenizer):
    """T: the encoder of DALL-E's discrete VAE, BEiT's tokenizer.

    One token for 8 x 8 pixels, so that it sees half the student's size; the
    pixels are to be in 0.1 to 0.9 (arXiv 2102.12092, appendix A.3), as after
    ``second_mean=[-31.875] * 3, second_std=[318.75] * 3``.

    Args:
        img_size (int | tuple[int, int]): Height and width in pixels. Defaults
            to 112.
        vocab_size (int): Tokens of the codebook. Defaults to 8192.
        width (int): Channels of the first layers. Defaults to 256.
        checkpoint (str): Weights of mmpretrain's ``DALLEEncoder``. Defaults to
            mmpretrain's own.
        pretrained (bool | str): ``'random'`` asks for an untrained teacher.
            Defaults to True.

    Raises:
        CheckpointError: If the weights cannot be read or do not fit.
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
        """Token ids [B, N] of images [B, 3, H, W]."""
        return self.tokenizer(images).argmax(1).flatten(1)
