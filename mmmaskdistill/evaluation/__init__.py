from .collectors import Collector
from .prediction_files import LabelMapFolder, PredictionFile
from .probes import (
    RidgeProbe,
    attention_distance,
    class_shares,
    confusion,
    mean_iou,
    nearest_neighbors,
)
from .reports import (
    ClassificationReport,
    SegmentationReport,
    classification_classes,
    segmentation_classes,
)

__all__ = [
    'ClassificationReport',
    'Collector',
    'LabelMapFolder',
    'PredictionFile',
    'RidgeProbe',
    'SegmentationReport',
    'attention_distance',
    'class_shares',
    'classification_classes',
    'confusion',
    'mean_iou',
    'nearest_neighbors',
    'segmentation_classes',
]
