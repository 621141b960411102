"""How much memory normnet needs, how much it may have, and how a lack of it is recognised.

Error ids: NN-RES-004 out of memory, 005 the memory is limited to less than any CT needs.
"""

from __future__ import annotations

import ctypes
import errno
from contextlib import suppress

from normnet.errors import ResourceError

NEED_GB = 2.0  # of address space, for the libraries, the networks and a small CT
# Measured: docs/results.md. Larger CTs are averaged, so that they need no more than the largest.
_NEED = "2 GB, and 10 bytes per voxel of the CT (2.8 GB for 512 x 512 x 300 voxels, 5 GB at most)"
_WORDS = (  # in errors of torch, oneDNN, numpy, SimpleITK, the loader of libraries and threads
    "out of memory",
    "insufficient memory",
    "can't allocate memory",
    "cannot allocate memory",
    "unable to allocate",
    "failed to allocate",
    "alloc_failed",
    "bad_alloc",
    "could not create a memory object",
    "could not create a primitive",
    "failed to map segment",
    "cannot map zero-fill pages",
    "can't start new thread",
)


def memory_limit_gb() -> float | None:
    """The limit of this process's address space (``ulimit -v``) in GB; None without a limit."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit / 1e9


def check_memory() -> None:
    """Refuse a limit below which torch ends the process, sometimes without any message.

    Raises:
        ResourceError: NN-RES-005.
    """
    limit_gb = memory_limit_gb()
    if limit_gb is not None and limit_gb < NEED_GB:
        found = f"the memory is limited to {limit_gb:.2f} GB, at least {NEED_GB:g} GB are needed"
        raise ResourceError("NN-RES-005", found, "ulimit -v", f"allow {_NEED}")


def keep_freed_memory() -> None:
    """Let this process keep freed memory for its next arrays, where the C library is glibc.

    glibc gives every large array back to the system, and then gets new pages for the next one; for
    a CT these pages take a tenth of the time. Arrays of 1 GiB and more are still given back.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    with suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**31 - 1)


def give_back_memory() -> None:
    """Give back what ``keep_freed_memory`` kept, so that scans of many sizes need no more of it."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def is_lack_of_memory(error: BaseException | None) -> bool:
    """Whether an exception, or one that caused it, says that memory is missing."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        text = str(error).lower()
        if isinstance(error, MemoryError) or any(word in text for word in _WORDS):
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        error = error.__cause__
    return False


def lack_of_memory(where: str) -> ResourceError:
    """NN-RES-004, with what is needed.

    Args:
        where: File that was being worked on.
    """
    limit_gb = memory_limit_gb()
    limit = "" if limit_gb is None else f", it is limited to {limit_gb:.2f} GB"
    return ResourceError(
        "NN-RES-004",
        f"not enough memory{limit}",
        where,
        f"give it {_NEED}; on a GPU, or use --device cpu",
    )
