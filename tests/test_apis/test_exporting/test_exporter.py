"""Files that are exported compute what the model computes, or are not kept."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import tiny, trained
from mmengine.dataset import pseudo_collate
from mmseg.models.utils import Upsample
from PIL import Image
from torch import nn

from mmmaskdistill.apis import load_model
from mmmaskdistill.apis.exporting import Request, export_model, exporter, formats
from mmmaskdistill.apis.exporting.checking import Check, judge
from mmmaskdistill.apis.exporting.description import find_size
from mmmaskdistill.apis.exporting.normalization import measure_normalization
from mmmaskdistill.apis.exporting.preparation import MatrixPool, copy_for_export
from mmmaskdistill.errors import ConfigError

KEY = 'mmmaskdistill'
BN = dict(type='BN')
PYRAMID = dict(
    type='Feature2Pyramid', embed_dim=24, rescales=[4, 2, 1, 0.5], norm_cfg=BN
)
BINARY = dict(
    type='FCNHead',
    in_channels=24,
    channels=8,
    num_convs=1,
    num_classes=2,
    out_channels=1,
    threshold=0.4,
    norm_cfg=BN,
    loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True),
)


def segmentor(tmp_path, head=None, neck=None, classes=4, meta=None, **backbone):
    config = trained.segmentation(classes)
    config.model.backbone.update(backbone)
    if head:
        config.model.decode_head = head
    if neck:
        config.model.neck = neck
    path = trained.write(config, tmp_path / 'segment.pth', meta)
    return load_model(path, device='cpu')


def upernet(tmp_path, levels, neck=None):
    """A UperNet on the last blocks of a ViT, with a map for each of them."""
    head = dict(
        type='mmmaskdistill.UPerHead',
        in_channels=[24] * levels,
        in_index=list(range(levels)),
        channels=8,
        pool_scales=(1, 2, 3),
        num_classes=4,
        norm_cfg=BN,
    )
    arch = dict(tiny.ARCH, num_layers=levels)
    return segmentor(tmp_path, head, neck, arch=arch, out_indices=tuple(range(levels)))


def export(model, out, **options):
    return export_model(model, Request(str(out), **options), 'a/b.pth', lambda _: None)


def torch_logits(model, images):
    """The logits that the model itself computes from images [B, H, W, 3] RGB uint8."""
    inputs = [torch.from_numpy(x[..., ::-1].copy()).permute(2, 0, 1) for x in images]
    data = model.model.data_preprocessor(dict(inputs=inputs))
    with torch.no_grad():
        if model.task == 'segmentation':
            return model.model(data['inputs'], None, mode='predict')[0].seg_logits.data
        return model.model(data['inputs'], mode='tensor')


def prepared(about, images):
    """Normalize images [B, H, W, 3] RGB as a file says."""
    pixels = (images[..., about['order']] - about['mean']) / about['std']
    return pixels.transpose(0, 3, 1, 2).astype(np.float32)


def test_trace_has_the_labels_of_the_model_and_describes_itself(tmp_path):
    model = upernet(tmp_path, 4, PYRAMID)
    exported = export(model, tmp_path / 'a.torchscript', size=(64, 96))
    extra = {f'{KEY}.json': ''}
    network = torch.jit.load(tmp_path / 'a.torchscript', _extra_files=extra)
    about = json.loads(extra[f'{KEY}.json'])
    assert about == json.loads(json.dumps(exported.about))
    assert about['classes'] == list(trained.CLASSES)
    assert about['palette'] == trained.PALETTE
    assert (about['task'], about['output']) == ('segmentation', 'labels')
    assert about['size'] == [64, 96] and about['dynamic'] is False
    assert (about['mean'], about['std']) == ([124, 116, 104], [58, 57, 57])
    assert (about['channel_order'], about['order']) == ('RGB', [0, 1, 2])
    assert about['resize']['scale'] == [96, 64] and about['multiple'] == 16
    assert about['source']['checkpoint'] == 'b.pth'

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1, 64, 96, 3), np.uint8)
    labels = network(torch.from_numpy(prepared(about, images)))
    expected = torch_logits(model, images).argmax(0)
    assert torch.equal(labels[0], expected) and len(expected.unique()) > 1
    assert [check.shape[0] for check in exported.checks] == [1, 2, 3]
    assert 'largest difference' in exported.summary
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        'a.torchscript',
        'segment.pth',
    ]


def test_onnx_file_for_any_size_has_the_logits_of_the_model(tmp_path, monkeypatch):
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    model = upernet(tmp_path, 2)
    out = tmp_path / 'a.onnx'
    # As if the weights were too large for the file.
    monkeypatch.setattr(formats, 'LARGEST_FILE', 0)
    export(model, out, dynamic=True, output='logits')
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {'a.onnx', 'a.onnx.data', 'segment.pth'}
    session = onnxruntime.InferenceSession(out)
    about = json.loads(session.get_modelmeta().custom_metadata_map[KEY])
    assert (about['smallest'], about['largest']) == (64, 2048)
    rng = np.random.default_rng(0)
    for size in [(64, 64), (80, 144), (112, 64)]:
        images = rng.integers(0, 256, (2, *size, 3), np.uint8)
        (logits,) = session.run(['logits'], dict(images=prepared(about, images)))
        for given, image in zip(logits, images):
            expected = torch_logits(model, image[None]).numpy()
            np.testing.assert_allclose(given, expected, atol=1e-4 * abs(expected).max())


def test_exported_program_of_one_size_takes_any_batch(tmp_path):
    model = segmentor(tmp_path)
    export(model, tmp_path / 'a.pt2', output='logits')
    extra = {f'{KEY}.json': ''}
    program = torch.export.load(tmp_path / 'a.pt2', extra_files=extra).module()
    about = json.loads(extra[f'{KEY}.json'])
    assert about['size'] == [64, 64]
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    logits = program(torch.from_numpy(prepared(about, images)))
    assert logits.shape == (4, 4, 64, 64)
    torch.testing.assert_close(logits[0], torch_logits(model, images[:1]))


def test_one_logit_is_compared_with_the_threshold(tmp_path):
    model = segmentor(tmp_path, BINARY, classes=2, meta=dict(classes=('no', 'yes')))
    exported = export(model, tmp_path / 'a.ts')
    assert exported.about['threshold'] == 0.4
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    network = torch.jit.load(tmp_path / 'a.ts')
    labels = network(torch.from_numpy(prepared(exported.about, images)))
    # mmseg has applied the sigmoid.
    expected = torch_logits(model, images)[0] > 0.4
    assert torch.equal(labels[0], expected.long()) and 0 < labels.sum() < 64 * 64


def test_classifier_and_student(tmp_path):
    path = trained.write(trained.classification(), tmp_path / 'a.pth')
    model = load_model(path, device='cpu')
    exported = export(model, tmp_path / 'a.ts')
    assert exported.about['activation'] == 'softmax'
    assert exported.about['classes'] == list(trained.CLASSES)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    inputs = torch.from_numpy(prepared(exported.about, images))
    logits = torch.jit.load(tmp_path / 'a.ts')(inputs)
    torch.testing.assert_close(logits, torch_logits(model, images))

    path = trained.write(trained.pretraining(), tmp_path / 'b.pth')
    model = load_model(path, device='cpu')
    exported = export(model, tmp_path / 'b.ts')
    assert exported.about['outputs'] == ['features']
    (features,) = torch.jit.load(tmp_path / 'b.ts')(inputs)
    with torch.no_grad():
        torch.testing.assert_close(features, model.model.backbone(inputs)[0])
    with pytest.raises(
        ConfigError, match='--output labels: a model of pretraining has'
    ):
        export(model, tmp_path / 'c.ts', output='labels')


def test_half_precision_has_the_same_interface_and_half_the_size(tmp_path):
    model = segmentor(tmp_path)
    for part in model.model.decode_head.parameters():
        part.mul_(3)  # so that few pixels lie between two classes
    full = export(model, tmp_path / 'full.ts', output='logits')
    half = export(model, tmp_path / 'half.ts', output='logits', half=True)
    assert half.about['precision'] == 'float16'
    assert half.checks[0].difference > 10 * full.checks[0].difference
    network = torch.jit.load(tmp_path / 'half.ts')
    assert all(p.dtype == torch.float16 for p in network.parameters())
    assert network(torch.zeros(1, 3, 64, 64)).dtype == torch.float32


def test_wrong_files_are_refused_and_leave_nothing(tmp_path, monkeypatch):
    model = segmentor(tmp_path)
    before = {p.name for p in tmp_path.iterdir()}
    write, open_file = formats.FORMATS['torchscript']

    def wrong(network, *args):
        with torch.no_grad():
            network.model.decode_head.conv_seg.bias[0] += 2e-3
        write(network, *args)

    monkeypatch.setitem(exporter.FORMATS, 'torchscript', (wrong, open_file))
    with pytest.raises(ConfigError, match=r'not kept: largest difference 2\.0\de-03'):
        export(model, tmp_path / 'a.ts', output='logits')
    assert {p.name for p in tmp_path.iterdir()} == before

    def other_batch(network, images, *args):
        network.forward = lambda x: network.compute(x).reshape(2, 4, 64, 64)
        write(network, images, *args)

    monkeypatch.setitem(exporter.FORMATS, 'torchscript', (other_batch, open_file))
    with pytest.raises(
        ConfigError, match=r'shape \[1, 3, 64, 64\].*not kept. Try'
    ) as e:
        export(model, tmp_path / 'a.ts', output='logits')
    assert '\n' not in str(e.value)
    assert {p.name for p in tmp_path.iterdir()} == before

    def unable(network, *args):
        with formats.exporting('a.onnx', {0: 1, 2: 1}):
            raise RuntimeError('first line\nsecond line')

    monkeypatch.setitem(exporter.FORMATS, 'torchscript', (unable, open_file))
    with pytest.raises(ConfigError, match='first line.: try --size H W') as error:
        export(model, tmp_path / 'a.ts')
    assert '\n' not in str(error.value)
    assert {p.name for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ('check', 'half', 'good'),
    [
        (Check((1,), 9e-4, 1.0, 0.5), False, True),
        (Check((1,), 1.1e-3, 1.0, 0.0), False, False),
        (Check((1,), float('inf'), 1.0, 0.0), False, False),
        (Check((1,), 0.5, 0.9951, 0.5), True, True),
        (Check((1,), 0.0, 0.9949, 0.0), True, False),
        (Check((1,), 0.5, None, 0.009), True, True),
        (Check((1,), 0.5, None, 0.011), True, False),
    ],
)
def test_tolerances(check, half, good):
    checks = [Check((1,), 0.0, check.equal and 1.0, 0.0), check]
    if good:
        judge(checks, half)
    else:
        with pytest.raises(ConfigError, match='not compute what the model computes'):
            judge(checks, half)


def test_sizes_are_whole_patches(tmp_path):
    model = segmentor(tmp_path)
    message = r'--size 100 64: 100 is not a multiple of 16 pixels.*Give --size 96 64'
    with pytest.raises(ConfigError, match=message):
        export(model, tmp_path / 'a.ts', size=(100, 64))


def test_usual_size_follows_from_the_config(tmp_path):
    config = trained.segmentation()
    config.model.test_cfg = dict(mode='slide', crop_size=(60, 90), stride=(30, 30))
    model = load_model(trained.write(config, tmp_path / 'a.pth'), device='cpu')
    assert find_size(model, None) == (64, 96)  # in whole patches
    config = trained.classification()
    model = load_model(trained.write(config, tmp_path / 'b.pth'), device='cpu')
    assert find_size(model, None) == (64, 64)  # of the pipeline's crop
    config.model.backbone.img_size = (32, 48)
    del config.test_dataloader.dataset.pipeline[1:3]
    model = load_model(trained.write(config, tmp_path / 'c.pth'), device='cpu')
    assert find_size(model, None) == (32, 48)  # of the backbone


def test_normalization_is_that_of_the_pipeline_and_the_preprocessor(tmp_path):
    model = segmentor(tmp_path)
    found = measure_normalization(model)
    assert found == (3, (0, 1, 2), (124.0, 116.0, 104.0), (58.0, 57.0, 57.0))
    config = trained.segmentation()
    config.model.data_preprocessor.bgr_to_rgb = False
    model = load_model(trained.write(config, tmp_path / 'b.pth'), device='cpu')
    found = measure_normalization(model)
    assert found.order == (2, 1, 0) and found.channel_order == 'BGR'
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    data = model.model.data_preprocessor(pseudo_collate([model.preprocess(image)]))
    own = found.apply(torch.from_numpy(image).permute(2, 0, 1)[None])
    torch.testing.assert_close(own, data['inputs'], rtol=1e-4, atol=1e-4)

    load = dict(type='mmmaskdistill.LoadImage', bands=[4, 0])
    config = trained.segmentation(channels=2, load=load)
    model = load_model(trained.write(config, tmp_path / 'c.pth'), device='cpu')
    found = measure_normalization(model)
    assert (found.channels, found.order) == (5, (4, 0))
    assert found.channel_order == 'file'


@pytest.mark.parametrize('size', [(7, 11), (6, 6), (2, 3)])
@pytest.mark.parametrize('output', [1, 3, (2, 5), (None, 4)])
def test_matrix_pool_is_adaptive_pooling(size, output):
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(MatrixPool(output)(x), F.adaptive_avg_pool2d(x, output))


def test_any_size_is_checked_with_even_and_odd_numbers_of_patches(tmp_path):
    model = segmentor(tmp_path)
    for size in [(64, 64), (512, 512), (2048, 80)]:
        shapes = exporter._shapes(model, Request('a.onnx', dynamic=True), size)
        assert shapes[0] == (1, *size)
        for axis in (1, 2):
            sides = [shape[axis] for shape in shapes]
            assert {side // 16 % 2 for side in sides} == {0, 1}
            assert min(sides) >= 64 and max(sides) <= 2048
            assert not any(side % 16 for side in sides)


def test_layers_without_symbols_are_replaced(tmp_path):
    model = segmentor(tmp_path).model
    model.extra = nn.Sequential(
        Upsample(scale_factor=2, mode='bilinear', align_corners=False),
        nn.AdaptiveAvgPool2d(3),
    )
    copy = copy_for_export(model, None)
    assert [type(part) for part in copy.extra] == [nn.Upsample, MatrixPool]
    assert [type(part) for part in model.extra] == [Upsample, nn.AdaptiveAvgPool2d]
    x = torch.randn(2, 3, 5, 7)
    torch.testing.assert_close(copy.extra(x), model.extra(x))


def test_pictures_are_those_given(tmp_path):
    model = segmentor(tmp_path)
    Image.new('RGB', (50, 40), (9, 200, 3)).save(tmp_path / 'green.png')
    pictures, origin = exporter.find_pictures(model, [str(tmp_path / 'green.png')])
    assert pictures[0][:, 0, 0].tolist() == [9, 200, 3] and 'green.png' in origin
    pictures, origin = exporter.find_pictures(model, [])
    assert pictures[0].shape == (3, 600, 512) and 'grace_hopper' in origin
    (tmp_path / 'broken.png').write_bytes(b'no image')
    with pytest.raises(ConfigError, match=r'--images: .*broken\.png'):
        exporter.find_pictures(model, [str(tmp_path / 'broken.png')])
    # Patterns are those of the other tools.
    _, origin = exporter.find_pictures(model, [f'{tmp_path}/g*.png'])
    assert 'g*.png' in origin


@pytest.mark.parametrize('options', [{}, dict(data_prefix='b'), dict(split='b')])
def test_pictures_are_those_that_the_config_tests_with(tmp_path, options):
    config = trained.classification()
    (tmp_path / 'data/b').mkdir(parents=True)
    Image.new('RGB', (50, 40), (9, 200, 3)).save(tmp_path / 'data/b/green.png')
    config.test_dataloader.dataset.update(data_root=str(tmp_path / 'data'), **options)
    path = trained.write(config, tmp_path / 'a.pth')
    pictures, origin = exporter.find_pictures(load_model(path, device='cpu'), [])
    assert [picture[:, 0, 0].tolist() for picture in pictures] == [[9, 200, 3]]
    assert origin.startswith(f'images of {tmp_path}/data')
