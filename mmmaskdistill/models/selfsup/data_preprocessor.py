from mmpretrain.models.utils import TwoNormDataPreprocessor
from torch import Tensor

from mmmaskdistill.registry import MODELS


@MODELS.register_module()
class TwoViewDataPreprocessor(TwoNormDataPreprocessor):
    """Each image under the student's mean and std and under the teacher's.

    mmpretrain's ``TwoNormDataPreprocessor``, for pipelines that pack one
    picture as well as for those that pack two: one picture serves both views,
    so that it is interpolated, collated and moved to the device once.

    Args:
        mean (Sequence[float]): The student's, in RGB, of values 0 to 255.
        std (Sequence[float]): The student's.
        second_mean (Sequence[float]): The teacher's.
        second_std (Sequence[float]): The teacher's.
        to_rgb (bool): Whether the images come as BGR. Defaults to False.
        non_blocking (bool): Do not wait for the transfer to the device.
            Defaults to False.
    """

    def forward(self, data: dict, training: bool = False) -> dict:
        """Normalize ``inputs``, [B, 3, H, W] or two such batches.

        Returns:
            dict: ``inputs`` is [student's view, teacher's view].
        """
        if isinstance(data['inputs'], Tensor):
            # Moved before it is doubled, so that it is moved once.
            data = dict(data, inputs=[self.cast_data(data['inputs'])] * 2)
        return super().forward(data, training)
