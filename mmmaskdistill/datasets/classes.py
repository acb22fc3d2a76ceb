"""The table of classes: which value or color of a label file means which class."""

import colorsys
import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mmmaskdistill.errors import ConfigError, first_few

Colour = tuple[int, int, int]
COLUMNS = ('value', 'name', 'colour', 'ignore')
IGNORED = 255
YES, NO = ('yes', 'true', '1', 'x', 'y'), ('', 'no', 'false', '0', 'n')
DRAFTED_PAIR = {0: 'background', 255: 'foreground'}


class ClassRow(NamedTuple):
    """A line of the table.

    Attributes:
        value (int | None): Value of the class in the label files. None if the files
            have the color.
        name (str): Name of the class. It may be empty if the class is ignored.
        colour (tuple[int, int, int] | None): Red, green and blue, 0 to 255.
        ignore (bool): Whether pixels of the class count neither in the loss nor in
            the metrics.
    """

    value: int | None
    name: str
    colour: Colour | None = None
    ignore: bool = False


class ClassTable:
    """The classes of a data set, as a CSV file has them.

    The file has a line for every value that the label files contain::

        value,name,colour,ignore
        0,road,#804080,
        1,building,#464646,
        7,void,,yes

    Values and their order are free. The classes that are not ignored get the indices
    0 to K-1 in the order of the lines; lines of the same name are one class. Ignored
    ones become 255, which OpenMMLab's losses and metrics leave out. For labels that
    are colored pictures, the column ``value`` is empty and ``colour`` says which color
    is meant, as ``#804080`` or ``128 64 128``. Otherwise the color is only shown, and a
    missing one is chosen.

    Args:
        rows (Sequence[ClassRow]): The lines.
        source (str): Name of the table, for messages. Defaults to
            ``'the class table'``.
        lines (Sequence[int], optional): Number of each line in its file, for messages.
            Defaults to 2, 3, ... after the header.

    Attributes:
        rows (list[ClassRow]): The lines.
        names (list[str]): Names of the K classes that are not ignored.
        palette (list[list[int]]): Their colors, for pictures.
        values (dict[int, int]): The index of each value, 255 for ignored ones.
        colours (dict[tuple[int, int, int], int]): The index of each color in the file.
        by_colour (bool): Whether the labels are colored pictures.

    Raises:
        ConfigError: If a value or color occurs twice, a name is missing, or there is
            no class or more than 255.
    """

    def __init__(
        self,
        rows: Sequence[ClassRow],
        source: str = 'the class table',
        lines: Sequence[int] | None = None,
    ):
        self.rows, self.source = [ClassRow(*row) for row in rows], source
        self.by_colour = any(row.value is None for row in self.rows)
        lines = list(lines or range(2, 2 + len(self.rows)))
        self.values, self.colours, shown, first = {}, {}, {}, {}
        for line, row in zip(lines, self.rows):
            self._check(row, f'{source}, line {line}')
            key = to_hex(row.colour) if self.by_colour else row.value
            if key in first:
                raise ConfigError(
                    f'{source}, line {line}: {key} is already in line {first[key]}'
                )
            first[key] = line
            if not row.ignore:
                shown.setdefault(row.name, None)
                shown[row.name] = shown[row.name] or row.colour
            index = IGNORED if row.ignore else list(shown).index(row.name)
            if row.value is not None:
                self.values[row.value] = index
            if row.colour is not None:
                # A color that is only shown may be that of two classes.
                clash = self.colours.get(row.colour, index) != index
                self.colours[row.colour] = None if clash else index
        self.colours = {c: i for c, i in self.colours.items() if i is not None}
        self.names = list(shown)
        if not self.names:
            raise ConfigError(
                f'{source} has no class that is not ignored: expected at least one '
                'line with a name whose column ignore is empty'
            )
        if len(self.names) > IGNORED:
            raise ConfigError(
                f'{source} has {len(self.names)} classes: expected at most {IGNORED}, '
                f'because index {IGNORED} stands for ignored pixels. Give several '
                'lines the same name to make them one class, or set ignore'
            )
        taken = {colour for colour in shown.values() if colour}
        self.palette = [
            list(colour or _free_colour(taken)) for colour in shown.values()
        ]

    @property
    def num_classes(self) -> int:
        """Number K of the classes that are not ignored."""
        return len(self.names)

    def _check(self, row: ClassRow, where: str):
        if row.value is None and row.colour is None:
            raise ConfigError(f'{where}: expected a value or a colour')
        if self.by_colour and row.colour is None:
            raise ConfigError(
                f'{where}: expected a colour, because other lines have no value, so '
                'that the labels are colored pictures'
            )
        if not row.name and not row.ignore:
            raise ConfigError(
                f'{where}: the name is missing; set ignore to yes if the class does '
                'not count'
            )

    def describe_values(self, colours: bool | None = None) -> str:
        """Name the values or the colors that the table has.

        Args:
            colours (bool, optional): Whether to name colors. Defaults to None:
                ``by_colour``.
        """
        colours = self.by_colour if colours is None else colours
        known = map(to_hex, self.colours) if colours else map(str, self.values)
        return first_few(list(known), 20) or 'none'

    @classmethod
    def read(cls, path: str | os.PathLike) -> 'ClassTable':
        """Read a table from a CSV file.

        Semicolons and tabs also separate the columns, as some spreadsheets write them.

        Args:
            path (str | PathLike): The file.

        Returns:
            ClassTable: The table.

        Raises:
            ConfigError: If the file cannot be read, or a line is wrong. The message
                has the file and the line.
        """
        source = f"'{os.fspath(path)}'"
        try:
            text = Path(path).read_text(encoding='utf-8-sig')
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f'cannot read the class table {source}: {error}'
            ) from error
        header = text.split('\n', 1)[0]
        separator = next((s for s in ';\t' if s in header), ',')
        lines = list(csv.reader(io.StringIO(text), delimiter=separator))
        columns = [name.strip().lower() for name in lines[0]] if lines else []
        columns = ['colour' if name == 'color' else name for name in columns]
        unknown = [name for name in columns if name not in COLUMNS]
        if unknown or 'name' not in columns or len(set(columns)) < len(columns):
            raise ConfigError(
                f'{source}, line 1: the columns are {",".join(columns)}, expected '
                f'{",".join(COLUMNS)}'
            )
        rows, numbers = [], []
        for number, line in enumerate(lines[1:], start=2):
            if any(cell.strip() for cell in line):
                cells = dict(zip(columns, (cell.strip() for cell in line)))
                rows.append(_parse(cells, f'{source}, line {number}'))
                numbers.append(number)
                if len(line) > len(columns):
                    raise ConfigError(
                        f'{source}, line {number}: {len(line)} columns, expected '
                        f'{len(columns)}; put a text that contains {separator!r} in '
                        'quotes'
                    )
        return cls(rows, source, numbers)

    def write(self, path: str | os.PathLike) -> None:
        """Write the table to a CSV file.

        Args:
            path (str | PathLike): The file.
        """
        with open(path, 'w', newline='', encoding='utf-8') as file:
            writer = csv.writer(file, lineterminator='\n')
            writer.writerow(COLUMNS)
            for row in self.rows:
                writer.writerow(
                    (
                        '' if row.value is None else row.value,
                        row.name,
                        '' if row.colour is None else to_hex(row.colour),
                        'yes' if row.ignore else '',
                    )
                )

    @classmethod
    def draft(
        cls,
        values: Iterable[int | Colour],
        palette: dict[int, Colour] | None = None,
    ) -> 'ClassTable':
        """Make a table from the values that label files contain.

        The user is to replace the names, which are ``class_0`` and so on. Masks of 0
        and 255 have the classes ``background`` and ``foreground``. Together with other
        values, 255 is ignored, as in most data sets.

        Args:
            values (Iterable[int | tuple[int, int, int]]): Values or colors.
            palette (dict[int, tuple[int, int, int]], optional): Colors of values, as
                a palette PNG has them. Defaults to None, colors are chosen.

        Returns:
            ClassTable: The table.
        """
        values, palette = sorted(set(values)), dict(palette or {})
        if values and isinstance(values[0], tuple):
            rows = [
                ClassRow(None, f'class_{index}', tuple(map(int, colour)))
                for index, colour in enumerate(values)
            ]
            return cls(rows)
        pair = set(values) == set(DRAFTED_PAIR)
        taken = set(palette.values())
        rows = []
        for value in map(int, values):
            if value == IGNORED and not pair and len(values) > 1:
                rows.append(ClassRow(value, 'void', None, True))
                continue
            name = DRAFTED_PAIR[value] if pair else f'class_{value}'
            colour = palette.get(value) or _free_colour(taken)
            rows.append(ClassRow(value, name, tuple(map(int, colour))))
        return cls(rows)


def to_hex(colour: Colour) -> str:
    """Write a color as ``#rrggbb``.

    Args:
        colour (tuple[int, int, int]): Red, green and blue, 0 to 255.
    """
    return '#{:02x}{:02x}{:02x}'.format(*colour)


def _parse(cells: dict[str, str], where: str) -> ClassRow:
    value = cells.get('value') or None
    if value is not None:
        try:
            value = int(value)
        except ValueError:
            raise ConfigError(
                f'{where}: value {value!r}: expected an integer, or nothing if the '
                'labels have the color'
            ) from None
    ignore = cells.get('ignore', '').lower()
    if ignore not in (*YES, *NO):
        raise ConfigError(f'{where}: ignore is {ignore!r}, expected yes or nothing')
    colour = _parse_colour(cells.get('colour', ''), where)
    return ClassRow(value, cells.get('name', ''), colour, ignore in YES)


def _parse_colour(text: str, where: str) -> Colour | None:
    if not text:
        return None
    try:
        if text.startswith('#'):
            colour = tuple(bytes.fromhex(text[1:]))
        else:
            parts = text.strip('()[]').replace(',', ' ').split()
            colour = tuple(int(part) for part in parts)
        if len(colour) != 3 or not all(0 <= part <= 255 for part in colour):
            raise ValueError
    except ValueError:
        raise ConfigError(
            f'{where}: colour {text!r}: expected #rrggbb, or red, green and blue from '
            '0 to 255 such as 128 64 128'
        ) from None
    return colour


def _free_colour(taken: set[Colour]) -> Colour:
    """Choose a color that differs from the others, and add it to them."""
    step = 0
    while True:
        # Multiples of the golden ratio are spread evenly over the circle of hues.
        hue = step * 0.618034 % 1
        red_green_blue = colorsys.hsv_to_rgb(hue, 0.9 - step // 24 % 3 * 0.25, 0.9)
        colour = tuple(round(255 * part) for part in red_green_blue)
        if colour not in taken:
            taken.add(colour)
            return colour
        step += 1
