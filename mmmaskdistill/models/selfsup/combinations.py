"""Which T, N, S, H and L go together, checked before any image is read."""

from mmpretrain.models.losses import CrossEntropyLoss
from torch import nn

from mmmaskdistill.errors import ConfigError

from ..normalizers import NoNormalizer

PREDICT = ('hidden', 'all', 'visible')


def check_combination(model: nn.Module):
    """Refuse parts that do not fit one another.

    Args:
        model (nn.Module): A :class:`MaskDistill`.

    Raises:
        ConfigError: Names two values that do not go together, and what does.
    """
    student, teacher = model.backbone, model.teacher
    if not hasattr(student, 'patch_resolution'):
        raise ConfigError(
            f'the backbone {_name(student)} is no student, it takes no mask: '
            'take MaskDistillViT, VisibleViT or MaskedSwin, or MaskedTimm for '
            'any model of timm'
        )
    teacher.match_grid(student.patch_resolution)
    _check_grid(student, model.head, model.masking)
    _check_tokens(model.predict, student, model.head)
    _check_target(teacher, model.normalizer, model.distance)
    _check_class_token(model)
    _check_splits(teacher, model.head, model.distance)
    _check_normalizer(teacher, model.normalizer)
    _check_widths(student, teacher, model.head)
    if model.masking is not None and not getattr(teacher, 'attends', False):
        raise ConfigError(
            f'masking={_name(model.masking)} needs the attention of a class '
            f'token, the teacher {teacher.name} gives none: take a ViT with '
            'one as TimmTeacher, or masks from the pipeline alone'
        )


def _check_tokens(predict: str, student: nn.Module, head: nn.Module):
    """What the student gives against what the head takes."""
    if predict not in PREDICT:
        raise ConfigError(f'predict={predict!r}: expected one of {", ".join(PREDICT)}')
    gives = getattr(student, 'gives', 'hidden')
    decodes = getattr(head, 'decodes_visible', False)
    if gives == 'visible' and not decodes:
        raise ConfigError(
            f'the student {_name(student)} gives visible patches alone, the '
            f'head {_name(head)} brings no mask tokens in: set '
            "head.type='mmmaskdistill.DecoderHead', or take a student with "
            'mask tokens'
        )
    if gives != 'visible' and decodes:
        raise ConfigError(
            f'the head {_name(head)} takes visible patches alone, the student '
            f'{_name(student)} gives {gives} ones: set '
            "backbone.type='mmmaskdistill.VisibleViT', or take LinearHead"
        )
    if gives == 'hidden' and predict != 'hidden':
        raise ConfigError(
            f'predict={predict!r}: the student {_name(student)} gives hidden '
            "patches alone; set backbone.type='mmmaskdistill.AllTokensViT', "
            "or predict='hidden'"
        )


def _check_grid(student: nn.Module, head: nn.Module, masking: nn.Module | None):
    """The student's patches against those of other parts."""
    rows, columns = student.patch_resolution
    heads = head if isinstance(head, nn.ModuleList) else [head]
    for part in heads:
        grid = getattr(part, 'grid', (rows, columns))
        if grid != (rows, columns):
            raise ConfigError(
                f'the head {_name(part)} has a grid of {grid[0]} x {grid[1]}, '
                f'the student {_name(student)} one of {rows} x {columns}: set '
                f'head.grid=({rows}, {columns})'
            )
    hidden = getattr(masking, 'num_masking_patches', 0)
    if hidden >= rows * columns:
        raise ConfigError(
            f'masking.num_masking_patches={hidden}, the student '
            f'{_name(student)} has {rows} x {columns} patches: hide fewer'
        )


def _check_class_token(model: nn.Module):
    """A class token is predicted if the teacher gives one."""
    given = getattr(model.teacher, 'class_token', False)
    part = (
        model.head if getattr(model.head, 'decodes_visible', False) else model.backbone
    )
    predicted = getattr(part, 'class_token', False)
    if given != predicted:
        raise ConfigError(
            f'the teacher {model.teacher.name} has class_token={given}, '
            f'{_name(part)} has class_token={predicted}: set both, of '
            'TimmTeacher and of AllTokensViT or PromptDecoderHead, or none'
        )


def _check_normalizer(teacher: nn.Module, normalizer: nn.Module):
    """Several teachers have a normalizer each."""
    if hasattr(teacher, 'splits') and not isinstance(normalizer, NoNormalizer):
        raise ConfigError(
            f'{_name(teacher)} normalizes the features of each teacher, '
            f'{_name(normalizer)} would mix them: take NoNormalizer, and '
            'teacher.normalizers'
        )


def _check_target(teacher: nn.Module, normalizer: nn.Module, loss: nn.Module):
    """Token ids are classified and continuous features are regressed."""
    classifies = any(
        isinstance(part, (nn.CrossEntropyLoss, CrossEntropyLoss))
        for part in loss.modules()
    )
    discrete = _vocabulary(teacher) is not None
    if classifies and not discrete:
        raise ConfigError(
            f'the loss {_name(loss)} classifies tokens, the teacher '
            f'{teacher.name} gives continuous features: take SmoothL1Loss, '
            'L1Loss, MSELoss or mmpretrain.CosineSimilarityLoss, or a '
            'discrete teacher such as VQKDTeacher'
        )
    if discrete and not classifies:
        raise ConfigError(
            f'the teacher {teacher.name} gives token ids, the loss '
            f'{_name(loss)} compares features: take CrossEntropyLoss'
        )
    if discrete and not isinstance(normalizer, NoNormalizer):
        raise ConfigError(
            f'the teacher {teacher.name} gives token ids, which '
            f'{_name(normalizer)} cannot normalize: take NoNormalizer'
        )


def _check_widths(student: nn.Module, teacher: nn.Module, head: nn.Module):
    channels = _vocabulary(teacher) or teacher.channels
    if head.out_features != channels:
        raise ConfigError(
            f'the head gives {head.out_features} channels, the features of '
            f'{teacher.name} have {channels}: set '
            f'head.{"vocab_size" if _vocabulary(teacher) else "out_channels"}'
            f'={channels}'
        )
    width = getattr(student, 'out_channels', None) or student.embed_dims
    if head.in_features != width:
        raise ConfigError(
            f'the head takes {head.in_features} channels, the tokens of '
            f'{_name(student)} have {width}: set head.in_channels={width}'
        )


def _check_splits(*parts: nn.Module):
    """Of several teachers, each has its head and its loss."""
    splits = {_name(p): p.splits for p in parts if hasattr(p, 'splits')}
    if splits and (
        len(splits) < len(parts)
        or any(split != parts[0].splits for split in splits.values())
    ):
        raise ConfigError(
            f'{", ".join(map(_name, parts))} have channels '
            f'{splits}: take TeacherList, HeadList and LossList with the '
            "teachers' channels"
        )


def _vocabulary(teacher: nn.Module):
    return getattr(teacher, 'vocab_size', None)


def _name(module: nn.Module) -> str:
    return type(module).__name__
