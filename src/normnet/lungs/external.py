"""What a lung model of another program is; each program has one file in ``programs/``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from normnet.errors import ModelError
from normnet.io.fingerprint import sha256_of

RIGHT, LEFT, EITHER = 1, 2, 3


@dataclass(frozen=True)
class Program:
    """A program that finds lungs and is called as a process.

    Attributes:
        name: How manifests name it.
        command: The command that runs it.
        package: What a user installs to get that command.
        recognise: The model of this program at a path, or None; raises a ModelError (NN-EXT-002)
            for a model of this program that cannot be used.
        arguments: Arguments of the command for (model, image, result, Torch device). The program
            reads ``image``, a ``.nii.gz`` whose name ends in ``_0000``, and writes the labels to
            ``result``, whose name is the same without these digits.
    """

    name: str
    command: str
    package: str
    recognise: Callable[[Path], ExternalLungs | None]
    arguments: Callable[[ExternalLungs, Path, Path, str], list[str]]


@dataclass(frozen=True)
class ExternalLungs:
    """A lung model that another program runs.

    Attributes:
        program: Which program.
        path: Its model folder or its file of weights.
        sides: Value of its result to ``RIGHT``, ``LEFT`` or ``EITHER``; other values are not lung.
        manifest: Name of the model and sha256 of its files; it names no folder above them.
        options: Further arguments that describe the model to the program.
    """

    program: Program
    path: Path
    sides: dict[int, int]
    manifest: dict[str, Any]
    options: tuple[str, ...] = ()


def hash_file(path: Path) -> str:
    """The sha256 of a file of a model.

    A large file is read once per run, as long as its size and its time of change stay the same.

    Raises:
        ModelError: NN-EXT-002 if it cannot be read.
    """
    try:
        status = path.stat()
        return _hash(path.absolute(), status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise ModelError(
            "NN-EXT-002", "a file of the lung model cannot be read", path.name, "copy it again"
        ) from error


@lru_cache
def _hash(path: Path, n_bytes: int, changed_ns: int) -> str:
    return sha256_of(path)
