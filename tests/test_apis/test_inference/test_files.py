"""Each file to predict gets a name of its own."""

import pytest

from mmmaskdistill.apis.inference.files import find_files
from mmmaskdistill.errors import ConfigError


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    return make


def names(*inputs, out=None):
    return {file.path: file.name for file in find_files(inputs, out).files}


def test_names_are_paths_below_what_was_given(make):
    make('in/a.jpg', 'in/x/b.c.PNG', 'in/x/clip.mp4', 'in/x/.hidden.png', 'in/text.md')
    below = {'in/a.jpg': 'a', 'in/x/b.c.PNG': 'x/b.c', 'in/x/clip.mp4': 'x/clip'}
    assert names('in') == below
    assert find_files(['in']).left_out == {'.md': 1}
    assert [file.is_video for file in find_files(['in']).files] == [False, False, True]
    assert names('in/x/b.c.PNG', 'in/a.jpg') == {'in/x/b.c.PNG': 'b.c', 'in/a.jpg': 'a'}
    assert names('in/**/*.PNG') == {'in/x/b.c.PNG': 'x/b.c'}
    assert names('in/*/*') == {'in/x/b.c.PNG': 'x/b.c', 'in/x/clip.mp4': 'x/clip'}
    # As the shell does, a pattern names folders, too, but no file that is no picture.
    assert set(names('in/*')) == set(below)


def test_names_are_longer_until_they_differ(make):
    make('a.png', 'a.jpg', 'A.bmp', 'b.png')
    expected = {'a.png': 'a.png', 'a.jpg': 'a.jpg', 'A.bmp': 'A.bmp', 'b.png': 'b'}
    assert names('a.png', 'a.jpg', 'A.bmp', 'b.png') == expected
    make('x/a.jpg', 'x/a.tif', 'x/a.jpg.tif')  # none needs a folder
    assert set(names('x').values()) == {'a.jpg', 'a.tif', 'a.jpg.tif'}
    make('one/s/a.png', 'two/s/a.png', 'two/s/c.png')
    assert names('one', 'two') == {
        'one/s/a.png': 'one/s/a.png',
        'two/s/a.png': 'two/s/a.png',
        'two/s/c.png': 's/c',
    }
    assert names('one/s/a.png', 'two/s/a.png') == {
        'one/s/a.png': 'one/s/a.png',
        'two/s/a.png': 'two/s/a.png',
    }


def test_no_two_names_are_equal_whatever_the_files(make):
    make('a', 'a.png', 'a.png.png', 'x/a.png', 'y/x/a.png', 'x/a.png.jpg', 'X/A.PNG')
    inputs = ['a', 'a.png', 'a.png.png', 'x', 'y', 'X', 'y/x/a.png', 'x/../a.png']
    found = names(*inputs)
    # The file that is named in three ways is found once.
    assert len(found) == 7
    assert len({name.lower() for name in found.values()}) == 7
    # A number behind a name may be the end of another one.
    make('x.jpg-1.png')
    addresses = ['https://a.org/x.jpg', 'https://b.org/x.jpg']
    assert names(*addresses, 'x.jpg-1.png') == {
        addresses[0]: 'x.jpg-2',
        addresses[1]: 'x.jpg-3',
        'x.jpg-1.png': 'x.jpg-1',
    }


def test_no_result_is_the_folder_of_another(make):
    make('in/a.jpg', 'in/a/1.jpg', 'in/b.mp4', 'in/b/000001.jpg', 'in/B/2.jpg')
    make('in/c.jpg', 'in/c.png/1.jpg', 'in/d.mp4', 'in/e/d/1.jpg')
    found = names('in')
    assert found['in/a.jpg'] == 'a' and found['in/d.mp4'] == 'd'  # nothing in the way
    assert found['in/b.mp4'] == 'b.mp4' and found['in/b/000001.jpg'] == 'b/000001'
    assert found['in/c.jpg'] == 'c.jpg' and found['in/c.png/1.jpg'] == 'c.png/1'


def test_lists_and_links(make, tmp_path):
    make('data/a.png', 'data/s/b.png')
    (tmp_path / 'data/list.txt').write_text('s/b.png\n# no\na.png\n')
    assert list(names('data/list.txt').values()) == ['s/b', 'a']
    (tmp_path / 'link').symlink_to(tmp_path / 'data')
    assert list(names('link').values()) == ['a', 's/b']


def test_brackets_in_a_name_are_no_pattern(make):
    make('a[1].png', 'a1.png')
    assert names('a[1].png') == {'a[1].png': 'a[1]'}
    assert names('a[12].png') == {'a1.png': 'a1'}


def test_what_was_written_is_left_out(make):
    make('in/a.png', 'in/out/labels/a.png', 'in/labels/a.png', 'in/overlay/a.jpg')
    both = {'in/a.png': 'a', 'in/labels/a.png': 'labels/a'}
    assert names('in', out='in/out') == {**both, 'in/overlay/a.jpg': 'overlay/a'}
    assert names('in/**/a.png', out='in/out') == both
    # Pictures may lie in the folder of the output, and what is named is predicted.
    assert names('in/a.png', out='in') == {'in/a.png': 'a'}
    assert set(names('in', out='in')) == {'in/a.png', 'in/out/labels/a.png'}
    assert names('in/labels/a.png', out='in') == {'in/labels/a.png': 'a'}
    assert names('in/labels', out='in') == {'in/labels/a.png': 'a'}
    with pytest.raises(ConfigError, match="no images in 'in/out' outside of"):
        find_files(['in/out'], 'in/out')


def test_missing_files_are_named(make):
    make('empty/readme.md')
    with pytest.raises(ConfigError, match=r"no file or folder 'b.png' \(from"):
        find_files(['b.png'])
    with pytest.raises(ConfigError, match=r"no file fits the pattern '\*.gif' \(from"):
        find_files(['*.gif'])
    with pytest.raises(
        ConfigError, match="no images in 'empty': .*there is only 1 .md"
    ):
        find_files(['empty'])
