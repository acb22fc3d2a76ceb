import importlib.util

import pytest

from mmmaskdistill.compat import toolkits

OFFICIAL = {
    'mmengine': '0.10.7',
    'mmcv-lite': '2.1.0',
    'mmsegmentation': '1.2.2',
    'mmpretrain': '1.2.0',
}
ONEDL = {
    'onedl-mmengine': '0.10.12',
    'onedl-mmcv': '2.3.6',
    'onedl-mmsegmentation': '1.4.2',
    'onedl-mmpretrain': '1.3.6',
}


@pytest.mark.parametrize('installed', [OFFICIAL, ONEDL])
def test_packages_of_one_family_are_accepted(installed, recwarn):
    toolkits.check_mixture(installed)
    toolkits.check_mmcv(installed, importable=True)
    assert not recwarn.list


@pytest.mark.parametrize(
    'fork, official',
    [
        ('onedl-mmcv', 'mmcv-lite'),
        ('onedl-mmengine', 'mmengine'),
        ('onedl-mmsegmentation', 'mmsegmentation'),
        ('onedl-mmpretrain', 'mmpretrain'),
    ],
)
def test_official_and_fork_together_are_refused(fork, official):
    with pytest.raises(ImportError) as error:
        toolkits.check_mixture({**OFFICIAL, fork: ONEDL[fork]})
    assert f'pip uninstall -y {official} {fork}' in str(error.value)


def test_two_mmcv_distributions_cause_a_warning():
    with pytest.warns(UserWarning, match='mmcv and mmcv-lite'):
        toolkits.check_mixture({**OFFICIAL, 'mmcv': '2.1.0'})


@pytest.mark.parametrize(
    'installed, command',
    [
        (OFFICIAL, 'pip install mmcv-lite==2.1.0'),
        (ONEDL, 'pip install onedl-mmcv'),
    ],
)
def test_missing_mmcv_error_names_the_install_command(installed, command):
    with pytest.raises(ImportError, match=command):
        toolkits.check_mmcv(installed, importable=False)


def test_apply_notices_that_mmcv_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ImportError, match='mmcv is not installed'):
        toolkits.apply()


def test_mmcv_too_new_for_official_mmseg_is_refused():
    installed = {**OFFICIAL, 'mmcv-lite': '2.2.0'}
    with pytest.raises(ImportError, match='mmcv-lite 2.2.0.*older than 2.2.0'):
        toolkits.check_mmcv(installed, importable=True)


def test_installed_distributions_include_mmpretrain():
    installed = toolkits.installed_distributions()
    assert {'mmpretrain', 'onedl-mmpretrain'} & set(installed)
