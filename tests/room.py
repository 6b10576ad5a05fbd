"""A disk that is full, for whoever writes in this process."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_room(size_bytes_max: int = 0) -> Iterator[None]:
    """While inside, no file of this process grows beyond so many bytes: writing further raises EFBIG.

    Python ignores SIGXFSZ, with which the system would otherwise end the process.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes_max, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
