"""Turn the runs of tools/quickstart.sh into a table, summary.json and pictures."""

import argparse
import json
import os
import os.path as osp
from statistics import mean, stdev

STARTS = ('scratch', 'maskdistill')
TITLES = dict(scratch='from scratch', maskdistill='MaskDistill')


def last(work_dir, name):
    """The last value of a scalar of a run."""
    from mmmaskdistill.visualization import read_run

    return read_run(work_dir)[name][1][-1].item()


def versions():
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


def summarize(root, seeds):
    """The numbers of a quickstart, as they go into summary.json."""
    from mmmaskdistill.visualization import read_run

    def runs(task, start):
        return [osp.join(root, f'{task}_{start}_{k}') for k in range(seeds)]

    stages = ['data', 'teacher', 'pretrain'] + [
        osp.basename(run)
        for task in ('segment', 'classify')
        for start in STARTS
        for run in runs(task, start)
    ]
    loss = read_run(osp.join(root, 'pretrain'))['loss'][1].tolist()
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
        pretrain_loss=dict(first=loss[0], last=loss[-1]),
        seconds=sum(seconds.values()),
        seconds_by_stage=seconds,
        versions=versions(),
    )


def describe(values):
    spread = f' +- {stdev(values):.1f}' if len(values) > 1 else ''
    return f'{mean(values):.1f}{spread}'


def print_table(summary, seeds):
    from prettytable import PrettyTable

    table = PrettyTable(['start', 'mIoU', 'top-1'], align='l')
    for start in STARTS:
        table.add_row(
            [
                TITLES[start],
                describe(summary['miou'][start]),
                describe(summary['top1'][start]),
            ]
        )
    print(table)
    print(
        f'{seeds} seed{"s, mean +- deviation" * (seeds > 1)}; pre-training '
        'loss {first:.3f} to {last:.3f}'.format(**summary['pretrain_loss'])
        + f'; {summary["seconds"] / 60:.0f} minutes of work'
    )


def draw_segmentations(root, summary, number=4):
    """Image, truth and both segmentors' predictions, of seed 0."""
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
        title = f'{TITLES[start]}\nmIoU {summary["miou"][start][0]:.1f}'
        predictions[title] = np.stack(
            [
                sample.pred_sem_seg.data[0].numpy()
                for sample in inference_model(model, files)
            ]
        )
    images = np.stack([cv2.imread(file)[..., ::-1] for file in files])
    # The files count from 1, 0 being ignored; models count from 0.
    draw_segmentation(
        images,
        np.where(truth == 0, 255, truth.astype(int) - 1),
        predictions,
        classes['palette'],
        osp.join(root, 'segmentation.png'),
        classes=classes['classes'],
    )


def draw_loss(root):
    from mmmaskdistill.visualization import draw_curves, read_run

    loss = read_run(osp.join(root, 'pretrain'))['loss']
    draw_curves(
        {'pre-training': loss},
        osp.join(root, 'loss.png'),
        xlabel='iteration',
        ylabel='smooth-L1 loss at hidden patches',
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', help='folder of the runs')
    parser.add_argument(
        '--seeds', type=int, default=1, help='runs of each kind (%(default)s)'
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
    for name in ('summary.json', 'segmentation.png', 'pretraining.png', 'loss.png'):
        print(f'  {osp.join(args.root, name)}')


if __name__ == '__main__':
    main()
