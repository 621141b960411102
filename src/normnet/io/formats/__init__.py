"""Image formats, one module per format.

Every module of this folder defines its ``FORMAT``; no other file lists the formats.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

from normnet.io.values import Stored


@dataclass(frozen=True)
class ImageFormat:
    """A file format of volumes.

    Attributes:
        name: As people write it, for messages.
        suffixes: Endings of its file names, lower case, with the dot.
        recognises: Whether the first bytes of a file (512 at most) are of this format.
        read: Reads such a file; raises ``NormNetError``.
        header_suffixes: Those of ``suffixes`` whose voxels lie in a second file of the same name.
        gzipped: Whether the whole file may be compressed with gzip; then ``recognises`` gets its
            first 132 bytes.
        rank: Formats with a lower rank are tried first, and named first in messages.
    """

    name: str
    suffixes: tuple[str, ...]
    recognises: Callable[[bytes], bool]
    read: Callable[[Path], Stored]
    header_suffixes: tuple[str, ...] = ()
    gzipped: bool = False
    rank: int = 100


@cache
def image_formats() -> tuple[ImageFormat, ...]:
    """The formats of all modules in this folder, by rank."""
    modules = [
        import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)
    ]
    return tuple(sorted((module.FORMAT for module in modules), key=lambda known: known.rank))


def image_suffixes() -> tuple[str, ...]:
    """The suffixes of all formats."""
    return tuple(suffix for known in image_formats() for suffix in known.suffixes)


def is_detached_header(path: Path) -> bool:
    """Whether the voxels of an image file lie in a second file beside it, by its suffix."""
    return any(path.name.lower().endswith(known.header_suffixes) for known in image_formats())


def one_of(names: Sequence[str]) -> str:
    """Names as a sentence lists them: ``"a, b or c"``."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
