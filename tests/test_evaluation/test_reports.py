"""Counts of classes and the worst images, against mmseg's metrics and by hand."""

import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.evaluation import (
    ClassificationReport,
    SegmentationReport,
    classification_classes,
    collectors,
    segmentation_classes,
)

CLASSES = ['a', 'b', 'c', 'd']


def segmented(truth, prediction, name='x.jpg'):
    """A sample as an evaluator hands it to its metrics."""
    truth, prediction = torch.as_tensor(truth), torch.as_tensor(prediction)
    return dict(
        img_path=name,
        gt_sem_seg=dict(data=truth[None]),
        pred_sem_seg=dict(data=prediction[None]),
    )


def classified(truth, scores, name='x.jpg'):
    scores = torch.tensor(scores)
    return dict(
        img_path=name,
        gt_label=torch.tensor([truth]),
        pred_score=scores,
        pred_label=scores.argmax(0, keepdim=True),
    )


def finished(report, samples, classes=CLASSES):
    report.dataset_meta = dict(classes=classes)
    report.process(None, samples)
    assert report.evaluate(len(samples)) == {}
    return report


@pytest.mark.parametrize('ignore_index', [255, 1])
def test_metrics_of_classes_are_those_of_mmseg(ignore_index):
    rng = np.random.default_rng(0)
    samples = []
    for shape in ((20, 30), (7, 1), (1, 9)):
        truth = rng.choice([0, 1, 3, 255, 9], shape)
        samples.append(segmented(truth, rng.integers(0, 4, shape)))
    report = SegmentationReport(len(samples), ignore_index=ignore_index)
    classes = segmentation_classes(finished(report, samples).matrix, CLASSES)

    areas = [
        sum(parts)
        for parts in zip(
            *(
                IoUMetric.intersect_and_union(
                    sample['pred_sem_seg']['data'][0],
                    sample['gt_sem_seg']['data'][0],
                    4,
                    ignore_index,
                )
                for sample in samples
            )
        )
    ]
    expected = IoUMetric.total_area_to_metrics(*areas, ['mIoU', 'mDice', 'mFscore'])
    for name in ('IoU', 'Acc', 'Dice', 'Precision'):
        ours = np.array([np.nan if c[name] is None else c[name] for c in classes])
        np.testing.assert_allclose(ours, 100 * expected[name], atol=0.0051)
    assert [c['name'] for c in classes] == CLASSES
    assert [c['correct'] for c in classes] == areas[0].tolist()
    assert [c['predicted'] for c in classes] == areas[2].tolist()
    assert [c['labeled'] for c in classes] == areas[3].tolist()
    assert classes[2]['Acc'] is None and classes[2]['labeled'] == 0


def test_labels_that_are_no_class_are_counted_apart():
    truth = [[0, 9, 255, -1]]
    report = finished(SegmentationReport(1), [segmented(truth, [[0, 1, 1, 3]])])
    expected = torch.zeros(5, 5, dtype=torch.int64)
    expected[0, 0] = expected[4, 1] = expected[4, 3] = 1
    assert torch.equal(report.matrix, expected)


def test_score_of_an_image_is_the_mean_over_the_classes_of_its_label():
    truth = [[0, 0, 0, 1, 255, 9]]
    # Class a: 2 of 3 pixels, none too many. Class b: 1 pixel, and one too many. Class c
    # is predicted but not in the label.
    prediction = [[0, 0, 1, 1, 2, 2]]
    report = finished(SegmentationReport(1, worst=3), [segmented(truth, prediction)])
    (image,) = report.worst
    assert image.score == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
    assert image.accuracy == pytest.approx(100 * 3 / 4)
    assert image.truth.tolist() == [[0, 0, 0, 1, -1, -1]]
    assert image.prediction.tolist() == prediction
    assert image.summary(CLASSES) == dict(image='x.jpg', mIoU=58.33, aAcc=75.0)


def test_worst_images_come_first_and_images_without_labels_do_not_come():
    wrong_pixels = [3, 8, 0, 8, 5, 10]
    samples = [segmented([[255] * 10], [[1] * 10], 'void.jpg')]
    samples += [
        segmented([[0] * 10], [[1] * wrong + [0] * (10 - wrong)], f'{k}.jpg')
        for k, wrong in enumerate(wrong_pixels)
    ]
    samples.append(segmented([[9] * 10], [[1] * 10], 'other.jpg'))
    report = finished(SegmentationReport(len(samples), worst=4), samples)
    assert [image.path for image in report.worst] == [
        '5.jpg',
        '1.jpg',
        '3.jpg',
        '4.jpg',
    ]
    assert [image.score for image in report.worst] == pytest.approx([0, 20, 20, 50])
    assert [image.position for image in report.worst] == [6, 2, 4, 5]
    assert len(report._heap) == 4


def test_kept_label_maps_are_small():
    truth = np.zeros((1400, 90), int)
    truth[3::3] = 1
    report = finished(SegmentationReport(1, worst=1), [segmented(truth, truth)])
    (image,) = report.worst
    assert image.truth.shape == (467, 30) == image.prediction.shape
    assert image.truth[1:].all() and not image.truth[0].any()


def test_processes_count_each_image_once(monkeypatch):
    """Of five images, the sampler gives the first one to both of two processes."""
    rng = np.random.default_rng(0)
    samples = [
        segmented(*rng.integers(0, 4, (2, 6, 7)), name=f'{k}.jpg') for k in range(5)
    ]
    whole = finished(SegmentationReport(5, worst=2), samples)

    reports = []
    monkeypatch.setattr(collectors, 'get_world_size', lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(collectors, 'get_rank', lambda rank=rank: rank)
        report = SegmentationReport(5, worst=2)
        report.dataset_meta = dict(classes=CLASSES)
        own = [*samples, samples[0]][rank::2]
        report.process(None, own[:2])
        report.process(None, own[2:])
        reports.append(report)
    states = [report.state() for report in reports]
    reports[0].finish(states)
    assert torch.equal(reports[0].matrix, whole.matrix)
    assert [i.path for i in reports[0].worst] == [i.path for i in whole.worst]
    assert [i.position for i in reports[0].worst] == [i.position for i in whole.worst]


def test_a_label_of_another_size_is_named():
    sample = segmented(np.zeros((4, 6), int), np.zeros((8, 12), int), 'a/b.jpg')
    with pytest.raises(ConfigError) as error:
        finished(SegmentationReport(1), [sample])
    assert str(error.value) == (
        "the prediction of 'a/b.jpg' has 8 x 12 pixels, but its label has 4 x 6: in "
        'the test pipeline, load the label after the image has been resized, so that '
        'it keeps the size of the file'
    )


def test_classification_counts_pairs_and_keeps_confident_mistakes():
    samples = [
        classified(0, [0.9, 0.1, 0.0], '0.jpg'),
        classified(0, [0.3, 0.5, 0.2], '1.jpg'),
        classified(2, [0.05, 0.9, 0.05], '2.jpg'),
        classified(2, [0.8, 0.1, 0.1], '3.jpg'),
        classified(2, [0.0, 0.0, 1.0], '4.jpg'),
    ]
    # The label of a sample may be out of date; its scores are not.
    samples[0]['pred_label'] = torch.tensor([1])
    report = finished(ClassificationReport(5, worst=2), samples, ['a', 'b', 'c'])
    assert report.matrix.tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 1]]
    assert [image.summary(['a', 'b', 'c']) for image in report.worst] == [
        dict(image='2.jpg', label='c', prediction='b', score=90.0),
        dict(image='3.jpg', label='c', prediction='a', score=80.0),
    ]
    classes = classification_classes(report.matrix, ['a', 'b', 'c'])
    assert classes[0] == {
        'name': 'a',
        'accuracy': 50.0,
        'precision': 50.0,
        'f1-score': 50.0,
        'labeled': 2,
        'predicted': 2,
        'correct': 1,
    }
    assert classes[1]['accuracy'] is None and classes[1]['precision'] == 0.0
    assert classes[2]['accuracy'] == 33.33 and classes[2]['precision'] == 100.0


@pytest.mark.parametrize('first', [1, 2])
def test_images_of_several_classes_are_not_counted(first):
    samples = [classified(0, [0.9, 0.1]), classified(0, [0.9, 0.1])]
    samples[first - 1]['gt_label'] = torch.tensor([0, 1])
    report = finished(ClassificationReport(2, worst=1), samples, ['a', 'b'])
    assert report.matrix is None and report.worst == []
    message = "the image 'x.jpg' has 2 classes: --confusion and --worst need images of"
    with pytest.raises(ConfigError, match=message):
        finished(ClassificationReport(2, required=True), samples, ['a', 'b'])


@pytest.mark.parametrize('kind', [SegmentationReport, ClassificationReport])
def test_images_without_labels_are_not_counted(kind):
    sample = dict(
        img_path='x.jpg',
        pred_sem_seg=dict(data=torch.zeros(1, 2, 2)),
        pred_score=torch.ones(4),
    )
    assert finished(kind(1, worst=1), [sample]).matrix is None
    with pytest.raises(ConfigError, match="the image 'x.jpg' has no label to compare"):
        finished(kind(1, required=True), [sample])
