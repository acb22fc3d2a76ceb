"""How the quirks replace a function of another library."""

import functools


def wrap(owner, name):
    """Put the decorated function around ``owner.name``.

    The decorated function gets the original as its first argument. Where the
    same name is wrapped already, nothing happens, so that applying a quirk
    twice does no harm. The original stays reachable as ``__wrapped__``.

    Args:
        owner: Module or class that holds the function.
        name (str): Its name there.
    """

    def decorate(function):
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
