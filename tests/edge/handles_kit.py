"""A machine that has no file handles left, made real by the kernel's own limit."""

import itertools
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def handles() -> set[int]:
    """Return the numbers of the files that this process has open; that of the listing is gone when it is asked for."""
    return {int(one.name) for one in Path("/proc/self/fd").iterdir() if one.exists()}


@contextmanager
def few_handles(spare: int) -> Iterator[None]:
    """Let this process open so many files more and no other."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = handles()
    free = (number for number in itertools.count() if number not in used)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(itertools.islice(free, spare, None)), limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
