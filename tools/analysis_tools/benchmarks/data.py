"""Loading of images: pipelines and storage side by side, or a config's.

Without --config: seconds an image on one core, of the picture for
pre-training, from the file to the cropped, flipped and jittered pixels, by
ours, mmpretrain's and torchvision's transforms; and from folders, tar shards
and an LMDB by ours. Masks, packing and collating are not counted, nor the
reference's normalization, which ours does on the device. Files come from the
system's cache, unless there are more --images than it holds.

With --config: whether loading or the model limits a training on this machine,
and how many workers to set.

    OMP_NUM_THREADS=1 python tools/analysis_tools/benchmark.py data
    python tools/analysis_tools/benchmark.py data --config CONFIG --device cuda
"""

import io
import math
import os
import runpy
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path

TOOLS = Path(__file__).parents[2]
SIZE, BYTES = (500, 375), 67_000  # of a photograph, as ImageNet has many
PEERS = ('torchvision', 'mmpretrain')
SPARE = 1.1  # workers for so much more than the model takes


def add_arguments(parser):
    parser.add_argument(
        '--against',
        nargs='*',
        choices=PEERS,
        default=list(PEERS),
        help='pipelines beside ours (default: all)',
    )
    parser.add_argument(
        '--images',
        help='folder of images (default: photographs of '
        'scikit-image as JPEGs of 500 x 375 pixels and 67 KB)',
    )
    parser.add_argument(
        '--num-images',
        type=int,
        default=64,
        help='at most so many of --images, evenly picked (%(default)s)',
    )
    parser.add_argument(
        '--repeats',
        type=int,
        default=20,
        help='timed passes over the images '
        'or, with --config, batches and steps (%(default)s)',
    )
    parser.add_argument('--config', help='training config to look at')
    parser.add_argument(
        '--device',
        default='cpu',
        help='where the config trains: cpu or cuda (%(default)s)',
    )
    parser.add_argument(
        '--processes',
        type=int,
        help='training processes on this machine (default: a GPU each)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. train_dataloader.batch_size=32',
    )


def run(args) -> dict:
    import cv2
    from mmengine.logging import MMLogger

    import mmmaskdistill  # noqa: F401

    MMLogger.get_current_instance().setLevel('ERROR')  # only the table counts
    warnings.filterwarnings('ignore', "Only use 'alpha'")
    cv2.setNumThreads(0)  # as the toolkits set it for training
    if args.config:
        return look_at_config(args)
    return compare(args)


# Side by side


def compare(args) -> dict:
    """Time pipelines and storages on the same images, in turn."""
    import torch
    from mmengine.registry import init_default_scope
    from prettytable import PrettyTable

    from mmmaskdistill.apis import measure

    torch.set_num_threads(1)
    init_default_scope('mmpretrain')
    device = torch.device('cpu')
    result = dict(machine=measure.machine(device))
    with tempfile.TemporaryDirectory() as root:
        sizes = put_images(args, Path(root, 'train'))
        for title, sides in (
            ('pipelines', pipelines(root, args.against)),
            ('storage', storages(root)),
        ):
            seconds = measure.interleave(sides, args.repeats, device)
            table = PrettyTable(
                [title, 'ms an image (quartiles)', 'images/s', 'times the first'],
                align='r',
            )
            figures = {
                name: measure.spread([t / len(sizes) for t in times])
                for name, times in seconds.items()
            }
            first = next(iter(figures.values()))['median']
            for name, times in figures.items():
                ms = {key: f'{1e3 * value:.3f}' for key, value in times.items()}
                table.add_row(
                    [
                        name,
                        f'{ms["median"]} ({ms["low"]} to {ms["high"]})',
                        f'{1 / times["median"]:.0f}',
                        f'{times["median"] / first:.2f}',
                    ]
                )
            print(table)
            result[title] = figures
    result.update(images=len(sizes), mean_bytes=sum(sizes) / len(sizes))
    print(
        f'{result["machine"]}; {len(sizes)} images of '
        f'{result["mean_bytes"] / 1e3:.0f} KB on average'
    )
    return result


def pipelines(root: str, against: list[str]) -> dict[str, Callable]:
    """Passes over the images' files, by ours and then by the peers."""
    files = sorted(map(str, Path(root, 'train').rglob('*.*')))

    def passes(picture: Callable) -> Callable:
        return lambda: [picture(file) for file in files]

    sides = {'ours': by_transforms(ours())}
    if 'torchvision' in against:
        sides['torchvision'] = by_torchvision(pictures=1)
        sides['torchvision, BEiT v2: two pictures'] = by_torchvision(pictures=2)
    if 'mmpretrain' in against:
        sides['mmpretrain'] = by_transforms(mmpretrain_beit(pictures=1))
        sides['mmpretrain, BEiT v2: two pictures'] = by_transforms(
            mmpretrain_beit(pictures=2)
        )
    return {name: passes(picture) for name, picture in sides.items()}


def ours() -> list[dict]:
    return [
        dict(type='mmmaskdistill.StrictLoadImageFromFile'),
        dict(type='mmmaskdistill.RandomJitteredCrop', scale=224),
    ]


def mmpretrain_beit(pictures: int) -> list[dict]:
    """mmpretrain's pipeline of BEiT v2 up to the crop."""
    from mmengine.config import Config

    base = 'mmpretrain::_base_/datasets/imagenet_bs256_beitv2.py'
    *steps, crop = Config.fromstring(f"_base_ = '{base}'", '.py').train_pipeline[:4]
    return [*steps, crop if pictures == 2 else dict(crop, second_size=None)]


def by_transforms(pipeline: list[dict]) -> Callable:
    from mmcv.transforms import Compose

    pipeline = Compose(pipeline)
    return lambda file: pipeline(dict(img_path=file))


def by_torchvision(pictures: int) -> Callable:
    """BEiT v2's transforms: Pillow, jitter, flip, then the crops."""
    from PIL import Image
    from torchvision import transforms
    from torchvision.transforms import functional

    bicubic = transforms.InterpolationMode.BICUBIC
    jitter = transforms.Compose(
        [transforms.ColorJitter(0.4, 0.4, 0.4), transforms.RandomHorizontalFlip()]
    )

    def picture(file):
        with open(file, 'rb') as content:
            image = jitter(Image.open(content).convert('RGB'))
        box = transforms.RandomResizedCrop.get_params(image, (0.2, 1.0), (3 / 4, 4 / 3))
        return [
            functional.resized_crop(image, *box, (224, 224), bicubic)
            for _ in range(pictures)
        ]

    return picture


def storages(root: str) -> dict[str, Callable]:
    """Passes over the images in each storage, by our pipeline."""
    from mmmaskdistill.datasets import ImageNet

    pack = TOOLS / 'dataset_converters/pack_imagenet.py'
    sides = {}
    for storage in ('folder', 'shards', 'lmdb'):
        if storage != 'folder':
            argv, sys.argv = sys.argv, [str(pack), root, '--format', storage]
            try:
                with redirect_stdout(io.StringIO()):
                    runpy.run_path(str(pack), run_name='__main__')
            finally:
                sys.argv = argv
        dataset = ImageNet(
            data_root=root,
            split='train',
            metainfo=dict(classes=('a',)),
            storage=storage,
            pipeline=ours(),
        )
        sides[storage] = lambda dataset=dataset: [
            dataset[k] for k in range(len(dataset))
        ]
    return sides


def put_images(args, folder: Path) -> list[int]:
    """Put the images into one class of a folder; their sizes in bytes."""
    folder = folder / 'a'
    folder.mkdir(parents=True)
    if args.images:
        kinds = ('.jpg', '.jpeg', '.png')
        files = sorted(
            file
            for file in Path(args.images).rglob('*')
            if file.suffix.lower() in kinds
        )
        if not files:
            raise SystemExit(
                f"error: no {', '.join(kinds)} in --images '{args.images}'"
            )
        step = math.ceil(len(files) / args.num_images)
        for k, file in enumerate(files[::step]):
            shutil.copy(file, folder / f'{k}{file.suffix}')
    else:
        for k, content in enumerate(photographs()):
            (folder / f'{k}.jpg').write_bytes(content)
    return [file.stat().st_size for file in folder.iterdir()]


def photographs() -> list[bytes]:
    """Photographs of scikit-image as JPEGs of the usual size."""
    import cv2
    from skimage import data

    left, right, _ = data.stereo_motorcycle()
    contents = []
    for image in (
        data.astronaut(),
        data.chelsea(),
        data.coffee(),
        data.rocket(),
        left,
        right,
    ):
        height = min(image.shape[0], image.shape[1] * SIZE[1] // SIZE[0])
        width = height * SIZE[0] // SIZE[1]
        image = cv2.resize(
            image[:height, :width, ::-1], SIZE, interpolation=cv2.INTER_CUBIC
        )
        contents.append(
            min(
                (
                    cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, quality])[
                        1
                    ].tobytes()
                    for quality in range(60, 98)
                ),
                key=lambda content: abs(len(content) - BYTES),
            )
        )
    return contents


# A config


def look_at_config(args) -> dict:
    """Time the config's loader with one worker and its training step."""
    import torch

    from mmmaskdistill.apis import measure
    from mmmaskdistill.apis.configs import load_config
    from mmmaskdistill.apis.preflight import check_data
    from mmmaskdistill.errors import ConfigError

    if not os.path.isfile(args.config):
        raise SystemExit(f'error: config not found: {args.config!r}')
    try:
        cfg = load_config(args.config, args.cfg_options)
        if cfg.get('train_dataloader') is None:
            raise ConfigError(f'{args.config!r} has no train_dataloader')
        check_data(cfg, ['train_dataloader'])
    except ConfigError as error:
        raise SystemExit(f'error: {error}') from None
    device = torch.device(args.device)
    processes = args.processes or max(
        1, (torch.cuda.device_count() if device.type == 'cuda' else 1)
    )

    batch, seconds = time_loader(cfg, args.repeats)
    size = cfg.train_dataloader.batch_size
    loader = measure.spread(seconds)
    step = measure.spread(
        measure.interleave(
            {'step': training_step(cfg, batch, device)}, args.repeats, device
        )['step']
    )
    result = dict(
        machine=measure.machine(device),
        loader_seconds=loader,
        step_seconds=step,
        **advise(
            load=size / loader['median'],
            train=size / step['median'],
            workers=cfg.train_dataloader.get('num_workers', 0),
            processes=processes,
            cores=len(os.sched_getaffinity(0)),
        ),
    )
    for name, times in (('one worker', loader), ('training step', step)):
        print(
            f'{name}: {size} images in {times["median"]:.3f} s '
            f'({times["low"]:.3f} to {times["high"]:.3f}), '
            f'{size / times["median"]:.3g} images/s'
        )
    print(result['advice'])
    print(result['machine'])
    return result


def time_loader(cfg, batches: int):
    """A batch, and seconds of each as a single worker gives them."""
    from mmengine.registry import init_default_scope
    from mmengine.runner import Runner

    init_default_scope(cfg.get('default_scope', 'mmengine'))
    loader = Runner.build_dataloader(
        dict(
            cfg.train_dataloader,
            num_workers=1,
            persistent_workers=False,
            drop_last=True,
        ),
        seed=0,
    )
    seconds, start = [], None
    while len(seconds) < batches:
        for batch in loader:
            if start is not None:
                seconds.append(time.perf_counter() - start)
                if len(seconds) == batches:
                    break
            start = time.perf_counter()
        if not seconds:
            raise SystemExit(
                f'error: {len(loader.dataset)} samples are less than two '
                f'batches of {loader.batch_size}: reduce '
                'train_dataloader.batch_size'
            )
        start = None  # a pass begins with starting its worker
    return batch, seconds


def training_step(cfg, batch, device) -> Callable:
    """Forward, backward and update, with random weights."""
    from mmengine.optim import build_optim_wrapper

    from mmmaskdistill.registry import MODELS

    model = dict(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    for teacher in teachers(model.get('teacher')):
        teacher.update(pretrained='random', checkpoint=None)
    model = MODELS.build(model).to(device).train()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    return lambda: model.train_step(batch, optim_wrapper)


def teachers(node) -> Iterator[dict]:
    """Configs of timm's models in a teacher's config."""
    if isinstance(node, (list, tuple)):
        for part in node:
            yield from teachers(part)
    elif isinstance(node, dict):
        if 'model_name' in node:
            yield node
        for part in node.values():
            yield from teachers(part)


def advise(load: float, train: float, workers: int, processes: int, cores: int) -> dict:
    """What limits, and what to set.

    Args:
        load (float): Images a second that a worker loads.
        train (float): Images a second that a process trains on.
        workers (int): What the config has, a process.
        processes (int): Training processes on the machine.
        cores (int): Its cores.
    """
    needed = math.ceil(SPARE * train / load)
    room = max(1, cores // processes - 1)  # the process itself takes one
    limits = 'loading' if load * max(workers, 1) < train else 'model'
    says = (
        f'with num_workers={workers}, as in the config, '
        f'{"loading" if limits == "loading" else "the model"} limits: '
    )
    if needed <= room:
        says += f'set train_dataloader.num_workers={needed}'
    else:
        share = min(1, room * load / train)
        says += (
            f'{needed} workers a process would keep the model busy, '
            f'{processes} process(es) on {cores} cores have room for {room} '
            f'each. More cores are needed: {processes * (needed + 1)}. Set '
            f'train_dataloader.num_workers={room}, the model then works '
            f'{share:.0%} of the time'
        )
    return dict(limits=limits, workers=min(needed, room), needed=needed, advice=says)
