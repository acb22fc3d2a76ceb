"""Read the values of ``--cfg-options``.

mmengine's ``DictAction`` removes all spaces and the quotes at both ends of a value,
splits it at each comma, and makes numbers of names such as ``2024_01``. Here a value
that is not a number, a list or a dict stays the string that it is.
"""

import ast
import re
from typing import Any

BRACKETS = {'(': ')', '[': ']', '{': '}'}
NUMBER = re.compile(r'[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(inf|nan)', re.IGNORECASE)
CONSTANTS = {'true': True, 'false': False}
# Options whose values are strings, even if they look like a number or a list.
TEXT = re.compile(
    r'data_root|load_from|checkpoint|data_prefix|(?!drop_path)\w+_(path|dir|file|suffix)'
)


def read_value(text: str, key: str = '') -> Any:
    """Read the value of an option.

    - ``[a, b]`` is a list, ``(1, 2)`` a tuple, ``{'a': 1}`` and ``dict(a=1)`` are
      dicts. Inside them, spaces around items do not count.
    - ``1,2`` and ``a,b`` are lists, unless there is a slash, or a space inside an
      item: names of files may contain commas.
    - ``3``, ``1e-4``, ``True``, ``false`` and ``None`` are what they are in Python.
    - Quotes around a whole value or item make it a string, without the quotes.
    - Everything else is a string and stays as it is.

    Args:
        text (str): The value as the shell passes it on.
        key (str): Name of the option. Paths, such as ``data_root``, are always
            strings, or lists if they are in brackets. Defaults to ``''``.

    Returns:
        Any: The value.
    """
    is_text = TEXT.fullmatch(key.split('.')[-1]) is not None
    if _quoted(text):
        return text[1:-1]
    stripped = text.strip()
    if _enclosed(stripped):
        return _collection(stripped)
    if _is_dict(stripped):
        return _python(stripped)
    if stripped == 'None':
        return None
    if is_text:
        return text
    if ',' in text and not re.search(r'[/\\]', text):
        items = [item.strip() for item in _split(text) or []]
        if items and not any(' ' in item and not _enclosed(item) for item in items):
            return [_item(item) for item in items]
    return _item(text)


def _item(text: str) -> Any:
    """Read a value that has no comma outside of brackets and quotes."""
    if _quoted(text):
        return text[1:-1]
    stripped = text.strip()
    if _enclosed(stripped):
        return _collection(stripped)
    if _is_dict(stripped):
        return _python(stripped)
    if NUMBER.fullmatch(stripped):
        try:
            return int(stripped)
        except ValueError:
            return float(stripped)
    if stripped == 'None':
        return None
    return CONSTANTS.get(stripped.lower(), text)


def _is_dict(text: str) -> bool:
    """Tell whether a text is a call such as ``dict(a=1)``."""
    return text.startswith('dict(') and _enclosed(text[4:])


def _collection(text: str) -> Any:
    if text.startswith('{'):
        return _python(text)
    items = [_item(item.strip()) for item in _split(text[1:-1]) or []]
    return tuple(items) if text.startswith('(') else items


def _python(text: str) -> Any:
    """Read a dict that is written in Python, or return the text if it is none."""
    try:
        return _evaluate(ast.parse(text, mode='eval').body)
    except (SyntaxError, ValueError):
        return text


def _evaluate(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'dict':
        if node.args or any(keyword.arg is None for keyword in node.keywords):
            raise ValueError('a dict of keywords is expected')
        return {keyword.arg: _evaluate(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        return {
            ast.literal_eval(key): _evaluate(value)
            for key, value in zip(node.keys, node.values)
        }
    if isinstance(node, ast.List):
        return [_evaluate(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_evaluate(item) for item in node.elts)
    return ast.literal_eval(node)


def _quoted(text: str) -> bool:
    """Tell whether a pair of quotes is around the whole text."""
    return (
        len(text) > 1
        and text[0] in '\'"'
        and text[-1] == text[0]
        and text[0] not in text[1:-1]
    )


def _enclosed(text: str) -> bool:
    """Tell whether a pair of brackets is around the whole text."""
    if text[:1] not in BRACKETS or text[-1:] != BRACKETS[text[0]]:
        return False
    open_brackets = []
    for position, character in _outside_quotes(text):
        if character in BRACKETS:
            open_brackets.append(BRACKETS[character])
        elif character in BRACKETS.values():
            if not open_brackets or open_brackets.pop() != character:
                return False
            if not open_brackets:
                return position == len(text) - 1
    return False


def _split(text: str) -> list[str] | None:
    """Split a text at its commas outside of brackets and quotes.

    Returns:
        list[str] | None: The items without a last empty one, or None if the
        brackets do not match.
    """
    open_brackets, items, start = [], [], 0
    for position, character in _outside_quotes(text):
        if character in BRACKETS:
            open_brackets.append(BRACKETS[character])
        elif character in BRACKETS.values():
            if not open_brackets or open_brackets.pop() != character:
                return None
        elif character == ',' and not open_brackets:
            items.append(text[start:position])
            start = position + 1
    if open_brackets:
        return None
    return items + ([text[start:]] if text[start:].strip() else [])


def _outside_quotes(text: str) -> list[tuple[int, str]]:
    """List the characters that are not inside quotes, with their positions.

    An apostrophe inside a word, as in ``Bob's``, does not begin a quotation.
    """
    quote, found = '', []
    for position, character in enumerate(text):
        if quote:
            quote = '' if character == quote else quote
        elif character in '\'"' and (not position or text[position - 1] in '([{,:= '):
            quote = character
        else:
            found.append((position, character))
    return found
