"""A disk that is full after some bytes."""

import resource
from contextlib import contextmanager


@contextmanager
def largest_file(size):
    """Let writing fail with an ``OSError`` when a file gets larger than some bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
