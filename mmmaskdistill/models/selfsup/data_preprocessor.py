"""The data preprocessor of masked distillation."""

from mmpretrain.models.utils import TwoNormDataPreprocessor
from torch import Tensor

from mmmaskdistill.registry import MODELS


@MODELS.register_module()
class TwoViewDataPreprocessor(TwoNormDataPreprocessor):
    """Normalize each image once for the student and once for the teacher.

    This is mmpretrain's ``TwoNormDataPreprocessor`` for pipelines that pack
    either one or two pictures of each sample. If there is one picture, both
    views are made from it on the device; then the picture is interpolated,
    collated and transferred only once.

    Args:
        mean (Sequence[float]): Mean of the student's view for the channels R,
            G and B, in values of 0 to 255.
        std (Sequence[float]): Standard deviation of the student's view.
        second_mean (Sequence[float]): Mean of the teacher's view.
        second_std (Sequence[float]): Standard deviation of the teacher's view.
        to_rgb (bool): Whether to convert the images from BGR to RGB. Defaults
            to False.
        non_blocking (bool): Whether to go on without waiting for the transfer
            to the device. Defaults to False.
    """

    def forward(self, data: dict, training: bool = False) -> dict:
        """Normalize a batch.

        Args:
            data (dict): A batch of the data loader. Its ``inputs`` are either
                one batch of images [B, 3, H, W], or two, the student's and the
                teacher's.
            training (bool): Not used. Defaults to False.

        Returns:
            dict: ``inputs`` is a list of the student's view and the teacher's
            view, [B, 3, H, W] each; ``data_samples`` are those of the batch.
        """
        if isinstance(data['inputs'], Tensor):
            # The batch is moved to the device before it is put into the list
            # twice, because each entry of the list would be moved separately.
            data = dict(data, inputs=[self.cast_data(data['inputs'])] * 2)
        return super().forward(data, training)
