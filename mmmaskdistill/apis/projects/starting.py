"""Start a project: look at data, choose settings, write configs."""

import hashlib
import os
import os.path as osp
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mmengine.config import Config

from mmmaskdistill.apis.checks import frame, image_table, label_table
from mmmaskdistill.datasets import FolderSegDataset, find_images
from mmmaskdistill.errors import ConfigError, first_few

from . import looking, start_weights, teachers, writing
from .looking import ClassFolders, Images, Labels
from .settings import PRETRAINING, choose_length, choose_settings, find_machine
from .timing import seconds_per_step

MINUTES = dict(gpu=60, cpu=30)


class Options(NamedTuple):
    """What the user says about a project.

    Attributes:
        images (list[str]): Folders of any layout, images, and lists of them.
        out (str): Folder that is written to.
        labels (str | None): Folder of the labels.
        classes (str | None): CSV file of the classes.
        val_images (str | None): Folder of images for validation.
        val_labels (str | None): Folder of labels for validation.
        val_share (float): Share of the images for validation without such folders.
        teacher (list[str] | None): Name of a timm model, file of weights, or both.
        init (str | None): Checkpoint that pre-training starts from.
        minutes (float | None): Time that the trainings may take.
        epochs (int | None): Number of passes over the data instead.
        force (bool): Whether to overwrite the configs of an earlier call.
    """

    images: list[str]
    out: str
    labels: str | None = None
    classes: str | None = None
    val_images: str | None = None
    val_labels: str | None = None
    val_share: float = 0.1
    teacher: list[str] | None = None
    init: str | None = None
    minutes: float | None = None
    epochs: int | None = None
    force: bool = False


def start_project(
    options: Options,
    convert_lite: Callable[[str, str], None],
    say: Callable[[str], None] = print,
) -> list[str]:
    """Look at data, choose settings and write configs.

    Args:
        options (Options): What the user says.
        convert_lite (Callable): Converts the file of EfficientNet-Lite0's weights in
            its package (first argument) to a file that timm reads (second argument).
        say (Callable): Called with each text for the user. Defaults to ``print``.

    Returns:
        list[str]: The configs.

    Raises:
        ConfigError: If the options or the data do not allow a training.
        CheckpointError: If a file of weights cannot be read.
    """
    check_options(options)
    folder = osp.abspath(osp.expanduser(options.out))
    machine = find_machine()
    classes = None
    if not options.labels:
        classes = looking.look_at_class_folders(
            options.images, options.val_images, options.val_share
        )
    os.makedirs(folder, exist_ok=True)
    cache = osp.join(folder, 'inspected.json')
    paths = list(options.images) + [p for p in [options.val_images] if p]
    images = looking.look_at_images(paths, cache)
    say(f'{images.endings}\n{image_table(images.files)}')
    say_left_out(images.left_out, 'images', say)
    labels, table = None, ''
    if options.labels:
        labels, table = look_at_labels(options, folder, images, cache, say)
    elif classes:
        say_classes(classes, say)
    check_written(folder, labels, classes, options.force)

    # What is for validation or a test must not be seen in pre-training.
    seen, held_out = pretraining_files(options, images, labels, classes)
    vit, small = {}, None
    if options.init:
        vit = start_weights.vit_of(options.init, images.channels)
        small = start_weights.is_small(vit)
        vit = start_weights.without_defaults(vit)
    teacher, notes = choose_teacher(options, bool(machine.gpu), folder, convert_lite)
    labeled = len(labels.train) if labels else 0
    if labels and labels.split.share:
        labeled = len(seen & set(labels.train))
    settings = choose_settings(
        machine,
        len(seen),
        labeled or (sum(classes.counts.values()) if classes else 0),
        images.short_side,
        images.are_photographs,
        small,
    )
    say(f'machine         {machine.describe()}')
    say(f'teacher         {teacher.describe()}')
    for note in notes:
        say(f'note: {note}')

    paths = write_list_of_images(options, folder, images, seen, held_out)
    project = writing.Project(
        folder, images, paths, settings, teacher, vit, options.init
    )
    minutes = options.minutes or MINUTES['gpu' if machine.gpu else 'cpu']
    if options.epochs is None and options.minutes is None:
        say(f'budget          {minutes} minutes (--minutes or --epochs change it)')
    seconds = 60 * minutes
    follows = labels is not None or classes is not None
    texts = [
        (
            'pretrain.py',
            'pre-training',
            len(seen),
            settings.batch,
            seconds * (PRETRAINING if follows else 1),
            True,
            lambda length: writing.pretrain_config(project, length),
        )
    ]
    if labels:
        write_lists_of_labels(project, labels)
        texts.append(
            (
                'segment.py',
                'segmentation',
                labeled,
                settings.seg_batch,
                seconds * (1 - PRETRAINING),
                False,
                lambda length: writing.segment_config(project, labels, table, length),
            )
        )
    if classes:
        lists, count = write_lists_of_classes(folder, images, classes)
        texts.append(
            (
                'classify.py',
                'classification',
                count,
                settings.cls_batch,
                seconds * (1 - PRETRAINING),
                True,
                lambda length: writing.classify_config(project, classes, lists, length),
            )
        )
    return [write_config(folder, options.epochs, say, *text) for text in texts]


def check_options(options: Options) -> None:
    """Check options that contradict each other or are out of range.

    Args:
        options (Options): What the user says.

    Raises:
        ConfigError: If an option is wrong.
    """
    if bool(options.val_labels) and not (options.labels and options.val_images):
        raise ConfigError('--val-labels goes with --labels and --val-images')
    if options.labels and options.val_images and not options.val_labels:
        raise ConfigError(
            '--val-images goes with --val-labels, because there are --labels'
        )
    if options.classes and not options.labels:
        raise ConfigError('--classes goes with --labels')
    if not 0 < options.val_share < 1:
        raise ConfigError(
            f'--val-share {options.val_share:g}: expected more than 0 and less than 1'
        )
    if options.minutes is not None and options.minutes <= 0:
        raise ConfigError(f'--minutes {options.minutes:g}: expected more than 0')
    if options.epochs is not None and options.epochs < 1:
        raise ConfigError(f'--epochs {options.epochs}: expected 1 or more')
    if options.minutes is not None and options.epochs is not None:
        raise ConfigError('give --minutes or --epochs, not both')
    out = osp.abspath(osp.expanduser(options.out))
    if osp.exists(out) and not osp.isdir(out):
        raise ConfigError(f"--out '{options.out}' is a file: expected a folder")
    if any(letter in out for letter in '\'"\\{}\n'):
        raise ConfigError(
            f'--out {options.out!r}: quotes, braces and backslashes are not allowed in '
            'the path, because configs name files next to them'
        )
    for path in options.images:
        path = osp.abspath(osp.expanduser(path))
        if osp.isdir(path) and looking.is_below(osp.join(out, 'x'), [path]):
            raise ConfigError(
                f"--out '{options.out}' is in the folder of images '{path}', where "
                'pictures of results would be taken for images: choose another folder'
            )


def check_written(
    folder: str, labels: Labels | None, classes: ClassFolders | None, force: bool
) -> None:
    """Refuse to overwrite configs.

    Args:
        folder (str): Folder of the project.
        labels (Labels | None): The labels.
        classes (ClassFolders | None): The classes.
        force (bool): Whether to overwrite.

    Raises:
        ConfigError: If a config is there and ``force`` is not set.
    """
    names = ['pretrain.py']
    names += ['segment.py'] if labels else []
    names += ['classify.py'] if classes else []
    there = [name for name in names if osp.exists(osp.join(folder, name))]
    if there and not force:
        raise ConfigError(
            f"'{folder}' already has {first_few(there)}: edit it, choose another --out, "
            'or overwrite it with --force'
        )


def say_left_out(left_out: dict[str, str], what: str, say: Callable) -> None:
    """Name the files that are not used.

    Args:
        left_out (dict[str, str]): The reason for each file.
        what (str): Such as ``'images'``.
        say (Callable): Called with the text.
    """
    if left_out:
        lines = [f"'{path}': {reason}" for path, reason in left_out.items()]
        more = [f'and {len(lines) - 10} more'] if len(lines) > 10 else []
        say(frame([f'{len(lines)} {what} are left out:', *lines[:10], *more]))


def look_at_labels(
    options: Options, folder: str, images: Images, cache: str, say: Callable
) -> tuple[Labels, str]:
    """Read the labels, print what was found, and write a draft of the classes.

    Args:
        options (Options): What the user says.
        folder (str): Folder of the project.
        images (Images): The images.
        cache (str): File that keeps what was read.
        say (Callable): Called with each text for the user.

    Returns:
        tuple[Labels, str]: The labels, and the file of the classes.

    Raises:
        ConfigError: If the labels cannot be used, or values of them have no class.
    """
    draft = osp.join(folder, 'classes.csv')
    table = options.classes and osp.abspath(osp.expanduser(options.classes))
    if table is None and osp.isfile(draft):
        table = draft  # The user may have edited it.
    val = (options.val_images, options.val_labels) if options.val_labels else None
    labels = looking.look_at_labels(
        options.images,
        options.labels,
        table,
        val,
        options.val_share,
        images.files,
        cache,
    )
    names = looking.names_of_values(labels.table)
    say(label_table(labels.files, names))
    say_left_out(labels.left_out, 'labels or images', say)
    unknown = looking.unknown_values(labels)
    if unknown:
        found = [f"{value} (in '{path}')" for value, path in unknown.items()]
        raise ConfigError(
            f"the labels have values that '{table}' lacks: {first_few(found)}. Add a "
            'line for each, with ignore set to yes if its pixels do not count'
        )
    if not labels.train:
        raise ConfigError('no labeled image for training is left')
    if table is None:
        labels.table.write(draft)
        say(f'classes         drafted in {draft}: give them names there')
    if labels.split.share:
        kind = f'{labels.split.share:g} of the labeled images, chosen by their names'
        say(f'validation      {kind} (--val-share or --val-images change it)')
    else:
        say(f"validation      {len(labels.val)} labeled images in '{labels.split.val}'")
    return labels, table or draft


def say_classes(classes: ClassFolders, say: Callable) -> None:
    """Print the classes of folders.

    Args:
        classes (ClassFolders): The classes.
        say (Callable): Called with the text.
    """
    counts = [f'{name} ({classes.counts[name]})' for name in classes.names]
    say(
        f'class folders   {first_few(counts, 12)}; if they are no classes, do not use '
        'classify.py'
    )


def pretraining_files(
    options: Options,
    images: Images,
    labels: Labels | None,
    classes: ClassFolders | None,
) -> tuple[set[str], set[str]]:
    """Choose the images for pre-training.

    Args:
        options (Options): What the user says.
        images (Images): The images.
        labels (Labels | None): The labels.
        classes (ClassFolders | None): The classes.

    Returns:
        tuple[set[str], set[str]]: The images for pre-training, and those that are for
        validation and tests.

    Raises:
        ConfigError: If no image is left.
    """
    every = {file.path for file in images.files}
    folders = looking.held_out(options.images)
    if options.val_images:
        folders.append(osp.abspath(osp.expanduser(options.val_images)))
    held_out = {path for path in every if looking.is_below(path, folders)}
    if labels and labels.split.share:
        dataset = FolderSegDataset(
            labels.table,
            data_prefix=dict(img_path=labels.split.train),
            share=labels.split.share,
            part='val',
        )
        held_out |= {sample['img_path'] for sample in dataset}
    if classes and classes.split.share:
        held_out |= set(choose_val(classes, every))
    seen = every - held_out
    if not seen:
        raise ConfigError('no image for pre-training is left: all are for validation')
    return seen, held_out


def choose_teacher(
    options: Options, has_gpu: bool, folder: str, convert_lite: Callable
) -> tuple[teachers.TeacherChoice, list[str]]:
    """Choose the teacher, and write the weights that a package has.

    Args:
        options (Options): What the user says.
        has_gpu (bool): Whether there is a GPU.
        folder (str): Folder of the project.
        convert_lite (Callable): See :func:`start_project`.

    Returns:
        tuple[TeacherChoice, list[str]]: The teacher, and what the user should know.
    """
    file, package = osp.join(folder, 'teacher.pth'), teachers.lite_package()
    at_hand = file if package or osp.isfile(file) else None
    choice, notes = teachers.choose_teacher(options.teacher, has_gpu, at_hand)
    if choice.checkpoint == file and not osp.isfile(file):
        convert_lite(package, file)
    return choice, notes


def write_list_of_images(
    options: Options,
    folder: str,
    images: Images,
    seen: set[str],
    held_out: set[str],
) -> list[str]:
    """Write a list of the images for pre-training, unless they are all of a folder.

    Args:
        options (Options): What the user says.
        folder (str): Folder of the project.
        images (Images): The images.
        seen (set[str]): The images for pre-training.
        held_out (set[str]): The images for validation and tests.

    Returns:
        list[str]: Folders and lists.
    """
    given = [osp.abspath(osp.expanduser(path)) for path in options.images]
    for paths in (given, [osp.join(given[0], 'train')]):
        if all(map(osp.exists, paths)) and not images.left_out:
            try:
                if set(find_images(paths).files) == seen:
                    return paths
            except ConfigError:  # no image there
                continue
    return [write_list(osp.join(folder, 'pretrain.txt'), sorted(seen))]


def write_list(path: str, lines: Sequence[str]) -> str:
    """Write a text file.

    Args:
        path (str): The file.
        lines (Sequence[str]): Its lines.

    Returns:
        str: The file.
    """
    with open(path, 'w', encoding='utf-8') as file:
        file.writelines(f'{line}\n' for line in lines)
    return path


def write_lists_of_labels(project: writing.Project, labels: Labels) -> None:
    """Write lists of the labeled images if others are left out.

    Args:
        project (Project): The project.
        labels (Labels): The labels.
    """
    for part, path in writing.lists_of_labels(project, labels).items():
        root = labels.split.train if part == 'train' else labels.split.val
        files = labels.train if labels.split.share or part == 'train' else labels.val
        write_list(path, [osp.relpath(file, root) for file in files])


def choose_val(classes: ClassFolders, files: set[str]) -> list[str]:
    """Choose the images for validation among those of one folder for each class.

    The choice follows from a hash of the names, so that it stays the same when others
    are added. At least one image of each class is chosen, and one is left.

    Args:
        classes (ClassFolders): The classes.
        files (set[str]): The images that can be used.

    Returns:
        list[str]: The images for validation.
    """
    chosen = []
    for name in classes.names:
        folder = osp.join(classes.split.train, name)
        own = sorted(
            (file for file in files if looking.is_below(file, [folder])),
            key=lambda file: hashlib.sha256(
                osp.relpath(file, folder).encode()
            ).digest(),
        )
        count = round(classes.split.share * len(own))
        chosen += own[: min(max(count, 1), len(own) - 1)]
    return chosen


def write_lists_of_classes(
    folder: str, images: Images, classes: ClassFolders
) -> tuple[dict[str, str], int]:
    """Write lists of the images for classification, unless they are all of a folder.

    Args:
        folder (str): Folder of the project.
        images (Images): The images.
        classes (ClassFolders): The classes.

    Returns:
        tuple[dict[str, str], int]: The lists for ``train`` and ``val``, and the number
        of images for training.
    """
    every = {file.path for file in images.files}
    split = classes.split
    if split.share:
        val = set(choose_val(classes, every))
        parts = dict(train=every - val, val=val)
    else:
        parts = {
            part: {path for path in every if looking.is_below(path, [root])}
            for part, root in (('train', split.train), ('val', split.val))
        }
    count = len(parts['train'])
    if not split.share and not images.left_out:
        return {}, count
    lists = {}
    for part, files in parts.items():
        root = split.train if part == 'train' else split.val
        lines = []
        for file in sorted(files):
            name = osp.relpath(file, root)
            lines.append(f'{name} {classes.names.index(name.split(os.sep)[0])}')
        lists[part] = write_list(osp.join(folder, f'classify_{part}.txt'), lines)
    return lists, count


def write_config(
    folder: str,
    epochs: int | None,
    say: Callable,
    file: str,
    name: str,
    images: int,
    batch: int,
    seconds: float,
    by_epoch: bool,
    text: Callable,
) -> str:
    """Write a config, whose length needs the time of a step if there is a budget.

    Args:
        folder (str): Folder of the project.
        epochs (int | None): Number of passes that the user asks for.
        say (Callable): Called with the length.
        file (str): Name of the config.
        name (str): Name of the training.
        images (int): Number of images.
        batch (int): Images per step.
        seconds (float): The budget.
        by_epoch (bool): Whether the training counts epochs.
        text (Callable): Returns the text of the config for a length.

    Returns:
        str: The config.
    """
    path, per_step = osp.join(folder, file), 0.0
    if epochs is None:
        trial = choose_length(name, images, batch, 1, 0, 0, by_epoch)
        write_list(path, text(trial).splitlines())
        per_step = seconds_per_step(Config.fromfile(path))
    length = choose_length(name, images, batch, epochs, seconds, per_step, by_epoch)
    write_list(path, text(length).splitlines())
    say(length.note)
    return path
