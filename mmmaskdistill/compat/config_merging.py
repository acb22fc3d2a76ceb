"""Let a dict in a config replace a value of the base config that is not a dict.

mmengine (0.10.7) raises a ``TypeError`` for ``arch=dict(...)`` over ``arch='base'``,
``init_cfg=dict(...)`` over ``init_cfg=None`` and others of this kind, unless the dict
contains ``_delete_=True``. There is nothing to merge in these cases, so the dict can
only be meant to replace the value.
"""

from collections.abc import Callable

from mmengine.config import Config
from mmengine.config.config import DELETE_KEY

from .wrapping import wrap


def apply() -> None:
    """Let ``Config`` replace what a dict cannot be merged with."""

    @wrap(Config, '_merge_a_into_b')
    def merge(original: Callable, a: dict, b: dict, allow_list_keys: bool = False):
        mergeable = (dict, list) if allow_list_keys else dict
        if isinstance(b, dict):
            a = {
                key: {**value, DELETE_KEY: True}
                if isinstance(value, dict)
                and key in b
                and not isinstance(b[key], mergeable)
                else value
                for key, value in a.items()
            }
        return original(a, b, allow_list_keys)

    # The wrapper is a plain function, which an instance would bind.
    Config._merge_a_into_b = staticmethod(Config._merge_a_into_b)
