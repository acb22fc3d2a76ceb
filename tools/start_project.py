r"""Look at images and labels, and write the configs to train on them.

For example:

  python tools/start_project.py data/streets/images --out projects/streets
  python tools/start_project.py data/streets/images --labels data/streets/labels \
      --out projects/streets --minutes 90

IMAGES are folders of any layout, images, or text files with one path a line. The tool
reads all of them, says what it found, and writes in the folder OUT:

  pretrain.py    pre-training on the images, without labels
  segment.py     segmentation, if there are --labels
  classify.py    classification, if IMAGES is a folder with a folder for each class
  classes.csv    what the values of the labels mean, as a draft; it is never overwritten

Train with these, one after the other:

  python tools/train.py OUT/pretrain.py
  python tools/train.py OUT/segment.py

docs/own_data.md has more about each option.
"""

import argparse
import shlex
import sys
import warnings
from pathlib import Path

from command_line import fail

# efficientnet_lite_to_timm.py is there.
sys.path.append(str(Path(__file__).resolve().parent / 'model_converters'))


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'images',
        nargs='+',
        metavar='IMAGES',
        help='folder of images, image, or text file with one path a line',
    )
    parser.add_argument(
        '--out', required=True, metavar='DIR', help='folder to write the configs to'
    )
    parser.add_argument(
        '--labels',
        metavar='DIR',
        help='folder of labels with the same layout as the images: index or palette '
        'images, masks or colored pictures (default: no segmentation)',
    )
    parser.add_argument(
        '--label-suffix',
        metavar='TEXT',
        help='what the names of the labels have behind those of the images, such as '
        '_mask (default: nothing or a common suffix)',
    )
    parser.add_argument(
        '--classes',
        metavar='FILE',
        help='CSV file with the columns value,name,colour,ignore (default: '
        'OUT/classes.csv, which is drafted from the labels if it is not there)',
    )
    parser.add_argument(
        '--val-images',
        metavar='DIR',
        help='images for validation (default: a folder val next to a folder train, or '
        'else --val-share)',
    )
    parser.add_argument(
        '--val-labels', metavar='DIR', help='labels for validation (default: likewise)'
    )
    parser.add_argument(
        '--val-share',
        type=float,
        default=0.1,
        metavar='SHARE',
        help='share of the images for validation if no folder is for it (default: '
        '%(default)s)',
    )
    parser.add_argument(
        '--teacher',
        nargs='+',
        metavar=('NAME', 'FILE'),
        help='timm model, file of its weights, or both (default: CLIP ViT-B/16 with a '
        'GPU, else EfficientNet-Lite0)',
    )
    parser.add_argument(
        '--init',
        metavar='CHECKPOINT',
        help='weights of a ViT that pre-training goes on from (default: random ones)',
    )
    parser.add_argument(
        '--minutes',
        type=float,
        metavar='M',
        help='time for all trainings together, for which a step of each is measured '
        '(default: 60 with a GPU, 30 without)',
    )
    parser.add_argument(
        '--epochs',
        type=int,
        metavar='E',
        help='passes over the data in each training (default: as --minutes allows)',
    )
    parser.add_argument(
        '--force',
        action='store_true',
        help='overwrite the configs of an earlier call (default: off)',
    )
    return parser.parse_args()


def main() -> None:
    """Parse the command line and start the project."""
    args = arguments()

    # These imports are slow and come last, so that --help answers at once.
    from efficientnet_lite_to_timm import convert
    from mmengine.logging import MMLogger

    import mmmaskdistill  # noqa: F401
    from mmmaskdistill.apis.projects import Options, start_project
    from mmmaskdistill.datasets import UnreadableImage
    from mmmaskdistill.errors import CheckpointError, ConfigError

    # The tool itself says what it finds. What the data sets and the models that it
    # builds say is not for the user: a step is measured with random weights.
    MMLogger.get_current_instance().setLevel('ERROR')
    warnings.filterwarnings('ignore')
    try:
        configs = start_project(Options(**vars(args)), convert)
    except (ConfigError, CheckpointError, UnreadableImage) as error:
        fail(error)
    print('\nNext:')
    for config in configs:
        print(f'  python tools/train.py {shlex.quote(config)}')


if __name__ == '__main__':
    main()
