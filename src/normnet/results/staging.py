"""A result replaces an older one as a whole, and replaces nothing that normnet did not write.

The new files are written into a hidden folder in the result folder. When all of them are complete,
they take their places:

1. The old ``result.json`` moves into the hidden folder. From here on there is no result.
2. Every new file moves to its place; old files without a new one are removed.
3. The new ``result.json`` moves to its place. From here on the result is complete.
4. The hidden folder is removed.

If a run is killed between 1 and 3, the two ``result.json`` in the hidden folder tell the next run
which files are ours: it removes these. Every file is recognised by its sha256.

Error ids: NN-OUT-010 an old result cannot be removed, 015 a file that normnet did not write, 016 a
link or a folder in the place of a file.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from normnet.errors import OutputError
from normnet.io.atomic import (
    check_regular,
    foreign_file,
    output_error,
    remove_temporaries,
    sync_folder,
)
from normnet.io.fingerprint import sha256_of
from normnet.io.output_folder import make_folder
from normnet.results.schema import FILES, REQUESTED, RESULT, is_own, read_result

_STAGE = re.compile(r"\.normnet-[0-9a-f]{8}")
_FILES = (*FILES, *REQUESTED)
_REPLACED = "replaced.json"  # the old result.json, while the new result takes its place


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A hidden folder for new result files, which take their places when the block ends.

    If the block raises an error, an older result stays as it is.

    Args:
        folder: The result folder; made where it is missing.

    Yields:
        The hidden folder. The block writes ``result.json`` and those of ``FILES`` and
        ``REQUESTED`` that the result has; its ``result.json`` lists them with their sha256.

    Raises:
        OutputError: NN-OUT-015 or 016 if a file is in the way that an older result does not list,
            NN-OUT-001 to 003 if the files cannot take their places; then no result is left.
    """
    make_folder(folder)
    remove_leftovers(folder)
    check_own(folder)
    stage = folder / f".normnet-{secrets.token_hex(4)}"
    make_folder(stage)
    try:
        yield stage
        check_own(folder)  # the user may have put a file there in the meantime
        _take_places(stage, folder)
    finally:
        _clear(stage, folder)


def check_own(folder: Path) -> None:
    """See that all files which a new result replaces are ours: as an older result lists them.

    Raises:
        OutputError: NN-OUT-015 or 016.
    """
    result = read_result(folder)
    own = is_own(result)
    for name in (RESULT, *_FILES):
        path = folder / name
        check_regular(path)
        if not path.exists():
            continue
        listed = own if name == RESULT else own and _is_listed(path, (result or {}).get("files"))
        if not listed:
            raise foreign_file(path)


def is_started(folder: Path) -> bool:
    """Whether a run has written or now writes a result into a folder."""
    return is_own(read_result(folder)) or bool(_stages(folder))


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed run has left; call it only where no other process writes.

    Raises:
        OutputError: NN-OUT-010.
    """
    for stage in _stages(folder):
        _clear(stage, folder)
    remove_temporaries(folder)


def _stages(folder: Path) -> list[Path]:
    try:
        inside = list(folder.iterdir())
    except OSError:
        return []
    return [
        path
        for path in inside
        if _STAGE.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    ]


def _take_places(stage: Path, folder: Path) -> None:
    try:
        if (folder / RESULT).exists():
            (folder / RESULT).replace(stage / _REPLACED)
        for name in _FILES:
            if (stage / name).exists():
                (stage / name).replace(folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
        sync_folder(folder)
        (stage / RESULT).replace(folder / RESULT)
        sync_folder(folder)
    except OSError as error:
        raise output_error(error, folder / RESULT) from error


def _clear(stage: Path, folder: Path) -> None:
    """Remove a hidden folder; before it the files of a result that is not complete."""
    try:
        if not os.path.lexists(folder / RESULT):
            for note in (RESULT, _REPLACED):
                files = (read_result(stage, note) or {}).get("files")
                for path in (folder / name for name in _FILES):
                    if not path.is_symlink() and path.is_file() and _is_listed(path, files):
                        path.unlink()
        for name in (*_FILES, RESULT, _REPLACED):  # what tells that files are ours goes last
            (stage / name).unlink(missing_ok=True)
        remove_temporaries(stage)
    except OSError as error:
        found = f"an old result cannot be removed ({error.strerror})"
        raise OutputError("NN-OUT-010", found, folder.name, "choose another folder") from error
    with suppress(OSError):  # it holds something that is not ours
        stage.rmdir()


def _is_listed(path: Path, files: dict[str, str] | None) -> bool:
    try:
        return files is not None and files.get(path.name) == sha256_of(path)
    except OSError:
        return False
