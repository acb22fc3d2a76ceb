import pytest
from mmengine.config import Config

import mmmaskdistill  # noqa: F401

BASE = """
arch = 'base'
size = (8, 8)
backbone = dict(arch='base', init_cfg=None, depth=3, clip=False, evaluators=[1])
nested = dict(a=dict(b=1, c=2))
"""


@pytest.mark.parametrize(
    'child, expected',
    [
        ('arch = dict(dims=2)', dict(arch=dict(dims=2))),
        ('size = dict(height=2)', dict(size=dict(height=2))),
        (
            "backbone = dict(arch=dict(dims=2), init_cfg=dict(type='A'))",
            dict(
                backbone=dict(
                    arch=dict(dims=2),
                    init_cfg=dict(type='A'),
                    depth=3,
                    clip=False,
                    evaluators=[1],
                )
            ),
        ),
        (
            'backbone = dict(_delete_=True, evaluators=dict(type="B"))',
            dict(backbone=dict(evaluators=dict(type='B'))),
        ),
        ('nested = dict(a=dict(b=5))', dict(nested=dict(a=dict(b=5, c=2)))),
        ('nested = dict(a=dict(_delete_=True, b=5))', dict(nested=dict(a=dict(b=5)))),
        (
            'nested = dict(a=dict(b=dict(d=4)))',
            dict(nested=dict(a=dict(b=dict(d=4), c=2))),
        ),
    ],
)
def test_dicts_replace_what_is_no_dict(tmp_path, child, expected):
    (tmp_path / 'base.py').write_text(BASE)
    (tmp_path / 'child.py').write_text(f"_base_ = 'base.py'\n{child}\n")
    cfg = Config.fromfile(tmp_path / 'child.py')
    for key, value in expected.items():
        assert cfg[key] == value
    # Nothing that mmengine uses to mark a dict is left in the config.
    assert '_delete_' not in cfg.pretty_text
