"""The header of one DICOM file: geometry and scale, never who the patient is."""

from __future__ import annotations

import logging
import math
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from normnet.errors import GeometryError, InputError, NormNetError, ResourceError, ValueRangeError
from normnet.io.geometry import ORTHONORMAL_TOLERANCE, check_spacing
from normnet.io.limits import MAX_DICOM_HEADER_BYTES, MAX_INFLATED_DICOM_BYTES, check_size

DEFLATED_SYNTAX = "1.2.840.10008.1.2.1.99"
_DIRECTORY_CLASS = "1.2.840.10008.1.3.10"
# CT image, enhanced CT image, legacy converted enhanced CT image.
_CT_CLASSES = frozenset(f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "2.1", "2.2"))
# Objects that describe images of a series, and may lie in its folder.
_NOT_IMAGES = frozenset((
    "SEG", "SR", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "PR", "KO", "REG", "DOC", "FID",
    "RWV", "ANN", "PLAN",
))  # fmt: skip
_EXPORT_AGAIN = "export the series again"
_KEYWORDS = (
    "Modality", "SOPClassUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID",
    "PatientID", "PatientName", "ImageType", "InstanceNumber",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames",
    "RescaleSlope", "RescaleIntercept",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Slice:
    """One axial image before its pixels are decoded; lengths in mm, vectors LPS+ (x, y, z)."""

    path: Path
    syntax: str
    series_uid: str
    frame_uid: str
    instance: int | None
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    slope: float
    intercept: float
    position: np.ndarray  # (3,)
    orientation: np.ndarray  # (2, 3): along a row, along a column
    pixel_spacing_mm: tuple[float, float]  # between rows, between columns
    thickness_mm: float
    has_modality: bool = True  # False: the class of the object says that it is a CT

    @property
    def normal(self) -> np.ndarray:
        """(3,) unit vector across the slice, towards left, back or head."""
        normal: np.ndarray = np.cross(*self.orientation)
        upward: np.ndarray = normal * np.sign(normal[np.argmax(np.abs(normal))])
        return upward

    @property
    def offset_mm(self) -> float:
        """Position along the normal; z of an axial slice."""
        return float(self.position @ self.normal)


@contextmanager
def quiet_pydicom(path: Path) -> Iterator[None]:
    """Silence pydicom's warnings, which quote tag values, and turn its many errors into one."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        except (NormNetError, MemoryError):
            raise
        except Exception as error:  # pydicom may raise anything on corrupt bytes
            raise InputError(
                "NN-FILE-014", "the DICOM header is corrupt", path.name, _EXPORT_AGAIN
            ) from error
        finally:
            logger.setLevel(level)


def shown_uid(uid: object) -> str:
    """A UID for a message: digits and dots, whatever the file holds."""
    return re.sub(r"[^0-9.]", "?", str(uid))[:64]


def read_header(path: Path) -> Any | None:
    """The tags that normnet needs of a DICOM file; None if it is not an image of the body.

    Raises:
        InputError: NN-FILE-010 no transfer syntax, NN-FILE-014 corrupt.
        ResourceError: NN-RES-003 inflates without end.
    """
    from pydicom import dcmread
    from pydicom.filereader import read_file_meta_info

    with quiet_pydicom(path):
        meta = read_file_meta_info(path)
        if meta.get("MediaStorageSOPClassUID") == _DIRECTORY_CLASS:
            return None
        syntax = meta.get("TransferSyntaxUID")
        if not syntax:
            raise InputError(
                "NN-FILE-010", "no transfer syntax in the DICOM header", path.name, _EXPORT_AGAIN
            )
        if syntax == DEFLATED_SYNTAX:
            header = _read_deflated(path, meta)
        else:
            header = dcmread(path, stop_before_pixels=True, specific_tags=list(_KEYWORDS))
        for _ in header:  # pydicom decodes a value when it is read: let it fail here, not later
            pass
        if header.get("Modality") in _NOT_IMAGES or "LOCALIZER" in (header.get("ImageType") or ()):
            return None
        return header


def slice_of(header: Any, path: Path) -> Slice:
    """Check the header of one image and keep what is needed of it.

    Raises:
        InputError: NN-FILE-013 no image, 014 bad tag, 015 multi-frame.
        GeometryError: NN-GEO-009 missing, 010 orientation, 011 spacing.
        ValueRangeError: NN-VAL-001 rescale, 002 photometric, 003 modality.
        ResourceError: NN-RES-001 larger than the limits.
    """
    name = path.name
    with quiet_pydicom(path):
        if header.get("Rows") is None or header.get("Columns") is None:
            raise InputError("NN-FILE-013", "no image in the file", name, _EXPORT_AGAIN)
        if not _is_ct(header):
            raise ValueRangeError("NN-VAL-003", "Modality is not CT", name, "give a CT series")
        n_frames = int(header.get("NumberOfFrames") or 1)
        rows, columns = int(header.Rows), int(header.Columns)
        check_size((max(n_frames, 1), rows, columns), name)
        if n_frames != 1:
            raise InputError(
                "NN-FILE-015",
                f"a multi-frame DICOM ({n_frames} frames)",
                name,
                "convert it to single slices or NIfTI",
            )
        if rows < 2 or columns < 2:
            raise InputError(
                "NN-FILE-014", f"an image of {rows} x {columns} pixels", name, _EXPORT_AGAIN
            )
        if (
            header.get("PhotometricInterpretation") != "MONOCHROME2"
            or header.get("SamplesPerPixel", 1) != 1
        ):
            raise ValueRangeError(
                "NN-VAL-002", "not a MONOCHROME2 image", name, "give the original CT"
            )
        slope, intercept = _rescale(header, name)
        position, orientation, pixel_spacing = _geometry(header, name)
        allocated = int(header.BitsAllocated)
        stored = int(header.get("BitsStored") or allocated)
        high_bit = int(header.get("HighBit", stored - 1))
        if allocated not in (8, 16, 32) or not 1 <= stored <= allocated or high_bit != stored - 1:
            raise InputError(
                "NN-FILE-014",
                f"{stored} of {allocated} bits are not supported",
                name,
                _EXPORT_AGAIN,
            )
        thickness = _numbers(header, "SliceThickness", 1)
        instance = header.get("InstanceNumber")
        return Slice(
            path=path,
            syntax=str(header.file_meta.TransferSyntaxUID),
            series_uid=str(header.get("SeriesInstanceUID") or ""),
            frame_uid=str(header.get("FrameOfReferenceUID") or ""),
            instance=None if instance is None else int(instance),
            rows=rows,
            columns=columns,
            bits_allocated=allocated,
            bits_stored=stored,
            signed=int(header.get("PixelRepresentation") or 0) == 1,
            slope=slope,
            intercept=intercept,
            position=position,
            orientation=orientation,
            pixel_spacing_mm=pixel_spacing,
            thickness_mm=float(thickness[0]) if thickness is not None else math.nan,
            has_modality=bool(header.get("Modality")),
        )


def _is_ct(header: Any) -> bool:
    """By the Modality; where it is missing, by the class of the object."""
    modality = header.get("Modality")
    return bool(modality == "CT" or (not modality and header.get("SOPClassUID") in _CT_CLASSES))


def _numbers(header: Any, keyword: str, n_wanted: int) -> np.ndarray | None:
    """(n_wanted,) float; None if the tag is missing, empty or has another count."""
    value = header.get(keyword)
    if value is None or value == "":
        return None
    values = np.atleast_1d(np.array(value, dtype=float))
    return values if values.shape == (n_wanted,) else None


def _required(header: Any, keyword: str, n_wanted: int, name: str) -> np.ndarray:
    values = _numbers(header, keyword, n_wanted)
    if values is None:
        raise GeometryError("NN-GEO-009", f"{keyword} is missing", name, _EXPORT_AGAIN)
    return values


def _rescale(header: Any, name: str) -> tuple[float, float]:
    slope, intercept = _numbers(header, "RescaleSlope", 1), _numbers(header, "RescaleIntercept", 1)
    if slope is None or intercept is None:
        raise ValueRangeError(
            "NN-VAL-001", "RescaleSlope or RescaleIntercept is missing", name, _EXPORT_AGAIN
        )
    if slope[0] == 0 or not np.isfinite([slope[0], intercept[0]]).all():
        raise ValueRangeError("NN-VAL-001", f"RescaleSlope is {slope[0]:g}", name, _EXPORT_AGAIN)
    return float(slope[0]), float(intercept[0])


def _geometry(header: Any, name: str) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    position = _required(header, "ImagePositionPatient", 3, name)
    orientation = _required(header, "ImageOrientationPatient", 6, name).reshape(2, 3)
    spacing = _required(header, "PixelSpacing", 2, name)
    if not np.isfinite(position).all() or not np.isfinite(orientation).all():
        raise GeometryError(
            "NN-GEO-010", "NaN or infinity in position or orientation", name, _EXPORT_AGAIN
        )
    if np.abs(orientation @ orientation.T - np.eye(2)).max() > ORTHONORMAL_TOLERANCE:
        raise GeometryError(
            "NN-GEO-010", "ImageOrientationPatient is not orthonormal", name, _EXPORT_AGAIN
        )
    check_spacing(spacing, name)
    return position, orientation, (float(spacing[0]), float(spacing[1]))


def _read_deflated(path: Path, meta: Any) -> Any:
    """The header of a deflated file, of which only the first part is inflated and kept.

    The rest is inflated in small steps and counted. pydicom inflates a whole file at once when it
    reads the pixels; it may be as long as they are, and no longer.

    Raises:
        ResourceError: NN-RES-003 if header or pixels swell beyond what they may have.
    """
    from pydicom.filereader import read_dataset
    from pydicom.tag import BaseTag, Tag

    tags: list[BaseTag | int] = [Tag(keyword) for keyword in ("SpecificCharacterSet", *_KEYWORDS)]
    with path.open("rb") as handle:
        skip_meta(handle)
        parts = _inflated_parts(handle)
        start = b""
        while len(start) < MAX_DICOM_HEADER_BYTES and (part := next(parts, b"")):
            start += part
        tags_seen = []

        def at_pixels(tag: Any, *_: Any) -> bool:
            tags_seen.append(tag)
            return bool(tag.group == 0x7FE0)

        header = read_dataset(BytesIO(start), False, True, stop_when=at_pixels, specific_tags=tags)
        header.file_meta = meta
        ends = len(start) < MAX_DICOM_HEADER_BYTES  # all is inflated
        has_pixels = bool(tags_seen) and tags_seen[-1].group == 0x7FE0
        if header.get("Modality") in _NOT_IMAGES:
            return header
        n_pixels = math.prod(
            int(header.get(keyword) or 1) for keyword in ("NumberOfFrames", "Rows", "Columns")
        )
        n_most = min(MAX_DICOM_HEADER_BYTES + 4 * n_pixels, MAX_INFLATED_DICOM_BYTES)
        n_bytes = len(start)
        while has_pixels and n_bytes <= n_most and (part := next(parts, b"")):
            n_bytes += len(part)
        if n_bytes > n_most or not (has_pixels or ends):
            raise ResourceError(
                "NN-RES-003", "deflated DICOM swells beyond the limit", path.name, _EXPORT_AGAIN
            )
        return header


def _inflated_parts(handle: BinaryIO) -> Iterator[bytes]:
    """The inflated bytes of a stream without header, at most 1 MiB at a time."""
    decoder = zlib.decompressobj(-15)
    while not decoder.eof:
        data = decoder.unconsumed_tail or handle.read(2**16)
        inflated = decoder.decompress(data, 2**20)
        if inflated:
            yield inflated
        elif not data:
            return  # truncated; the parser will say so


def skip_meta(handle: BinaryIO) -> None:
    """Go to the first byte after group 0002, which is always explicit VR, little endian."""
    handle.seek(132)
    while (head := handle.read(8))[:2] == b"\x02\x00":
        long = head[4:6] in (b"OB", b"OW", b"UN", b"SQ", b"UT")
        handle.seek(int.from_bytes(handle.read(4) if long else head[6:], "little"), 1)
    handle.seek(-len(head), 1)
