import torch
from mmpretrain.models.tta import AverageClsScoreTTA
from mmpretrain.structures import DataSample


def merged(*views):
    # The method does not use the model.
    samples = [
        DataSample().set_pred_score(torch.tensor(s)).set_pred_label(label)
        for s, label in views
    ]
    return AverageClsScoreTTA._merge_single_sample(None, samples)


def test_label_follows_from_the_averaged_scores():
    sample = merged(([0.6, 0.4, 0.0], [0]), ([0.1, 0.8, 0.1], [1]))
    torch.testing.assert_close(sample.pred_score, torch.tensor([0.35, 0.6, 0.05]))
    assert sample.pred_label.tolist() == [1]


def test_several_labels_stay_as_they_are():
    sample = merged(([0.6, 0.6, 0.0], [0, 1]), ([0.1, 0.8, 0.1], [1]))
    assert sample.pred_label.tolist() == [0, 1]
