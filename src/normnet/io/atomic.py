"""Files that are complete or absent: written under a temporary name, synced, then renamed."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from normnet.errors import OutputError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def replacing(path: Path, check: Callable[[Path], None] | None = None) -> Iterator[BinaryIO]:
    """Open a temporary file that is renamed to ``path`` when the block ends without an error.

    Args:
        path: Final name; an older file of that name stays until the new one is whole.
        check: Called with the path of the synced temporary file; it raises an error if the file
            does not read back as it was written.

    Raises:
        OutputError: NN-OUT-001 no space, 002 not allowed, 003 any other failure of the file system.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        if check is not None:
            check(temporary)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _output_error(error, path) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or none; missing parent folders are made.

    Raises:
        OutputError: As ``replacing``.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _output_error(error, path) from error
    with replacing(path) as file:
        file.write(data)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # not every file system can; the file itself is synced already
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _output_error(error: OSError, path: Path) -> OutputError:
    if error.errno in _NO_SPACE:
        return OutputError(
            "NN-OUT-001",
            "no space left for the output",
            path.name,
            "free space or choose another disk",
        )
    if error.errno in _NOT_ALLOWED:
        return OutputError(
            "NN-OUT-002", "the output folder cannot be written", path.name, "choose another folder"
        )
    reason = error.strerror or type(error).__name__
    return OutputError(
        "NN-OUT-003", f"the output cannot be written ({reason})", path.name, "check the folder"
    )
