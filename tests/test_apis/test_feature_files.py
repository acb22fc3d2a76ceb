"""Files of features that grow row by row and go on after a kill."""

import json
import multiprocessing
import os
import signal

import numpy as np
import pytest

from mmmaskdistill.apis import feature_files
from mmmaskdistill.apis.feature_files import FeatureFile, check_ending
from mmmaskdistill.errors import ConfigError

SETTINGS = dict(model='ViT', images=[f'{i}.jpg' for i in range(10)])


def row(i, side=2):
    """Features of the image i."""
    values = np.random.default_rng(i)
    return dict(
        cls=values.normal(size=4).astype(np.float32),
        patches=values.normal(size=(side, 2, 4)).astype(np.float32),
    )


def fill(file, stop=10):
    for i in range(file.done, stop):
        if i == 3:
            file.skip('3.jpg', 'it is broken')
        else:
            file.add(f'{i}.jpg', row(i))
        file.commit(now=i % 2 == 0)


def expected(key):
    return np.stack([row(i)[key] for i in range(10) if i != 3])


NAMES = [f'{i}.jpg' for i in range(10) if i != 3]


def test_npz_has_names_settings_and_a_row_for_each(tmp_path):
    file = FeatureFile(tmp_path / 'a.npz', SETTINGS, ['cls', 'patches'])
    fill(file)
    assert file.finish() == [str(tmp_path / 'a.npz')]
    assert os.listdir(tmp_path) == ['a.npz']
    with np.load(tmp_path / 'a.npz') as found:
        assert sorted(found) == ['cls', 'names', 'patches', 'settings']
        assert found['names'].tolist() == NAMES
        np.testing.assert_array_equal(found['cls'], expected('cls'))
        np.testing.assert_array_equal(found['patches'], expected('patches'))
        settings = json.loads(str(found['settings']))
    assert settings == dict(model='ViT', dtype='float32')
    assert file.skipped == {'3.jpg': 'it is broken'}


def test_npy_can_be_mapped_and_has_a_list_of_names(tmp_path):
    file = FeatureFile(tmp_path / 'a.npy', SETTINGS, ['patches'], 'float16')
    fill(file)
    assert file.finish() == [str(tmp_path / 'a.npy'), str(tmp_path / 'a.names.txt')]
    found = np.load(tmp_path / 'a.npy', mmap_mode='r')
    assert isinstance(found, np.memmap) and found.dtype == np.float16
    np.testing.assert_array_equal(found, expected('patches').astype(np.float16))
    assert (tmp_path / 'a.names.txt').read_text().split('\n') == [*NAMES, '']


def test_several_arrays_become_several_npy_files(tmp_path):
    file = FeatureFile(tmp_path / 'a.npy', SETTINGS, ['cls', 'patches'])
    fill(file)
    file.finish()
    names = ['a.cls.npy', 'a.names.txt', 'a.patches.npy']
    assert sorted(os.listdir(tmp_path)) == names
    np.testing.assert_array_equal(np.load(tmp_path / 'a.cls.npy'), expected('cls'))


@pytest.mark.parametrize('dtype', ['float32', 'float16'])
def test_parquet_has_a_column_for_each_array(tmp_path, dtype, monkeypatch):
    parquet = pytest.importorskip('pyarrow.parquet')
    monkeypatch.setattr(feature_files, 'ROW_GROUP', 200)
    path = tmp_path / 'a.parquet'
    file = FeatureFile(path, SETTINGS, ['cls', 'patches'], dtype)
    fill(file)
    file.finish()
    table = parquet.read_table(path)
    assert table.column_names == ['name', 'cls', 'patches']
    assert table['name'].to_pylist() == NAMES
    found = np.array(table['cls'].to_pylist(), dtype)
    np.testing.assert_array_equal(found, expected('cls').astype(dtype))
    shape = json.loads(table.schema.field('patches').metadata[b'shape'])
    assert shape == [2, 2, 4]
    found = np.array(table['patches'].to_pylist(), dtype).reshape(-1, *shape)
    np.testing.assert_array_equal(found, expected('patches').astype(dtype))
    assert parquet.ParquetFile(path).num_row_groups > 1


def _die(path, stop, settings=SETTINGS):
    file = FeatureFile(path, settings, ['cls', 'patches'])
    fill(file, stop)
    # These rows are on the disk, but the journal does not mention them.
    file.add('lost', row(99))
    for part in file._files.values():
        part.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def kill(*args):
    """Write a part of a file in a process that is killed."""
    process = multiprocessing.get_context('fork').Process(target=_die, args=args)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_a_killed_run_goes_on_where_the_journal_ends(tmp_path):
    path = tmp_path / 'a.npy'
    for stop, done in ((2, 1), (6, 5), (8, 7)):
        kill(path, stop)
        assert not path.exists()
        # What is there until then is an array without rows.
        assert np.load(f'{path}.partial/patches.npy').shape == (0, 4)
        file = FeatureFile(path, SETTINGS, ['cls', 'patches'])
        assert file.resumed == file.done == done
        file._journal.close()
    with open(f'{path}.partial/journal.jsonl', 'a') as journal:
        journal.write('{"names": ["6.jpg", "half a li')
    file = FeatureFile(path, SETTINGS, ['cls', 'patches'])
    assert file.done == 7 and file.skipped == {'3.jpg': 'it is broken'}
    fill(file)
    file.finish()
    for key in ('cls', 'patches'):
        np.testing.assert_array_equal(np.load(tmp_path / f'a.{key}.npy'), expected(key))
    assert (tmp_path / 'a.names.txt').read_text().split() == NAMES


def test_a_run_that_dies_while_it_moves_the_arrays_goes_on(tmp_path, monkeypatch):
    path = tmp_path / 'a.npy'
    (tmp_path / 'a.names.txt').write_text('of an earlier run')
    (tmp_path / 'a.cls.npy').write_text('of an earlier run')
    with pytest.raises(ConfigError) as caught:
        FeatureFile(path, SETTINGS, ['cls', 'patches'])
    assert str(caught.value) == (
        f"'{tmp_path / 'a.cls.npy'}' is there already: choose another file, or "
        'overwrite it with --overwrite'
    )
    file = FeatureFile(path, SETTINGS, ['cls', 'patches'], overwrite=True)
    fill(file)
    replace = os.replace

    def replace_one(source, target):
        monkeypatch.setattr(os, 'replace', lambda *_: 1 / 0)
        replace(source, target)

    monkeypatch.setattr(os, 'replace', replace_one)
    with pytest.raises(ZeroDivisionError):
        file.finish()
    file._journal.close()
    monkeypatch.undo()
    # No list of names belongs to half of the arrays.
    assert sorted(os.listdir(tmp_path)) == ['a.cls.npy', 'a.npy.partial']
    again = FeatureFile(path, SETTINGS, ['cls', 'patches'])
    assert again.done == 10
    again.finish()
    np.testing.assert_array_equal(np.load(tmp_path / 'a.cls.npy'), expected('cls'))
    np.testing.assert_array_equal(
        np.load(tmp_path / 'a.patches.npy'), expected('patches')
    )
    assert (tmp_path / 'a.names.txt').read_text().split() == NAMES


def test_other_settings_are_not_mixed(tmp_path):
    path = tmp_path / 'a.npy'
    kill(path, 6)
    changed = dict(SETTINGS, model='ResNet', images=[*SETTINGS['images'], 'new.jpg'])
    with pytest.raises(ConfigError) as caught:
        FeatureFile(path, changed, ['cls', 'patches'])
    assert str(caught.value) == (
        f"a run that writes '{path}' was stopped before its end and had another "
        "images and model. images: 10 before, 11 now; new: new.jpg. model: 'ViT' "
        "before, 'ResNet' now. Repeat that run, or remove the folder "
        f"'{path}.partial' to begin anew"
    )


def test_lost_rows_are_an_error(tmp_path):
    path = tmp_path / 'a.npy'
    kill(path, 6)
    os.truncate(f'{path}.partial/cls.npy', feature_files.HEADER + 16)
    with pytest.raises(ConfigError, match='cls.npy. has lost rows'):
        FeatureFile(path, SETTINGS, ['cls', 'patches'])


def test_two_runs_cannot_write_the_same_file(tmp_path):
    path = tmp_path / 'a.npy'
    file = FeatureFile(path, SETTINGS, ['cls'])
    file.add('0.jpg', row(0))

    def other(queue):
        try:
            FeatureFile(path, SETTINGS, ['cls'])
        except ConfigError as error:
            queue.put(str(error))

    context = multiprocessing.get_context('fork')
    queue = context.Queue()
    process = context.Process(target=other, args=(queue,))
    process.start()
    assert queue.get(timeout=30).startswith(f"another process is writing '{path}'")
    process.join()


def test_rows_of_other_shapes_are_refused_only_if_they_are_written(tmp_path):
    file = FeatureFile(tmp_path / 'a.npy', SETTINGS, ['cls'])
    for i, side in enumerate((2, 3, 1)):
        file.add(f'{i}.jpg', row(i, side))
    for i, (side, found) in enumerate(zip((2, 3, 1), file.maps('patches'))):
        np.testing.assert_array_equal(found, row(i, side)['patches'])
    assert len(file.finish()) == 2

    file = FeatureFile(tmp_path / 'b.npy', SETTINGS, ['patches'])
    file.add('a.jpg', row(0))
    with pytest.raises(ConfigError) as caught:
        file.add('b.jpg', row(1, 3))
    assert str(caught.value) == (
        "'b.jpg' has a grid of 3 x 2 patches, 'a.jpg' one of 2 x 2, and an array needs "
        'the same for all images. Give them the same size with --size HEIGHT WIDTH'
    )
    assert not (tmp_path / 'b.npy.partial').exists()


def test_files_that_cannot_be_written(tmp_path):
    with pytest.raises(
        ConfigError, match=r"'a.csv': expected a file that ends with .npz"
    ):
        check_ending('a.csv')
    (tmp_path / 'file').touch()
    with pytest.raises(ConfigError, match='cannot write'):
        FeatureFile(tmp_path / 'file/a.npz', SETTINGS, ['cls'])
    file = FeatureFile(tmp_path / 'a.npz', SETTINGS, ['cls'])
    file.skip('a.jpg', 'it is broken')
    with pytest.raises(ConfigError) as caught:
        file.finish()
    assert str(caught.value) == (
        "none of 1 images could be read: 'a.jpg': it is broken"
    )
    assert os.listdir(tmp_path) == ['file']
