"""The base class of all students S, which says what a student owes."""

from collections.abc import Iterable

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmmaskdistill.errors import ConfigError

from ..layers import PatchIndex


class Student(BaseModule):
    """A student S: it sees images without their hidden patches.

    The student is also the backbone of classifiers and segmentors afterwards, so
    one class does both: with a mask it returns tokens, without one a tuple of
    feature maps. A backbone of another library becomes a student by inheriting
    from this class as well, last: ``class MaskedSwin(SimMIMSwinTransformer, Student)``.

    A student with ``tokens = 'all'`` may have a further argument ``where`` of
    ``forward``: indices [B, M] int64 of the tokens to return, or None for all. It then
    returns only these, [B*M, Ds], and can leave out what nothing reads, see
    ``AllTokensViT``.

    For layer-wise learning-rate decay a student also has mmpretrain's
    ``get_layer_depth(param_name, prefix)``, which returns the depth of a parameter
    and the number of depths.

    Args:
        init_cfg (dict, optional): Initialization. Defaults to None.

    Attributes:
        tokens (str): Which tokens :meth:`forward` returns with a mask:

            - ``'hidden'``: those of the hidden patches, [mask.sum(), Ds],
              batch-major;
            - ``'all'``: those of all patches, [B, N, Ds], or [B, 1+N, Ds] with
              ``class_token``;
            - ``'visible'``: the class token and those of the V visible patches of
              each image, [B, 1+V, Ds].

            Defaults to ``'hidden'``.
        grid (tuple[int, int]): Patch grid (h, w) of images of the usual size,
            N = h*w. Each subclass sets it.
        stride (int): Side of a patch, in pixels. Each subclass sets it.
        width (int): Width Ds of the tokens. Each subclass sets it.
        class_token (bool): Whether the student predicts the teacher's class token,
            too. Its own class token then precedes the patches. Defaults to False.
        mask_token (nn.Parameter | None): What stands for a hidden patch. Each
            subclass sets it, to None if it has no such token. It is created
            without gradient, because no loss reaches it downstream, where
            DistributedDataParallel would refuse it; pre-training turns its
            gradient on.
        trains_all_layers (bool): Whether ``forward`` without a mask uses all layers.
            If it does not, because ``out_indices`` leaves out the last ones, a
            subclass freezes them for the same reason, and pre-training refuses it.
            Defaults to True.
    """

    tokens: str = 'hidden'
    class_token: bool = False
    trains_all_layers: bool = True
    grid: tuple[int, int]
    stride: int
    width: int
    mask_token: nn.Parameter | None

    def forward(
        self, x: Tensor, mask: Tensor | None = None, index: PatchIndex | None = None
    ) -> tuple[Tensor, ...] | Tensor:
        """Compute features as a backbone, or with a mask as the student.

        Args:
            x (Tensor): Images [B, C, H, W].
            mask (Tensor, optional): The mask m, [B, N] bool, True = hidden.
                Defaults to None: the model is a backbone.
            index (PatchIndex, optional): The mask as indices, if all images hide the
                same number of patches. A student that selects tokens by it does not
                make the host wait for the GPU. A student that selects none can do
                without this argument. Defaults to None.

        Returns:
            tuple[Tensor, ...] | Tensor: Without a mask, a tuple of feature maps
            [B, D, h, w], as backbones of mmpretrain and mmseg return them. With a
            mask, the tokens that ``tokens`` describes, or a tuple of several such
            outputs; the head then predicts from each of them, and the losses are
            added.
        """
        raise NotImplementedError(f'{type(self).__name__} must implement forward')

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Return a parameter's depth for layer-wise learning-rate decay.

        This is the method of mmpretrain's backbones. A student that is to be
        fine-tuned with layer decay implements it.

        Args:
            param_name (str): Name of a parameter of the whole model.
            prefix (str): Prefix of the student's parameters in the whole model.
                Defaults to ``''``.

        Returns:
            tuple[int, int]: The parameter's depth and the number of depths. The
            lowest depth is 0; parameters outside the student have the last one.

        Raises:
            ConfigError: If the student does not implement this method.
        """
        name = type(self).__name__
        raise ConfigError(
            f'layer decay asks the student {name} for the depth of {param_name}, '
            f'but {name} does not say it: implement get_layer_depth, or use '
            'another constructor of the optimizer'
        )

    def freeze_unused(self, parts: Iterable[nn.Module | nn.Parameter | None]) -> None:
        """Freeze what no output depends on.

        DistributedDataParallel refuses a parameter that requires a gradient but gets
        none. Checkpoints keep the parameters.

        Args:
            parts (Iterable[nn.Module | nn.Parameter | None]): Modules and parameters
                that ``forward`` without a mask does not use.
        """
        for part in parts:
            if part is not None:
                part.requires_grad_(False)
                self.trains_all_layers = False
