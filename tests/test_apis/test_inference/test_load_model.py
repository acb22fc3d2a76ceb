"""Models are loaded from checkpoints alone, and predict images of any kind."""

import shutil

import numpy as np
import pytest
import torch
from helpers import tiny, trained
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import MODELS, DefaultScope
from PIL import Image

from mmmaskdistill.apis import Segmentation, load_embedder, load_model
from mmmaskdistill.datasets import UnreadableImage
from mmmaskdistill.errors import CheckpointError, ConfigError
from mmmaskdistill.models.checkpoints import write_weights


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp('trained')
    trained.write(trained.segmentation(), folder / 'segment.pth')
    trained.write(trained.classification(), folder / 'classify.pth')
    trained.write(trained.pretraining(), folder / 'pretrain.pth')
    rng = np.random.default_rng(0)
    for name, size in (('a.png', (48, 80)), ('b.jpg', (70, 40)), ('c.png', (48, 80))):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        coarse.resize(size[::-1], Image.BICUBIC).save(folder / name)
    return folder


@pytest.fixture(scope='module')
def segmentor(folder):
    return load_model(folder / 'segment.pth', device='cpu')


@pytest.fixture(scope='module')
def classifier(folder):
    return load_model(folder / 'classify.pth', device='cpu')


def test_a_segmentor_knows_its_config_classes_and_colors(segmentor, folder):
    assert segmentor.task == 'segmentation' and segmentor.classes == trained.CLASSES
    assert segmentor.palette == trained.PALETTE and segmentor.num_classes == 4
    assert segmentor.config.model.decode_head.num_classes == 4
    assert not segmentor.model.training and segmentor.device == torch.device('cpu')
    result = segmentor.predict(folder / 'a.png', probabilities=True)
    assert isinstance(result, Segmentation)
    assert result.labels.shape == (48, 80) and result.labels.dtype == np.uint8
    assert len(np.unique(result.labels)) > 1
    assert result.probabilities.shape == (4, 48, 80)
    np.testing.assert_allclose(result.probabilities.sum(0), 1, rtol=1e-5)
    np.testing.assert_array_equal(result.probabilities.argmax(0), result.labels)
    assert segmentor.predict(folder / 'a.png').probabilities is None


def test_overlays_and_shares_are_of_the_labels(segmentor, folder):
    result = segmentor.predict(folder / 'a.png')
    image = np.asarray(Image.open(folder / 'a.png')).astype(float)
    colors = np.array(trained.PALETTE)[result.labels]
    np.testing.assert_array_equal(result.colors(), colors)
    np.testing.assert_array_equal(result.overlay(0), image)
    np.testing.assert_array_equal(result.overlay(1), colors)
    expected = 0.75 * image + 0.25 * colors
    assert abs(result.overlay(0.25) - expected).max() <= 0.5 + 1e-4
    for i, share in enumerate(result.shares()):
        assert share == (result.labels == i).mean()
    with pytest.raises(ValueError, match='opacity=2: expected 0 to 1'):
        result.overlay(2)


@pytest.mark.parametrize(
    'load',
    [
        dict(),
        dict(color_type='color_ignore_orientation'),
        dict(color_type='unchanged'),
        dict(imdecode_backend='pillow', to_float32=True),
    ],
)
def test_overlays_lie_over_what_the_model_sees(tmp_path, load):
    config = trained.segmentation(load=dict(trained.LOAD, **load))
    model = load_model(trained.write(config, tmp_path / 'a.pth'), device='cpu')
    colors = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5
    image = Image.fromarray(colors).resize((60, 40), Image.NEAREST)
    for orientation in (3, 6):
        exif = Image.Exif()
        exif[0x112] = orientation
        image.save(tmp_path / 'a.png', exif=exif)
        result = model.predict(tmp_path / 'a.png')
        step = LoadImageFromFile(**load)
        seen = step(dict(img_path=str(tmp_path / 'a.png')))['img'][..., ::-1]
        assert result.overlay(0).shape[:2] == result.labels.shape
        np.testing.assert_array_equal(result.overlay(0), seen)


def test_a_classifier_scores_its_classes(classifier, folder):
    assert classifier.task == 'classification' and classifier.palette is None
    result = classifier.predict(str(folder / 'a.png'))
    assert result.scores.shape == (4,) and np.isclose(result.scores.sum(), 1)
    assert result.name == trained.CLASSES[result.scores.argmax()]
    assert result.label == result.scores.argmax()
    top = result.top(3)
    assert [score for _, score in top] == sorted(result.scores.tolist())[:0:-1]
    assert top[0][0] == result.name and len(result.top(10)) == 4


def test_features_are_those_of_the_student_alone(folder):
    model = load_model(folder / 'pretrain.pth', device='cpu')
    assert model.task == 'pretraining' and model.classes is None
    state = torch.load(folder / 'pretrain.pth')['state_dict']
    assert any(key.startswith('head') for key in state)
    assert all(key.startswith('backbone') for key in model.model.state_dict())

    result = model.predict(folder / 'a.png')
    student = MODELS.build(dict(tiny.STUDENT, out_type='raw')).eval()
    own = {k[9:]: v for k, v in state.items() if k.startswith('backbone.')}
    student.load_state_dict(own)
    image = Image.open(folder / 'a.png').resize((64, 64), Image.BICUBIC)
    mean, std = (np.array(trained.NORMALIZATION[k]) for k in ('mean', 'std'))
    x = torch.tensor((np.asarray(image) - mean) / std).float().permute(2, 0, 1)
    with torch.no_grad():
        tokens = student(x[None])[0][0].numpy()
    # Pillow and OpenCV interpolate a little differently.
    scale = abs(tokens).max()
    assert abs(result.cls - tokens[0]).max() < 0.2 * scale
    assert result.patches.shape == (4, 4, 24)
    assert abs(result.patches.reshape(16, 24) - tokens[1:]).mean() < 0.1 * scale
    np.testing.assert_allclose(result.mean, result.patches.reshape(16, 24).mean(0))
    inputs = model.preprocess(folder / 'a.png')['inputs']
    with torch.no_grad():
        x = model.model.data_preprocessor(dict(inputs=[inputs]))['inputs']
        exact = student(x)[0][0].numpy()
    np.testing.assert_allclose(result.cls, exact[0], atol=1e-6)
    np.testing.assert_allclose(result.patches, exact[1:].reshape(4, 4, 24), atol=1e-6)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('name', ['segment', 'classify', 'pretrain'])
def test_published_files_need_nothing_else(folder, tmp_path, suffix, name):
    path = trained.publish(folder / f'{name}.pth', tmp_path / f'a{suffix}')
    first = load_model(folder / f'{name}.pth', device='cpu')
    model = load_model(path, device='cpu')
    assert (model.classes, model.palette) == (first.classes, first.palette)
    assert model.config.to_dict() == first.config.to_dict()
    results = [m.predict(folder / 'a.png') for m in (first, model)]
    for part in ('labels', 'scores', 'patches'):
        if hasattr(results[0], part):
            np.testing.assert_array_equal(*(getattr(r, part) for r in results))
    if name == 'pretrain':
        path = trained.publish(path, tmp_path / f'b{suffix}', backbone=True)
        again = load_model(path, device='cpu').predict(folder / 'a.png')
        np.testing.assert_array_equal(again.patches, results[0].patches)


def test_a_config_and_its_checkpoint(folder, tmp_path, segmentor):
    config = trained.segmentation()
    config.test_dataloader.dataset.metainfo = dict(classes=trained.CLASSES)
    config.dump(tmp_path / 'config.py')
    state = torch.load(folder / 'segment.pth')['state_dict']
    write_weights(state, tmp_path / 'weights.pth')
    expected = segmentor.predict(folder / 'a.png').labels
    for given in (tmp_path / 'config.py', str(tmp_path / 'config.py'), config):
        model = load_model(given, tmp_path / 'weights.pth', device='cpu')
        assert model.classes == trained.CLASSES
        assert len({tuple(color) for color in model.palette}) == 4
        np.testing.assert_array_equal(model.predict(folder / 'a.png').labels, expected)
    with pytest.raises(CheckpointError, match='holds weights without a config: give'):
        load_model(tmp_path / 'weights.pth')
    with pytest.raises(ConfigError, match="config.py' is a config: give its check"):
        load_model(tmp_path / 'config.py')
    with pytest.raises(ConfigError, match='expected a checkpoint alone, or a config'):
        load_model(tmp_path / 'weights.pth', tmp_path / 'config.py')


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(model=1), 'has no model: expected a config'),
        ({'model.backbone.arch.num_heads': 0}, 'be built: ZeroDivisionError'),
        ({'model.backbone.arch.embed_dims': -24}, 'be built: RuntimeError: .*negative'),
        (
            dict(test_dataloader=[1]),
            'test pipeline in the config of .*: AttributeError',
        ),
        ({'test_dataloader.dataset.pipeline': None}, 'pipeline .*: TypeError: .None'),
        (
            {'test_dataloader.dataset.pipeline.0': dict(trained.LOAD, nonsense=1)},
            'test pipeline in the config of .* be built: TypeError: .*nonsense',
        ),
        ([['r', 'g', 'b']], 'palette of the classes in .* cannot be used: invalid lit'),
        ([[300, 0, 0]], r'palette .*: expected colors .* 0 to 255, not \[300, 0, 0\]'),
        (5, "palette of the classes .*: 'int' object is not iterable"),
    ],
)
def test_mistakes_in_a_config_are_one_message(tmp_path, change, message):
    path = trained.write(trained.segmentation(), tmp_path / 'a.pth')
    content = torch.load(path, weights_only=False)
    if isinstance(change, dict):
        config = trained.segmentation()
        for option, value in change.items():
            *above, last = option.split('.')
            node = config
            for key in above:
                node = node[key]
            node[int(last) if last.isdigit() else last] = value
        content['meta']['cfg'] = config.pretty_text
    else:
        content['meta']['dataset_meta']['palette'] = change
    torch.save(content, path)
    with pytest.raises(ConfigError, match=message):
        load_model(path, device='cpu')


def test_folders_stand_for_the_checkpoint_in_them(folder, tmp_path):
    path = trained.publish(folder / 'segment.pth', tmp_path / 'a.safetensors')
    (tmp_path / 'hub').mkdir()
    (tmp_path / 'run').mkdir()
    with pytest.raises(CheckpointError, match="hub' has no checkpoint: expected model"):
        load_model(tmp_path / 'hub')
    shutil.copy(path, tmp_path / 'hub/model.safetensors')
    shutil.copy(folder / 'segment.pth', tmp_path / 'run/iter_2.pth')
    (tmp_path / 'run/last_checkpoint').write_text('/moved/iter_2.pth')
    for name in ('hub', 'run'):
        assert load_model(tmp_path / name, device='cpu').classes == trained.CLASSES


def test_what_does_not_fit_is_refused(folder, tmp_path):
    config = trained.segmentation(classes=5)
    with pytest.raises(CheckpointError, match='another architecture'):
        load_model(config, folder / 'segment.pth', device='cpu')
    path = trained.write(config, tmp_path / 'a.pth', dict(classes=['a', 'b']))
    with pytest.raises(ConfigError, match='has 5 classes, .* 2 names of classes'):
        load_model(path, device='cpu')
    for device in ('cuda:99', 'gpu'):
        for load in (load_model, load_embedder):
            with pytest.raises(
                ConfigError, match=f"device='{device}' cannot be used: "
            ):
                load(folder / 'segment.pth', device=device)
    with pytest.raises(ConfigError, match="device='gpu' cannot be used: "):
        load_embedder('timm:test_vit', device='gpu')
    config = trained.segmentation()
    config.model.backbone.nonsense = 1
    torch.save(
        dict(state_dict=dict(a=torch.zeros(1)), meta=dict(cfg=config.pretty_text)),
        tmp_path / 'b.pth',
    )
    with pytest.raises(ConfigError, match='cannot be built: TypeError: .*nonsense'):
        load_model(tmp_path / 'b.pth', device='cpu')


def test_arrays_and_pil_images_are_what_files_are(segmentor, classifier, folder):
    image = Image.open(folder / 'a.png')
    array = np.asarray(image)
    for model, part in ((segmentor, 'labels'), (classifier, 'scores')):
        expected = getattr(model.predict(folder / 'a.png'), part)
        kinds = [image, array, array[:, ::-1][:, ::-1], image.convert('RGBA')]
        for result in model.predict(kinds):
            np.testing.assert_array_equal(getattr(result, part), expected)
        # The colors matter.
        swapped = getattr(model.predict(array[..., ::-1]), part)
        assert not np.array_equal(swapped, expected)
        gray = image.convert('L')
        results = model.predict([gray, np.asarray(gray), gray.convert('RGB')])
        for result in results[:2]:
            np.testing.assert_array_equal(
                getattr(result, part), getattr(results[2], part)
            )
    paletted = image.convert('P')
    np.testing.assert_array_equal(
        segmentor.predict(paletted).labels,
        segmentor.predict(paletted.convert('RGB')).labels,
    )


def test_what_is_no_image_is_refused(segmentor, folder, tmp_path):
    (tmp_path / 'text.jpg').write_text('no image')
    (tmp_path / 'empty.png').touch()
    for name, reason in (
        ('text.jpg', 'no image that can be decoded'),
        ('empty.png', 'the file is empty'),
        ('missing.png', 'No such file'),
    ):
        with pytest.raises(UnreadableImage, match=f"/{name}': .*{reason}"):
            segmentor.predict(tmp_path / name)
    with pytest.raises(ConfigError, match='3 channels of type float64.*as uint8'):
        segmentor.predict(np.zeros((8, 8, 3)))
    with pytest.raises(ConfigError, match='5 channels of type uint8'):
        segmentor.predict(np.zeros((8, 8, 5), np.uint8))
    with pytest.raises(ConfigError, match=r'shape \[8\]: expected the path'):
        segmentor.predict([np.zeros(8, np.uint8)])
    with pytest.raises(ConfigError, match=r'shape \[2, 8, 8, 3\]: expected a list'):
        segmentor.predict(np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(TypeError, match='an image is a bytes: expected the path'):
        segmentor.predict((folder / 'a.png').read_bytes())
    with pytest.raises(TypeError, match='an image is a int: expected the path'):
        segmentor.predict([1])
    with pytest.raises(ValueError, match='batch_size=0'):
        segmentor.predict([], batch_size=0)


def test_images_are_rotated_as_exif_asks_for(segmentor, folder, tmp_path):
    upright = Image.open(folder / 'a.png')
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    lying = upright.transpose(Image.ROTATE_90)
    lying.save(tmp_path / 'a.jpg', exif=exif, quality=100, subsampling=0)
    lying.save(tmp_path / 'upright.jpg', quality=100, subsampling=0)
    expected = segmentor.predict(
        Image.open(tmp_path / 'upright.jpg').transpose(Image.ROTATE_270)
    )
    for given in (tmp_path / 'a.jpg', Image.open(tmp_path / 'a.jpg')):
        result = segmentor.predict(given)
        assert result.labels.shape == (48, 80)
        np.testing.assert_array_equal(result.labels, expected.labels)
        assert abs(result.overlay(0.0).astype(int) - np.asarray(upright)).mean() < 3


def test_batches_of_mixed_images_have_the_results_of_single_ones(segmentor, folder):
    images = [
        folder / 'a.png',
        Image.open(folder / 'b.jpg'),
        np.asarray(Image.open(folder / 'c.png')),
        str(folder / 'b.jpg'),
        folder / 'c.png',
    ]
    single = [segmentor.predict(image).labels for image in images]
    sizes = []
    hook = segmentor.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs['inputs'])),
        with_kwargs=True,
    )
    results = segmentor.predict(iter(images), batch_size=3)
    hook.remove()
    # Images of one size are computed together: a and c, b; b, c.
    assert sizes == [2, 1, 1, 1]
    assert [result.source for result in results] == images
    for result, labels in zip(results, single):
        assert (result.labels != labels).mean() < 0.001


def test_a_stream_keeps_nothing_and_skips_what_is_broken(segmentor, folder, tmp_path):
    (tmp_path / 'text.jpg').write_text('no image')
    taken = []

    def images():
        for k in range(6):
            taken.append(k)
            yield tmp_path / 'text.jpg' if k == 1 else folder / 'a.png'

    skipped = []
    stream = segmentor.stream(
        images(), batch_size=2, skip=lambda image, error: skipped.append(image)
    )
    assert next(stream) is not None and len(taken) == 2
    assert next(stream) is None and skipped == [tmp_path / 'text.jpg']
    assert len(list(stream)) == 4
    with pytest.raises(UnreadableImage, match='text.jpg'):
        list(segmentor.stream(images(), batch_size=2))


def test_what_the_model_cannot_compute_is_skipped(folder, tmp_path, monkeypatch):
    config = trained.segmentation()
    config.test_dataloader.dataset.pipeline.pop(1)  # images keep their size
    path = trained.write(config, tmp_path / 'a.pth')
    model = load_model(path, device='cpu')
    forward = type(model.model.backbone).forward

    def limited(self, x, *args):
        if len(x) > 1 or x.shape[3] < 60:
            raise torch.OutOfMemoryError('no memory left')
        return forward(self, x, *args)

    monkeypatch.setattr(type(model.model.backbone), 'forward', limited)
    images = [folder / name for name in ('a.png', 'b.jpg', 'c.png')]
    skipped = {}
    # Two images of one size are computed one after the other.
    results = list(model.stream(images, batch_size=3, skip=skipped.__setitem__))
    assert [result is None for result in results] == [False, True, False]
    message = (
        f"the model fails on the image '{images[1]}', which the pipeline gives it as "
        '70 x 40 pixels: OutOfMemoryError: no memory left'
    )
    assert {image: str(error) for image, error in skipped.items()} == {
        images[1]: message
    }
    with pytest.raises(ConfigError, match='image in memory, .* 70 x 40 pixels: Out'):
        model.predict(Image.open(images[1]))


def test_four_channels_of_16_bits_as_the_config_loads_them(tmp_path):
    tifffile = pytest.importorskip('tifffile')
    load = dict(type='mmmaskdistill.LoadImage', channels=5, bands=[4, 0, 1, 2])
    config = trained.segmentation(channels=4, load=load)
    config.model.data_preprocessor.update(mean=[2000.0] * 4, std=[1000.0] * 4)
    path = trained.write(config, tmp_path / 'a.pth')
    array = np.random.default_rng(0).integers(0, 4000, (5, 48, 64), np.uint16)
    array = np.ascontiguousarray(array.transpose(1, 2, 0))
    tifffile.imwrite(
        tmp_path / 'a.tif', array, photometric='minisblack', planarconfig='contig'
    )
    model = load_model(path, device='cpu')
    from_file = model.predict(tmp_path / 'a.tif')
    np.testing.assert_array_equal(model.predict(array).labels, from_file.labels)
    assert from_file.overlay().shape == (48, 64, 3)
    changed = array.copy()
    changed[..., 3] = 0  # is not among the bands
    np.testing.assert_array_equal(model.predict(changed).labels, from_file.labels)
    changed[..., 4] = 0
    assert not np.array_equal(model.predict(changed).labels, from_file.labels)
    with pytest.raises(ConfigError, match='an image in memory.* has 3 channels'):
        model.predict(np.zeros((8, 8, 3), np.uint16))


def test_labels_have_16_bits_above_255_classes(folder, tmp_path):
    for classes, kind in ((255, np.uint8), (256, np.uint16)):
        meta = dict(classes=[str(i) for i in range(classes)], palette=[[1, 2, 3]])
        path = trained.write(trained.segmentation(classes), tmp_path / 'a.pth', meta)
        result = load_model(path, device='cpu').predict(folder / 'a.png')
        assert result.labels.dtype == kind
        assert len(result.palette) == classes and result.palette[0] == [1, 2, 3]
        assert result.colors().shape == result.overlay().shape == (48, 80, 3)


def test_test_time_augmentation_is_that_of_the_toolkits(segmentor, classifier, folder):
    config = segmentor.config.copy()
    with DefaultScope.overwrite_default_scope('mmseg'):
        pipeline = config.tta_pipeline
        pipeline[1].transforms.pop(2)  # labels
        sample = Compose(pipeline)(dict(img_path=str(folder / 'a.png')))
        tta = MODELS.build(dict(config.tta_model, module=segmentor.model))
        with torch.no_grad():
            expected = tta.test_step(pseudo_collate([sample]))[0].pred_sem_seg.data
    result = segmentor.predict(folder / 'a.png', tta=True, probabilities=True)
    np.testing.assert_array_equal(result.labels, expected.numpy()[0])
    np.testing.assert_array_equal(result.probabilities.argmax(0), result.labels)
    np.testing.assert_allclose(result.probabilities.sum(0), 1, rtol=1e-5)
    assert not np.array_equal(result.labels, segmentor.predict(folder / 'a.png').labels)
    images = [folder / 'a.png', folder / 'c.png']
    batch = segmentor.predict(images, tta=True, batch_size=2)
    assert (batch[0].labels != result.labels).mean() < 0.001

    array = np.asarray(Image.open(folder / 'a.png'))
    both = classifier.predict([array, np.ascontiguousarray(array[:, ::-1])])
    mean = (both[0].scores + both[1].scores) / 2
    result = classifier.predict(array, tta=True)
    np.testing.assert_allclose(result.scores, mean, atol=0.02)
    with pytest.raises(ConfigError, match='have no test-time augmentation'):
        load_model(folder / 'pretrain.pth', device='cpu').predict(array, tta=True)


def test_mixed_precision_changes_little(segmentor, folder):
    full, mixed = (
        segmentor.predict(folder / 'a.png', probabilities=True, amp=amp)
        for amp in (False, True)
    )
    assert mixed.probabilities.dtype == np.float32
    difference = abs(full.probabilities - mixed.probabilities)
    assert 0 < difference.max() < 0.3 and difference.mean() < 0.02


def test_a_head_of_one_channel_has_two_classes(folder, tmp_path):
    config = trained.segmentation(2)
    config.model.decode_head.update(out_channels=1, threshold=0.5)
    path = trained.write(config, tmp_path / 'a.pth', dict(classes=['no', 'yes']))
    model = load_model(path, device='cpu')
    for tta in (False, True):
        result = model.predict(folder / 'a.png', probabilities=True, tta=tta)
        assert result.probabilities.shape == (2, 48, 80)
        np.testing.assert_allclose(result.probabilities.sum(0), 1, atol=1e-6)
        assert set(np.unique(result.labels)) <= {0, 1}
        if not tta:
            expected = result.probabilities[1] > 0.5
            np.testing.assert_array_equal(result.labels, expected)
