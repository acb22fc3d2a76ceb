"""Check the names of the files: images, labels, and the pairs of them."""

import os
import os.path as osp
from collections.abc import Sequence

from mmseg.datasets import BaseSegDataset

from mmmaskdistill.errors import first_few

from .findings import Findings
from .folders import LISTS_FOLDERS, what_is_there
from .known import is_known
from .sources import Source

IMAGE_SUFFIXES = (
    '.jpg',
    '.jpeg',
    '.png',
    '.bmp',
    '.tif',
    '.tiff',
    '.webp',
    '.ppm',
    '.pgm',
    '.gif',
    '.jp2',
    '.exr',
    '.npy',
)


def check_names(source: Source, findings: Findings) -> None:
    """Check that each listed file exists, and which files of a folder are left out.

    Args:
        source (Source): The data set.
        findings (Findings): Receives a missing image or label as an error, and files
            that are left out as a warning.
    """
    listing = _Listing()
    for key, what in (('img_path', 'image'), ('seg_map_path', 'label')):
        if what == 'label' and source.step('Annotation', 'Label') is None:
            continue
        missing = [path for path in source.paths(key) if path not in listing]
        if missing:
            count = len(missing)
            findings.add(
                f'{count} of {len(source.records)} {what}s of {source.option} '
                f'do{"es" * (count == 1)} not exist: {first_few(missing)}. '
                + _advice(source, key, none=count == len(source.records)),
                # Others may read a file of another name.
                fatal=is_known(type(source.dataset)) and source.known_pipeline,
            )
    listed = getattr(type(source.dataset), 'load_data_list', None)
    # A list of files or of indices chooses some of them, which is no mistake.
    chosen = [getattr(source.dataset, name, None) for name in ('ann_file', '_indices')]
    if any(chosen) or not (source.on_disk and source.complete):
        return
    if listed is BaseSegDataset.load_data_list:
        _check_left_out_pairs(source, listing, findings)
    elif listed in LISTS_FOLDERS:
        _check_left_out_images(source, findings)


def check_leaks(sources: Sequence[Source], findings: Findings) -> None:
    """Check that no image is in both the training and the validation data.

    Args:
        sources (Sequence[Source]): The data sets of all loaders.
        findings (Findings): Receives images that are in both as a warning.
    """
    paths = {True: {}, False: {}}
    for source in sources:
        for path in source.paths('img_path'):
            paths[source.training].setdefault(osp.abspath(path), source)
    both = sorted(paths[True].keys() & paths[False].keys())
    if both:
        trained, tested = paths[True][both[0]], paths[False][both[0]]
        findings.warn(
            f'{len(both)} of the {len(paths[False])} images to evaluate on are also '
            f'trained on: {first_few(both)} ({trained.option} and {tested.option}), '
            'so the metrics say nothing about new images: give the two data sets '
            'different images'
        )


def _check_left_out_images(source: Source, findings: Findings) -> None:
    """Look for images with other endings, and for images outside of class folders."""
    folder, used = source.dataset.img_prefix, source.paths('img_path')
    paths = [
        osp.join(place, name)
        for place, _, files in os.walk(folder)
        for name in files
        if name.lower().endswith(IMAGE_SUFFIXES)
    ]
    if len(paths) <= len(used):
        return
    others = sorted(set(map(osp.normpath, paths)) - set(map(osp.normpath, used)))
    if others:
        option, endings = source.option, source.dataset.extensions
        classes = ' and lie in the folder of a class' * source.dataset.with_label
        findings.warn(
            f"{len(others)} of {len(paths)} images in '{folder}' are left out: "
            f'{first_few(others)}. Images end in {", ".join(sorted(endings))} '
            f'({option}.extensions){classes}'
        )


def _check_left_out_pairs(
    source: Source, listing: '_Listing', findings: Findings
) -> None:
    """Look for images with other endings, and for labels without an image."""
    dataset = source.dataset
    images, labels = source.paths('img_path'), source.paths('seg_map_path')
    used = set(map(_key, images)) | set(map(_key, labels))
    folders = {osp.dirname(_key(path)) for path in labels}
    suffix = dataset.seg_map_suffix
    alone = [
        osp.join(folder, name)
        for folder in sorted(folders)
        for name in listing.names(folder)
        if name.endswith(suffix) and osp.join(folder, name) not in used
    ]
    # If images and labels have the same folder and ending, each image is in the list.
    if alone and not folders & {osp.dirname(_key(path)) for path in images}:
        findings.warn(
            f'{len(alone)} label{"s" * (len(alone) > 1)} without an image in '
            f'{source.option}, which are left out: {first_few(sorted(alone))}. The '
            f'image of a label has its name, with {dataset.img_suffix!r} instead of '
            f'{suffix!r}'
        )
    others = [
        osp.join(folder, name)
        for folder in sorted({osp.dirname(_key(path)) for path in images} - folders)
        for name in listing.names(folder)
        if name.lower().endswith(IMAGE_SUFFIXES) and osp.join(folder, name) not in used
    ]
    # Endings such as '_leftImg8bit.png' are chosen to leave others out.
    if others and dataset.img_suffix.startswith('.'):
        findings.warn(
            f'{len(others)} image{"s" * (len(others) > 1)} in the folders of '
            f'{source.option} left out, because {source.option}.img_suffix='
            f'{dataset.img_suffix!r}: {first_few(sorted(others))}'
        )


class _Listing:
    """Names of the files in folders; each folder is listed once.

    To list a folder takes a fraction of the time that it takes to ask for each file,
    especially on a file server.
    """

    def __init__(self) -> None:
        self.folders: dict[str, set[str]] = {}

    def names(self, folder: str) -> set[str]:
        """Return the names in a folder, none if it does not exist."""
        if folder not in self.folders:
            try:
                with os.scandir(folder or '.') as entries:
                    self.folders[folder] = {
                        entry.name
                        for entry in entries
                        # A link may lead nowhere.
                        if not entry.is_symlink() or osp.exists(entry.path)
                    }
            except OSError:
                self.folders[folder] = set()
        return self.folders[folder]

    def __contains__(self, path: str) -> bool:
        folder, name = osp.split(path)
        return name in self.names(folder)


def _key(path: str) -> str:
    folder, name = osp.split(path)
    return osp.join(folder, name)


def _advice(source: Source, key: str, none: bool) -> str:
    dataset, option = source.dataset, source.option
    if key == 'img_path':
        listed = f'{option}.ann_file'
        stems = [
            osp.basename(path).removesuffix(getattr(dataset, 'img_suffix', ''))
            for path in source.paths(key)
        ]
        if not all(stems):
            return f'Remove the empty lines from {listed}'
        if stems[0].startswith('\ufeff'):
            return f'Save {listed} without the byte order mark at its beginning'
        if none and isinstance(dataset, BaseSegDataset):
            return (
                f'Each line of {option}.ann_file is the name of an image below '
                f'data_prefix.img_path, without its ending {dataset.img_suffix!r}'
            )
        return f'Add them, or remove them from {option}.ann_file'
    suffix = getattr(dataset, 'seg_map_suffix', None)
    if suffix is None:
        return 'Add them, or leave out their images'
    folder = osp.dirname(source.paths(key)[0])
    dotless = f'.{dataset.img_suffix}'
    if all(path.endswith(dotless) for path in source.paths('img_path')):
        return f'Set {option}.img_suffix={dotless!r}, with the dot'
    return (
        f'The label of an image has its name, with {suffix!r} ({option}.'
        f"seg_map_suffix) instead of {dataset.img_suffix!r}; in '{folder}' "
        f'{what_is_there(folder)}. '
        + (
            f'Set {option}.seg_map_suffix to what follows the name of the image'
            if none
            else f'Add the labels, or leave out their images with {option}.ann_file'
        )
    )
