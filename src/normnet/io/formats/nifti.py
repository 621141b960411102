"""NIfTI (.nii, .nii.gz): versions 1 and 2 are read, version 1 is written."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from zlib_ng import zlib_ng

from normnet.errors import GeometryError, InputError, OutputError, ValueRangeError
from normnet.io.atomic import replacing
from normnet.io.formats import Header, ImageFormat, largest_file, parts_of
from normnet.io.geometry import (
    ORTHONORMAL_TOLERANCE,
    RAS_TO_LPS,
    axes_of,
    check_spacing,
    geometry_from_axes,
    shear_of,
)
from normnet.io.limits import check_extent, check_size, check_thickness
from normnet.io.payload import Inflated, deflated, read_payload, read_up_to
from normnet.io.values import Stored
from normnet.scan import Geometry, Joined

# field: (offset, struct format), for header sizes 348 (version 1) and 540 (version 2).
_FIELDS: dict[int, dict[str, tuple[int, str]]] = {
    348: {
        "dim": (40, "8h"), "datatype": (70, "h"), "bits": (72, "h"), "pixdim": (76, "8f"),
        "vox_offset": (108, "f"), "slope": (112, "f"), "intercept": (116, "f"),
        "units": (123, "B"), "qform_code": (252, "h"), "sform_code": (254, "h"),
        "quaternion": (256, "6f"), "srow": (280, "12f"), "magic": (344, "4s"),
    },
    540: {
        "magic": (4, "4s"), "datatype": (12, "h"), "bits": (14, "h"), "dim": (16, "8q"),
        "pixdim": (104, "8d"), "vox_offset": (168, "q"), "slope": (176, "d"),
        "intercept": (184, "d"), "qform_code": (344, "i"), "sform_code": (348, "i"),
        "quaternion": (352, "6d"), "srow": (400, "12d"), "units": (500, "i"),
    },
}  # fmt: skip
_SIZES = tuple(size.to_bytes(4, order) for size in _FIELDS for order in ("little", "big"))
_DTYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
_FORM_TOLERANCE_MM = 0.1
_SLIGHT_SHEAR = 0.05  # cosine between axes, about 3 degrees
_PIXDIM_TOLERANCE = 0.01
_CHUNK_BYTES = 2**22


def read_nifti(path: Path) -> Stored:
    """Read a NIfTI file; the header is checked before the voxels are decoded.

    Raises:
        InputError: Corrupt, truncated, or a .hdr and .img pair.
        GeometryError: Not three-dimensional, or no usable orientation.
        ValueRangeError: Colour or complex voxels, unusable scale factors.
        ResourceError: Larger than the limits.
    """
    where = path.name
    warnings: list[str] = []
    with path.open("rb") as handle:
        compressed = handle.read(2) == b"\x1f\x8b"
        handle.seek(0)
        stream: Any = Inflated(handle, where) if compressed else handle
        header, n_read = _read_header(stream, where)
        shape = _check_shape(header["dim"], where)
        dtype = _check_dtype(header, where)
        slope, intercept = _check_scale(header, where)
        geometry = _geometry(header, shape, where, warnings)
        check_extent(shape[::-1], geometry, where)
        n_skip = _data_offset(header, path, compressed) - n_read
        if len(read_up_to(stream, n_skip)) < n_skip:
            raise InputError(
                "NN-FILE-005", "the file ends before its voxels", where, "copy or download it again"
            )
        data = read_payload(stream, math.prod(shape) * dtype.itemsize, path, warnings)
    voxels = data.view(dtype).reshape(shape[::-1])  # the file's first axis is the fastest
    return Stored(voxels, geometry, slope, intercept, tuple(warnings))


def peek_nifti(path: Path) -> Header:
    """Read only the header of a NIfTI file; raises as ``read_nifti``."""
    where = path.name
    with path.open("rb") as handle:
        compressed = handle.read(2) == b"\x1f\x8b"
        handle.seek(0)
        header, _ = _read_header(Inflated(handle, where) if compressed else handle, where)
    shape, dtype = _check_shape(header["dim"], where), _check_dtype(header, where)
    slope, intercept = _check_scale(header, where)
    geometry = _geometry(header, shape, where, [])
    offset = _data_offset(header, path, compressed)

    def voxels() -> Iterator[np.ndarray]:
        with path.open("rb") as handle:
            stream = Inflated(handle, where) if compressed else handle
            read_up_to(stream, offset)
            yield from parts_of(stream, dtype)

    n_bytes = math.prod(shape) * dtype.itemsize
    most = largest_file(n_bytes, offset, compressed)
    return Header(shape[::-1], dtype, geometry, slope, intercept, path, most, voxels)


def write_image(
    path: Path,
    array: np.ndarray,
    geometry: Geometry,
    slope: float = 1.0,
    intercept: float = 0.0,
    joined: Joined | None = None,
) -> None:
    """Write a gzip-compressed NIfTI-1 file; the same input gives the same bytes.

    The file is complete or absent: it gets its name after it was synced and read back.

    Args:
        path: Ends in ``.nii.gz``; an existing file is replaced.
        array: (z, y, x); bool, integer up to 32 bits, float32 or float64.
        geometry: Where it lies; stored as sform and qform.
        slope: Readers return ``array * slope + intercept``.
        intercept: See ``slope``.
        joined: Where the array stands for slices of a file that were averaged: the image gets all
            of them, and the geometry of that file.

    Raises:
        OutputError: NN-OUT-001 to 004.
    """
    path = Path(path)
    voxels = np.ascontiguousarray(array.view(np.uint8) if array.dtype == bool else array)
    voxels = voxels.astype(voxels.dtype.newbyteorder("<"), copy=False)
    shape, parts = voxels.shape, _parts_of(voxels)
    if joined is not None:
        shape, geometry = joined.file_shape(shape), joined.file_geometry(geometry)
        parts = map(np.ascontiguousarray, joined.repeated(voxels))
    n_bytes = math.prod(shape) * voxels.itemsize
    header = _header_of(shape, voxels.dtype, geometry, slope, intercept)
    crc = zlib_ng.crc32(header)

    def check(temporary: Path) -> None:
        with suppress(InputError):
            if _inflated_crc(temporary) == (crc, len(header) + n_bytes):
                return
        raise OutputError(
            "NN-OUT-004", "the output does not read back as written", path.name, "check the disk"
        )

    with (
        replacing(path, check) as handle,
        deflated(handle) as stream,
    ):
        stream.write(header)
        for part in parts:
            crc = zlib_ng.crc32(part.data, crc)
            stream.write(part.data)


def _parts_of(voxels: np.ndarray) -> Iterator[np.ndarray]:
    """The bytes of an array in parts of ``_CHUNK_BYTES``."""
    data = voxels.reshape(-1).view(np.uint8)
    for start in range(0, len(data), _CHUNK_BYTES):
        yield data[start : start + _CHUNK_BYTES]


def _read_header(stream: Any, where: str) -> tuple[dict[str, Any], int]:
    size_bytes = read_up_to(stream, 4).tobytes()
    for order in "<>":
        size = struct.unpack(f"{order}i", size_bytes)[0] if len(size_bytes) == 4 else 0
        if size in _FIELDS:
            break
    else:
        raise InputError(
            "NN-FILE-004", "not a NIfTI header", where, "copy or download the file again"
        )
    raw = size_bytes + read_up_to(stream, size - 4).tobytes()
    if len(raw) < size:
        raise InputError(
            "NN-FILE-005", "the file ends within its header", where, "copy or download it again"
        )
    header: dict[str, Any] = {"order": order, "size": size}
    for name, (offset, code) in _FIELDS[size].items():
        values = struct.unpack_from(order + code, raw, offset)
        header[name] = values if len(values) > 1 else values[0]
    if header["magic"][:3] not in (b"n+1", b"n+2"):
        raise InputError(
            "NN-FILE-009",
            "Analyze or a .hdr/.img pair",
            where,
            "store the scan as one .nii.gz file",
        )
    return header, size


def _check_shape(dim: tuple[int, ...], where: str) -> tuple[int, int, int]:
    n_axes = dim[0]
    if not 1 <= n_axes <= 7 or min(dim[1 : n_axes + 1]) < 1:
        raise InputError(
            "NN-FILE-004",
            f"impossible dimensions {dim[: min(max(n_axes, 3), 7) + 1]}",
            where,
            "correct the header",
        )
    sizes = (*dim[1 : n_axes + 1], 1, 1)
    if max(sizes[3:], default=1) > 1:
        raise GeometryError(
            "NN-GEO-013", f"{n_axes} dimensions", where, "give one three-dimensional volume"
        )
    shape = (sizes[0], sizes[1], sizes[2])
    check_thickness(shape, where)
    check_size(shape, where)
    return shape


def _check_dtype(header: dict[str, Any], where: str) -> np.dtype:
    code: int = header["datatype"]
    if code in _DTYPES:
        order: str = header["order"]
        return np.dtype(order + _DTYPES[code])
    if code in (32, 128, 1792, 2048, 2304):
        raise ValueRangeError(
            "NN-VAL-008", f"colour or complex voxels (type {code})", where, "give CT values in HU"
        )
    raise InputError(
        "NN-FILE-009", f"voxel type {code} is not supported", where, "store it as int16"
    )


def _check_scale(header: dict[str, Any], where: str) -> tuple[float, float]:
    slope, intercept = header["slope"], header["intercept"]
    if slope == 0 or math.isnan(slope):  # by the standard: not scaled
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise ValueRangeError(
            "NN-VAL-001", "scl_slope or scl_inter is not finite", where, "correct the header"
        )
    return float(slope), float(intercept)


def _data_offset(header: dict[str, Any], path: Path, compressed: bool) -> int:
    offset = header["vox_offset"]
    limit = 2**24 if compressed else path.stat().st_size
    if not (math.isfinite(offset) and header["size"] <= offset <= limit and offset == int(offset)):
        raise InputError(
            "NN-FILE-004",
            f"voxels at byte {offset:g} (vox_offset)",
            path.name,
            "correct the header",
        )
    return int(offset)


@np.errstate(over="ignore", invalid="ignore")  # what is not finite is refused
def _geometry(
    header: dict[str, Any], shape: tuple[int, int, int], where: str, warnings: list[str]
) -> Geometry:
    mm_per_unit = _MM_PER_UNIT.get(header["units"] & 7)
    if mm_per_unit is None:
        raise GeometryError(
            "NN-GEO-011", f"unknown length unit {header['units'] & 7}", where, "store it in mm"
        )
    if mm_per_unit != 1.0:
        unit = "metres" if mm_per_unit > 1 else "microns"
        warnings.append(f"{where}: lengths are stored in {unit}; converted to mm")
    pixdim = np.array(header["pixdim"][1:4]) * mm_per_unit
    check_spacing(pixdim, where)
    forms = {}
    if header["sform_code"] > 0:
        forms["sform"] = np.array(header["srow"]).reshape(3, 4) * mm_per_unit
    if header["qform_code"] > 0:
        forms["qform"] = _quaternion_affine(header, pixdim, mm_per_unit)
    if not forms:
        raise GeometryError(
            "NN-GEO-015", "neither qform nor sform is set", where, "store the scan with orientation"
        )
    used = next(iter(forms))
    if len(forms) == 2 and (
        ORTHONORMAL_TOLERANCE < shear_of(forms["sform"][:, :3]) <= _SLIGHT_SHEAR
    ):
        used = "qform"
    lps = RAS_TO_LPS.diagonal()[:, None] * forms[used]
    geometry = geometry_from_axes(lps[:, :3], lps[:, 3], where)
    corners = np.array([[0, 0, 0, 1], [*(n - 1 for n in shape), 1]]).T
    with np.errstate(invalid="ignore", over="ignore"):  # a qform that is not finite disagrees
        ends = [form @ corners for form in forms.values()]
    if not np.allclose(ends[0], ends[-1], rtol=0, atol=_FORM_TOLERANCE_MM):
        warnings.append(f"{where}: sform and qform disagree; the {used} was used")
    elif used == "qform" and len(forms) == 2:
        warnings.append(f"{where}: the sform is sheared; the qform was used")
    elif not np.allclose(geometry.spacing_mm[::-1], pixdim, rtol=_PIXDIM_TOLERANCE, atol=0):
        warnings.append(f"{where}: pixdim and {used} disagree; the {used} was used")
    return geometry


def _quaternion_affine(
    header: dict[str, Any], pixdim: np.ndarray, mm_per_unit: float
) -> np.ndarray:
    """(3, 4) of the qform ("method 2" of the NIfTI-1 standard)."""
    b, c, d, *offset = header["quaternion"]
    a = math.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    steps = pixdim * [1, 1, -1 if header["pixdim"][0] < 0 else 1]
    return np.column_stack([rotation * steps, np.array(offset) * mm_per_unit])


def _header_of(
    shape: tuple[int, ...], dtype: np.dtype, geometry: Geometry, slope: float, intercept: float
) -> bytes:
    """The 348 bytes of a header of version 1, and four that announce no extension."""
    axes_lps, origin_lps = axes_of(geometry)
    axes, origin = RAS_TO_LPS @ axes_lps, RAS_TO_LPS @ origin_lps
    spacing = geometry.spacing_mm[::-1]
    rotation = axes / spacing
    qfac = 1.0 if np.linalg.det(rotation) > 0 else -1.0
    values: dict[str, tuple[Any, ...]] = {
        "dim": (3, *shape[::-1], 1, 1, 1, 1),
        "datatype": (_CODES[dtype.str[1:]],),
        "bits": (dtype.itemsize * 8,),
        "pixdim": (qfac, *spacing, 1, 0, 0, 0),
        "vox_offset": (352,),
        "slope": (slope,),
        "intercept": (intercept,),
        "units": (2,),  # mm
        "qform_code": (1,),  # scanner coordinates
        "sform_code": (1,),
        "quaternion": (*_quaternion(rotation * [1, 1, qfac]), *origin),
        "srow": tuple(np.column_stack([axes, origin]).ravel()),
        "magic": (b"n+1",),
    }
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    for name, (offset, code) in _FIELDS[348].items():
        struct.pack_into("<" + code, header, offset, *values[name])
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


def _inflated_crc(path: Path) -> tuple[int, int]:
    """CRC-32 and number of the uncompressed bytes."""
    crc, n_bytes = 0, 0
    view = memoryview(bytearray(_CHUNK_BYTES))
    with path.open("rb") as handle:
        stream = Inflated(handle, path.name)
        while n_read := stream.readinto(view):
            crc = zlib_ng.crc32(view[:n_read], crc)
            n_bytes += n_read
    return crc, n_bytes


FORMAT = ImageFormat(
    name="NIfTI",
    suffixes=(".nii", ".nii.gz"),
    recognises=lambda head: head.startswith(_SIZES),
    read=read_nifti,
    peek=peek_nifti,
    gzipped=True,
    rank=1,
)
