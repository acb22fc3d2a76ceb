"""Start a project: look at data, choose settings, write configs."""

import hashlib
import os
import os.path as osp
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mmengine.config import Config

from mmmaskdistill.apis.checks import frame, image_table, label_table
from mmmaskdistill.datasets import find_images
from mmmaskdistill.errors import ConfigError, first_few

from . import looking, start_weights, teachers, writing
from .looking import ClassFolders, Images, Labels
from .settings import (
    PRETRAINING,
    Length,
    choose_length,
    choose_settings,
    find_machine,
    validation_steps,
)
from .timing import seconds_per_step

MINUTES = dict(gpu=60, cpu=30)
# So few images for validation are worth a warning.
FEW = 5


class Options(NamedTuple):
    """What the user says about a project.

    Attributes:
        images (list[str]): Folders of any layout, images, and lists of them.
        out (str): Folder that is written to.
        labels (str | None): Folder of the labels.
        label_suffix (str | None): What the names of the labels end with.
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
    label_suffix: str | None = None
    classes: str | None = None
    val_images: str | None = None
    val_labels: str | None = None
    val_share: float = 0.1
    teacher: list[str] | None = None
    init: str | None = None
    minutes: float | None = None
    epochs: int | None = None
    force: bool = False


class Training(NamedTuple):
    """A training of a project.

    Attributes:
        file (str): Name of its config.
        name (str): What it is called.
        images (int): Number of images.
        batch (int): Images per step.
        by_epoch (bool): Whether it counts epochs, and not steps.
        text (Callable): Returns the text of the config for a length.
        validation (float): Number of steps that take as long as one validation.
    """

    file: str
    name: str
    images: int
    batch: int
    by_epoch: bool
    text: Callable[[Length], str]
    validation: float = 0.0


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
    classes = None
    if not options.labels:
        classes = looking.look_at_class_folders(
            options.images, options.val_images, options.val_share
        )
    check_written(folder, bool(options.labels), bool(classes), options.force)
    os.makedirs(folder, exist_ok=True)

    cache = osp.join(folder, 'inspected.json')
    images = look_at_images(options, cache, say)
    labels, table, lists, labeled = None, '', {}, 0
    if options.labels:
        labels, table = look_at_labels(options, folder, images, cache, say)
        write_lists_of_labels(folder, labels)
    elif classes:
        say_classes(classes, say)
        lists, labeled = write_lists_of_classes(folder, images, classes)
    seen = pretraining_files(options, images, labels, classes)
    if labels:
        labeled = len(labels.train)

    machine = find_machine()
    say(f'machine         {machine.describe()}')
    vit, small = {}, None
    if options.init:
        vit = start_weights.vit_of(options.init, images.channels)
        small = start_weights.is_small(vit)
    teacher = choose_teacher(options, bool(machine.gpu), folder, convert_lite, say)
    settings = choose_settings(
        machine,
        len(seen),
        labeled,
        images.short_side,
        images.are_photographs,
        small,
    )
    project = writing.Project(
        folder,
        images,
        write_list_of_images(options, folder, seen),
        len(seen),
        settings,
        teacher,
        start_weights.without_defaults(vit),
        options.init and osp.abspath(osp.expanduser(options.init)),
    )
    trainings = plan_trainings(project, labeled, labels, table, classes, lists)
    minutes = options.minutes or MINUTES['gpu' if machine.gpu else 'cpu']
    if options.epochs is None and options.minutes is None:
        say(f'budget          {minutes} minutes (--minutes or --epochs change it)')
    return [
        write_config(folder, training, options.epochs, 60 * minutes * share, say)
        for training, share in trainings.items()
    ]


def plan_trainings(
    project: writing.Project,
    labeled: int,
    labels: Labels | None,
    table: str,
    classes: ClassFolders | None,
    lists: dict[str, str],
) -> dict[Training, float]:
    """List the trainings of a project.

    Args:
        project (Project): The project.
        labeled (int): Number of images for the training after pre-training.
        labels (Labels | None): The labels.
        table (str): File of the classes of the labels.
        classes (ClassFolders | None): The classes of folders.
        lists (dict[str, str]): Lists of their images.

    Returns:
        dict[Training, float]: Each training's share of the budget.
    """
    settings = project.settings
    pretraining = Training(
        'pretrain.py',
        'pre-training',
        project.seen,
        settings.batch,
        by_epoch=True,
        text=lambda length: writing.pretrain_config(project, length),
    )
    if labels:
        following = Training(
            'segment.py',
            'segmentation',
            labeled,
            settings.seg_batch,
            by_epoch=False,
            text=lambda length: writing.segment_config(project, labels, table, length),
            validation=validation_steps(
                len(labels.val),
                settings.seg_batch,
                [file.size for file in labels.files],
                settings,
            ),
        )
    elif classes:
        held_out = sum(classes.counts.values()) - labeled
        following = Training(
            'classify.py',
            'classification',
            labeled,
            settings.cls_batch,
            by_epoch=True,
            text=lambda length: writing.classify_config(
                project, classes, lists, length
            ),
            # A forward pass takes a third of a step.
            validation=held_out / settings.cls_batch / 3,
        )
    else:
        return {pretraining: 1.0}
    return {pretraining: PRETRAINING, following: 1 - PRETRAINING}


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
    for name in ('classes', 'label_suffix'):
        if getattr(options, name) and not options.labels:
            raise ConfigError(f'--{name.replace("_", "-")} goes with --labels')
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
        val = options.val_images and osp.abspath(osp.expanduser(options.val_images))
        if val and osp.isdir(path) and looking.is_below(osp.join(val, ''), [path]):
            raise ConfigError(
                f"--val-images '{options.val_images}' is in the folder of images "
                f"'{path}', and would be trained on: give the folder that has the "
                'images for training alone'
            )
        if osp.isdir(path) and looking.is_below(osp.join(out, 'x'), [path]):
            raise ConfigError(
                f"--out '{options.out}' is in the folder of images '{path}', where "
                'pictures of results would be taken for images: choose another folder'
            )


def check_written(folder: str, labels: bool, classes: bool, force: bool) -> None:
    """Refuse to overwrite configs.

    Args:
        folder (str): Folder of the project.
        labels (bool): Whether there are labels.
        classes (bool): Whether there are folders of classes.
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
            f"'{folder}' already has {first_few(there)}: edit it, choose another "
            '--out, or overwrite it with --force'
        )


def look_at_images(options: Options, cache: str, say: Callable) -> Images:
    """Read the images and print what was found.

    Args:
        options (Options): What the user says.
        cache (str): File that keeps what was read.
        say (Callable): Called with each text for the user.

    Returns:
        Images: The images.
    """
    paths = [*options.images, *([options.val_images] if options.val_images else [])]
    folders = [path for path in (options.labels, options.val_labels) if path]
    images = looking.look_at_images(paths, cache, folders, options.label_suffix)
    say(f'{images.endings}\n{image_table(images.files)}')
    say_left_out(images.left_out, 'images', say)
    if images.fill is not None:
        say(f'missing values  there are some; their mean of {images.fill:.6g} is taken')
    return images


def say_left_out(left_out: dict[str, str], what: str, say: Callable) -> None:
    """Name the files that are not used.

    Args:
        left_out (dict[str, str]): The reason for each file.
        what (str): Such as ``'images'``.
        say (Callable): Called with the text.
    """
    reasons = {}
    for path, why in left_out.items():
        reasons.setdefault(why, []).append(repr(path))
    lines = [
        f'left out: {first_few(paths)}: {why}'
        if len(paths) == 1
        else f'{len(paths)} {what} left out ({why}): {first_few(paths)}'
        for why, paths in reasons.items()
    ]
    more = [f'and {len(lines) - 10} more reasons'] if len(lines) > 10 else []
    say_warnings([*lines[:10], *more], say)


def say_warnings(lines: list[str], say: Callable) -> None:
    """Print lines in a frame, if there are any.

    Args:
        lines (list[str]): The lines.
        say (Callable): Called with the text.
    """
    if lines:
        say(frame(lines))


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
        options.label_suffix,
    )
    if labels.suffix != options.label_suffix:
        say(f'label suffix    {labels.suffix}, which all names of labels end with')
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
    if labels.table.num_classes < 2:
        raise ConfigError(
            f'the labels have a single class, {labels.table.names[0]!r}: expected two '
            'or more, such as background and foreground. See the values above'
        )
    if not labels.train or not labels.val:
        raise ConfigError(
            f'{len(labels.files)} image with a label can be used: expected at least '
            'two, one to train on and one for validation'
            if labels.split.share
            else f'{len(labels.train)} images with a label are for training and '
            f'{len(labels.val)} for validation: expected at least one each'
        )
    if table is None:
        labels.table.write(draft)
        say(f'classes         drafted in {draft}: give them names there')
    count, total = len(labels.val), len(labels.val) + len(labels.train)
    if labels.split.share:
        say(
            f'validation      {count} of {total} labeled images, chosen by their names '
            '(--val-share or --val-images change it)'
        )
        if count < FEW:
            labels.notes.append(
                f'with {count} image{"s" * (count > 1)} for validation, the metrics '
                'depend on chance: a larger --val-share, such as 0.3, takes more'
            )
    else:
        say(f"validation      {count} labeled images in '{labels.split.val}'")
    say_warnings(labels.notes, say)
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
    if classes.empty:
        say(f'                without an image: {first_few(classes.empty, 12)}')


def pretraining_files(
    options: Options,
    images: Images,
    labels: Labels | None,
    classes: ClassFolders | None,
) -> set[str]:
    """Choose the images for pre-training.

    Args:
        options (Options): What the user says.
        images (Images): The images.
        labels (Labels | None): The labels.
        classes (ClassFolders | None): The classes.

    Returns:
        set[str]: Their paths. Images for validation and tests are not among them.

    Raises:
        ConfigError: If no image is left.
    """
    every = {file.path for file in images.files}
    folders = looking.held_out(options.images)
    if options.val_images:
        folders.append(osp.abspath(osp.expanduser(options.val_images)))
    held_out = {path for path in every if looking.is_below(path, folders)}
    if labels:
        held_out |= set(labels.val)
    if classes and classes.split.share:
        held_out |= set(choose_val(classes, every))
    seen = every - held_out
    if not seen:
        raise ConfigError('no image for pre-training is left: all are for validation')
    return seen


def choose_teacher(
    options: Options, has_gpu: bool, folder: str, convert_lite: Callable, say: Callable
) -> teachers.TeacherChoice:
    """Choose the teacher, and write the weights that a package has.

    Args:
        options (Options): What the user says.
        has_gpu (bool): Whether there is a GPU.
        folder (str): Folder of the project.
        convert_lite (Callable): See :func:`start_project`.
        say (Callable): Called with each text for the user.

    Returns:
        TeacherChoice: The teacher.
    """
    file, package = osp.join(folder, 'teacher.pth'), teachers.lite_package()
    at_hand = file if package or osp.isfile(file) else None
    choice, notes = teachers.choose_teacher(options.teacher, has_gpu, at_hand)
    if choice.checkpoint == file and not osp.isfile(file):
        convert_lite(package, file)
    say(f'teacher         {choice.describe()}')
    for note in notes:
        say(f'note: {note}')
    return choice


def write_list_of_images(options: Options, folder: str, seen: set[str]) -> list[str]:
    """Write a list of the images for pre-training, unless they are all of a folder.

    Args:
        options (Options): What the user says.
        folder (str): Folder of the project.
        seen (set[str]): The images for pre-training.

    Returns:
        list[str]: Folders and lists.
    """
    given = [osp.abspath(osp.expanduser(path)) for path in options.images]
    part = looking.subfolder(given[0], looking.TRAIN_NAMES)
    for paths in (given, [part] if part else []):
        if paths and set(find_images(paths).files) == seen:
            return paths
    return [write_list(osp.join(folder, 'pretrain.txt'), sorted(seen))]


def write_list(path: str, lines: Sequence[str]) -> str:
    """Write a text file.

    Args:
        path (str): The file.
        lines (Sequence[str]): Its lines.

    Returns:
        str: The file.
    """
    write_text(path, ''.join(f'{line}\n' for line in lines))
    return path


def write_text(path: str, text: str) -> None:
    """Write a text file.

    Args:
        path (str): The file.
        text (str): Its content.
    """
    with open(path, 'w', encoding='utf-8') as file:
        file.write(text)


def write_lists_of_labels(folder: str, labels: Labels) -> None:
    """Write lists of the labeled images if others are left out.

    Args:
        folder (str): Folder of the project.
        labels (Labels): The labels.
    """
    for part, path in writing.lists_of_labels(folder, labels).items():
        root = labels.split.train if part == 'train' else labels.split.val
        files = labels.train if part == 'train' else labels.val
        if labels.split.share:
            files = sorted([*labels.train, *labels.val])
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
        below = {path for path in every if looking.is_below(path, [split.train])}
        parts = dict(train=below - val, val=val)
    else:
        parts = {
            part: {path for path in every if looking.is_below(path, [root])}
            for part, root in (('train', split.train), ('val', split.val))
        }
    count = len(parts['train'])
    if not (split.share or images.left_out or classes.empty):
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
    folder: str, training: Training, epochs: int | None, seconds: float, say: Callable
) -> str:
    """Write a config, whose length needs the time of a step if there is a budget.

    Args:
        folder (str): Folder of the project.
        training (Training): The training.
        epochs (int | None): Number of passes that the user asks for.
        seconds (float): The budget if there is no such number.
        say (Callable): Called with the length.

    Returns:
        str: The config.
    """
    path, per_step = osp.join(folder, training.file), 0.0
    data = (training.images, training.batch, training.by_epoch)
    if epochs is None:
        write_text(path, training.text(choose_length(*data, epochs=1)))
        per_step = seconds_per_step(Config.fromfile(path))
    length = choose_length(*data, epochs, seconds, per_step, training.validation)
    write_text(path, training.text(length))
    say(f'{training.name:<16}{length.note}')
    return path
