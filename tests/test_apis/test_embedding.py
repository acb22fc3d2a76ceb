"""Features of images: the same as by other ways, in the order of the files."""

import os
import os.path as osp
import signal
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from helpers import tiny, trained
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmpretrain import FeatureExtractor
from PIL import Image

from mmmaskdistill.apis import load_model
from mmmaskdistill.apis.embedding import embed_files, load_embedder, name_images
from mmmaskdistill.errors import CheckpointError, ConfigError
from mmmaskdistill.visualization.features import pca_picture

SIZES = [(80, 96), (96, 80), (80, 96), (64, 64)]


@pytest.fixture
def pictures(tmp_path):
    """Paths of images of several sizes."""
    folder, paths = tmp_path / 'pictures', []
    for name, size in zip(['b.png', 'a.jpg', 'sub/a.jpg', 'sub/c.png'], SIZES):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        colors = np.random.randint(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(colors).resize(size[::-1], Image.BICUBIC).save(path)
        paths.append(str(path))
    return paths


@pytest.fixture
def timm_weights(tmp_path):
    """A file of weights of timm's test_vit."""
    torch.manual_seed(0)
    path = str(tmp_path / 'vit.pth')
    torch.save(timm.create_model('test_vit').state_dict(), path)
    return path


def of_timm(weights, **kwargs):
    return load_embedder('timm:test_vit', weights, device='cpu', **kwargs)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_classifier_gives_what_mmpretrains_extractor_gives(pictures, tmp_path):
    config = trained.classification()
    path = str(trained.write(config, tmp_path / 'a.pth'))
    (tmp_path / 'a.py').write_text(config.pretty_text)
    config.model.backbone.pop('init_cfg')
    extractor = FeatureExtractor(config, path, device='cpu')
    expected = [feat[0].numpy() for feat in extractor(pictures, stage='backbone')]
    for source in ((path,), (str(tmp_path / 'a.py'), path)):
        embedder = load_embedder(*source, device='cpu')
        assert embedder.layers == [1] and embedder.has_class_token
        close(embedder(pictures, ['mean'])['mean'], expected)
    # One by one, and from memory.
    loaded = [Image.open(path) for path in pictures]
    close(embedder(loaded, ['mean'], batch_size=1)['mean'], expected)


def test_a_segmentor_gives_what_its_backbone_gives(pictures, tmp_path):
    path = trained.write(trained.segmentation(), tmp_path / 'a.pth')
    embedder = load_embedder(path, layers=[0, 1], device='cpu')
    found = embedder(pictures[:1], ['cls', 'mean', 'patches'])
    keys = [f'{what}_{i}' for what in ('cls', 'mean', 'patches') for i in (0, 1)]
    assert list(found) == keys

    model = load_model(path, device='cpu')
    steps = model.config.test_pipeline
    del steps[2]  # labels
    from mmseg.registry import TRANSFORMS

    sample = Compose([TRANSFORMS.build(step) for step in steps])(
        dict(img_path=pictures[0])
    )
    images = model.model.data_preprocessor(pseudo_collate([sample]))['inputs']
    assert images.shape == (1, 3, 64, 77)
    backbone = model.model.backbone
    backbone.out_indices, backbone.output_cls_token = [0, 1], True
    with torch.no_grad():
        for i, (maps, cls) in enumerate(backbone(images)):
            close(found[f'patches_{i}'], maps.permute(0, 2, 3, 1))
            close(found[f'mean_{i}'], maps.mean((2, 3)))
            close(found[f'cls_{i}'], cls)


def test_a_model_of_timm_gives_what_timm_gives(pictures, timm_weights):
    model = timm.create_model('test_vit', num_classes=0).eval()
    state = torch.load(timm_weights)
    model.load_state_dict({k: v for k, v in state.items() if not k.startswith('head.')})
    transform = timm.data.create_transform(
        **timm.data.resolve_model_data_config(model), is_training=False
    )
    images = [transform(Image.open(path).convert('RGB')) for path in pictures]
    with torch.no_grad():
        tokens = model.forward_features(torch.stack(images)).numpy()
    found = of_timm(timm_weights)(pictures, ['patches', 'cls', 'mean'])
    assert list(found) == ['patches', 'cls', 'mean']
    close(found['cls'], tokens[:, 0])
    close(found['mean'], tokens[:, 1:].mean(1))
    assert found['patches'].shape == (4, 10, 10, 64)
    close(found['patches'].reshape(4, 100, 64), tokens[:, 1:])


def test_models_of_timm_see_rgb_of_8_bits(tmp_path, timm_weights):
    embedder = of_timm(timm_weights)
    gray = np.random.randint(0, 256, (40, 50), dtype=np.uint8)
    Image.fromarray(gray).save(tmp_path / 'gray.png')
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / 'deep.png')
    alpha = np.stack([gray] * 3 + [gray // 2], 2)
    Image.fromarray(alpha).save(tmp_path / 'alpha.png')
    images = [str(tmp_path / f'{name}.png') for name in ('gray', 'deep', 'alpha')]
    found = embedder([*images, gray, Image.fromarray(alpha), np.stack([gray] * 3, 2)])
    for values in found['cls']:
        close(values, found['cls'][0])
    with pytest.raises(ConfigError, match='it has 6 channels of type uint8'):
        embedder(np.zeros((40, 50, 6), np.uint8))
    with pytest.raises(ConfigError, match='it has 1 channels of type float32'):
        embedder(np.zeros((40, 50), np.float32))


def test_the_teacher_of_a_config_gives_what_the_student_predicts(pictures, tmp_path):
    weights = str(tmp_path / 'teacher.pth')
    torch.save(timm.create_model('test_vit').state_dict(), weights)
    teacher = dict(tiny.TEACHER, checkpoint=weights, layer=2)
    del teacher['pretrained']
    config = trained.pretraining(teacher=teacher)
    path = trained.write(config, tmp_path / 'a.pth')
    (tmp_path / 'a.py').write_text(config.pretty_text)
    found = load_embedder(path, teacher=True, device='cpu')(
        pictures, ['cls', 'patches']
    )
    again = load_embedder(tmp_path / 'a.py', teacher=True, device='cpu')(pictures)
    close(again['cls'], found['cls'])

    from mmmaskdistill.models import TimmTeacher

    model = TimmTeacher('test_vit', weights, layer=2, img_size=64, class_token=True)
    images = np.stack([_resized(path) for path in pictures])
    images = (torch.from_numpy(images).permute(0, 3, 1, 2).float() - 127) / 128
    tokens = model(images)
    close(found['cls'], tokens[:, 0])
    close(found['patches'].reshape(4, 16, 64), tokens[:, 1:])
    # The student sees other values, and is the one that is embedded without teacher.
    assert load_embedder(path, device='cpu')(pictures)['cls'].shape == (4, 24)


def _resized(path):
    import cv2

    image = cv2.imread(path)
    image = cv2.resize(image, (64, 64), interpolation=cv2.INTER_CUBIC)
    return image[..., ::-1]


@pytest.mark.parametrize(
    'change',
    [
        dict(type='os.system', command='true'),
        dict(tiny.TEACHER, model_name='a.pkl'),
        dict(
            type='mmmaskdistill.TeacherList',
            teachers=[dict(type='os.system', command='')],
        ),
    ],
)
def test_a_hostile_teacher_is_not_built(tmp_path, change):
    path = trained.write(trained.pretraining(), tmp_path / 'a.pth')
    content = torch.load(path, weights_only=False)
    config = trained.pretraining(teacher=change)
    content['meta']['cfg'] = config.pretty_text
    torch.save(content, path)
    with pytest.raises(CheckpointError, match='os.system|could run code'):
        load_embedder(path, teacher=True, device='cpu')


def test_a_config_without_a_teacher_is_refused(tmp_path):
    path = trained.write(trained.classification(), tmp_path / 'a.pth')
    with pytest.raises(ConfigError, match='has no teacher: expected a pre-training'):
        load_embedder(path, teacher=True)
    with pytest.raises(ConfigError, match='timm:test_vit is a timm model'):
        load_embedder('timm:test_vit', teacher=True)
    with pytest.raises(
        CheckpointError, match='timm:test_vit .*: give a file with --weights'
    ):
        load_embedder('timm:test_vit')
    with pytest.raises(ConfigError, match="'no_such_vit' is not a model of timm"):
        load_embedder('timm:no_such_vit')


def test_sizes_are_not_padded_and_can_be_the_same(pictures, tmp_path, timm_weights):
    path = trained.write(trained.segmentation(), tmp_path / 'a.pth')
    with pytest.raises(ConfigError) as caught:
        load_embedder(path, layers=[0, 1], device='cpu')(pictures, ['patches'])
    assert str(caught.value) == (
        'the patch grids of the images differ: 4 x 4, 4 x 5, 5 x 4. Give the images '
        'the same size with load_embedder(size=...)'
    )
    embedder = load_embedder(path, device='cpu')
    together = embedder(pictures, ['mean'])['mean']
    alone = [embedder(path, ['mean'])['mean'][0] for path in pictures]
    close(together, alone)
    with pytest.raises(ConfigError, match='the patch grids of the images differ'):
        embedder(pictures, ['patches'])
    for same in (
        load_embedder(path, device='cpu', size=(32, 64)),
        of_timm(timm_weights, size=(32, 64)),
    ):
        assert same(pictures, ['patches'])['patches'].shape[:3] == (4, 2, 4)
    with pytest.raises(ConfigError, match=r'size=\(0, 4\): expected height and width'):
        load_embedder(path, size=(0, 4))


def test_names_are_paths_below_the_folder_that_holds_all(pictures, tmp_path):
    folder = tmp_path / 'pictures'
    assert name_images(folder) == (
        str(folder),
        dict(zip(['a.jpg', 'b.png', 'sub/a.jpg', 'sub/c.png'], sorted(pictures))),
        {},
    )
    assert name_images([pictures[1], pictures[2]])[1] == {
        'a.jpg': pictures[1],
        'sub/a.jpg': pictures[2],
    }
    assert list(name_images([folder / 'sub', pictures[0]])[1]) == [
        'sub/a.jpg',
        'sub/c.png',
        'b.png',
    ]
    # The same file, twice
    assert list(name_images([pictures[2], folder / 'sub'])[1]) == ['a.jpg', 'c.png']
    (tmp_path / 'list.txt').write_text('pictures/b.png\npictures/sub/a.jpg\n')
    assert list(name_images(tmp_path / 'list.txt')[1]) == ['b.png', 'sub/a.jpg']
    # A pattern stands for what the shell would make of it, also for folders.
    assert list(name_images(f'{folder}/**/[ab].*')[1]) == [
        'a.jpg',
        'b.png',
        'sub/a.jpg',
    ]
    assert list(name_images([f'{tmp_path}/pict*'])[1]) == [
        'a.jpg',
        'b.png',
        'sub/a.jpg',
        'sub/c.png',
    ]
    address = 'https://elsewhere.org/x/a.jpg'
    assert name_images([address, pictures[1]])[1] == {
        'a.jpg': pictures[1],
        address: address,
    }
    (folder / 'clip.mp4').touch()
    (folder / 'colors').mkdir()
    os.rename(pictures[1], folder / 'colors/b.png')
    named = name_images(folder, f'{folder}/colors')
    assert list(named.files) == ['b.png', 'sub/a.jpg', 'sub/c.png']
    assert named.left_out == {'.mp4': 1}
    os.rename(pictures[0], folder / 'x\ny.png')
    with pytest.raises(ConfigError, match='has a line break'):
        name_images(folder)


def test_broken_images_have_no_row(pictures, tmp_path, timm_weights):
    folder = tmp_path / 'pictures'
    (folder / 'empty.jpg').touch()
    (folder / 'no.png').write_text('no image')
    content = (folder / 'a.jpg').read_bytes()
    (folder / 'half.jpg').write_bytes(content[: len(content) // 2])
    embedder = of_timm(timm_weights)
    done = embed_files(embedder, folder, tmp_path / 'a.npz', batch_size=2)
    names = ['a.jpg', 'b.png', 'sub/a.jpg', 'sub/c.png']
    assert done.names == names
    assert list(done.skipped) == ['empty.jpg', 'half.jpg', 'no.png']
    assert done.skipped['empty.jpg'] == 'the file is empty'
    assert done.skipped['no.png'] == 'it contains no image that can be decoded'
    with np.load(tmp_path / 'a.npz') as found:
        assert found['names'].tolist() == names
        close(found['cls'], embedder([str(folder / name) for name in names])['cls'])


def test_features_that_are_no_numbers_have_no_row(pictures, tmp_path, timm_weights):
    embedder = of_timm(timm_weights)
    folder = tmp_path / 'pictures'
    whole = embedder(pictures)['cls']
    with torch.no_grad():
        embedder.model.norm.weight.mul_(1e6)
    with pytest.raises(ConfigError, match='its features cls are not finite float16'):
        embed_files(embedder, folder, tmp_path / 'a.npz', dtype='float16')
    done = embed_files(embedder, folder, tmp_path / 'a.npz')
    assert len(done.names) == 4 and not done.skipped
    assert np.isfinite(whole).all()


def _embed_and_die(embedder, folder, out, commits):
    from mmmaskdistill.apis.feature_files import FeatureFile

    commit = FeatureFile.commit

    def commit_or_die(self, now=False):
        nonlocal commits
        if not commits:
            os.kill(os.getpid(), signal.SIGKILL)
        commits -= 1
        commit(self, True)

    FeatureFile.commit = commit_or_die
    embed_files(embedder, folder, out, ['mean', 'patches'], batch_size=1)


@pytest.mark.parametrize('ending', ['npy', 'npz', 'parquet'])
def test_a_killed_run_gives_the_same_in_the_end(
    tmp_path, pictures, timm_weights, ending
):
    if ending == 'parquet':
        pytest.importorskip('pyarrow')
    folder = tmp_path / 'pictures'
    (folder / 'aa.png').write_text('no image')
    embedder = of_timm(timm_weights, size=(32, 32))
    what = ['mean', 'patches']
    names = ['a.jpg', 'b.png', 'sub/a.jpg', 'sub/c.png']
    lines = []
    for commits in (1, 2):
        process = get_context('fork').Process(
            target=_embed_and_die,
            args=(embedder, folder, tmp_path / f'a.{ending}', commits),
        )
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert [x for x in os.listdir(tmp_path) if x.startswith('a.')] == [
            f'a.{ending}.partial'
        ]
    done = embed_files(
        embedder, folder, tmp_path / f'a.{ending}', what, batch_size=1, log=lines.append
    )
    assert done.names == names and list(done.skipped) == ['aa.png']
    assert done.resumed == 3 and lines == ['3 of 5 images were done before']
    whole = embedder([str(folder / name) for name in names], what)
    if ending == 'npy':
        found = {key: np.load(tmp_path / f'a.{key}.npy') for key in what}
    elif ending == 'npz':
        found = np.load(tmp_path / 'a.npz')
    else:
        from pyarrow import parquet

        table = parquet.read_table(tmp_path / 'a.parquet')
        found = {key: np.array(table[key].to_pylist()) for key in what}
        found['patches'] = found['patches'].reshape(4, 2, 2, -1)
    for key in what:
        close(found[key], whole[key])


@pytest.mark.parametrize('task', ['segmentation', 'classification', 'pretraining'])
def test_another_normalization_is_another_setting(tmp_path, task):
    config = getattr(trained, task)()
    path = trained.write(config, tmp_path / 'a.pth')

    def described(**options):
        return load_embedder(config, path, device='cpu', **options).inputs.description

    options = dict(teacher=True) if task == 'pretraining' else {}
    if task == 'pretraining':
        config.model.teacher.pop('checkpoint')
    first = described(**options)
    assert described(**options) == first
    normalization = config.get('data_preprocessor') or config.model.data_preprocessor
    for key in ('mean', 'second_mean') if options else ('mean',):
        normalization[key] = [100.0, 101.0, 102.0]
        assert described(**options) != first
        first = described(**options)
    order = 'bgr_to_rgb' if task == 'segmentation' else 'to_rgb'
    normalization[order] = not normalization[order]
    assert described(**options) != first
    if task == 'segmentation':
        first = described(**options)
        normalization.test_cfg = dict(size_divisor=32)
        assert described(**options) != first


def test_a_stopped_run_with_other_weights_is_refused(tmp_path, pictures, timm_weights):
    embedder = of_timm(timm_weights)
    folder, out = tmp_path / 'pictures', tmp_path / 'a.npy'
    process = get_context('fork').Process(
        target=_embed_and_die, args=(embedder, folder, out, 1)
    )
    process.start()
    process.join()
    with torch.no_grad():
        embedder.model.cls_token.add_(1)
    with pytest.raises(ConfigError, match='had another weights'):
        embed_files(embedder, folder, out, ['mean', 'patches'], batch_size=1)


def test_pictures_of_all_images_share_one_basis(tmp_path, pictures, timm_weights):
    path = trained.write(trained.segmentation(), tmp_path / 'a.pth')
    embedder = load_embedder(path, device='cpu')
    folder = tmp_path / 'pictures'
    Image.open(pictures[1]).save(folder / 'a.png')
    out = tmp_path / 'a.npz'
    done = embed_files(embedder, folder, out, ['mean'], pca=tmp_path / 'colors')
    names = ['a.jpg.png', 'a.png.png', 'b.png', 'sub/a.png', 'sub/c.png']
    assert done.pictures == [str(tmp_path / 'colors' / name) for name in names]
    with np.load(out) as found:
        assert 'patches' not in found

    # The basis by numpy's singular values, of patches of different grids.
    maps = [
        embedder(str(folder / name), ['patches'])['patches'][0] for name in done.names
    ]
    rows = np.concatenate([x.reshape(-1, 24) for x in maps]).astype(np.float64)
    mean = rows.mean(0)
    axes = np.linalg.svd(rows - mean, full_matrices=False)[2][:3].T
    axes *= np.sign(axes[np.abs(axes).argmax(0), range(3)])
    low, high = np.percentile((rows - mean) @ axes, (2, 98), axis=0)
    for name, values, picture in zip(done.names, maps, done.pictures):
        colors = (((values - mean) @ axes - low) / (high - low)).clip(0, 1)
        sample = embedder.inputs.load(str(folder / name))
        seen = sample['inputs'].flip(0).permute(1, 2, 0).numpy()
        expected = pca_picture(seen, colors).astype(int)
        found = np.asarray(Image.open(picture)).astype(int)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1


def test_pictures_replace_nothing(tmp_path, pictures):
    embedder = load_embedder(
        trained.write(trained.segmentation(), tmp_path / 'a.pth'), device='cpu'
    )
    folder, colors = tmp_path / 'pictures', tmp_path / 'colors'
    before = {path: path.read_bytes() for path in folder.rglob('*.*')}
    (tmp_path / 'link').symlink_to(folder)
    for target in (folder, tmp_path / 'link'):
        with pytest.raises(ConfigError, match='pictures would replace images, such as'):
            embed_files(
                embedder, folder, tmp_path / 'a.npz', pca=target, overwrite=True
            )
    assert {path: path.read_bytes() for path in folder.rglob('*.*')} == before
    with pytest.raises(ConfigError, match='expected a folder that can be written'):
        embed_files(embedder, folder, tmp_path / 'a.npz', pca=tmp_path / 'a.pth')
    first = embed_files(embedder, folder, tmp_path / 'a.npz', pca=colors).pictures
    Path(first[0]).write_text('mine')
    with pytest.raises(ConfigError, match='--pca: .* is there already: choose another'):
        embed_files(embedder, folder, tmp_path / 'b.npz', pca=colors)
    assert Path(first[0]).read_text() == 'mine'
    assert not list(tmp_path.glob('b.npz*'))
    embed_files(embedder, folder, tmp_path / 'b.npz', pca=colors, overwrite=True)
    assert Image.open(first[0]).format == 'PNG'


def test_mixed_precision_and_workers(tmp_path, pictures, timm_weights):
    embedder = of_timm(timm_weights)
    full = embedder(pictures)['cls']
    half = embedder(pictures, amp=True)['cls']
    assert half.dtype == np.float32
    assert 0 < np.abs(half - full).max() < 0.1
    folder = tmp_path / 'pictures'
    done = embed_files(
        embedder, folder, tmp_path / 'a.npy', num_workers=2, batch_size=3
    )
    order = [pictures[i] for i in (1, 0, 2, 3)]
    assert [osp.basename(path) for path in order] == [
        osp.basename(name) for name in done.names
    ]
    close(np.load(tmp_path / 'a.npy'), full[[1, 0, 2, 3]])


def test_what_is_not_there_is_refused(pictures, timm_weights):
    embedder = of_timm(timm_weights)
    with pytest.raises(
        ConfigError, match=r"what=\['class'\]: expected some of cls, mean"
    ):
        embedder(pictures, ['class'])
    embedder.has_class_token = False
    assert embedder.keys() == ['mean']
    with pytest.raises(
        ConfigError, match="has no class token. Use 'mean' or 'patches'"
    ):
        embedder.keys(['cls'])


def test_a_config_may_be_an_object(pictures, tmp_path):
    config = trained.classification()
    path = trained.write(config, tmp_path / 'a.pth')
    close(
        load_embedder(Config(config.to_dict()), path, device='cpu')(pictures)['cls'],
        load_embedder(path, device='cpu')(pictures)['cls'],
    )
