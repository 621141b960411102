"""Single-file volumes (NIfTI, NRRD, MetaImage) in, NIfTI out."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np

from normnet.errors import InputError, OutputError
from normnet.io.atomic import replacing
from normnet.io.formats.metaimage import read_metaimage
from normnet.io.formats.nifti import read_nifti
from normnet.io.formats.nrrd import read_nrrd
from normnet.io.geometry import RAS_TO_LPS, axes_of
from normnet.io.payload import Inflated
from normnet.io.sniff import kind_of
from normnet.io.values import Stored, check_hu, rescale
from normnet.scan import Geometry, Scan

_READERS = {"nifti": read_nifti, "nrrd": read_nrrd, "metaimage": read_metaimage}
_NIFTI_CODES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768}
_GZIP_LEVEL = 4  # a quarter of the time of 6 for 4 % more bytes, on CT and probabilities
_CHUNK_BYTES = 2**22


def read_stored(path: Path) -> Stored:
    """The voxels of an image file as stored, with geometry and scale factors; nothing is assumed about values.

    Raises:
        NormNetError: See the readers; DICOM is refused here.
    """
    kind = kind_of(path)
    if kind == "dicom":
        raise InputError(
            "NN-FILE-009",
            "a DICOM file where an image file is needed",
            path.name,
            "give NIfTI or NRRD",
        )
    return _READERS[kind](path)


def read_image(path: Path, case_id: str) -> Scan:
    """Read a CT in HU from an image file, in the order it is stored.

    Raises:
        NormNetError: With the id of what is wrong; see ``normnet.io``.
    """
    stored = read_stored(path)
    volume_hu = rescale(stored, path.name)
    check_hu(volume_hu, path.name)
    return Scan(volume_hu, stored.geometry, case_id, stored.warnings)


def write_image(
    path: Path, array: np.ndarray, geometry: Geometry, slope: float = 1.0, intercept: float = 0.0
) -> None:
    """Write a gzip-compressed NIfTI-1 file; the same input gives the same bytes.

    The file is complete or absent: it gets its name only after it was synced and read back.

    Args:
        path: Ends in ``.nii.gz``; an existing file is replaced.
        array: (z, y, x); bool, integer up to 32 bits, float32 or float64.
        geometry: Where it lies; stored as sform and qform.
        slope: Readers give ``array * slope + intercept``.
        intercept: See ``slope``.

    Raises:
        OutputError: NN-OUT-001 to 004.
    """
    path = Path(path)
    voxels = np.ascontiguousarray(array.view(np.uint8) if array.dtype == bool else array)
    voxels = voxels.astype(voxels.dtype.newbyteorder("<"), copy=False)
    header = _nifti_header(voxels, geometry, slope, intercept)
    crc = zlib.crc32(header)

    def check(temporary: Path) -> None:
        with suppress(InputError):
            if _inflated_crc(temporary) == (crc, len(header) + voxels.nbytes):
                return
        raise OutputError(
            "NN-OUT-004", "the output does not read back as written", path.name, "check the disk"
        )

    with (
        replacing(path, check) as handle,
        gzip.GzipFile("", "wb", _GZIP_LEVEL, handle, mtime=0) as stream,
    ):
        stream.write(header)
        data = voxels.reshape(-1).view(np.uint8).data
        for start in range(0, len(data), _CHUNK_BYTES):
            crc = zlib.crc32(data[start : start + _CHUNK_BYTES], crc)
            stream.write(data[start : start + _CHUNK_BYTES])


def _inflated_crc(path: Path) -> tuple[int, int]:
    """CRC-32 and number of the uncompressed bytes."""
    crc, n_bytes = 0, 0
    view = memoryview(bytearray(_CHUNK_BYTES))
    with path.open("rb") as handle:
        stream = Inflated(handle, path.name)
        while n_read := stream.readinto(view):
            crc = zlib.crc32(view[:n_read], crc)
            n_bytes += n_read
    return crc, n_bytes


def _nifti_header(voxels: np.ndarray, geometry: Geometry, slope: float, intercept: float) -> bytes:
    """348 bytes and four without extensions."""
    axes_lps, origin_lps = axes_of(geometry)
    axes, origin = RAS_TO_LPS @ axes_lps, RAS_TO_LPS @ origin_lps
    spacing = geometry.spacing_mm[::-1]
    rotation = axes / spacing
    qfac = 1.0 if np.linalg.det(rotation) > 0 else -1.0
    quaternion = _quaternion(rotation * [1, 1, qfac])
    header = bytearray(352)
    put = lambda offset, code, *values: struct.pack_into("<" + code, header, offset, *values)  # noqa: E731
    put(0, "i", 348)
    put(40, "8h", 3, *voxels.shape[::-1], 1, 1, 1, 1)
    put(70, "2h", _NIFTI_CODES[voxels.dtype.str[1:]], voxels.dtype.itemsize * 8)
    put(76, "8f", qfac, *spacing, 1, 0, 0, 0)
    put(108, "3f", 352, slope, intercept)
    put(123, "B", 2)  # mm
    put(252, "2h", 1, 1)  # scanner coordinates in qform and sform
    put(256, "6f", *quaternion, *origin)
    put(280, "12f", *np.column_stack([axes, origin]).ravel())
    put(344, "4s", b"n+1")
    return bytes(header)


def _quaternion(rotation: np.ndarray) -> tuple[float, float, float]:
    """(b, c, d) of a proper (3, 3) rotation, a >= 0."""
    # Of the four squared components the largest is safe to divide by.
    signs = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    squares = (1 + signs @ np.diag(rotation)) / 4
    largest = int(np.argmax(squares))
    r = rotation
    products = np.array(
        [
            [4 * squares[0], r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]],
            [r[2, 1] - r[1, 2], 4 * squares[1], r[1, 0] + r[0, 1], r[0, 2] + r[2, 0]],
            [r[0, 2] - r[2, 0], r[1, 0] + r[0, 1], 4 * squares[2], r[2, 1] + r[1, 2]],
            [r[1, 0] - r[0, 1], r[0, 2] + r[2, 0], r[2, 1] + r[1, 2], 4 * squares[3]],
        ]
    )
    a, b, c, d = products[largest] / (4 * math.sqrt(squares[largest]))
    sign = -1.0 if a < 0 else 1.0
    return sign * b, sign * c, sign * d
