"""Write the configs of a new project."""

import os.path as osp
import shlex
from collections.abc import Sequence
from typing import NamedTuple

from mmmaskdistill.models.backbones.mask_distill_vit import ARCHS

from .looking import ClassFolders, Images, Labels
from .settings import WARMUP, Length, Settings
from .teachers import CLIP, LITE, TeacherChoice, teacher_view

# mmengine replaces this by the folder of the config.
HERE = '{{ fileDirname }}'
RGB = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])


class Project(NamedTuple):
    """What the configs of a project are written from.

    Attributes:
        folder (str): Folder of the configs, absolute.
        images (Images): The images.
        paths (list[str]): Folders or lists of the images for pre-training.
        seen (int): Number of these images.
        settings (Settings): The settings.
        teacher (TeacherChoice): The teacher.
        vit (dict): Arguments of the ViT that differ from the base config.
        init (str | None): Checkpoint from which pre-training starts.
    """

    folder: str
    images: Images
    paths: list[str]
    seen: int
    settings: Settings
    teacher: TeacherChoice
    vit: dict
    init: str | None

    @property
    def base(self) -> str:
        """Ending of the names of the base configs."""
        return '_small' if self.settings.small else ''

    def place(self, path: str) -> str:
        """Write a path, relative to the folder of the configs if it is in it.

        Args:
            path (str): The path.
        """
        inside = osp.relpath(path, self.folder)
        if inside.startswith('..'):
            return repr(path)
        return repr(f'{HERE}/{inside}')

    def shown(self, name: str) -> str:
        """Write the path of a config as it is given to a command.

        Args:
            name (str): The config.
        """
        return shlex.quote(osp.join(self.folder, name))

    @property
    def loader(self) -> str:
        """The transform that loads images, as it stands in a config."""
        images = self.images
        if images.plain:
            return "dict(type='LoadImageFromFile')"
        fill = '' if images.fill is None else f', fill={images.fill:.6g}'
        return f"dict(type='mmmaskdistill.LoadImage', channels={images.channels}{fill})"


def pretrain_config(project: Project, length: Length) -> str:
    """Write the config of pre-training.

    Args:
        project (Project): The project.
        length (Length): How long to train.

    Returns:
        str: The text of the config.
    """
    settings = project.settings
    patch = project.vit.get('patch_size', 16)
    grid = settings.crop // patch
    lines = [
        f'# Pre-training on {project.seen} images, written by tools/start_project.py. '
        'Edit it as you like.',
        '#',
        f'#     python tools/train.py {project.shown("pretrain.py")}',
        '#',
        '# The student learns to predict what the teacher sees in the images, without',
        '# labels. The settings that are not here are in',
        f'# configs/own_data/pretrain{project.base}.py.',
        f"_base_ = 'mmmaskdistill::own_data/pretrain{project.base}.py'",
        f"work_dir = '{HERE}/pretrain'",
        '',
        *_model_of_pretraining(project, grid, patch),
        *_preprocessor_of_pretraining(project),
        *_pipeline_of_pretraining(project, grid, patch),
        '',
        '# Folders of any layout, images, or text files with one path a line',
        *_assign('images', [project.place(path) for path in project.paths]),
        'train_dataloader = dict(',
        f'    batch_size={settings.batch},  # less if the memory is not enough',
        *_workers(settings.workers),
        '    dataset=dict(paths=images'
        + (', pipeline=train_pipeline' if _own_pipeline(project, patch) else '')
        + '),',
        ')',
        '',
        '# If another --cfg-options train_cfg.max_epochs is given, the schedule is '
        'stretched.',
        *_epochs(length),
        f'default_hooks = dict(checkpoint=dict(interval={length.interval}))',
        f'optim_wrapper = dict(optimizer=dict(lr={settings.lr:g}))',
    ]
    return _text(lines)


def _model_of_pretraining(project: Project, grid: int, patch: int) -> list[str]:
    teacher, student = project.teacher, dict(project.vit)
    if project.images.channels != 3:
        student['in_channels'] = project.images.channels
    lines = []
    if student or project.init:
        lines += ['    backbone=dict(']
        lines += [f'        {key}={value!r},' for key, value in student.items()]
        if project.init:
            inflate = ', inflate=True' if project.images.channels != 3 else ''
            lines += [
                '        # Pre-training goes on from these weights.',
                '        init_cfg=dict(',
                "            type='Pretrained',",
                f'            checkpoint={project.place(project.init)}{inflate},',
                '        ),',
            ]
        lines += ['    ),']
    lines += [f'    # License of the teacher: {teacher.license}']
    default = LITE if project.settings.small else CLIP
    same = teacher.model_name == default and teacher.stride == patch
    if same and not teacher.checkpoint:
        lines += [f'    teacher=dict(model_name={teacher.model_name!r}),']
    else:
        lines += ['    teacher=dict(']
        if not same:
            lines += [
                '        _delete_=True,',
                "        type='mmmaskdistill.TimmTeacher',",
            ]
        lines += [f'        model_name={teacher.model_name!r},']
        if teacher.checkpoint:
            lines += [f'        checkpoint={project.place(teacher.checkpoint)},']
        if not same:
            size = project.settings.crop if teacher.resize else grid * teacher.stride
            lines += [f'        layer={teacher.layer},', f'        img_size={size},']
            if teacher.resize:
                lines += ["        resize='bilinear',"]
        lines += ['    ),']
    head = {}
    if 'arch' in project.vit:
        head['in_channels'] = width_of(project.vit['arch'])
    if teacher.model_name != default:
        head['out_channels'] = teacher.channels
    if head:
        lines += [f'    head={_dict(head)},']
    return ['model = dict(', *lines, ')']


def _preprocessor_of_pretraining(project: Project) -> list[str]:
    images, teacher = project.images, project.teacher
    default = LITE if project.settings.small else CLIP
    lines = []
    if not images.plain:
        lines += [
            '    # measured, in the order of the bands in the files',
            f'    mean={_numbers(images.mean)},',
            f'    std={_numbers(images.std)},',
        ]
        bands = teacher_bands(images.channels)
        mean, std = [[values[b] for b in bands] for values in (images.mean, images.std)]
        if _is_8_bit(images) and images.channels >= 3:
            mean, std = teacher.mean, teacher.std
        else:
            mean, std = teacher_view(teacher, mean, std)
        if images.channels != 3:
            lines += [
                '    # The bands that the teacher sees as red, green and blue, counted '
                'from 0',
                f'    teacher_bands={bands},',
            ]
        lines += [
            f'    second_mean={_numbers(mean)},',
            f'    second_std={_numbers(std)},',
            f'    to_rgb={images.channels == 3},',
        ]
    elif teacher.model_name != default:
        lines += [
            "    # the teacher's",
            f'    second_mean={_numbers(teacher.mean)},',
            f'    second_std={_numbers(teacher.std)},',
        ]
    return ['data_preprocessor = dict(', *lines, ')'] if lines else []


def _is_8_bit(images: Images) -> bool:
    return images.files[0].dtype == 'uint8'


def teacher_bands(channels: int) -> list[int]:
    """Return the bands of an image that a teacher of RGB images sees.

    Args:
        channels (int): Number of channels of the image.
    """
    return [0, 1, 2] if channels >= 3 else [0, 0, 0]


def _own_pipeline(project: Project, patch: int) -> bool:
    teacher = project.teacher
    other_grid = not teacher.resize and teacher.stride != patch
    return not project.images.plain or other_grid or patch != 16


def _pipeline_of_pretraining(project: Project, grid: int, patch: int) -> list[str]:
    if not _own_pipeline(project, patch):
        return []
    teacher, crop = project.teacher, []
    first = '    _base_.train_pipeline[0],'
    if not project.images.plain:
        first = f'    {project.loader},'
        crop += ['saturation=0.0']  # There is no gray in other bands than RGB.
    if not teacher.resize and teacher.stride != patch:
        crop += [f'second_scale={grid * teacher.stride}']
    mask = f'_base_.mask_{grid}'
    return [
        'train_pipeline = [',
        first,
        f'    dict(_base_.train_pipeline[1], {", ".join(crop)}),'
        if crop
        else '    _base_.train_pipeline[1],',
        f'    {mask},',
        '    _base_.train_pipeline[3],',
        ']',
    ]


def segment_config(project: Project, labels: Labels, table: str, length: Length) -> str:
    """Write the config of segmentation.

    Args:
        project (Project): The project.
        labels (Labels): The labels.
        table (str): File of the classes.
        length (Length): How long to train.

    Returns:
        str: The text of the config.
    """
    settings, images = project.settings, project.images
    window, stride = settings.window, settings.window * 2 // 3
    file = project.shown('segment.py')
    photometric = (
        ["    dict(type='PhotoMetricDistortion'),"]
        if images.plain
        else ['    # PhotoMetricDistortion is for RGB images of 8 bits only.']
    )
    lists = lists_of_labels(project.folder, labels)
    lines = [
        f'# Segmentation with {len(labels.files)} labels, written by '
        'tools/start_project.py. Edit it as you like.',
        '#',
        f'#     python tools/train.py {file}',
        f'#     python tools/test.py {file} CHECKPOINT --show-dir PICTURES',
        '#',
        '# The settings that are not here are in',
        f'# configs/own_data/segment{project.base}.py.',
        f"_base_ = 'mmmaskdistill::own_data/segment{project.base}.py'",
        f"work_dir = '{HERE}/segment'",
        '',
        f'num_classes = {labels.table.num_classes}  # those that {osp.basename(table)} '
        'does not ignore',
        f'window = ({window}, {window})  # what the model sees at once, in pixels',
        f'zoom = {settings.zoom}  # factor by which images are resized before that',
        'model = dict(',
        *_measured_for_segmentation(project),
        '    backbone=dict(',
        '        img_size=window,',
        *[f'        {k}={v!r},' for k, v in _downstream_vit(project).items()],
        *_checkpoint(8),
        '    ),',
        *_widths_for_segmentation(project),
        f'    test_cfg=dict(crop_size=window, stride=({stride}, {stride})),',
        ')',
        '',
        'train_pipeline = [',
        f'    {project.loader},',
        "    dict(type='LoadAnnotations'),",
        '    # Things are seen at half to twice their size.',
        '    dict(',
        "        type='RandomChoice',",
        '        transforms=[',
        "            [dict(type='Resize', scale_factor=zoom * size, keep_ratio=True)]",
        '            for size in (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)',
        '        ],',
        '    ),',
        "    dict(type='RandomCrop', crop_size=window, cat_max_ratio=0.75),",
        "    dict(type='RandomFlip', prob=0.5),",
        *photometric,
        "    dict(type='PackSegInputs'),",
        ']',
        'test_pipeline = [',
        f'    {project.loader},',
        "    dict(type='Resize', scale_factor=zoom, keep_ratio=True),",
        "    dict(type='LoadAnnotations'),",
        "    dict(type='PackSegInputs'),",
        ']',
        'tta_pipeline = [_base_.tta_pipeline[0], test_pipeline[1], '
        '_base_.tta_pipeline[1]]',
        '',
        '# Which value of the labels is which class, and which is ignored',
        f'classes = {project.place(table)}',
        *_seg_loader(project, labels, 'train', lists.get('train')),
        *_seg_loader(project, labels, 'val', lists.get('val')),
        'test_dataloader = val_dataloader',
        '',
        '# If another --cfg-options train_cfg.max_iters is given, the schedule is '
        'stretched.',
        f'max_iters = {length.steps}',
        'param_scheduler = [',
        "    dict(type='LinearLR', start_factor=1e-3, "
        f'end={_warmup(length)}, by_epoch=False),',
        '    dict(',
        "        type='PolyLR',",
        '        power=1.0,',
        '        eta_min=0.0,',
        f'        begin={_warmup(length)},',
        '        end=max_iters,',
        '        by_epoch=False,',
        '    ),',
        ']',
        f'train_cfg = dict(max_iters=max_iters, val_interval={length.interval})',
        f'default_hooks = dict(checkpoint=dict(interval={length.interval}))',
        f'optim_wrapper = dict(optimizer=dict(lr={settings.seg_lr:g}))',
    ]
    return _text(lines)


def lists_of_labels(folder: str, labels: Labels) -> dict[str, str]:
    """Name the lists of labeled images, which are used if other images are left out.

    Args:
        folder (str): Folder of the project.
        labels (Labels): The labels.

    Returns:
        dict[str, str]: Files for ``train`` and ``val``; empty if nothing is left out.
    """
    if labels.all_used:
        return {}
    if labels.split.share:
        path = osp.join(folder, 'labeled.txt')
        return dict(train=path, val=path)
    return {part: osp.join(folder, f'labeled_{part}.txt') for part in ('train', 'val')}


def _seg_loader(
    project: Project, labels: Labels, part: str, names: str | None
) -> list[str]:
    """Write a data loader of segmentation."""
    folders, share = labels.split.folders, labels.split.share
    image_folder, label_folder = folders[0] if part == 'train' else folders[-1]
    suffix = labels.suffix
    split = [] if suffix is None else [f'        label_suffix={suffix!r},']
    split += [] if share is None else [f'        share={share:g},']
    split += [] if share is None else [f'        part={part!r},']
    chosen = []
    if names:
        chosen += [f'        ann_file={project.place(names)},  # the images to use']
    pipeline = 'train_pipeline' if part == 'train' else 'test_pipeline'
    batch = (
        [f'    batch_size={project.settings.seg_batch},  # at least 2']
        if part == 'train'
        else []
    )
    return [
        f'{part}_dataloader = dict(',
        *batch,
        *_workers(project.settings.workers),
        '    dataset=dict(',
        '        data_prefix=dict(',
        f'            img_path={project.place(image_folder)},',
        f'            seg_map_path={project.place(label_folder)},',
        '        ),',
        '        classes=classes,',
        *chosen,
        *split,
        f'        pipeline={pipeline},',
        '    ),',
        ')',
    ]


def _measured_for_segmentation(project: Project) -> list[str]:
    images = project.images
    if images.plain:
        return ['    data_preprocessor=dict(size=window),']
    return [
        '    data_preprocessor=dict(',
        '        size=window,',
        f'        mean={_numbers(images.mean)},',
        f'        std={_numbers(images.std)},',
        f'        bgr_to_rgb={images.channels == 3},',
        '    ),',
    ]


def _widths_for_segmentation(project: Project) -> list[str]:
    if 'arch' not in project.vit:
        return [
            '    decode_head=dict(num_classes=num_classes),',
            '    auxiliary_head=dict(num_classes=num_classes),',
        ]
    width = width_of(project.vit['arch'])
    return [
        f'    neck=dict(embed_dim={width}),',
        f'    decode_head=dict(in_channels=[{width}] * 4, num_classes=num_classes),',
        f'    auxiliary_head=dict(in_channels={width}, num_classes=num_classes),',
    ]


def _downstream_vit(project: Project, with_maps: bool = True) -> dict:
    """Return the arguments of the ViT after pre-training."""
    vit = dict(project.vit)
    if project.images.channels != 3:
        vit['in_channels'] = project.images.channels
    if 'use_shared_rel_pos_bias' in vit:
        # After pre-training, each block has a table of its own.
        shared = vit.pop('use_shared_rel_pos_bias')
        vit['use_rel_pos_bias'] = shared or vit.get('use_rel_pos_bias', False)
    if 'arch' in vit and with_maps:
        depth = depth_of(vit['arch'])
        vit['out_indices'] = tuple(depth * k // 12 - 1 for k in (4, 6, 8, 12))
        if depth < 12:
            vit['out_indices'] = tuple(depth * k // 4 - 1 for k in (1, 2, 3, 4))
    return vit


def _checkpoint(indent: int) -> list[str]:
    space = ' ' * indent
    return [
        f'{space}# The last checkpoint of pretrain.py; init_cfg=None starts from',
        f'{space}# random weights.',
        f"{space}init_cfg=dict(checkpoint='{HERE}/pretrain/last_checkpoint'),",
    ]


def classify_config(
    project: Project, classes: ClassFolders, lists: dict[str, str], length: Length
) -> str:
    """Write the config of classification.

    Args:
        project (Project): The project.
        classes (ClassFolders): The classes.
        lists (dict[str, str]): Lists of the images for ``train`` and ``val``, if both
            are in the same folder or images are left out.
        length (Length): How long to train.

    Returns:
        str: The text of the config.
    """
    settings, images = project.settings, project.images
    file = project.shown('classify.py')
    own = [] if images.plain else _pipelines_of_classification(project)
    top = '(1, 5)' if len(classes.names) > 10 else '1'
    lines = [
        f'# Classification of {sum(classes.counts.values())} images, written by '
        'tools/start_project.py. Edit it as you like.',
        '#',
        f'#     python tools/train.py {file}',
        f'#     python tools/test.py {file} CHECKPOINT',
        '#',
        '# The settings that are not here are in',
        f'# configs/own_data/classify{project.base}.py.',
        f"_base_ = 'mmmaskdistill::own_data/classify{project.base}.py'",
        f"work_dir = '{HERE}/classify'",
        '',
        '# The names of the folders',
        *_assign('classes', [repr(name) for name in classes.names]),
        'num_classes = len(classes)',
        'model = dict(',
        '    backbone=dict(',
        *[f'        {k}={v!r},' for k, v in _downstream_vit(project, False).items()],
        *_checkpoint(8),
        '    ),',
        '    head=dict('
        + (
            f'in_channels={width_of(project.vit["arch"])}, '
            if 'arch' in project.vit
            else ''
        )
        + 'num_classes=num_classes),',
        ')',
        'data_preprocessor = dict(',
        '    num_classes=num_classes,',
        *(
            []
            if images.plain
            else [
                f'    mean={_numbers(images.mean)},',
                f'    std={_numbers(images.std)},',
                f'    to_rgb={images.channels == 3},',
            ]
        ),
        ')',
        *own,
        '',
        *_cls_loader(project, 'train', classes.split.train, lists.get('train')),
        *_cls_loader(project, 'val', classes.split.val, lists.get('val')),
        'test_dataloader = val_dataloader',
        f"val_evaluator = dict(type='Accuracy', topk={top})",
        'test_evaluator = val_evaluator',
        '',
        '# If another --cfg-options train_cfg.max_epochs is given, the schedule is '
        'stretched.',
        *_epochs(length, f', val_interval={length.interval}'),
        f'default_hooks = dict(checkpoint=dict(interval={length.interval}))',
        f'optim_wrapper = dict(optimizer=dict(lr={settings.cls_lr:g}))',
    ]
    return _text(lines)


def _pipelines_of_classification(project: Project) -> list[str]:
    lines = []
    for name in ('train', 'test'):
        lines += [
            f'{name}_pipeline = [',
            f'    {project.loader},',
            f'    *_base_.{name}_pipeline[1:],',
            ']',
        ]
    return lines


def _cls_loader(
    project: Project, part: str, folder: str, names: str | None
) -> list[str]:
    """Write a data loader of classification."""
    batch = [f'    batch_size={project.settings.cls_batch},'] if part == 'train' else []
    chosen = [f'        ann_file={project.place(names)},'] if names else []
    pipeline = 'train_pipeline' if part == 'train' else 'test_pipeline'
    own = [] if project.images.plain else [f'        pipeline={pipeline},']
    return [
        f'{part}_dataloader = dict(',
        *batch,
        *_workers(project.settings.workers),
        '    dataset=dict(',
        f'        data_root={project.place(folder)},',
        *chosen,
        '        classes=classes,',
        *own,
        '    ),',
        ')',
    ]


def _epochs(length: Length, more: str = '') -> list[str]:
    warmup = f'{max(WARMUP * length.epochs, 0.01):.3g}'
    linear = f"type='LinearLR', start_factor=1e-3, end={warmup}"
    return [
        f'max_epochs = {length.epochs}',
        'param_scheduler = [',
        f'    dict({linear}, convert_to_iter_based=True),',
        '    dict(',
        "        type='CosineAnnealingLR',",
        '        eta_min_ratio=1e-2,',
        f'        begin={warmup},',
        '        end=max_epochs,',
        '        convert_to_iter_based=True,',
        '    ),',
        ']',
        f'train_cfg = dict(max_epochs=max_epochs{more})',
    ]


def _warmup(length: Length) -> int:
    return max(1, round(WARMUP * length.steps))


def _workers(workers: int) -> list[str]:
    lines = [f'    num_workers={workers},']
    return lines if workers else [*lines, '    persistent_workers=False,']


def width_of(arch: str | dict) -> int:
    """Return the width of a ViT.

    Args:
        arch (str | dict): ``arch`` of ``MaskDistillViT``.
    """
    return (ARCHS[arch] if isinstance(arch, str) else arch)['embed_dims']


def depth_of(arch: str | dict) -> int:
    """Return the number of blocks of a ViT.

    Args:
        arch (str | dict): ``arch`` of ``MaskDistillViT``.
    """
    return (ARCHS[arch] if isinstance(arch, str) else arch)['num_layers']


def _assign(name: str, items: Sequence[str]) -> list[str]:
    line = f'{name} = [{", ".join(items)}]'
    if len(line) <= 88:
        return [line]
    return [f'{name} = [', *(f'    {item},' for item in items), ']']


def _dict(values: dict) -> str:
    return f'dict({", ".join(f"{key}={value!r}" for key, value in values.items())})'


def _numbers(values: Sequence[float]) -> str:
    return f'[{", ".join(f"{value:.6g}" for value in values)}]'


def _text(lines: Sequence[str]) -> str:
    return '\n'.join(lines) + '\n'
