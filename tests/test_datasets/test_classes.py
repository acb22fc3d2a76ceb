"""The table of classes: reading, writing, drafting, and its errors."""

import pytest

from mmmaskdistill.datasets import ClassRow, ClassTable
from mmmaskdistill.errors import ConfigError

VOID_IN_THE_MIDDLE = """value,name,colour,ignore
0,road,#804080,
1,void,,yes
2,building,70 70 70,no
"""


def read(tmp_path, text):
    path = tmp_path / 'classes.csv'
    path.write_text(text, encoding='utf-8')
    return ClassTable.read(path)


def test_values_become_indices_and_ignored_ones_255(tmp_path):
    table = read(tmp_path, VOID_IN_THE_MIDDLE)
    assert table.names == ['road', 'building']
    assert table.palette == [[128, 64, 128], [70, 70, 70]]
    assert table.values == {0: 0, 1: 255, 2: 1}
    assert table.num_classes == 2 and not table.by_colour


@pytest.mark.parametrize(
    ('void', 'values'),
    [
        (0, {0: 255, 1: 0, 2: 1}),
        (1, {0: 0, 1: 255, 2: 1}),
        (2, {0: 0, 1: 1, 2: 255}),
        (11, {0: 0, 1: 1, 2: 2, 11: 255}),
    ],
)
def test_void_is_one_line_wherever_it_is(void, values):
    rows = [ClassRow(v, f'c{v}', ignore=v == void) for v in sorted({0, 1, 2, void})]
    assert ClassTable(rows).values == values


def test_lines_of_the_same_name_are_one_class(tmp_path):
    table = read(tmp_path, 'value,name\n26,vehicle\n7,road\n27,vehicle\n')
    assert table.names == ['vehicle', 'road']
    assert table.values == {26: 0, 7: 1, 27: 0}


def test_colors_stand_for_values_that_are_empty(tmp_path):
    table = read(
        tmp_path, 'value,name,colour,ignore\n,sky,#0000ff,\n,none,"(0, 0, 0)",x\n'
    )
    assert table.by_colour
    assert table.colours == {(0, 0, 255): 0, (0, 0, 0): 255}


@pytest.mark.parametrize(
    'text',
    [
        'value;name;colour;ignore\n3;a;#010203;\n5;b;;yes\n',
        'value\tname\tcolour\tignore\n3\ta\t1 2 3\t\n5\tb\t\tTRUE\n',
        '\ufeffname, Value ,color,ignore\r\na,3,"1,2,3",0\r\n\r\nb,5,,1\r\n',
    ],
)
def test_files_of_spreadsheets_are_read(tmp_path, text):
    table = read(tmp_path, text)
    assert table.rows == [ClassRow(3, 'a', (1, 2, 3)), ClassRow(5, 'b', None, True)]


def test_a_table_is_written_and_read_again(tmp_path):
    rows = [
        ClassRow(0, 'a, b', (1, 2, 3)),
        ClassRow(-1, '', None, True),
        ClassRow(40000, 'Fläche', (255, 0, 0)),
    ]
    ClassTable(rows).write(tmp_path / 'own.csv')
    assert (tmp_path / 'own.csv').read_text(encoding='utf-8') == (
        'value,name,colour,ignore\n0,"a, b",#010203,\n-1,,,yes\n40000,Fläche,#ff0000,\n'
    )
    assert ClassTable.read(tmp_path / 'own.csv').rows == rows


def test_missing_colors_are_chosen_and_differ():
    table = ClassTable([ClassRow(k, f'c{k}') for k in range(255)])
    assert len({tuple(colour) for colour in table.palette}) == 255


@pytest.mark.parametrize(
    ('lines', 'message'),
    [
        ('a,sky,,', "line 2: value 'a': expected an integer"),
        ('0,sky,,\n\n1,,,', 'line 4: the name is missing; set ignore to yes'),
        ('0,a,,\n1,b,,\n0,c,,', 'line 4: 0 is already in line 2'),
        (',a,#000000,\n,b,0 0 0,', 'line 3: #000000 is already in line 2'),
        (',a,,', 'line 2: expected a value or a colour'),
        (',a,#000000,\n1,b,,', 'line 3: expected a colour, because other lines have'),
        ('0,a,#12,', "line 2: colour '#12': expected #rrggbb, or red, green"),
        ('0,a,1 2 300,', "line 2: colour '1 2 300': expected #rrggbb"),
        ('0,a,red,', "line 2: colour 'red': expected #rrggbb"),
        ('0,a,,maybe', "line 2: ignore is 'maybe', expected yes or nothing"),
        ('0,a,,,5', "line 2: 5 columns, expected 4; put a text that contains ','"),
        ('0,a,,yes', 'has no class that is not ignored'),
        ('', 'has no class that is not ignored'),
    ],
)
def test_errors_name_the_file_and_the_line(tmp_path, lines, message):
    with pytest.raises(ConfigError) as error:
        read(tmp_path, f'value,name,colour,ignore\n{lines}\n')
    assert str(error.value).startswith(f"'{tmp_path}/classes.csv'")
    assert message in str(error.value)


def test_other_columns_and_files_are_refused(tmp_path):
    message = 'line 1: the columns are id,name, expected value,name,colour,ignore'
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, 'id,name\n0,a\n')
    with pytest.raises(ConfigError, match='line 1: the columns are , expected value'):
        read(tmp_path, '')
    with pytest.raises(ConfigError, match='cannot read the class table .*none.csv'):
        ClassTable.read(tmp_path / 'none.csv')
    with pytest.raises(ConfigError, match='cannot read the class table'):
        ClassTable.read(tmp_path)


def test_255_classes_work_and_more_are_refused():
    rows = [ClassRow(k, f'c{k}') for k in range(256)]
    assert ClassTable(rows[:255]).values[254] == 254
    with pytest.raises(ConfigError, match='256 classes: expected at most 255'):
        ClassTable(rows)
    assert ClassTable([*rows[:255], rows[255]._replace(ignore=True)]).num_classes == 255


def test_a_draft_has_the_values_that_were_seen():
    assert ClassTable.draft([2, 0, 5]).names == ['class_0', 'class_2', 'class_5']
    mask = ClassTable.draft([255, 0])
    assert mask.names == ['background', 'foreground'] and mask.values == {0: 0, 255: 1}
    void = ClassTable.draft([0, 1, 255])
    assert void.rows[2] == ClassRow(255, 'void', None, True)
    colours = ClassTable.draft([(9, 8, 7), (0, 0, 0)])
    assert colours.colours == {(0, 0, 0): 0, (9, 8, 7): 1}
    shown = ClassTable.draft([0, 1], palette={1: (5, 5, 5)})
    assert shown.palette[1] == [5, 5, 5]
    assert ClassTable.draft([255]).values == {255: 0}
