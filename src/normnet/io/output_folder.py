"""The output folder of a command: it can be written, is no input, and belongs to one process.

``.lock`` in it is locked by the process that writes there; ``.lock.pid`` holds the id of that
process. Both files stay: deleting them would let two processes lock two different files.

Error ids: NN-OUT-010 the folder cannot be made or written, 011 it is an input, 012 another process
writes there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from normnet.errors import NormNetError, OutputError
from normnet.io.atomic import replacing
from normnet.io.census import take_census

_ANOTHER = "choose another --out"


def make_folder(folder: Path) -> None:
    """Make a folder and its parents where they are missing.

    Raises:
        OutputError: NN-OUT-010.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = f"no folder can be made ({error.strerror})"
        raise OutputError("NN-OUT-010", found, folder.name, _ANOTHER) from error


def check_output(out: Path, inputs: list[Path]) -> None:
    """Make the output folder, and check that files can be written there and that it is no input.

    Args:
        out: The output folder.
        inputs: Scans, and folders of scans. ``out`` may lie in a folder of scans, but not in a
            folder that is one scan.

    Raises:
        OutputError: NN-OUT-010 or 011.
    """
    place = out.resolve()
    for path in inputs:
        source = path.resolve()
        in_source = source.is_dir() and place.is_relative_to(source)
        if place == source or (in_source and _is_one_scan(source)):
            raise OutputError(
                "NN-OUT-011", "the output is inside an input", out.name or str(out), _ANOTHER
            )
    make_folder(out)
    try:
        with replacing(out / ".writable"):
            pass
        (out / ".writable").unlink()
    except OSError as error:
        raise _not_writable(out, error) from error


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Lock an output folder for this process while the block runs.

    Raises:
        OutputError: NN-OUT-012 if another process has locked it; the message has its process id.
    """
    lock, pid_file = FileLock(out / ".lock"), out / ".lock.pid"
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        found = f"process {_read_pid(pid_file)} writes there"
        todo = f"wait for it, or {_ANOTHER}"
        raise OutputError("NN-OUT-012", found, out.name or str(out), todo) from error
    except OSError as error:
        raise _not_writable(out, error) from error
    try:
        with replacing(pid_file) as handle:
            handle.write(f"{os.getpid()}\n".encode())
        yield
    finally:
        lock.release()


def _read_pid(path: Path) -> str:
    try:
        pid = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return "unknown"
    return pid if pid.isdecimal() else "unknown"


def _not_writable(out: Path, error: OSError) -> OutputError:
    return OutputError("NN-OUT-010", f"cannot write ({error.strerror})", out.name, _ANOTHER)


def _is_one_scan(folder: Path) -> bool:
    try:
        return {item.path for item in take_census([folder]).items} == {folder}
    except NormNetError:  # nothing in it is a scan
        return False
