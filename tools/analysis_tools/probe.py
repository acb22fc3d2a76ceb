r"""Judge frozen features by a linear probe and by nearest neighbors.

The tool compares the features of a pre-trained student, block by block, with those
of its teacher, which are the mark that the student could reach. Nothing is trained by
gradient descent: the linear probe of patch features is a ridge regression on the
training images of --segment, and images of --classify are classified by the 20 most
similar training images. Without --only, the tool also measures how far the patches
attend in each block of a ViT. For example:

  python tools/analysis_tools/probe.py configs/quickstart/pretrain.py \
      work_dirs/quickstart/pretrain/epoch_10.pth \
      --segment configs/quickstart/segment.py \
      --classify configs/quickstart/classify.py

Without a checkpoint, the student is untrained.
"""

import argparse
import json
import os.path as osp
import sys

# command_line.py is in tools/.
sys.path.append(osp.dirname(osp.dirname(osp.abspath(__file__))))
from command_line import fail


def arguments() -> argparse.Namespace:
    """Parse the command line, and exit if a file does not exist.

    Returns:
        argparse.Namespace: The values of the options.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='path of a pre-training config')
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help='checkpoint of that config (default: none, an untrained student)',
    )
    parser.add_argument(
        '--segment',
        metavar='CONFIG',
        help='segmentation config with the images and label maps of the linear probe '
        '(default: no linear probe)',
    )
    parser.add_argument(
        '--classify',
        metavar='CONFIG',
        help='classification config with the images of the nearest neighbors '
        '(default: no nearest neighbors)',
    )
    parser.add_argument(
        '--only',
        nargs='+',
        metavar='NAME',
        help='features to judge, such as student, teacher or "block 2" (default: all)',
    )
    parser.add_argument(
        '--out', metavar='FILE', help='JSON file to write (default: none)'
    )
    parser.add_argument(
        '--device',
        default='cpu',
        help='device for the models, for example cuda:0 (default: %(default)s)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        metavar='KEY=VALUE',
        help='settings that override those of the pre-training config (default: no '
        'changes)',
    )
    args = parser.parse_args()
    for path in (args.config, args.segment, args.classify):
        if path is not None and not osp.isfile(path):
            fail(f'{path!r} not found')
    if args.checkpoint is not None and not osp.exists(args.checkpoint):
        fail(f'{args.checkpoint!r} not found')
    if not (args.segment or args.classify):
        fail('there is nothing to do: give --segment or --classify, or both')
    return args


def main() -> None:
    """Probe the features, print a table and write the JSON file."""
    args = arguments()
    # These imports are slow. They come after the checks above, so that mistakes
    # on the command line are reported at once.
    from mmengine.utils import mkdir_or_exist
    from prettytable import PrettyTable

    from mmmaskdistill.apis.configs import load_config
    from mmmaskdistill.apis.pretraining import init_pretraining
    from mmmaskdistill.apis.probing import (
        extractors,
        measure_attention,
        probe_classification,
        probe_segmentation,
    )
    from mmmaskdistill.errors import CheckpointError, ConfigError

    try:
        config = load_config(args.config, args.cfg_options)
        model = init_pretraining(config, args.checkpoint, args.device)
        features = extractors(model)
        unknown = set(args.only or ()) - set(features)
        if unknown:
            fail(f'--only {sorted(unknown)}: expected some of {", ".join(features)}')
        features = {
            name: extract
            for name, extract in features.items()
            if not args.only or name in args.only
        }
        grid = model.backbone.grid
        side = grid[0] * model.backbone.stride
        results = {}
        if args.segment:
            results['linear probe mIoU'] = probe_segmentation(
                features, grid, side, load_config(args.segment)
            )
        if args.classify:
            results['k-NN top-1'] = probe_classification(
                features, side, load_config(args.classify)
            )
        if not args.only:
            results['attention distance, px'] = measure_attention(
                model, side, load_config(args.segment or args.classify)
            )
    except (ConfigError, CheckpointError) as error:
        fail(error)
    table = PrettyTable(['features', *results], align='l')
    for name in features:
        row = (f'{v[name]:.1f}' if name in v else '-' for v in results.values())
        table.add_row([name, *row])
    print(table)
    if args.out:
        mkdir_or_exist(osp.dirname(osp.abspath(args.out)))
        with open(args.out, 'w') as file:
            json.dump(results, file, indent=2)


if __name__ == '__main__':
    main()
