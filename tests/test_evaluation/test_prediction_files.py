"""Files of predictions, which are written while a test runs."""

import gc
import os
import weakref

import numpy as np
import pytest
import torch
from mmengine import load
from mmengine.evaluator import Evaluator
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric
from mmseg.structures import SegDataSample
from PIL import Image

from mmmaskdistill.evaluation import LabelMapFolder, PredictionFile, prediction_files
from mmmaskdistill.evaluation.prediction_files import file_names

CLASSES = ['a', 'b', 'c']


def predicted(number=3, highest=2, shape=(6, 8)):
    """Data samples as a segmentor returns them."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for k in range(number):
        sample = SegDataSample(metainfo=dict(img_path=f'{k}.jpg', ori_shape=shape))
        labels = torch.randint(0, highest + 1, (2, 1, *shape), generator=generator)
        labels[1, 0, 0] = 255
        sample.set_data(
            dict(
                seg_logits=PixelData(data=torch.randn(150, *shape)),
                pred_sem_seg=PixelData(data=labels[0]),
                gt_sem_seg=PixelData(data=labels[1]),
            )
        )
        samples.append(sample)
    return samples


def write(path, samples):
    evaluator = Evaluator([PredictionFile(str(path), len(samples))])
    evaluator.dataset_meta = dict(classes=CLASSES)
    for sample in samples:
        evaluator.process([sample])
    assert evaluator.evaluate(len(samples)) == {}
    return load(path)


def test_file_has_label_maps_and_no_logits(tmp_path):
    samples = predicted()
    items = write(tmp_path / 'new' / 'a.pkl', samples)
    assert os.listdir(tmp_path / 'new') == ['a.pkl']
    assert type(items) is list and [i['img_path'] for i in items] == [
        '0.jpg',
        '1.jpg',
        '2.jpg',
    ]
    for item, sample in zip(items, samples):
        assert set(item) == {'img_path', 'ori_shape', 'pred_sem_seg', 'gt_sem_seg'}
        for key in ('pred_sem_seg', 'gt_sem_seg'):
            assert item[key]['data'].dtype == torch.uint8
            assert torch.equal(item[key]['data'].long(), sample.get(key).data)


def test_file_can_be_evaluated_offline(tmp_path):
    samples = predicted()
    items = write(tmp_path / 'a.pkl', samples)

    def metrics(samples):
        evaluator = Evaluator(IoUMetric())
        evaluator.dataset_meta = dict(classes=CLASSES)
        return evaluator.offline_evaluate(samples)

    assert metrics(items) == metrics([sample.to_dict() for sample in samples])


def test_labels_above_255_keep_their_value(tmp_path):
    samples = predicted(1, highest=400)
    (item,) = write(tmp_path / 'a.pkl', samples)
    assert item['pred_sem_seg']['data'].dtype == torch.int32
    assert item['gt_sem_seg']['data'].dtype == torch.int32
    assert torch.equal(item['pred_sem_seg']['data'], samples[0].pred_sem_seg.data)


def test_rows_of_a_batch_are_stored_without_the_batch(tmp_path):
    scores = torch.rand(64, 500)
    writer = PredictionFile(str(tmp_path / 'a.pkl'), 64)
    writer.process(None, [dict(pred_score=row) for row in scores])
    writer.evaluate(64)
    assert torch.equal(
        torch.stack([i['pred_score'] for i in load(tmp_path / 'a.pkl')]), scores
    )
    assert os.path.getsize(tmp_path / 'a.pkl') < 2 * scores.numel() * 4


def test_predictions_are_put_together_one_by_one(tmp_path, monkeypatch):
    """No prediction stays in memory, and the file grows with each of them."""
    size, number, sizes, alive = 1 << 20, 8, [], []
    writer = PredictionFile(str(tmp_path / 'a.pkl'), number)
    read = writer._predictions

    def watched():
        references = []
        for item in read():
            references.append(weakref.ref(item['data']))
            sizes.append(os.path.getsize(tmp_path / 'a.pkl.tmp'))
            gc.collect()
            alive.append(sum(reference() is not None for reference in references))
            yield item
            del item

    monkeypatch.setattr(writer, '_predictions', watched)
    writer.process(
        None, [dict(data=torch.zeros(size, dtype=torch.uint8)) for _ in range(number)]
    )
    writer.evaluate(number)
    assert sizes[-1] > (number - 2) * size
    assert max(alive) <= 2


def test_processes_write_each_image_once_and_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_files, 'get_world_size', lambda: 2)
    monkeypatch.setattr('mmmaskdistill.evaluation.collectors.get_world_size', lambda: 2)
    path = str(tmp_path / 'a.pkl')
    writers = []
    for rank in (1, 0):
        for module in ('collectors', 'prediction_files'):
            monkeypatch.setattr(
                f'mmmaskdistill.evaluation.{module}.get_rank', lambda rank=rank: rank
            )
        writers.append(PredictionFile(path, 5))
        # Of six, the last one is the first one again.
        writers[-1].process(None, [dict(k=k) for k in (0, 1, 2, 3, 4, 0)[rank::2]])
        writers[-1]._file.flush()
    writers[-1].evaluate(5)
    assert [item['k'] for item in load(path)] == [0, 1, 2, 3, 4]


def label_maps(folder, records, labels, classes=CLASSES):
    writer = LabelMapFolder(str(folder), records)
    writer.dataset_meta = dict(classes=classes)
    for record, values in zip(records, labels):
        # Test-time augmentation returns [H, W] without further information.
        data = torch.as_tensor(values)
        writer.process(
            None, [dict(img_path=record['img_path'], pred_sem_seg=dict(data=data))]
        )
    writer.evaluate(len(records))
    return {
        str(path.relative_to(folder)): np.asarray(Image.open(path))
        for path in sorted(folder.rglob('*.png'))
    }


def test_label_maps_keep_subfolders(tmp_path):
    records = [dict(img_path=f'/data/{name}') for name in ('a/0.jpg', 'b/0.jpg')]
    maps = label_maps(tmp_path / 'out', records, [[[0, 1]], [[2, 2]]])
    assert {name: values.tolist() for name, values in maps.items()} == {
        'a/0.png': [[0, 1]],
        'b/0.png': [[2, 2]],
    }
    assert maps['a/0.png'].dtype == np.uint8


def test_label_maps_count_from_1_where_0_is_ignored(tmp_path):
    records = [
        dict(img_path='/a/0.jpg', reduce_zero_label=True),
        dict(img_path='/a/1.jpg', reduce_zero_label=False),
    ]
    maps = label_maps(tmp_path / 'out', records, [[[0, 2]], [[0, 2]]])
    assert maps['0.png'].tolist() == [[1, 3]] and maps['1.png'].tolist() == [[0, 2]]


@pytest.mark.parametrize(
    'number, reduced, dtype',
    [
        (256, False, np.uint8),
        (257, False, np.uint16),
        (255, True, np.uint8),
        (256, True, np.uint16),
    ],
)
def test_label_maps_have_16_bits_if_values_need_them(tmp_path, number, reduced, dtype):
    records = [dict(img_path='/a/0.jpg', reduce_zero_label=reduced)]
    classes = [str(k) for k in range(number)]
    maps = label_maps(tmp_path / 'out', records, [[[0, number - 1]]], classes)
    assert maps['0.png'].tolist() == [[reduced, number - 1 + reduced]]
    assert maps['0.png'].dtype == dtype


@pytest.mark.parametrize(
    'paths, names',
    [
        (['/d/a.jpg', '/d/b.v2.tif'], ['a.png', 'b.v2.png']),
        (['/d/x/a.jpg', '/d/x/a.jpg'], ['a.png', 'a.png']),
        (['/d/a.jpg', '/d/a.tif', '/d/b.jpg'], ['a.jpg.png', 'a.tif.png', 'b.png']),
        (['/d/a.jpg', '/d/s/a.jpg'], ['a.png', 's/a.png']),
        (
            ['/d/a.jpg', '/d/a.tif', '/d/a.jpg.tif'],
            ['a.jpg.png', 'a.tif.png', 'a.jpg.tif.png'],
        ),
        (['data/a.jpg', '../e/a.jpg'], None),
        ([None, '/d/a.jpg'], [None, 'a.png']),
        ([None], [None]),
    ],
)
def test_names_of_label_maps(paths, names):
    found = file_names(paths)
    assert names is None or found == names
    assert len(set(found)) == len(set(paths))
