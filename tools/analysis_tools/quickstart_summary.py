"""Summarize the runs of tools/quickstart.sh in a table, a JSON file and pictures.

tools/quickstart.sh calls this tool at its end. The table is printed; summary.json,
segmentation.png and loss.png are written to the folder of the runs. For example:

  python tools/analysis_tools/quickstart_summary.py work_dirs/quickstart --seeds 3
"""

import argparse
import json
import os
import os.path as osp
from statistics import mean, stdev

# Titles of the three starts. Those other than scratch are names of pre-trainings.
TITLES = dict(
    scratch='from scratch',
    pretrain='MaskDistill, loss at hidden patches (the paper)',
    pretrain_all='loss at all patches',
)
STARTS = tuple(TITLES)
# Titles of the columns of the pictures, which are narrow.
COLUMNS = dict(
    scratch='from scratch', pretrain='hidden patches', pretrain_all='all patches'
)
PRETRAININGS = STARTS[1:]


def last(work_dir: str, name: str) -> float:
    """Return the last value of a logged scalar.

    Args:
        work_dir (str): Work directory of the run.
        name (str): Name of the scalar, such as ``mIoU``.
    """
    from mmmaskdistill.visualization import read_run

    return read_run(work_dir)[name][1][-1].item()


def versions() -> dict[str, str]:
    """Return the versions of the packages that the results depend on."""
    from importlib.metadata import version

    import mmcv
    import mmengine
    import mmpretrain
    import mmseg

    import mmmaskdistill

    return dict(
        mmmaskdistill=mmmaskdistill.__version__,
        mmengine=mmengine.__version__,
        mmcv=mmcv.__version__,
        mmsegmentation=mmseg.__version__,
        mmpretrain=mmpretrain.__version__,
        **{name: version(name) for name in ('torch', 'torchvision', 'timm', 'numpy')},
    )


def summarize(root: str, seeds: int) -> dict:
    """Collect the numbers that are written to summary.json.

    Args:
        root (str): Folder of the runs.
        seeds (int): Number of runs of each kind.

    Returns:
        dict: ``miou`` and ``top1`` in percent, for each start (from scratch or
        from a pre-trained student) one number per seed; the first and the last
        ``pretrain_loss`` of each pre-training; the share of the photograph that is
        predicted as its class, in ``photograph``; the time of all stages and of each
        stage in ``seconds`` and ``seconds_by_stage``; the ``versions`` of the
        packages.
    """
    from mmmaskdistill.visualization import read_run

    def runs(task: str, start: str) -> list[str]:
        return [osp.join(root, f'{task}_{start}_{k}') for k in range(seeds)]

    stages = ['data', 'teacher', *PRETRAININGS] + [
        osp.basename(run)
        for task in ('segment', 'classify')
        for start in STARTS
        for run in runs(task, start)
    ]
    losses = {
        name: read_run(osp.join(root, name))['loss'][1].tolist()
        for name in PRETRAININGS
    }
    seconds = {}
    for stage in stages:
        with open(osp.join(root, f'{stage}.seconds')) as file:
            seconds[stage] = int(file.read())
    return dict(
        miou={s: [last(run, 'mIoU') for run in runs('segment', s)] for s in STARTS},
        top1={
            s: [last(run, 'accuracy/top1') for run in runs('classify', s)]
            for s in STARTS
        },
        pretrain_loss={
            name: dict(first=loss[0], last=loss[-1]) for name, loss in losses.items()
        },
        photograph=dict(motorcycle=photograph_share(root)),
        seconds=sum(seconds.values()),
        seconds_by_stage=seconds,
        versions=versions(),
    )


def photograph_share(root: str, name: str = 'motorcycle') -> float:
    """Return the share of the predicted photograph that is one class.

    The photograph shows the motorcycle of the training data from another camera, so
    a perfect segmentor would predict this class everywhere.

    Args:
        root (str): Folder of the runs.
        name (str): Name of the class. Defaults to ``'motorcycle'``.

    Returns:
        float: The share in percent.
    """
    import numpy as np
    from PIL import Image

    folder = osp.join(root, 'photograph')
    with open(osp.join(root, 'data', 'classes.json')) as file:
        label = json.load(file)['classes'].index(name)
    with Image.open(osp.join(folder, 'labels', 'motorcycle_right.png')) as labels:
        return 100 * float((np.asarray(labels) == label).mean())


def describe(values: list[float]) -> str:
    """Format the mean of several numbers and, if possible, their deviation."""
    spread = f' +- {stdev(values):.1f}' if len(values) > 1 else ''
    return f'{mean(values):.1f}{spread}'


def print_table(summary: dict, seeds: int) -> None:
    """Print the results of all starts.

    Args:
        summary (dict): The result of :func:`summarize`.
        seeds (int): Number of runs of each kind.
    """
    from prettytable import PrettyTable

    table = PrettyTable(['start', 'mIoU', 'top-1', 'pre-training'], align='l')
    for start in STARTS:
        cost = '-'
        if start in PRETRAININGS:
            minutes = summary['seconds_by_stage'][start] / 60
            loss = summary['pretrain_loss'][start]
            cost = f'{minutes:.0f} min, loss {loss["first"]:.3f} to {loss["last"]:.3f}'
        table.add_row(
            [
                TITLES[start],
                describe(summary['miou'][start]),
                describe(summary['top1'][start]),
                cost,
            ]
        )
    print(table)
    print(
        f'{seeds} seed{"s, mean +- standard deviation" * (seeds > 1)}; '
        f'{summary["seconds"] / 60:.0f} minutes in total'
    )


def draw_segmentations(root: str, summary: dict, number: int = 4) -> None:
    """Draw images, their labels and the predictions of the segmentors of seed 0.

    Args:
        root (str): Folder of the runs. ``segmentation.png`` is written there.
        summary (dict): The result of :func:`summarize`.
        number (int): Number of validation images. Defaults to 4.
    """
    import cv2
    import numpy as np
    from mmseg.apis import inference_model, init_model

    from mmmaskdistill.visualization import draw_segmentation

    with open(osp.join(root, 'data', 'classes.json')) as file:
        classes = json.load(file)
    folder = osp.join(root, 'data', 'ade')
    names = [f'{i:06d}' for i in range(number)]
    files = [osp.join(folder, 'images/validation', f'{n}.jpg') for n in names]
    truth = np.stack(
        [
            cv2.imread(
                osp.join(folder, 'annotations/validation', f'{n}.png'),
                cv2.IMREAD_UNCHANGED,
            )
            for n in names
        ]
    )
    predictions = {}
    for start in STARTS:
        run = osp.join(root, f'segment_{start}_0')
        with open(osp.join(run, 'last_checkpoint')) as file:
            checkpoint = osp.join(run, osp.basename(file.read().strip()))
        model = init_model('configs/quickstart/segment.py', checkpoint, 'cpu')
        title = f'{COLUMNS[start]}\nmIoU {summary["miou"][start][0]:.1f}'
        predictions[title] = np.stack(
            [
                sample.pred_sem_seg.data[0].numpy()
                for sample in inference_model(model, files)
            ]
        )
    images = np.stack([cv2.imread(file)[..., ::-1] for file in files])
    # In the label files, classes count from 1 and 0 is ignored. In the predictions,
    # classes count from 0.
    draw_segmentation(
        images,
        np.where(truth == 0, 255, truth.astype(int) - 1),
        predictions,
        classes['palette'],
        osp.join(root, 'segmentation.png'),
        classes=classes['classes'],
    )


def draw_loss(root: str) -> None:
    """Draw the losses of the pre-trainings over the iterations.

    Args:
        root (str): Folder of the runs. ``loss.png`` is written there.
    """
    from mmmaskdistill.visualization import draw_curves, read_run

    draw_curves(
        {
            f'at {COLUMNS[name]}': read_run(osp.join(root, name))['loss']
            for name in PRETRAININGS
        },
        osp.join(root, 'loss.png'),
        xlabel='iteration',
        ylabel='smooth-L1 loss',
    )


def main() -> None:
    """Parse the command line and write the summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'root', help='folder of the runs, for example work_dirs/quickstart'
    )
    parser.add_argument(
        '--seeds',
        type=int,
        default=1,
        metavar='N',
        help='number of runs of each kind, with the seeds 0 to N - 1 '
        '(default: %(default)s)',
    )
    args = parser.parse_args()

    import mmmaskdistill  # noqa: F401

    summary = summarize(args.root, args.seeds)
    draw_loss(args.root)
    draw_segmentations(args.root, summary)
    path = osp.join(args.root, 'summary.json')
    with open(path + '.tmp', 'w') as file:
        json.dump(summary, file, indent=2)
    os.replace(path + '.tmp', path)
    print_table(summary, args.seeds)
    print(
        f'photograph: {summary["photograph"]["motorcycle"]:.0f} % of the pixels are '
        'predicted as motorcycle,\nwhich is right everywhere (segmentor of the loss at '
        'all patches, seed 0)'
    )
    pictures = ('segmentation', 'loss', *PRETRAININGS)
    for name in ('summary.json', *(f'{picture}.png' for picture in pictures)):
        print(f'  {osp.join(args.root, name)}')
    print(f'  {osp.join(args.root, "photograph", "overlay")}')


if __name__ == '__main__':
    main()
