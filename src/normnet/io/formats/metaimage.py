"""MetaImage (.mha, .mhd): raw and zlib-compressed, three axes."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from normnet.errors import GeometryError, InputError, ValueRangeError
from normnet.io.formats import Header, ImageFormat, unscaled_header
from normnet.io.geometry import check_spacing, geometry_from_axes
from normnet.io.limits import MAX_HEADER_BYTES, check_extent, check_size, check_thickness
from normnet.io.payload import Inflated, local_data_file, read_payload
from normnet.io.values import Stored, number
from normnet.scan import Geometry

_DTYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2",
    "MET_INT": "i4", "MET_UINT": "u4", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
_HEADER_SUFFIXES = (".mhd",)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # in a field: a damaged byte
_FIRST_FIELD = re.compile(rb"^\s*(ObjectType|ObjectSubType|NDims|Comment|Name|ID)\s*=")


def read_metaimage(path: Path) -> Stored:
    """Read a MetaImage; detached data must lie beside its header.

    Raises:
        InputError: Corrupt, truncated, text data, or data in another folder.
        GeometryError: Not three-dimensional, or axes that are no orientation.
        ValueRangeError: Several channels or not a number type.
        ResourceError: Larger than the limits.
    """
    where = path.name
    warnings: list[str] = []
    with path.open("rb") as handle:
        fields = _read_header(handle, where)
        shape = _shape(fields, where)
        dtype = _dtype(fields, where)
        geometry = _geometry(fields, where, warnings)
        check_extent(shape[::-1], geometry, where)
        n_bytes = math.prod(shape) * dtype.itemsize
        name = fields["ElementDataFile"]
        if name.upper() == "LOCAL":
            data = _read_data(handle, fields, n_bytes, path, warnings)
        else:
            if path.suffix.lower() not in _HEADER_SUFFIXES or name.upper().startswith("LIST"):
                raise InputError(
                    "NN-FILE-007",
                    "header points at other files",
                    where,
                    "store it as one .mha file",
                )
            detached = local_data_file(path, name)
            with detached.open("rb") as data_handle:
                data = _read_data(data_handle, fields, n_bytes, detached, warnings)
    return Stored(data.view(dtype).reshape(shape[::-1]), geometry, warnings=tuple(warnings))


def peek_metaimage(path: Path) -> Header:
    """Read only the header of a MetaImage; raises as ``read_metaimage``."""
    where = path.name
    with path.open("rb") as handle:
        fields = _read_header(handle, where)
        start = handle.tell()
    shape, dtype, geometry = (
        _shape(fields, where),
        _dtype(fields, where),
        _geometry(fields, where, []),
    )
    name = fields["ElementDataFile"]
    data = (path, start) if name.upper() == "LOCAL" else (local_data_file(path, name), 0)
    compressed = _flag(fields, "CompressedData")

    return unscaled_header(shape[::-1], dtype, geometry, data, compressed, where)


def _read_header(handle: Any, where: str) -> dict[str, str]:
    """Fields up to ElementDataFile; the file then stands at the first byte of local data."""
    fields: dict[str, str] = {}
    n_left = MAX_HEADER_BYTES
    while n_left > 0:
        line = handle.readline(n_left)
        n_left -= len(line)
        name, separator, value = line.decode("latin-1").partition("=")
        if not line or (line.strip() and not separator) or _CONTROL.search(value.strip()):
            break
        if line.strip():
            if fields.get(name.strip(), value.strip()) != value.strip():
                break  # two different values of one field
            fields[name.strip()] = value.strip()
        if name.strip() == "ElementDataFile":
            return fields
    raise InputError(
        "NN-FILE-004", "not a MetaImage header", where, "copy or download the file again"
    )


def _numbers(
    fields: dict[str, str], names: tuple[str, ...], n_wanted: int, where: str
) -> np.ndarray | None:
    """The numbers of the first of ``names`` that the header has; None if it has none of them."""
    name = next((name for name in names if name in fields), None)
    if name is None:
        return None
    try:
        values = np.array([number(part) for part in fields[name].split()])
    except ValueError:
        values = np.empty(0)
    if len(values) != n_wanted:
        raise InputError(
            "NN-FILE-004", f"{name} is not {n_wanted} numbers", where, "correct the header"
        )
    return values


def _flag(fields: dict[str, str], *names: str) -> bool:
    return any(fields.get(name, "").lower() in ("true", "1") for name in names)


def _shape(fields: dict[str, str], where: str) -> tuple[int, int, int]:
    n_dims = fields.get("NDims", "")
    if not (n_dims.isascii() and n_dims.isdigit()) or fields.get("ObjectType", "Image") != "Image":
        raise InputError(
            "NN-FILE-004",
            "NDims or ObjectType is not that of an image",
            where,
            "correct the header",
        )
    if n_dims != "3":
        raise GeometryError(
            "NN-GEO-013", f"{n_dims[:9]} dimensions", where, "give one three-dimensional volume"
        )
    sizes = _numbers(fields, ("DimSize",), 3, where)
    if sizes is None or any(not n >= 1 or not math.isfinite(n) or n != int(n) for n in sizes):
        raise InputError("NN-FILE-004", "impossible DimSize", where, "correct the header")
    shape = (int(sizes[0]), int(sizes[1]), int(sizes[2]))
    check_size(shape, where)
    check_thickness(shape, where)
    return shape


def _dtype(fields: dict[str, str], where: str) -> np.dtype:
    name = fields.get("ElementType", "")
    if name not in _DTYPES or fields.get("ElementNumberOfChannels", "1") != "1":
        raise ValueRangeError(
            "NN-VAL-008", "several channels or an unknown voxel type", where, "store it as int16"
        )
    for key, neutral in (
        ("ElementToIntensityFunctionSlope", 1.0),
        ("ElementToIntensityFunctionOffset", 0.0),
    ):
        factor = _numbers(fields, (key,), 1, where)
        if factor is not None and factor[0] != neutral:
            raise ValueRangeError(
                "NN-VAL-001", f"{key} other than {neutral:g}", where, "store the CT in HU"
            )
    big = _flag(fields, "BinaryDataByteOrderMSB", "ElementByteOrderMSB")
    return np.dtype(_DTYPES[name]).newbyteorder(">" if big else "<")


def _geometry(fields: dict[str, str], where: str, warnings: list[str]) -> Geometry:
    spacing = _numbers(fields, ("ElementSpacing", "ElementSize"), 3, where)
    if spacing is None:
        raise GeometryError(
            "NN-GEO-009", "ElementSpacing is missing", where, "store the scan with its spacing"
        )
    check_spacing(spacing, where)
    matrix = _numbers(fields, ("TransformMatrix", "Rotation", "Orientation"), 9, where)
    origin = _numbers(fields, ("Offset", "Position", "Origin"), 3, where)
    if matrix is None:
        warnings.append(f"{where}: no TransformMatrix; the format's default (LPS axes) was used")
        matrix = np.eye(3).ravel()
    if origin is None:
        warnings.append(f"{where}: no Offset; the format's default (0 0 0) was used")
    if not np.isfinite(matrix).all():
        raise GeometryError(
            "NN-GEO-010", "NaN or infinity in the orientation", where, "correct the header"
        )
    if origin is None:
        warnings.append(f"{where}: no Offset; 0, 0, 0 was used")
        origin = np.zeros(3)
    directions = matrix.reshape(3, 3).T  # the header lists one axis after the other
    if np.abs(np.linalg.norm(directions, axis=0) - 1).max() > 1e-3:
        raise GeometryError(
            "NN-GEO-010", "TransformMatrix is not a rotation", where, "correct the header"
        )
    return geometry_from_axes(directions * spacing, origin, where)


def _read_data(
    handle: Any, fields: dict[str, str], n_bytes: int, path: Path, warnings: list[str]
) -> np.ndarray:
    header_size = fields.get("HeaderSize", "0")
    if fields.get("BinaryData", "True").lower() == "false" or header_size not in ("0", "-1"):
        raise InputError(
            "NN-FILE-009", "text data or a HeaderSize", path.name, "store it as one .mha file"
        )
    compressed = _flag(fields, "CompressedData")
    if header_size == "-1" and not compressed:
        if path.stat().st_size < n_bytes:
            raise InputError(
                "NN-FILE-005",
                f"voxels need {n_bytes} bytes, the file has fewer",
                path.name,
                "copy or download it again",
            )
        handle.seek(-n_bytes, 2)
    stream = Inflated(handle, path.name) if compressed else handle
    return read_payload(stream, n_bytes, path, warnings)


FORMAT = ImageFormat(
    name="MetaImage",
    suffixes=(".mha", *_HEADER_SUFFIXES),
    recognises=lambda head: _FIRST_FIELD.match(head) is not None,
    read=read_metaimage,
    peek=peek_metaimage,
    header_suffixes=_HEADER_SUFFIXES,
    rank=3,
)
