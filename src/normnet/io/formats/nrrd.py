"""NRRD (.nrrd, .nhdr): raw and gzip encodings, three spatial axes."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from normnet.errors import GeometryError, InputError, ValueRangeError
from normnet.io.formats import Header, ImageFormat, unscaled_header
from normnet.io.geometry import geometry_from_axes
from normnet.io.limits import MAX_HEADER_BYTES, check_extent, check_size, check_thickness
from normnet.io.payload import Inflated, local_data_file, read_payload, read_up_to
from normnet.io.values import Stored, number
from normnet.scan import Geometry

_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_DTYPES = {name: code for code, names in _TYPES.items() for name in names}
_TO_LPS = {
    "left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1), "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1),
}  # fmt: skip
_MM = {"mm", "millimeter", "millimeters", ""}
_HEADER_SUFFIXES = (".nhdr",)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # in a field: a damaged byte
_VECTOR = re.compile(r"\(([^()]*)\)|(none)")


def read_nrrd(path: Path) -> Stored:
    """Read an NRRD file; detached data must lie beside its header.

    Raises:
        InputError: Corrupt, truncated, another encoding, or data in another folder.
        GeometryError: Not three-dimensional, or no orientation.
        ValueRangeError: Not a number type.
        ResourceError: Larger than the limits.
    """
    warnings: list[str] = []
    with path.open("rb") as handle:
        fields = _read_header(handle, path.name)
        shape = _shape(fields, path.name)
        dtype = _dtype(fields, path.name)
        geometry = _geometry(fields, path.name, warnings)
        check_extent(shape[::-1], geometry, path.name)
        n_bytes = math.prod(shape) * dtype.itemsize
        name = fields.get("data file", fields.get("datafile"))
        if name is None:
            data = _read_data(handle, fields, n_bytes, path, warnings)
        else:
            if path.suffix.lower() not in _HEADER_SUFFIXES or name.upper().startswith("LIST"):
                raise InputError(
                    "NN-FILE-007", "header points at other files", path.name, "store it as one file"
                )
            detached = local_data_file(path, name)
            with detached.open("rb") as data_handle:
                data = _read_data(data_handle, fields, n_bytes, detached, warnings)
    return Stored(data.view(dtype).reshape(shape[::-1]), geometry, warnings=tuple(warnings))


def peek_nrrd(path: Path) -> Header:
    """Read only the header of an NRRD file; raises as ``read_nrrd``."""
    where = path.name
    with path.open("rb") as handle:
        fields = _read_header(handle, where)
        start = handle.tell()
    shape, dtype = _shape(fields, where), _dtype(fields, where)
    geometry = _geometry(fields, where, [])
    name = fields.get("data file", fields.get("datafile"))
    data = (path, start) if name is None else (local_data_file(path, name), 0)
    compressed = fields.get("encoding", "").lower() != "raw"

    return unscaled_header(shape[::-1], dtype, geometry, data, compressed, where)


def _read_header(handle: Any, where: str) -> dict[str, str]:
    """Fields up to the blank line; the file then stands at the first byte of data."""
    fields: dict[str, str] = {}
    handle.readline(16)
    n_left = MAX_HEADER_BYTES
    while n_left > 0:
        line = handle.readline(n_left)
        n_left -= len(line)
        text = line.decode("utf-8", "replace").strip()
        if not text:
            return fields  # the blank line, or the end of a detached header
        if text.startswith("#") or ":=" in text:
            continue
        name, separator, value = text.partition(": ")
        if not separator or _CONTROL.search(text):
            break
        if fields.get(name.strip().lower(), value.strip()) != value.strip():
            break  # two different values of one field
        fields[name.strip().lower()] = value.strip()
    raise InputError("NN-FILE-004", "not an NRRD header", where, "copy or download the file again")


def _numbers(text: str, where: str) -> list[float]:
    try:
        return [number(part) for part in re.split(r"[,\s]+", text.strip())]
    except ValueError as error:
        raise InputError(
            "NN-FILE-004", "a number in the header is not one", where, "correct the header"
        ) from error


def _shape(fields: dict[str, str], where: str) -> tuple[int, int, int]:
    sizes = _numbers(fields.get("sizes", ""), where)
    if fields.get("dimension") != str(len(sizes)) or not all(
        math.isfinite(n) and n >= 1 and n == int(n) for n in sizes
    ):
        raise InputError("NN-FILE-004", "impossible sizes", where, "correct the header")
    if len(sizes) != 3:
        raise GeometryError(
            "NN-GEO-013", f"{len(sizes)} dimensions", where, "give one three-dimensional volume"
        )
    shape = (int(sizes[0]), int(sizes[1]), int(sizes[2]))
    check_size(shape, where)
    check_thickness(shape, where)
    return shape


def _dtype(fields: dict[str, str], where: str) -> np.dtype:
    name = fields.get("type", "").lower()
    if name not in _DTYPES:
        raise ValueRangeError("NN-VAL-008", f"voxel type {name[:20]!r}", where, "store it as int16")
    dtype = np.dtype(_DTYPES[name])
    if dtype.itemsize == 1:
        return dtype
    endian = fields.get("endian", "").lower()
    if endian not in ("little", "big"):
        raise InputError(
            "NN-FILE-004", "byte order (endian) is missing", where, "correct the header"
        )
    return dtype.newbyteorder("<" if endian == "little" else ">")


def _geometry(fields: dict[str, str], where: str, warnings: list[str]) -> Geometry:
    signs = _TO_LPS.get(fields.get("space", "").lower())
    vectors = [match[0] for match in _VECTOR.findall(fields.get("space directions", ""))]
    if signs is None or len(vectors) != 3 or not all(vectors):
        raise GeometryError(
            "NN-GEO-015", "no patient orientation (space)", where, "store the scan with orientation"
        )
    units = set(re.findall(r'"([^"]*)"', fields.get("space units", "")))
    if units - _MM:
        raise GeometryError("NN-GEO-011", "lengths that are not in mm", where, "store them in mm")
    axes = [_numbers(vector, where) for vector in vectors]
    if "space origin" not in fields:
        warnings.append(f"{where}: no space origin; 0, 0, 0 was used")
    origin = _numbers(fields.get("space origin", "(0,0,0)").strip("()"), where)
    if any(len(vector) != 3 for vector in (*axes, origin)):
        raise InputError(
            "NN-FILE-004", "space directions or origin are not three numbers", where, "correct it"
        )
    to_lps = np.diag(signs).astype(float)
    return geometry_from_axes(to_lps @ np.array(axes).T, to_lps @ np.array(origin), where)


def _read_data(
    handle: Any, fields: dict[str, str], n_bytes: int, path: Path, warnings: list[str]
) -> np.ndarray:
    encoding = fields.get("encoding", "").lower()
    byte_skip = fields.get("byte skip", fields.get("byteskip", "0"))
    line_skip = fields.get("line skip", fields.get("lineskip", "0"))
    if (
        encoding not in ("raw", "gzip", "gz")
        or line_skip != "0"
        or not re.fullmatch(r"-1|\d{1,9}", byte_skip)
    ):
        found = f"encoding {encoding[:20]!r}" if line_skip == "0" else "line skip"
        raise InputError(
            "NN-FILE-009", f"{found} is not supported", path.name, "store it as raw or gzip"
        )
    stream = handle if encoding == "raw" else Inflated(handle, path.name)
    if byte_skip == "-1":
        if encoding != "raw" or path.stat().st_size - handle.tell() < n_bytes:
            raise InputError(
                "NN-FILE-005",
                f"voxels need {n_bytes} bytes, the file has fewer",
                path.name,
                "copy or download it again",
            )
        handle.seek(-n_bytes, 2)
    elif len(read_up_to(stream, min(int(byte_skip), MAX_HEADER_BYTES))) < int(byte_skip):
        raise InputError(
            "NN-FILE-005", "the file ends before its voxels", path.name, "copy or download it again"
        )
    return read_payload(stream, n_bytes, path, warnings)


FORMAT = ImageFormat(
    name="NRRD",
    suffixes=(".nrrd", *_HEADER_SUFFIXES),
    recognises=lambda head: head.startswith(b"NRRD000"),
    read=read_nrrd,
    peek=peek_nrrd,
    header_suffixes=_HEADER_SUFFIXES,
    rank=2,
)
