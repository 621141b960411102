"""Image formats, one module per format.

Every module of this folder defines its ``FORMAT``; no other file lists the formats.
"""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from io import BufferedReader
from pathlib import Path

import numpy as np

from normnet.io.limits import MAX_HEADER_BYTES
from normnet.io.payload import Inflated, read_up_to
from normnet.io.values import Stored
from normnet.scan import Geometry

_PEEK_BYTES = 2**18


@dataclass(frozen=True)
class Header:
    """What the header of an image file says; no voxel is read yet.

    Attributes:
        shape: (z, y, x).
        dtype: Of the stored voxels.
        geometry: Where the array lies in the patient.
        slope, intercept: The values are ``voxels * slope + intercept``.
        data: The file that holds the voxels.
        max_bytes: A file of more bytes cannot belong to this header.
        voxels: Yields the stored voxels in the order of the file, in small parts.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    geometry: Geometry
    slope: float
    intercept: float
    data: Path
    max_bytes: int
    voxels: Callable[[], Iterator[np.ndarray]]


@dataclass(frozen=True)
class ImageFormat:
    """A file format of volumes.

    Attributes:
        name: As people write it, for messages.
        suffixes: Endings of its file names, lower case, with the dot.
        recognises: Whether the first bytes of a file (512 at most) are of this format.
        read: Reads such a file; raises ``NormNetError``.
        peek: Reads only the header of such a file; raises as ``read``. None: not possible.
        header_suffixes: Those of ``suffixes`` whose voxels lie in a second file of the same name.
        gzipped: Whether the whole file may be compressed with gzip; then ``recognises`` gets its
            first 132 bytes.
        rank: Formats with a lower rank are tried first, and named first in messages.
    """

    name: str
    suffixes: tuple[str, ...]
    recognises: Callable[[bytes], bool]
    read: Callable[[Path], Stored]
    peek: Callable[[Path], Header] | None = None
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


def has_image_suffix(path: Path) -> bool:
    """Whether a file's name ends as those of image files do."""
    return path.name.lower().endswith(image_suffixes())


def is_detached_header(path: Path) -> bool:
    """Whether the voxels of an image file lie in a second file beside it, by its suffix."""
    return any(path.name.lower().endswith(known.header_suffixes) for known in image_formats())


def one_of(names: Sequence[str]) -> str:
    """Names as a sentence lists them: ``"a, b or c"``."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def unscaled_header(
    shape: tuple[int, ...],
    dtype: np.dtype,
    geometry: Geometry,
    data: tuple[Path, int],
    compressed: bool,
    where: str,
) -> Header:
    """The header of a file whose values are stored without scale factors.

    Args:
        shape: (z, y, x).
        dtype: Of the stored voxels.
        geometry: Where the array lies in the patient.
        data: The file that holds the voxels, and the byte at which they begin.
        compressed: Whether they are compressed.
        where: The file that was given, for messages.
    """
    path, offset = data

    def voxels() -> Iterator[np.ndarray]:
        with path.open("rb") as handle:
            handle.seek(offset)
            yield from parts_of(Inflated(handle, where) if compressed else handle, dtype)

    n_bytes = math.prod(shape) * dtype.itemsize
    most = largest_file(n_bytes, MAX_HEADER_BYTES, compressed)
    return Header(shape, dtype, geometry, 1.0, 0.0, path, most, voxels)


def largest_file(n_bytes: int, offset: int, compressed: bool) -> int:
    """The most bytes of a file that holds a header and so many bytes of voxels."""
    slack = 2**20 + offset
    return n_bytes + slack + (n_bytes // 100 if compressed else 0)


def parts_of(stream: BufferedReader | Inflated, dtype: np.dtype) -> Iterator[np.ndarray]:
    """The voxels from a stream's position on, in parts of a few hundred kilobytes."""
    while len(data := read_up_to(stream, _PEEK_BYTES)) >= dtype.itemsize:
        yield data[: len(data) // dtype.itemsize * dtype.itemsize].view(dtype)
