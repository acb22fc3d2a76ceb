from .probes import (
    RidgeProbe,
    class_shares,
    confusion,
    mean_iou,
    nearest_neighbors,
)

__all__ = [
    'RidgeProbe',
    'class_shares',
    'confusion',
    'mean_iou',
    'nearest_neighbors',
]
