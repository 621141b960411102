"""The output folder of a command: it can be written, is no input, and belongs to one process.

Error ids: NN-OUT-010 the folder cannot be made or written, 011 it is an input.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path

from normnet.errors import NormNetError, OutputError
from normnet.io.atomic import not_writable, remove_temporaries
from normnet.io.census import take_census
from normnet.io.lock import locked_folder

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
        with tempfile.TemporaryFile(dir=out):  # it has no name, so that nothing can stay
            pass
    except OSError as error:
        raise not_writable(out, error) from error


def check_no_input(output: Path, inputs: Set[Path]) -> None:
    """See that a file that will be written is not one of the files that the command reads.

    Args:
        output: The file.
        inputs: Resolved paths.

    Raises:
        OutputError: NN-OUT-011.
    """
    if output.resolve() in inputs:
        found, where = "the output would replace an input", f"{output.parent.name}/{output.name}"
        raise OutputError("NN-OUT-011", found, where, _ANOTHER)


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Lock an output folder, with all that lies below it, for this process while the block runs.

    Temporary files of killed runs are removed first.

    Raises:
        OutputError: As ``locked_folder``.
    """
    with locked_folder(out):
        for root, _, _ in os.walk(out):
            remove_temporaries(Path(root))
        yield


def _is_one_scan(folder: Path) -> bool:
    try:
        return {item.path for item in take_census([folder]).items} == {folder}
    except NormNetError:  # nothing in it is a scan
        return False
