"""Checks that the parts of a masked distillation fit together.

They run when the model is built, before any image is read.
"""

from torch import nn

from mmmaskdistill.errors import ConfigError

from ..backbones import Student
from ..heads import Head
from ..losses.base import classifies, splits
from ..normalizers import NoNormalizer, Normalizer
from ..teachers import Teacher
from .masking import Masking

PREDICT = ('hidden', 'all', 'visible')


def check_student(backbone: nn.Module) -> None:
    """Check that a backbone takes a mask.

    Args:
        backbone (nn.Module): The backbone of a :class:`MaskDistill`.

    Raises:
        ConfigError: If the backbone is not a :class:`Student`, or if its
            ``out_indices`` leave out the last layers.
    """
    if not isinstance(backbone, Student):
        raise ConfigError(
            f'the backbone {_name(backbone)} cannot be a student, because it takes '
            'no mask: use MaskDistillViT, VisibleViT or MaskedSwin, or MaskedTimm '
            'for any model of timm, or derive your own from '
            'mmmaskdistill.models.Student'
        )
    if not backbone.trains_all_layers:
        raise ConfigError(
            f'the student {_name(backbone)} has out_indices={backbone.out_indices}, '
            'which leave out its last layers, but pre-training needs all of them: '
            'remove out_indices from the backbone'
        )


def check_combination(model: nn.Module) -> None:
    """Check that teacher, normalizer, student, head and loss fit together.

    Args:
        model (nn.Module): A :class:`MaskDistill`.

    Raises:
        ConfigError: If two parts do not fit together. The message names both
            and says what to set.
    """
    student, teacher = model.backbone, model.teacher
    teacher.match_grid(student.grid)
    _check_grid(student, model.head, model.masking)
    _check_tokens(model.predict, student, model.head)
    _check_weight(model)
    _check_target(teacher, model.normalizer, model.distance)
    _check_class_token(model)
    _check_splits(teacher, model.head, model.distance)
    _check_normalizer(teacher, model.normalizer)
    _check_widths(student, teacher, model.head)
    if model.masking is not None and not teacher.returns_attention:
        raise ConfigError(
            f'masking={_name(model.masking)} needs the attention of a class '
            f'token, which the {_name(teacher)} {teacher.name} does not return: use '
            'a TimmTeacher that is a ViT with a class token, or leave masking out '
            'and let the pipeline draw the masks'
        )


def _check_tokens(predict: str, student: Student, head: Head):
    """Check that the student returns the tokens that the head needs."""
    if predict not in PREDICT:
        raise ConfigError(f'predict={predict!r}: expected one of {", ".join(PREDICT)}')
    if student.tokens not in PREDICT:
        raise ConfigError(
            f'the student {_name(student)} has tokens={student.tokens!r}: expected '
            f'one of {", ".join(PREDICT)}'
        )
    if student.tokens == 'visible' and not head.decodes_visible:
        raise ConfigError(
            f'the student {_name(student)} returns visible patches only, and the '
            f'head {_name(head)} does not add mask tokens for the others: set '
            "head.type='mmmaskdistill.DecoderHead', or use a student with mask "
            'tokens'
        )
    if student.tokens != 'visible' and head.decodes_visible:
        raise ConfigError(
            f'the head {_name(head)} takes visible patches only, but the student '
            f'{_name(student)} returns {student.tokens} patches: set '
            "backbone.type='mmmaskdistill.VisibleViT', or use LinearHead"
        )
    if student.tokens == 'hidden' and predict != 'hidden':
        raise ConfigError(
            f'predict={predict!r}, but the student {_name(student)} returns '
            "hidden patches only: set backbone.type='mmmaskdistill.AllTokensViT', "
            "or predict='hidden'"
        )


def _check_weight(model: nn.Module):
    """Check that visible patches have a weight only where they count."""
    weight = model.visible_weight
    if model.predict != 'all' and (weight.start, weight.end) != (1, 1):
        raise ConfigError(
            f'visible_weight={weight}, but predict={model.predict!r}: set '
            "predict='all', or leave visible_weight out"
        )


def _check_grid(student: Student, head: Head, masking: Masking | None):
    """Check that head and mask are made for the student's patch grid."""
    rows, columns = student.grid
    if head.grid not in (None, (rows, columns)):
        raise ConfigError(
            f'the head {_name(head)} has a grid of {head.grid[0]} x '
            f'{head.grid[1]} patches, the student {_name(student)} has one of '
            f'{rows} x {columns}: set head.grid=({rows}, {columns})'
        )
    hidden = 0 if masking is None else masking.num_masking_patches
    if hidden >= rows * columns:
        raise ConfigError(
            f'masking.num_masking_patches={hidden}, but the student '
            f'{_name(student)} has only {rows} x {columns} patches: hide fewer'
        )


def _check_class_token(model: nn.Module):
    """Check that a class token is predicted if and only if the teacher has one."""
    given = model.teacher.class_token
    part = model.head if model.head.decodes_visible else model.backbone
    predicted = part.class_token
    if given != predicted:
        raise ConfigError(
            f'the teacher {model.teacher.name} has class_token={given}, but '
            f'{_name(part)} has class_token={predicted}: give class_token the '
            'same value in TimmTeacher and in AllTokensViT or PromptDecoderHead'
        )


def _check_normalizer(teacher: Teacher, normalizer: Normalizer):
    """Check that the features of several teachers are normalized separately."""
    if teacher.splits is not None and not isinstance(normalizer, NoNormalizer):
        raise ConfigError(
            f'{_name(teacher)} normalizes the features of each teacher, and '
            f'{_name(normalizer)} would mix them: use NoNormalizer, and set '
            'teacher.normalizers'
        )


def _check_target(teacher: Teacher, normalizer: Normalizer, loss: nn.Module):
    """Check that token ids are classified and continuous features regressed."""
    discrete = teacher.vocab_size is not None
    if classifies(loss) and not discrete:
        raise ConfigError(
            f'the loss {_name(loss)} classifies tokens, but the teacher '
            f'{teacher.name} returns continuous features: use SmoothL1Loss, '
            'L1Loss, MSELoss or mmpretrain.CosineSimilarityLoss, or a discrete '
            'teacher such as VQKDTeacher'
        )
    if discrete and not classifies(loss):
        raise ConfigError(
            f'the teacher {teacher.name} returns token ids, but the loss '
            f'{_name(loss)} compares features: use CrossEntropyLoss'
        )
    if discrete and not isinstance(normalizer, NoNormalizer):
        raise ConfigError(
            f'the teacher {teacher.name} returns token ids, which '
            f'{_name(normalizer)} cannot normalize: use NoNormalizer'
        )


def _check_widths(student: Student, teacher: Teacher, head: Head):
    """Check that the head maps the student's width Ds to the teacher's Dt."""
    channels = teacher.vocab_size or teacher.channels
    if head.out_features != channels:
        raise ConfigError(
            f'the head returns {head.out_features} channels, but the teacher '
            f'{teacher.name} has {channels}: set '
            f'head.{"vocab_size" if teacher.vocab_size else "out_channels"}'
            f'={channels}'
        )
    if head.in_features != student.width:
        raise ConfigError(
            f'the head takes {head.in_features} channels, but the tokens of the '
            f'student {_name(student)} have {student.width}: set '
            f'head.in_channels={student.width}'
        )


def _check_splits(teacher: Teacher, head: Head, loss: nn.Module):
    """Check that several teachers have a head and a loss each."""
    found = {
        _name(teacher): teacher.splits,
        _name(head): head.splits,
        _name(loss): splits(loss),
    }
    if any(split != teacher.splits for split in found.values()):
        given = {name: split for name, split in found.items() if split is not None}
        raise ConfigError(
            f'{", ".join(found)} do not go together: their channels '
            f'for each teacher are {given}. Use TeacherList, HeadList and '
            'LossList with the channels of the same teachers'
        )


def _name(module: nn.Module) -> str:
    return type(module).__name__
