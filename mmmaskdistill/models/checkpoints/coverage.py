"""Judge and describe how well a checkpoint covers a model.

Everything here looks at the report of :func:`.fitting.fit` and at nothing else: no
tensor is loaded or changed.
"""

from mmengine.logging import print_log
from torch import nn

from mmmaskdistill.errors import CheckpointError, first_few

from .fitting import FitsCheckpoints, Report, channels_differ
from .formats import reason_not_used

# Parts of a backbone that a checkpoint may lack: only pre-training or only a downstream
# task learns them, so a checkpoint of the other kind does not have them.
OPTIONAL = ('mask_token', 'norm.', 'fc_norm.')
# Parts that change the features of a ViT. If a checkpoint has one of them, the backbone
# must have it too.
ESSENTIAL = (
    'blocks.',
    'patch_embed.',
    'cls_token',
    'pos_embed',
    'rel_pos_bias.',
    'norm_pre.',
    'pre_norm.',
    'dist_token',
)
# Optional parts of a ViT: a substring of their keys, the backbone's argument for them,
# and its value for a ViT without the part and for one with it.
CHOICES = (
    ('gamma_1', 'layer_scale_init_value', '0', '0.1'),
    (
        'attn.relative_position_bias_table',
        'use_rel_pos_bias',
        'False',
        'True',
    ),
    (
        'rel_pos_bias.relative_position_bias_table',
        'use_shared_rel_pos_bias',
        'False',
        'True',
    ),
    ('pos_embed', 'use_abs_pos_emb', 'False', 'True'),
)


def describe(report: Report, source: str) -> list[str]:
    """Describe what became of a checkpoint's tensors.

    Args:
        report (Report): The report of :func:`.fitting.fit`.
        source (str): What was loaded from where, such as ``backbone from a.pth``.

    Returns:
        list[str]: How many tensors matched, every change, and what was left out and
        why, one line each.
    """
    lines = [
        f'{source}: {report.matched} of {len(report.wanted)} tensors matched',
        *report.notes,
    ]
    if report.misshapen:
        lines.append(f'other shape: {first_few(_shapes(report))}')
    if report.missing:
        lines.append(f'not in the checkpoint: {first_few(report.missing)}')
    not_used, foreign = {}, []
    for key in report.unused:
        prefix = next((part for part in report.parts if key.startswith(part)), None)
        if prefix is None:
            foreign.append(key)
        else:
            part = (prefix, key[len(prefix) :].split('.')[0])
            not_used[part] = not_used.get(part, 0) + 1
    lines += [
        f'not used: {prefix}{part}, {count} tensors ({reason_not_used(part)})'
        for (prefix, part), count in not_used.items()
    ]
    if foreign:
        lines.append(f'not in the model: {first_few(foreign)}')
    return lines


def log_report(report: Report, source: str) -> list[str]:
    """Log what became of a checkpoint's tensors.

    Args:
        report (Report): The report of :func:`.fitting.fit`.
        source (str): See :func:`describe`.

    Returns:
        list[str]: The lines that were logged, see :func:`describe`.
    """
    lines = describe(report, source)
    print_log('\n  '.join(lines), logger='current')
    return lines


def check_model(report: Report, checkpoint: str) -> None:
    """Refuse a checkpoint that does not have every tensor of a model.

    Args:
        report (Report): The report of :func:`.fitting.fit` for the whole model.
        checkpoint (str): The checkpoint's name, for the message.

    Raises:
        CheckpointError: If tensors are missing or have another shape.
    """
    if not (report.missing or report.misshapen):
        return
    advice = (
        "The checkpoint is from another architecture than the config's model: give a "
        'checkpoint that this config trained'
    )
    if any('.lora_A.' in key for key in report.unused):
        advice = (
            'The checkpoint has adapters (LoRA) of peft, and what their effect is does '
            'not follow from their weights alone: merge them (merge_and_unload) before '
            'you save the model'
        )
    lines = '; '.join(describe(report, f'model from {checkpoint}'))
    raise CheckpointError(f'{lines}. {advice}')


def find_problems(
    report: Report,
    essential: tuple[str, ...] = (),
    prefix: str = '',
    optional: tuple[str, ...] = OPTIONAL,
) -> list[str]:
    """List the reasons why a backbone would not have the checkpoint's features.

    Args:
        report (Report): The report of :func:`.fitting.fit` for the backbone or for a
            model with it.
        essential (tuple[str, ...]): Beginnings of the names of parts that the backbone
            must have if the checkpoint has them. Defaults to none.
        prefix (str): Prefix of the backbone's names in the model. Defaults to none.
        optional (tuple[str, ...]): Beginnings of the names of parts that the
            checkpoint may lack. Defaults to :data:`OPTIONAL`.

    Returns:
        list[str]: The number of tensors for each reason with a few of their names.
    """
    wrong = [line for line in _shapes(report) if line.startswith(prefix)]
    missing = [
        key
        for key in report.missing
        if key.startswith(prefix) and not key[len(prefix) :].startswith(optional)
    ]
    left_over = [
        key
        for key in report.unused
        if key.startswith(prefix) and key[len(prefix) :].startswith(essential)
    ]
    return [
        f'{len(names)} tensors {problem} ({first_few(names, 5)})'
        for problem, names in (
            ('of another shape', wrong),
            ('missing from the checkpoint', missing),
            ('that the backbone does not have', left_over),
        )
        if names
    ]


def check_backbone(
    report: Report, checkpoint: str, backbone: nn.Module, prefix: str = ''
) -> None:
    """Refuse a checkpoint with which a backbone would not have its features.

    The checkpoint may lack the tensors in :data:`OPTIONAL` and those that the backbone
    calls optional, and heads may differ.

    Args:
        report (Report): The report of :func:`.fitting.fit` for the backbone or for a
            model with it.
        checkpoint (str): The checkpoint's name, for the message.
        backbone (nn.Module): The backbone.
        prefix (str): Prefix of the backbone's names in the model. Defaults to none.

    Raises:
        CheckpointError: If tensors have another shape or are missing, or if the
            backbone lacks essential parts of the checkpoint. The message names the
            arguments to change.
    """
    fits_itself = isinstance(backbone, FitsCheckpoints)
    essential, optional = (), OPTIONAL
    if fits_itself:
        essential, optional = backbone.essential, OPTIONAL + backbone.optional
    problems = find_problems(report, essential, prefix, optional)
    if not problems:
        return
    wanted = {k[len(prefix) :] for k in report.wanted if k.startswith(prefix)}
    left_out = {k[len(prefix) :] for k in report.unused if k.startswith(prefix)}
    lacking = {k[len(prefix) :] for k in report.missing}
    found = wanted - lacking
    advice = [line for line in [_channel_advice(report, prefix)] if line]
    only_channels = advice and len(problems) == len(report.misshapen) == 1
    if fits_itself and found and not only_channels:
        advice.append(backbone.advise(found | left_out, wanted))
    if prefix:
        advice.append(
            'Give a checkpoint of a whole model with this backbone, or give the '
            f'weights of a backbone alone as model.{prefix}init_cfg.checkpoint'
        )
    raise CheckpointError(
        '. '.join(
            [f'{checkpoint} does not fit the backbone: {", ".join(problems)}', *advice]
        )
    )


def _channel_advice(report: Report, prefix: str) -> str | None:
    """Say what to do if the checkpoint's images have another number of channels."""
    for key, tensor in report.misshapen.items():
        if key.startswith(prefix) and channels_differ(tensor.shape, report.wanted[key]):
            given, wanted = tensor.shape[1], report.wanted[key][1]
            return (
                f'The checkpoint is for images of {given} channels, the backbone has '
                f'in_channels={wanted}: fit its patch embedding with '
                "init_cfg=dict(type='Pretrained', checkpoint=..., inflate=True) of the "
                f'backbone, or set in_channels={given}'
            )
    return None


def vit_settings(given: set[str], wanted: set[str]) -> str:
    """List the arguments of a ViT that make it fit a checkpoint.

    Args:
        given (set[str]): Names of the checkpoint's tensors.
        wanted (set[str]): Names of the ViT's tensors.

    Returns:
        str: Such as ``'use_abs_pos_emb=True'``; the arguments for the size if no part
        is missing or left over.
    """
    settings = []
    for part, option, without, with_it in CHOICES:
        has_it = any(part in key for key in given)
        if has_it != any(part in key for key in wanted):
            settings.append(f'{option}={with_it if has_it else without}')
    return ', '.join(settings) or 'arch and patch_size'


def _shapes(report: Report) -> list[str]:
    """Describe the tensors of another shape."""
    return [
        f'{key} is {tuple(tensor.shape)}, not {tuple(report.wanted[key])}'
        for key, tensor in report.misshapen.items()
    ]
