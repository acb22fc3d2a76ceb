"""The inferencers of OpenMMLab's toolkits open what this project trains."""

import numpy as np
import pytest
import torch
from helpers import trained
from helpers.small_configs import shrink_recipe
from mmengine.config import Config
from mmpretrain import FeatureExtractor, ImageClassificationInferencer, get_model
from mmseg.apis import MMSegInferencer, inference_model, init_model
from PIL import Image

from mmmaskdistill.apis import load_model


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp('images')
    rng = np.random.default_rng(0)
    paths = []
    for k, (size, ending) in enumerate(
        [((48, 80), 'png'), ((70, 40), 'jpg'), ((33, 47), 'jpg'), ((64, 64), 'bmp')]
    ):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        paths.append(str(folder / f'{k}.{ending}'))
        coarse.resize(size[::-1], Image.BICUBIC).save(paths[-1])
    return paths


def written(name, tmp_path, suffix):
    """Write a config and its checkpoint, published unless it is that of a run."""
    config = getattr(trained, name)()
    config.dump(tmp_path / 'config.py')
    checkpoint = str(trained.write(config, tmp_path / 'run.pth'))
    if suffix:
        checkpoint = trained.publish(checkpoint, tmp_path / f'published{suffix}')
    return str(tmp_path / 'config.py'), checkpoint


SEGMENTATION = 'vit-b16_maskdistill-300e_upernet_8xb2-amp-160k_ade20k-512x512'
FINETUNING = 'vit-b16_maskdistill-300e_8xb128-amp-coslr-100e_in1k'


def small_recipe(name, tmp_path, classes):
    """Write a recipe at a tiny size, and a checkpoint that is published."""
    config = Config.fromfile(f'configs/{name}.py')
    shrink_recipe(config)
    if 'test_dataloader' in config:
        config.test_dataloader.dataset = config.val_dataloader.dataset
    config.dump(tmp_path / 'config.py')
    checkpoint = trained.write(config, tmp_path / 'run.pth', dict(classes=classes))
    path = trained.publish(checkpoint, tmp_path / 'published.safetensors')
    return str(tmp_path / 'config.py'), path


def test_the_segmentation_recipe(images, tmp_path):
    classes = [f'class {i}' for i in range(150)]
    files = small_recipe(f'segmentation/{SEGMENTATION}', tmp_path, classes)
    theirs = MMSegInferencer(*files, device='cpu')
    assert theirs.model.dataset_meta['classes'] == classes
    results = load_model(files[1], device='cpu').predict(images[:2])
    for result, labels in zip(results, theirs(images[:2])['predictions']):
        np.testing.assert_array_equal(result.labels, labels)
        assert result.classes == tuple(classes)


def test_the_finetuning_recipe(images, tmp_path):
    classes = [f'class {i}' for i in range(1000)]
    files = small_recipe(f'finetune/{FINETUNING}', tmp_path, classes)
    theirs = ImageClassificationInferencer(*files, device='cpu')
    results = load_model(files[1], device='cpu').predict(images)
    for result, expected in zip(results, theirs(images)):
        np.testing.assert_array_equal(result.scores, expected['pred_scores'])
        assert result.name == expected['pred_class']


@pytest.mark.parametrize('suffix', ['', '.pth', '.safetensors'])
def test_segmentations_are_those_of_mmseg(images, tmp_path, suffix):
    files = written('segmentation', tmp_path, suffix)
    theirs = MMSegInferencer(*files, device='cpu')
    assert theirs.model.dataset_meta['classes'] == list(trained.CLASSES) or (
        theirs.model.dataset_meta['classes'] == trained.CLASSES
    )
    assert theirs.model.dataset_meta['palette'] == trained.PALETTE
    results = load_model(files[1], device='cpu').predict(images, probabilities=True)
    predicted = theirs(images)['predictions']
    samples = theirs(images, return_datasamples=True)
    assert len(np.unique(np.concatenate([p.ravel() for p in predicted]))) > 1
    for result, labels, sample in zip(results, predicted, samples):
        np.testing.assert_array_equal(result.labels, labels)
        expected = sample.seg_logits.data.softmax(0).numpy()
        np.testing.assert_array_equal(result.probabilities, expected)
    # Arrays are BGR for mmseg.
    array = np.array(Image.open(images[0]))
    labels = theirs(np.ascontiguousarray(array[..., ::-1]))['predictions']
    np.testing.assert_array_equal(labels, results[0].labels)


def test_mmseg_draws_the_classes_of_the_checkpoint(images, tmp_path):
    files = written('segmentation', tmp_path, '.safetensors')
    theirs = MMSegInferencer(*files, device='cpu')
    out = theirs(images[0], return_vis=True, opacity=1.0, with_labels=False)
    result = load_model(files[1], device='cpu').predict(images[0])
    difference = abs(out['visualization'].astype(int) - result.colors())
    assert np.median(difference) <= 1


def test_mmsegs_function_has_the_same_labels(images, tmp_path):
    files = written('segmentation', tmp_path, '.safetensors')
    model = init_model(*files, device='cpu')
    labels = inference_model(model, images[1]).pred_sem_seg.data[0].numpy()
    result = load_model(files[1], device='cpu').predict(images[1])
    np.testing.assert_array_equal(result.labels, labels)


@pytest.mark.parametrize('suffix', ['', '.pth', '.safetensors'])
def test_classes_are_those_of_mmpretrain(images, tmp_path, suffix):
    config, checkpoint = written('classification', tmp_path, suffix)
    theirs = ImageClassificationInferencer(config, checkpoint, device='cpu')
    results = load_model(checkpoint, device='cpu').predict(images)
    for result, expected in zip(results, theirs(images)):
        np.testing.assert_array_equal(result.scores, expected['pred_scores'])
        assert result.label == expected['pred_label']
        assert result.name == expected['pred_class'] in trained.CLASSES


def test_features_are_those_of_mmpretrain(images, tmp_path):
    config, checkpoint = written('classification', tmp_path, '.safetensors')
    extractor = FeatureExtractor(config, checkpoint, device='cpu')
    model = load_model(checkpoint, device='cpu')
    for image in images:
        (theirs,) = extractor(image)[0]
        batch = dict(inputs=[model.preprocess(image)['inputs']])
        inputs = model.model.data_preprocessor(batch)['inputs']
        with torch.no_grad():
            (ours,) = model.model.extract_feat(inputs)
        torch.testing.assert_close(ours[0], theirs, rtol=0, atol=0)
    assert get_model(config, checkpoint)._dataset_meta['classes']
