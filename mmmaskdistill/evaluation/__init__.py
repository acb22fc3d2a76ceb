from .probes import (
    RidgeProbe,
    attention_distance,
    class_shares,
    confusion,
    mean_iou,
    nearest_neighbors,
)

__all__ = [
    'RidgeProbe',
    'attention_distance',
    'class_shares',
    'confusion',
    'mean_iou',
    'nearest_neighbors',
]
