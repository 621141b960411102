"""Voxel bytes of a file, compressed or not: exactly as many as its header promises, or an error."""

from __future__ import annotations

from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from zlib_ng import gzip_ng, zlib_ng

from normnet.errors import InputError
from normnet.io.limits import check_bytes

GZIP_LEVEL = 2  # of zlib-ng: a third of the time of zlib's level 1, for fewer bytes
_CHUNK_BYTES = 2**18
_MAX_PADDING_BYTES = 1024  # some writers fill up their last block
_MAX_DEFLATE_RATIO = 1032
_REPEAT = "copy or download the file again"


class Inflated:
    """Sequential reader of a gzip or zlib stream that checks the checksums.

    A gzip stream may have several members.

    Args:
        handle: Open file at the start of the stream.
        where: File name for messages.
    """

    def __init__(self, handle: BufferedReader, where: str):
        self._handle = handle
        self._where = where
        self._decoder = zlib_ng.decompressobj(47)  # gzip or zlib, decided by the first bytes
        self._pending = b""

    def readinto(self, view: memoryview) -> int:
        """Fill ``view``, or a part of it, from its start.

        Returns:
            Number of bytes; 0 if the stream has ended and its checksum is right.

        Raises:
            InputError: NN-FILE-005 if the stream ends too early, NN-FILE-006 if it is corrupt.
        """
        wanted = min(len(view), 4 * _CHUNK_BYTES)
        while wanted:
            if self._decoder.eof:
                rest = self._decoder.unused_data or self._handle.read(_CHUNK_BYTES)
                if not rest.startswith(b"\x1f\x8b"):
                    return 0
                self._decoder, self._pending = zlib_ng.decompressobj(31), rest
            self._pending = self._pending or self._handle.read(_CHUNK_BYTES)
            try:
                data = self._decoder.decompress(self._pending, wanted)
            except zlib_ng.error as error:  # type: ignore[misc]
                raise InputError(
                    "NN-FILE-006", "compressed data is corrupt", self._where, _REPEAT
                ) from error
            if not data and not self._pending and not self._decoder.eof:
                raise InputError(
                    "NN-FILE-005", "compressed data ends too early", self._where, _REPEAT
                )
            self._pending = self._decoder.unconsumed_tail
            if data:
                view[: len(data)] = data
                return len(data)
        return 0


def deflated(handle: BinaryIO) -> BinaryIO:
    """A stream that writes gzip into an open file; the same input gives the same bytes."""
    stream = gzip_ng.GzipNGFile("", "wb", GZIP_LEVEL, handle, mtime=0)  # type: ignore[no-untyped-call]
    return cast(BinaryIO, stream)


def read_up_to(stream: BufferedReader | Inflated, n_bytes: int) -> np.ndarray:
    """(n_bytes,) uint8 from the stream; fewer only if it ends before."""
    buffer = np.empty(n_bytes, np.uint8)
    view = buffer.data
    done = 0
    while done < n_bytes:
        n_read = stream.readinto(view[done:])
        if not n_read:
            break
        done += n_read
    return buffer[:done]


def read_payload(
    stream: BufferedReader | Inflated, n_bytes: int, path: Path, warnings: list[str]
) -> np.ndarray:
    """All voxel bytes from the stream's position to its end.

    Args:
        stream: Open file or ``Inflated``, at the first voxel.
        n_bytes: Number of bytes that the header promises.
        path: The file, for messages and for its size.
        warnings: Gets one line if a few bytes follow the voxels.

    Returns:
        (n_bytes,) uint8.

    Raises:
        InputError: NN-FILE-005 if there are fewer or many more bytes, NN-FILE-006 if the compressed
            data is corrupt.
        ResourceError: As ``check_bytes`` raises it.
    """
    n_stored = path.stat().st_size
    check_bytes(n_bytes, n_stored, path.name)
    ratio = _MAX_DEFLATE_RATIO if isinstance(stream, Inflated) else 1
    short = n_stored * ratio < n_bytes  # before anything is allocated
    data = np.empty(0, np.uint8) if short else read_up_to(stream, n_bytes)
    if len(data) < n_bytes:
        found = "too few for them" if short else f"{len(data)} bytes"
        raise InputError(
            "NN-FILE-005", f"voxels need {n_bytes} bytes, the file has {found}", path.name, _REPEAT
        )
    n_extra = len(read_up_to(stream, _MAX_PADDING_BYTES + 1))
    if n_extra > _MAX_PADDING_BYTES:
        raise InputError(
            "NN-FILE-005", f"more data than the {n_bytes} bytes of its header", path.name, _REPEAT
        )
    if n_extra:
        warnings.append(f"{path.name}: {n_extra} bytes after the voxels were ignored")
    return data


def local_data_file(header: Path, name: str) -> Path:
    """The data file that a header names; it must lie in the folder of the header.

    A leading ``./`` names that folder, too.

    Raises:
        InputError: NN-FILE-007 for any other place, NN-FILE-001 if it is missing.
    """
    while name.startswith("./"):
        name = name[2:]
    data = header.parent / name
    stays = (
        Path(name).name == name
        and "\\" not in name
        and "%" not in name
        and name not in ("", ".", "..")
    )
    if not stays or data.resolve().parent != header.parent.resolve():
        raise InputError(
            "NN-FILE-007",
            "header points at a data file in another place",
            header.name,
            "keep header and data in one folder, or store the scan as one file",
        )
    if not data.is_file():
        raise InputError(
            "NN-FILE-001",
            "the data file named in the header is missing",
            header.name,
            "copy it as well",
        )
    return data
