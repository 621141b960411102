"""Any exception as an error with an id that a user can understand.

Error ids: NN-RES-004 out of memory, 006 too many open files, NN-OUT-003 a failure of a disk,
NN-BUG-001 all else.
"""

from __future__ import annotations

import errno
import traceback

from normnet.errors import NormNetError, OutputError, ResourceError
from normnet.memory import is_lack_of_memory, lack_of_memory

_FULL = (errno.ENOSPC, errno.EDQUOT)


def as_named_error(error: Exception, where: str) -> NormNetError:
    """Turn an exception into an error with an id.

    Args:
        error: What was caught.
        where: File that was being worked on.

    Returns:
        The error itself if it has an id, unless a lack of memory or of open files caused it.
        NN-RES-004 or 006 for these, NN-OUT-001 or 003 for other errors of the operating system,
        NN-BUG-001 for all else.
    """
    if is_lack_of_memory(error):
        return lack_of_memory(getattr(error, "where", "") or where)
    if _is_lack_of_files(error):
        todo = "allow more open files (ulimit -n)"
        return ResourceError("NN-RES-006", "too many open files", where, todo)
    if isinstance(error, NormNetError):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        return _disk_error(error, where)
    frames = traceback.extract_tb(error.__traceback__)
    # The text of the exception is left out: it may hold paths.
    at = f" in {frames[-1].name}, line {frames[-1].lineno}" if frames else ""
    return NormNetError(
        "NN-BUG-001", f"{type(error).__name__}{at}", where, "please report it with --debug's output"
    )


def _is_lack_of_files(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return True
        if isinstance(error, ImportError) and "too many open files" in str(error).lower():
            return True
        error = error.__cause__
    return False


def _disk_error(error: OSError, where: str) -> OutputError:
    if error.errno in _FULL:
        todo = "free space or choose another disk"
        return OutputError("NN-OUT-001", "no space left for the output", where, todo)
    found = f"a file cannot be read or written ({error.strerror})"
    return OutputError("NN-OUT-003", found, where, "check disk and permissions")
