"""A result replaces an older one as a whole, and replaces nothing that normnet did not write.

The new files are written into a hidden folder in the result folder. When all of them are complete,
they take their places:

1. The old ``result.json`` moves into the hidden folder. From here on there is no result.
2. Every new file moves to its place; old files without a new one are removed.
3. The new ``result.json`` moves to its place. From here on the result is complete.
4. The hidden folder is removed.

If a run is killed between 1 and 3, the two ``result.json`` in the hidden folder tell the next run
which files are ours: it removes these. Every file is recognised by its sha256.

The same serves other files that belong together, see ``Bundle``.

Error ids: NN-OUT-010 an old result cannot be removed, 015 a file that normnet did not write, 016 a
link or a folder in the place of a file.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
_REPLACED = "replaced.json"  # the old index, while the new files take their places


@dataclass(frozen=True)
class Bundle:
    """Files of a folder that are replaced together.

    Attributes:
        index: The file that takes its place last; under ``files`` it lists the others with their
            sha256.
        names: All others that there can be.
        read: The content of an index; None if there is none, or it is damaged.
        is_own: Whether normnet wrote that content.
    """

    index: str
    names: tuple[str, ...]
    read: Callable[[Path], dict[str, Any] | None]
    is_own: Callable[[dict[str, Any] | None], bool]

    def listed(self, index: Path) -> dict[str, str]:
        """The files that an index lists."""
        files: dict[str, str] = (self.read(index) or {}).get("files", {})
        return files


OF_RESULT = Bundle(
    RESULT, (*FILES, *REQUESTED), lambda path: read_result(path.parent, path.name), is_own
)


@contextmanager
def staged(folder: Path, bundle: Bundle = OF_RESULT) -> Iterator[Path]:
    """A hidden folder for new files, which take their places when the block ends.

    If the block raises an error, older files stay as they are.

    Args:
        folder: Where they take their places; made where it is missing.
        bundle: Which files; those of a result if not given.

    Yields:
        The hidden folder. The block writes the index and those of the other files that there are;
        the index lists them with their sha256.

    Raises:
        OutputError: NN-OUT-015 or 016 if a file is in the way that an older index does not list,
            NN-OUT-001 to 003 if the files cannot take their places; then none is left.
    """
    make_folder(folder)
    remove_leftovers(folder, bundle)
    check_own(folder, bundle)
    stage = folder / f".normnet-{secrets.token_hex(4)}"
    make_folder(stage)
    try:
        yield stage
        check_own(folder, bundle)  # the user may have put a file there in the meantime
        _take_places(stage, folder, bundle)
    finally:
        _clear(stage, folder, bundle)


def check_own(folder: Path, bundle: Bundle = OF_RESULT) -> None:
    """See that all files which new ones replace are ours: as an older index lists them.

    Raises:
        OutputError: NN-OUT-015 or 016.
    """
    index = folder / bundle.index
    check_regular(index)
    own = bundle.is_own(bundle.read(index))
    if index.exists() and not own:
        raise foreign_file(index)
    files = bundle.listed(index) if own else {}
    for path in (folder / name for name in bundle.names):
        check_regular(path)
        if path.exists() and not _is_listed(path, files):
            raise foreign_file(path)


def is_started(folder: Path) -> bool:
    """Whether a run has written or now writes a result into a folder."""
    return is_own(read_result(folder)) or bool(_stages(folder))


def remove_leftovers(folder: Path, bundle: Bundle = OF_RESULT) -> None:
    """Remove what a killed run has left; call it only where no other process writes.

    Raises:
        OutputError: NN-OUT-010.
    """
    for stage in _stages(folder):
        _clear(stage, folder, bundle)
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


def _take_places(stage: Path, folder: Path, bundle: Bundle) -> None:
    index = folder / bundle.index
    try:
        if index.exists():
            index.replace(stage / _REPLACED)
        for name in bundle.names:
            if (stage / name).exists():
                (stage / name).replace(folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
        sync_folder(folder)
        (stage / bundle.index).replace(index)
        sync_folder(folder)
    except OSError as error:
        raise output_error(error, index) from error


def _clear(stage: Path, folder: Path, bundle: Bundle) -> None:
    """Remove a hidden folder; before it the files whose index is not in its place."""
    try:
        if not os.path.lexists(folder / bundle.index):
            for note in (bundle.index, _REPLACED):
                files = bundle.listed(stage / note)
                for path in (folder / name for name in bundle.names):
                    if not path.is_symlink() and path.is_file() and _is_listed(path, files):
                        path.unlink()
        for name in (
            *bundle.names,
            bundle.index,
            _REPLACED,
        ):  # what tells that files are ours goes last
            (stage / name).unlink(missing_ok=True)
        remove_temporaries(stage)
    except OSError as error:
        found = f"an old result cannot be removed ({error.strerror})"
        raise OutputError("NN-OUT-010", found, folder.name, "choose another folder") from error
    with suppress(OSError):  # it holds something that is not ours
        stage.rmdir()


def _is_listed(path: Path, files: dict[str, str]) -> bool:
    try:
        return files.get(path.name) == sha256_of(path)
    except OSError:
        return False
