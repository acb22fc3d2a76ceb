"""Replace functions of other libraries."""

import functools
from collections.abc import Callable
from types import ModuleType


def wrap(owner: ModuleType | type, name: str) -> Callable[[Callable], Callable]:
    """Make a decorator that puts the decorated function around ``owner.name``.

    The decorated function gets the original function as its first argument. The
    original function stays available as the attribute ``__wrapped__``. Nothing
    changes if a function of this package is already wrapped around ``owner.name``,
    so it is safe to apply the modules of this package twice.

    Args:
        owner (ModuleType | type): Module or class that has the function.
        name (str): Name of the function in ``owner``.

    Returns:
        Callable[[Callable], Callable]: The decorator. It returns the decorated
        function unchanged.
    """

    def decorate(function: Callable) -> Callable:
        original = getattr(owner, name)
        if getattr(original, '_wrapped_by', None) == __package__:
            return function

        @functools.wraps(original)
        def wrapper(*args, **kwargs):
            return function(original, *args, **kwargs)

        wrapper._wrapped_by = __package__
        setattr(owner, name, wrapper)
        return function

    return decorate
