"""Keep mmengine from building whatever a config names.

If no registry knows a ``type``, mmengine takes it for the path of any Python object,
imports that object and calls it (``Registry.get``, mmengine 0.8 to 0.10 and
onedl-mmengine 0.10). A config from a checkpoint that holds nothing but text could run
code in this way: ``dict(type='os.system', command='...')``. Configs of one's own need
the feature, so it is restricted only where a config is not trusted, and this module
applies nothing when it is imported.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from mmcv.transforms import BaseTransform
from mmengine.registry import registry
from torch import nn

from mmmaskdistill.errors import CheckpointError

# Packages whose classes a config may name by their full path, as mmengine writes
# them in the configs of Python's syntax (lazy_import).
PACKAGES = (
    'mmmaskdistill',
    'mmseg',
    'mmpretrain',
    'mmcv',
    'mmengine',
    'mmdet',
    'torch',
)
PARTS = (nn.Module, BaseTransform)


@contextmanager
def only_parts(source: str) -> Iterator[None]:
    """Let mmengine build registered classes, modules and transforms, and nothing else.

    Args:
        source (str): What contains the config, for the message.

    Yields:
        None: The restriction applies inside the ``with`` statement.

    Raises:
        CheckpointError: If the config names anything else.
    """
    find = registry.get_object_from_string

    def find_part(name: str) -> type:
        package, dot, _ = name.partition('.')
        found = find(name) if dot and package in PACKAGES else None
        home = getattr(found, '__module__', '').partition('.')[0]
        if isinstance(found, type) and issubclass(found, PARTS) and home in PACKAGES:
            return found
        raise _Refused(name)

    registry.get_object_from_string = find_part
    try:
        yield
    except (_Refused, RuntimeError, KeyError) as error:
        refused = _refused(error)
        if refused is None:
            raise
        raise CheckpointError(
            f'the config in {source} has type={refused.name!r}, which no imported '
            'library has registered. If it is a class of your own, import it first; if '
            'you trust the author, set trust_checkpoint=True (--trust-checkpoint)'
        ) from error
    finally:
        registry.get_object_from_string = find


class _Refused(Exception):
    def __init__(self, name: str):
        super().__init__(name)
        self.name = name


def _refused(error: BaseException | None) -> _Refused | None:
    """Find the refusal among the errors that led to an error."""
    while error is not None and not isinstance(error, _Refused):
        error = error.__cause__ or error.__context__
    return error
