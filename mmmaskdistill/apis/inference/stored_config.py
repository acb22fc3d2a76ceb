"""Read the config that a checkpoint carries, without running it."""

import ast
import math
import sys
import warnings
from typing import Any

from mmengine.config import Config

from mmmaskdistill.compat.named_types import ADVICE
from mmmaskdistill.errors import CheckpointError, first_few, first_line

# Far above every config, and low enough that parsing one needs little memory.
LONGEST = 4_000_000
DEEPEST = 100
# mmengine writes these two numbers by their names, although Python has no such names.
NUMBERS = dict(inf=math.inf, nan=math.nan)
# What is imported in any case.
TOOLKITS = ('mmmaskdistill', 'mmengine', 'mmcv', 'mmseg', 'mmpretrain', 'mmdet')


def read_config(text: str, source: str, trust: bool = False) -> Config:
    """Read the config that mmengine wrote into a checkpoint.

    mmengine itself runs the text as a program. Here it is parsed: it may assign
    literals and calls of ``dict`` to names, as what mmengine writes does.

    Args:
        text (str): The config, mmengine's ``meta['cfg']``.
        source (str): The checkpoint's name, for messages.
        trust (bool): Whether to run the text as a program instead. Defaults to False.

    Returns:
        Config: The config. The modules of its ``custom_imports`` are imported.

    Raises:
        CheckpointError: If the text is anything else, or asks for the import of a
            module that is neither imported already nor one of OpenMMLab's.
    """
    if trust:
        try:
            return Config.fromstring(text, file_format='.py')
        except Exception as error:
            raise CheckpointError(
                f'the config in {source} cannot be run ({first_line(error)}): give the '
                'config as well'
            ) from error
    values = parse(text, source)
    imports = (values.get('custom_imports') or {}).get('imports') or []
    imports = [imports] if isinstance(imports, str) else imports
    unknown = [
        str(name)
        for name in imports
        if name not in sys.modules and str(name).partition('.')[0] not in TOOLKITS
    ]
    if unknown:
        raise CheckpointError(
            f'the config in {source} asks to import {first_few(unknown)}, and '
            f'importing a module runs it. Import it yourself first. {ADVICE}'
        )
    try:
        config = Config(values)
    except KeyError as error:  # a name that mmengine needs itself
        raise CheckpointError(
            f'the config in {source} is none of mmengine ({first_line(error)}). '
            f'{ADVICE}'
        ) from error
    if imports:
        from mmengine.utils import import_modules_from_strings

        import_modules_from_strings(list(map(str, imports)), allow_failed_imports=True)
    return config


def parse(text: str, source: str) -> dict:
    """Read assignments of literals and ``dict(...)``.

    Args:
        text (str): The assignments, in Python's syntax.
        source (str): The checkpoint's name, for messages.

    Returns:
        dict: The values by their names.

    Raises:
        CheckpointError: If the text contains anything else. The message names it.
    """
    if not isinstance(text, str) or len(text) > LONGEST:
        size = f'{len(text)} characters' if isinstance(text, str) else 'no text'
        raise CheckpointError(
            f'the config in {source} has {size}: expected text of at most {LONGEST} '
            f'characters. {ADVICE}'
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of invalid escapes in its strings
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        place = f' in line {error.lineno}' if getattr(error, 'lineno', None) else ''
        raise CheckpointError(
            f'the config in {source} cannot be parsed{place} ({first_line(error)}): '
            f'expected literals and dict(...). {ADVICE}'
        ) from None
    values = {}
    for statement in tree.body:
        if not (
            isinstance(statement, ast.Assign)
            and all(isinstance(target, ast.Name) for target in statement.targets)
        ):
            raise _Found(statement).refusal(text, source)
        try:
            value = _value(statement.value)
        except _Found as found:
            raise found.refusal(text, source) from None
        values.update({target.id: value for target in statement.targets})
    return values


class _Found(Exception):
    """Something that is neither a literal nor a call of ``dict``."""

    def __init__(self, node: ast.AST):
        super().__init__()
        self.node = node

    def refusal(self, text: str, source: str) -> CheckpointError:
        """Describe what was found, with the beginning of its source code."""
        line, start = self.node.lineno, self.node.col_offset
        code = text.splitlines()[line - 1].encode()[start:].decode(errors='replace')
        code = code if len(code) <= 60 else f'{code[:60]}...'
        kind = type(self.node).__name__
        return CheckpointError(
            f'the config in {source} is refused: line {line} has {code!r} ({kind}), '
            'and running anything but literals and dict(...) could harm you. '
            f'{ADVICE}'
        )


def _value(node: ast.expr, depth: int = 0) -> Any:
    if depth > DEEPEST:
        raise _Found(node)
    if isinstance(node, ast.Constant) and _is_plain(node.value):
        return node.value
    if isinstance(node, ast.Name) and node.id in NUMBERS:
        return NUMBERS[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        number = node.operand
        if isinstance(number, (ast.Constant, ast.Name)):
            number = _value(number, depth + 1)
            if isinstance(number, (int, float)) and not isinstance(number, bool):
                return -number if isinstance(node.op, ast.USub) else number
    kinds = {ast.List: list, ast.Tuple: tuple}
    if type(node) in kinds:
        return kinds[type(node)](_value(item, depth + 1) for item in node.elts)
    if isinstance(node, ast.Dict):
        pairs = {}
        for key, value in zip(node.keys, node.values):
            if not (
                isinstance(key, ast.Constant) and isinstance(key.value, (str, int))
            ):
                raise _Found(key or node)
            pairs[key.value] = _value(value, depth + 1)
        return pairs
    if isinstance(node, ast.Call):
        return _dict(node, depth)
    raise _Found(node)


def _dict(node: ast.Call, depth: int) -> dict:
    """Read ``dict(key=value)`` or ``dict({key: value})``, which mmengine writes."""
    if not (
        isinstance(node.func, ast.Name)
        and node.func.id == 'dict'
        and len(node.args) <= 1
        and all(isinstance(argument, ast.Dict) for argument in node.args)
        and all(keyword.arg for keyword in node.keywords)
    ):
        raise _Found(node)
    pairs = _value(node.args[0], depth + 1) if node.args else {}
    for keyword in node.keywords:
        pairs[keyword.arg] = _value(keyword.value, depth + 1)
    return pairs


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float))
