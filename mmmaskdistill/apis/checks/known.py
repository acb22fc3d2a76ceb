"""Whose parts the check knows well enough to call something an error."""

KNOWN = ('mmcv', 'mmengine', 'mmseg', 'mmpretrain', 'mmmaskdistill')


def is_known(kind: type) -> bool:
    """Tell whether a class is part of the libraries that are known here.

    Other data sets, transforms, heads and losses may do what the check does not expect,
    so that it must not stop a run because of them.

    Args:
        kind (type): The class.
    """
    return kind.__module__.split('.')[0] in KNOWN
