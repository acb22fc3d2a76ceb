"""Checks that the parts of a masked distillation fit together.

They run when the model is built, before any image is read.
"""

from mmpretrain.models.losses import CrossEntropyLoss
from torch import nn

from mmmaskdistill.errors import ConfigError

from ..normalizers import NoNormalizer

PREDICT = ('hidden', 'all', 'visible')


def check_combination(model: nn.Module) -> None:
    """Check that teacher, normalizer, student, head and loss fit together.

    Args:
        model (nn.Module): A :class:`MaskDistill`.

    Raises:
        ConfigError: If two parts do not fit together. The message names both
            and says what to set.
    """
    student, teacher = model.backbone, model.teacher
    if not hasattr(student, 'patch_resolution'):
        raise ConfigError(
            f'the backbone {_name(student)} cannot be a student, because it takes '
            'no mask: use MaskDistillViT, VisibleViT or MaskedSwin, or MaskedTimm '
            'for any model of timm'
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
            f'token, which the teacher {teacher.name} does not return: use a '
            'TimmTeacher that is a ViT with a class token, or leave masking out '
            'and let the pipeline draw the masks'
        )


def _check_tokens(predict: str, student: nn.Module, head: nn.Module):
    """Check that the student returns the tokens that the head needs."""
    if predict not in PREDICT:
        raise ConfigError(f'predict={predict!r}: expected one of {", ".join(PREDICT)}')
    gives = getattr(student, 'gives', 'hidden')
    decodes = getattr(head, 'decodes_visible', False)
    if gives == 'visible' and not decodes:
        raise ConfigError(
            f'the student {_name(student)} returns visible patches only, and the '
            f'head {_name(head)} does not add mask tokens for the others: set '
            "head.type='mmmaskdistill.DecoderHead', or use a student with mask "
            'tokens'
        )
    if gives != 'visible' and decodes:
        raise ConfigError(
            f'the head {_name(head)} takes visible patches only, but the student '
            f'{_name(student)} returns {gives} patches: set '
            "backbone.type='mmmaskdistill.VisibleViT', or use LinearHead"
        )
    if gives == 'hidden' and predict != 'hidden':
        raise ConfigError(
            f'predict={predict!r}, but the student {_name(student)} returns '
            "hidden patches only: set backbone.type='mmmaskdistill.AllTokensViT', "
            "or predict='hidden'"
        )


def _check_grid(student: nn.Module, head: nn.Module, masking: nn.Module | None):
    """Check that head and mask are made for the student's patch grid."""
    rows, columns = student.patch_resolution
    heads = head if isinstance(head, nn.ModuleList) else [head]
    for part in heads:
        grid = getattr(part, 'grid', (rows, columns))
        if grid != (rows, columns):
            raise ConfigError(
                f'the head {_name(part)} has a grid of {grid[0]} x {grid[1]} '
                f'patches, the student {_name(student)} has one of {rows} x '
                f'{columns}: set head.grid=({rows}, {columns})'
            )
    hidden = getattr(masking, 'num_masking_patches', 0)
    if hidden >= rows * columns:
        raise ConfigError(
            f'masking.num_masking_patches={hidden}, but the student '
            f'{_name(student)} has only {rows} x {columns} patches: hide fewer'
        )


def _check_class_token(model: nn.Module):
    """Check that a class token is predicted if and only if the teacher has one."""
    given = getattr(model.teacher, 'class_token', False)
    part = (
        model.head if getattr(model.head, 'decodes_visible', False) else model.backbone
    )
    predicted = getattr(part, 'class_token', False)
    if given != predicted:
        raise ConfigError(
            f'the teacher {model.teacher.name} has class_token={given}, but '
            f'{_name(part)} has class_token={predicted}: give class_token the '
            'same value in TimmTeacher and in AllTokensViT or PromptDecoderHead'
        )


def _check_normalizer(teacher: nn.Module, normalizer: nn.Module):
    """Check that the features of several teachers are normalized separately."""
    if hasattr(teacher, 'splits') and not isinstance(normalizer, NoNormalizer):
        raise ConfigError(
            f'{_name(teacher)} normalizes the features of each teacher, and '
            f'{_name(normalizer)} would mix them: use NoNormalizer, and set '
            'teacher.normalizers'
        )


def _check_target(teacher: nn.Module, normalizer: nn.Module, loss: nn.Module):
    """Check that token ids are classified and continuous features regressed."""
    classifies = any(
        isinstance(part, (nn.CrossEntropyLoss, CrossEntropyLoss))
        for part in loss.modules()
    )
    discrete = _vocabulary(teacher) is not None
    if classifies and not discrete:
        raise ConfigError(
            f'the loss {_name(loss)} classifies tokens, but the teacher '
            f'{teacher.name} returns continuous features: use SmoothL1Loss, '
            'L1Loss, MSELoss or mmpretrain.CosineSimilarityLoss, or a discrete '
            'teacher such as VQKDTeacher'
        )
    if discrete and not classifies:
        raise ConfigError(
            f'the teacher {teacher.name} returns token ids, but the loss '
            f'{_name(loss)} compares features: use CrossEntropyLoss'
        )
    if discrete and not isinstance(normalizer, NoNormalizer):
        raise ConfigError(
            f'the teacher {teacher.name} returns token ids, which '
            f'{_name(normalizer)} cannot normalize: use NoNormalizer'
        )


def _check_widths(student: nn.Module, teacher: nn.Module, head: nn.Module):
    """Check that the head maps the student's width Ds to the teacher's Dt."""
    channels = _vocabulary(teacher) or teacher.channels
    if head.out_features != channels:
        raise ConfigError(
            f'the head returns {head.out_features} channels, but the teacher '
            f'{teacher.name} has {channels}: set '
            f'head.{"vocab_size" if _vocabulary(teacher) else "out_channels"}'
            f'={channels}'
        )
    width = getattr(student, 'out_channels', None) or student.embed_dims
    if head.in_features != width:
        raise ConfigError(
            f'the head takes {head.in_features} channels, but the tokens of the '
            f'student {_name(student)} have {width}: set head.in_channels={width}'
        )


def _check_splits(*parts: nn.Module):
    """Check that several teachers have a head and a loss each."""
    splits = {_name(p): p.splits for p in parts if hasattr(p, 'splits')}
    if splits and (
        len(splits) < len(parts)
        or any(split != parts[0].splits for split in splits.values())
    ):
        raise ConfigError(
            f'{", ".join(map(_name, parts))} do not go together: their channels '
            f'for each teacher are {splits}. Use TeacherList, HeadList and '
            'LossList with the channels of the same teachers'
        )


def _vocabulary(teacher: nn.Module) -> int | None:
    return getattr(teacher, 'vocab_size', None)


def _name(module: nn.Module) -> str:
    return type(module).__name__
