"""Let mmpretrain's test-time augmentation predict the class of the averaged scores.

mmpretrain's (1.2.0) ``AverageClsScoreTTA`` averages the scores of all views of an image
but keeps the predicted label of the first view, which files and pictures of the
predictions then show. Its metrics use the scores. Here the label follows from the
averaged scores, where each view predicts exactly one class.
"""

from collections.abc import Callable

from mmengine.model import BaseTTAModel
from mmengine.structures import BaseDataElement

from .wrapping import wrap


def apply() -> None:
    """Set the predicted label of the averaged scores."""
    # Importing the models needs the remedies for other packages.
    from mmpretrain.models import AverageClsScoreTTA

    @wrap(AverageClsScoreTTA, '_merge_single_sample')
    def merge(
        original: Callable, self: BaseTTAModel, data_samples: list[BaseDataElement]
    ):
        merged = original(self, data_samples)
        if 'pred_label' in merged and merged.pred_label.numel() == 1:
            merged.set_pred_label(merged.pred_score.argmax(dim=0, keepdim=True))
        return merged
