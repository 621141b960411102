"""Files that are complete or absent: written under a temporary name, synced, then renamed.

Error ids: NN-OUT-001 no space, 002 not allowed, 003 any other failure of the file system, 010 a
folder that cannot be written, 015 a file that normnet did not write, 016 a link or a folder where a
file should be written.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from normnet.errors import OutputError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp", re.DOTALL)


@contextmanager
def replacing(path: Path, check: Callable[[Path], None] | None = None) -> Iterator[BinaryIO]:
    """Open a temporary file that is renamed to ``path`` when the block ends without an error.

    Args:
        path: Final name; an older file of that name stays until the new one is complete.
        check: Called with the path of the synced temporary file; it raises an error if the file
            does not read back as it was written.

    Raises:
        OutputError: NN-OUT-001 to 003; 016 if a link, a folder or a device has that name.
    """
    check_regular(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as handle:
            yield handle
            handle.flush()
            _sync(handle.fileno())
        if check is not None:
            check(temporary)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise output_error(error, path) from error
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
        raise output_error(error, path) from error
    with replacing(path) as file:
        file.write(data)


def check_regular(path: Path) -> None:
    """See that an output file can replace what has its name: a regular file, or nothing.

    Raises:
        OutputError: NN-OUT-016.
    """
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
        kind = "a link" if path.is_symlink() else "a folder" if path.is_dir() else "no regular file"
        where = f"{path.parent.name}/{path.name}"
        raise OutputError(
            "NN-OUT-016",
            f"{kind} has the name of an output file",
            where,
            "move it away, or choose another folder",
        )


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files of killed runs from a folder, not from the folders in it.

    Call it only where no other process can write at that time.
    """
    with suppress(OSError):
        for path in folder.iterdir():
            if _TEMPORARY.fullmatch(path.name) and not path.is_symlink() and path.is_file():
                with suppress(OSError):
                    path.unlink()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the file system can."""
    with suppress(OSError):  # the files themselves are synced already
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def foreign_file(path: Path) -> OutputError:
    """NN-OUT-015: a file stands where one of ours should be written, and it is not ours."""
    return OutputError(
        "NN-OUT-015",
        "a file that normnet did not write, or that was changed since",
        f"{path.parent.name}/{path.name}",
        "move it away, or choose another folder",
    )


def not_writable(folder: Path, error: OSError) -> OutputError:
    """NN-OUT-010: files cannot be written into a folder."""
    found = f"cannot write ({error.strerror})"
    return OutputError("NN-OUT-010", found, folder.name, "choose another --out")


def _sync(descriptor: int) -> None:
    """Make a file durable; some network disks cannot."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def output_error(error: OSError, path: Path) -> OutputError:
    """The error for a failure of the file system while ``path`` was written: NN-OUT-001 to 003."""
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
