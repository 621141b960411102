"""A lock on a folder, so that two processes do not write there at the same time.

The file ``.lock`` in the folder is locked by the process that writes there. It holds the id of that
process, and is removed when the lock ends. If a process is killed, the file stays, but it is not
locked any more.

Error ids: NN-OUT-010 the folder cannot be written, 012 another process writes there.
"""

from __future__ import annotations

import os
import stat
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from filelock import lock_descriptor

from normnet.errors import NormNetWarning, OutputError
from normnet.io.atomic import foreign_file, not_writable

LOCK = ".lock"
WAIT_STEP_S = 0.05
_MARK = b"normnet "  # a lock file of ours starts with it, or is empty
_NO_LOCKS = "this file system has no locks: let no second run write into the same folder"
_NOT_OURS = "a lock file belongs to another user: let no second run write into the same folder"


class Holder(NamedTuple):
    """The process that writes into a folder.

    Attributes:
        pid: Its id; ``unknown`` if the lock file does not tell it.
        note: What it wrote beside it.
    """

    pid: str
    note: str


@contextmanager
def locked_folder(folder: Path, wait_s: float = 0.0, note: str = "") -> Iterator[None]:
    """Lock a folder for this process while the block runs.

    If the file system has no locks, or if the lock file belongs to another user, a warning says so
    and the block runs without a lock.

    Args:
        folder: An existing folder.
        wait_s: How long to wait for another process.
        note: One word that ``holder_of`` returns to other processes.

    Raises:
        OutputError: NN-OUT-012 if another process has locked it; the message has its process id.
            NN-OUT-010 if the folder cannot be written, 015 if the lock file is not ours.
    """
    path = folder / LOCK
    last = time.monotonic() + wait_s
    while (descriptor := _acquire(path)) is None:
        if time.monotonic() >= last:
            found = f"process {holder_of(folder).pid} writes there"
            todo = "wait for it, or choose another --out"
            raise OutputError("NN-OUT-012", found, folder.name or str(folder), todo)
        time.sleep(WAIT_STEP_S)
    try:
        with suppress(OSError):  # it is for messages only
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, _MARK + f"{os.getpid()} {note}".ljust(80).encode() + b"\n")
        yield
    finally:
        with suppress(OSError):  # on Windows an open file cannot be removed
            if _is_same(descriptor, path):
                path.unlink()
        if descriptor >= 0:
            with suppress(OSError):  # the lock ends with the process at the latest
                os.close(descriptor)


def check_lock(folder: Path) -> None:
    """Refuse a lock file that is not ours before anything is computed.

    Raises:
        OutputError: NN-OUT-015 or 016.
    """
    path = folder / LOCK
    if os.path.lexists(path) and (descriptor := _open(path)) >= 0:
        os.close(descriptor)


def holder_of(folder: Path) -> Holder:
    """Who has locked a folder, as far as its lock file tells it."""
    words: list[str] = []
    with suppress(OSError, ValueError), (folder / LOCK).open("rb", buffering=0) as file:
        words = _read(file.fileno()).decode("ascii").split()
    pid = words[1] if len(words) > 1 and words[1].isdecimal() else "unknown"
    return Holder(pid, words[2] if len(words) > 2 else "")


def _acquire(path: Path) -> int | None:
    """An open and locked lock file; None if another process has it, -1 without a lock.

    Raises:
        OutputError: As ``locked_folder``, but for NN-OUT-012.
    """
    while (descriptor := _open(path)) >= 0:
        try:
            is_locked = lock_descriptor(descriptor, blocking=False)
        except OSError:
            os.close(descriptor)
            warnings.warn(_NO_LOCKS, NormNetWarning, stacklevel=2)
            break
        if is_locked and _is_same(descriptor, path):
            return descriptor
        os.close(descriptor)
        if not is_locked:
            return None  # else the process that had it has removed it since it was opened
    return -1


def _open(path: Path) -> int:
    """The lock file, made where it is missing; -1 if it belongs to another user."""
    with suppress(OSError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise foreign_file(path)
    no_link = getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | no_link, 0o666)
    except OSError as error:
        if not isinstance(error, PermissionError) or not path.is_file():
            raise not_writable(path.parent, error) from error
        try:
            descriptor = os.open(path, os.O_RDONLY | no_link)
        except OSError:
            warnings.warn(_NOT_OURS, NormNetWarning, stacklevel=2)
            return -1
    with suppress(OSError):
        if os.fstat(descriptor).st_size > 0 and not _read(descriptor).startswith(_MARK[1:]):
            os.close(descriptor)
            raise foreign_file(path)
    return descriptor


def _read(descriptor: int) -> bytes:
    """The content of a lock file without its first byte, which Windows lets only its owner read."""
    os.lseek(descriptor, 1, os.SEEK_SET)
    return os.read(descriptor, 4096)


def _is_same(descriptor: int, path: Path) -> bool:
    """Whether a path still leads to an open file."""
    try:
        return descriptor >= 0 and os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False
