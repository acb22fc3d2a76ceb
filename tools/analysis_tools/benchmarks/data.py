"""Time to load images, or whether loading limits the training of a config.

Without --config, the job measures on one core how long it takes to turn an image
file into the cropped, flipped and color-jittered image of pre-training. It compares
the transforms of this project with those of mmpretrain and torchvision, and this
project's reading from image folders, tar shards and an LMDB database. Making masks,
packing and collating are not included. Normalization is not included either,
because this project normalizes images on the device of the model. The files are
read from the system's cache, unless there are more --images than the cache holds.
The table "split" shows how much time of a core is saved if the core only decodes the
image and cuts the crop out, and --device resizes, flips and jitters the crops of a
whole batch at once.

With --config, the job finds out whether loading or the model limits the training of
that config on this machine, and how many workers should load the data.

For example:

  OMP_NUM_THREADS=1 python tools/analysis_tools/benchmark.py data
  python tools/analysis_tools/benchmark.py data --config CONFIG --device cuda
"""

import argparse
import io
import math
import os
import runpy
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from command_line import fail

from . import measure

if TYPE_CHECKING:
    import torch
    from mmengine.config import Config

TOOLS = Path(__file__).parents[2]
# Width and height in pixels and file size in bytes of the default photographs. Many
# images of ImageNet are like this.
SIZE, BYTES = (500, 375), 67_000
PEERS = ('torchvision', 'mmpretrain')
TABLES = ('pipelines', 'storage', 'split')
# The recommended workers load this many times the images that the model needs.
SPARE = 1.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this job."""
    parser.add_argument(
        '--against',
        nargs='*',
        choices=PEERS,
        default=list(PEERS),
        help="pipelines to compare with this project's (default: all)",
    )
    parser.add_argument(
        '--tables',
        nargs='+',
        choices=TABLES,
        default=list(TABLES),
        help='what to measure without --config (default: all)',
    )
    parser.add_argument(
        '--images',
        metavar='FOLDER',
        help='folder of images to load (default: photographs of scikit-image as '
        'JPEG files of 500 x 375 pixels and 67 KB)',
    )
    parser.add_argument(
        '--num-images',
        type=int,
        default=64,
        metavar='N',
        help='use at most N images of --images, evenly distributed over the folder '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--repeats',
        type=int,
        default=20,
        metavar='N',
        help='number of timed passes over the images or, with --config, of timed '
        'batches and training steps (default: %(default)s)',
    )
    parser.add_argument(
        '--config',
        help='training config to examine (default: none, compare the pipelines)',
    )
    parser.add_argument(
        '--device',
        default='cpu',
        help='device on which the config is trained or, without --config, the pixels '
        'of the table "split" are computed, cpu or cuda '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--processes',
        type=int,
        metavar='N',
        help='number of training processes on this machine (default: one per GPU)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        metavar='KEY=VALUE',
        help='settings that override those of the config, for example '
        'train_dataloader.batch_size=32 (default: no changes)',
    )


def run(args: argparse.Namespace) -> dict:
    """Examine a config or compare pipelines, see the description of the job.

    Args:
        args (argparse.Namespace): The command line.

    Returns:
        dict: The measurements.

    Raises:
        SystemExit: If there is no such device.
    """
    import torch
    from mmengine.logging import MMLogger
    from mmengine.utils.dl_utils import set_multi_processing

    import mmmaskdistill  # noqa: F401

    if args.device.startswith('cuda') and not torch.cuda.is_available():
        fail(f'--device {args.device}, but torch finds no GPU: use --device cpu')
    MMLogger.get_current_instance().setLevel('ERROR')  # keeps the output short
    warnings.filterwarnings('ignore', "Only use 'alpha'")
    # As a Runner does before training: no threads in OpenCV, forked workers.
    set_multi_processing()
    if args.config:
        return look_at_config(args)
    return compare(args)


def compare(args: argparse.Namespace) -> dict:
    """Time pipelines and storages in turn on the same images.

    Args:
        args (argparse.Namespace): The command line.

    Returns:
        dict: The seconds per image of each of the ``pipelines`` and of each
        ``storage``, the number and mean size of the images, and ``split``, the result
        of :func:`benchmarks.device_crop.compare`; less what ``--tables`` leaves out.
    """
    import torch
    from mmengine.registry import init_default_scope
    from prettytable import PrettyTable

    from . import device_crop

    torch.set_num_threads(1)
    init_default_scope('mmpretrain')
    device = torch.device('cpu')
    result = dict(machine=measure.machine(device))
    with tempfile.TemporaryDirectory() as root:
        sizes = put_images(args, Path(root, 'train'))
        for title, sides in (
            ('pipelines', lambda: pipelines(root, args.against)),
            ('storage', lambda: storages(root)),
        ):
            if title not in args.tables:
                continue
            seconds = measure.interleave(sides(), args.repeats, device)
            table = PrettyTable(
                [title, 'ms per image (quartiles)', 'images/s', 'time / first row'],
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
            print(table, flush=True)
            result[title] = figures
            args.keep(result)
        if 'split' in args.tables:
            load, crop = ours()
            del crop['type']
            result['split'] = device_crop.compare(
                image_files(root), load, crop, args.repeats, torch.device(args.device)
            )
    result.update(images=len(sizes), mean_bytes=sum(sizes) / len(sizes))
    print(
        f'{result["machine"]}; {len(sizes)} images of '
        f'{result["mean_bytes"] / 1e3:.0f} KB on average'
    )
    return result


def pipelines(root: str, against: list[str]) -> dict[str, Callable]:
    """Make a function for each pipeline that loads all images once.

    Args:
        root (str): Folder with the images in ``train/a``.
        against (list[str]): Names of the other libraries.

    Returns:
        dict[str, Callable]: The functions by the name of the pipeline, ``ours``
        (this project's) first.
    """
    files = image_files(root)

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


def image_files(root: str) -> list[str]:
    """Return the paths of the images, in ``train`` below a folder."""
    return sorted(map(str, Path(root, 'train').rglob('*.*')))


def ours() -> list[dict]:
    """Return this project's pre-training pipeline up to the crop."""
    return [
        dict(type='mmmaskdistill.StrictLoadImageFromFile'),
        dict(type='mmmaskdistill.RandomJitteredCrop', scale=224),
    ]


def mmpretrain_beit(pictures: int) -> list[dict]:
    """Return the pipeline of BEiT v2 in mmpretrain up to the crop.

    Args:
        pictures (int): Number of crops of each image, 1 or 2. BEiT v2 makes 2,
            one for the student and one for the tokenizer.

    Returns:
        list[dict]: Configs of the transforms.
    """
    from mmengine.config import Config

    base = 'mmpretrain::_base_/datasets/imagenet_bs256_beitv2.py'
    *steps, crop = Config.fromstring(f"_base_ = '{base}'", '.py').train_pipeline[:4]
    return [*steps, crop if pictures == 2 else dict(crop, second_size=None)]


def by_transforms(pipeline: list[dict]) -> Callable:
    """Make a function that runs a pipeline of transforms on an image file.

    Args:
        pipeline (list[dict]): Configs of the transforms.

    Returns:
        Callable: The function, whose argument is the path of the file.
    """
    from mmcv.transforms import Compose

    pipeline = Compose(pipeline)
    return lambda file: pipeline(dict(img_path=file))


def by_torchvision(pictures: int) -> Callable:
    """Make a function that loads an image file as BEiT v2's own code does.

    The image is read with Pillow, jittered, flipped and then cropped.

    Args:
        pictures (int): Number of crops of each image.

    Returns:
        Callable: The function, whose argument is the path of the file.
    """
    from PIL import Image
    from torchvision import transforms
    from torchvision.transforms import functional

    bicubic = transforms.InterpolationMode.BICUBIC
    jitter = transforms.Compose(
        [transforms.ColorJitter(0.4, 0.4, 0.4), transforms.RandomHorizontalFlip()]
    )

    def picture(file: str) -> list[Image.Image]:
        with open(file, 'rb') as content:
            image = jitter(Image.open(content).convert('RGB'))
        box = transforms.RandomResizedCrop.get_params(image, (0.2, 1.0), (3 / 4, 4 / 3))
        return [
            functional.resized_crop(image, *box, (224, 224), bicubic)
            for _ in range(pictures)
        ]

    return picture


def storages(root: str) -> dict[str, Callable]:
    """Make a function for each storage that loads all images once.

    All functions use this project's pipeline. The images are packed first. Without
    the package lmdb, a line says that its storage is left out.

    Args:
        root (str): Folder with the images in ``train/a``.

    Returns:
        dict[str, Callable]: The functions by the name of the storage.
    """
    from mmmaskdistill.datasets import ImageNet

    pack = TOOLS / 'dataset_converters/pack_imagenet.py'
    sides = {}
    for storage in ('folder', 'shards', 'lmdb'):
        if storage == 'lmdb' and find_spec('lmdb') is None:
            print('lmdb is left out: it needs the package lmdb (pip install lmdb)')
            continue
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


def put_images(args: argparse.Namespace, folder: Path) -> list[int]:
    """Put the images of the benchmark into a folder, as a single class.

    Args:
        args (argparse.Namespace): The command line.
        folder (Path): The folder. The images are put into ``a`` below it.

    Returns:
        list[int]: Sizes of the files in bytes.

    Raises:
        SystemExit: If the folder of ``--images`` has no images.
    """
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
            fail(f"no {', '.join(kinds)} in --images '{args.images}'")
        step = math.ceil(len(files) / args.num_images)
        for k, file in enumerate(files[::step]):
            shutil.copy(file, folder / f'{k}{file.suffix}')
    else:
        for k, content in enumerate(photographs()):
            (folder / f'{k}.jpg').write_bytes(content)
    return [file.stat().st_size for file in folder.iterdir()]


def photographs() -> list[bytes]:
    """Return photographs of scikit-image as JPEG files.

    Returns:
        list[bytes]: Contents of the files. The images are ``SIZE`` pixels large.
        The JPEG quality of each is chosen so that the file has about ``BYTES``
        bytes.
    """
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


def look_at_config(args: argparse.Namespace) -> dict:
    """Time the loader of a config with one worker, and its training step.

    Args:
        args (argparse.Namespace): The command line.

    Returns:
        dict: Times in seconds and the result of :func:`advise`.

    Raises:
        SystemExit: If the config or its data is missing or too small.
    """
    import torch

    from mmmaskdistill.apis.checks import check_data
    from mmmaskdistill.apis.configs import load_config
    from mmmaskdistill.errors import ConfigError

    if not os.path.isfile(args.config):
        fail(f'config not found: {args.config!r}')
    try:
        cfg = load_config(args.config, args.cfg_options)
        if cfg.get('train_dataloader') is None:
            raise ConfigError(f'{args.config!r} has no train_dataloader')
        check_data(cfg, ['train_dataloader'])
    except ConfigError as error:
        fail(error)
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


def time_loader(cfg: 'Config', batches: int) -> tuple[dict, list[float]]:
    """Time how long a single worker takes to load each batch.

    Args:
        cfg (Config): The training config.
        batches (int): Number of timed batches.

    Returns:
        tuple[dict, list[float]]: The last batch and the seconds of each batch.

    Raises:
        SystemExit: If the data set has fewer samples than two batches.
    """
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
    seconds = []
    while True:
        # The first batch of each pass is not timed: it includes the time to start
        # the worker.
        start = None
        for batch in loader:
            if start is not None:
                seconds.append(time.perf_counter() - start)
                if len(seconds) >= batches:
                    return batch, seconds
            start = time.perf_counter()
        if not seconds:
            fail(
                f'{len(loader.dataset)} samples are less than two '
                f'batches of {loader.batch_size}: reduce '
                'train_dataloader.batch_size'
            )


def training_step(cfg: 'Config', batch: dict, device: 'torch.device') -> Callable:
    """Make a function that runs a training step of a config.

    The step consists of forward pass, backward pass and update. The weights are
    random.

    Args:
        cfg (Config): The training config.
        batch (dict): A batch of the config's loader.
        device (torch.device): Device of the model.

    Returns:
        Callable: The function.
    """
    from mmengine.optim import build_optim_wrapper

    from mmmaskdistill.apis.pretraining import make_teachers_random
    from mmmaskdistill.registry import MODELS

    model = deepcopy(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    make_teachers_random(model.get('teacher'))
    model = MODELS.build(model).to(device).train()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    return lambda: model.train_step(batch, optim_wrapper)


def advise(load: float, train: float, workers: int, processes: int, cores: int) -> dict:
    """Find out whether loading or the model limits training, and advise on it.

    Args:
        load (float): Images per second that one worker loads.
        train (float): Images per second that one process trains on.
        workers (int): Workers per process in the config.
        processes (int): Number of training processes on the machine.
        cores (int): Number of CPU cores of the machine.

    Returns:
        dict: ``limits`` (``loading`` or ``model``), ``workers`` (the recommended
        number per process), ``needed`` (the number that keeps the model busy,
        whatever the number of cores) and ``advice`` (a text for the user).
    """
    needed = math.ceil(SPARE * train / load)
    # Each process needs one core for itself.
    room = max(1, cores // processes - 1)
    limits = 'loading' if load * max(workers, 1) < train else 'model'
    says = (
        f'with num_workers={workers}, as in the config, '
        f'{"loading" if limits == "loading" else "the model"} limits training: '
    )
    if needed <= room:
        says += f'set train_dataloader.num_workers={needed}'
    else:
        share = min(1, room * load / train)
        says += (
            f'{needed} workers per process would keep the model busy, but '
            f'{processes} process(es) on {cores} cores have room for only {room} '
            f'each; {processes * (needed + 1)} cores would be needed. Set '
            f'train_dataloader.num_workers={room}: the model then computes '
            f'{share:.0%} of the time'
        )
    return dict(limits=limits, workers=min(needed, room), needed=needed, advice=says)
