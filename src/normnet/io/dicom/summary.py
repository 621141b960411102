"""What one DICOM file is, from its header: kind, series, place and size, never a name.

The census reads this of every file. What a scan needs is checked later, by ``dicom.header``.
"""

from __future__ import annotations

import io
import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from normnet.errors import InputError
from normnet.io.dicom.header import DEFLATED_SYNTAX, quiet_pydicom, skip_meta
from normnet.io.fingerprint import digest_of

CT_CLASSES = frozenset((
    "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2",
))  # fmt: skip
ENHANCED_CLASSES = CT_CLASSES - {"1.2.840.10008.5.1.4.1.1.2"}
_DIRECTORY_CLASS = "1.2.840.10008.1.3.10"
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_MAX_INFLATED_BYTES = 2**20
_KEYWORDS = [
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "Modality", "ImageType",
    "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "PatientName",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "NumberOfFrames",
    "SeriesDescription", "ConvolutionKernel", "BodyPartExamined", "SharedFunctionalGroupsSequence",
]  # fmt: skip
_MAX_TEXT = 40
CUT_OFF = "ends before its pixels"
_SYNTAX = re.compile(rb"\x02\x00\x10\x00UI..([0-9.]+\0*)", re.DOTALL)


@dataclass(frozen=True)
class Summary:
    """One DICOM file.

    Attributes:
        path: The file, or the member of an archive.
        uid: Its SOPInstanceUID.
        series_uid: Its SeriesInstanceUID.
        modality: As ``CT``; empty if it is missing.
        patient, study: Hashes that tell patients and studies apart; without a StudyInstanceUID a
            folder counts as a study.
        flaw: Why no CT of the chest is made of such files: ``"localizer"``; ``CUT_OFF`` for a CT
            that ends before its pixels; empty if there is no reason.
        weak_flaw: Why a better series of the same study is taken; empty if there is no reason.
        n_frames: Images in the file; 0 if it holds none.
        grid: Rows, columns, orientation and spacing as text; equal in all slices of a volume.
        offset_mm: Place along the normal of the slice; NaN if it is unknown.
        thickness_mm: SliceThickness; NaN if it is unknown.
        description, kernel, body_part: For people, without names.
        derived: Whether it was computed from other images.
        n_image_bytes: Size of its uncompressed pixels.
    """

    path: Path
    uid: str
    series_uid: str
    modality: str
    patient: str
    study: str
    flaw: str
    weak_flaw: str
    n_frames: int
    grid: str
    offset_mm: float
    thickness_mm: float
    description: str
    kernel: str
    body_part: str
    derived: bool
    n_image_bytes: int


def summarise(handle: BinaryIO, path: Path) -> Summary | None:
    """Read what a DICOM file is; None for a DICOMDIR.

    Args:
        handle: The file at its first byte; its first part is enough if the pixels lie behind it.
        path: Its path, for messages.

    Raises:
        InputError: NN-FILE-014 if it cannot be read.
    """
    from pydicom import dcmread

    with quiet_pydicom(path):
        inflated = _inflated(handle)
        source = inflated or handle
        header = dcmread(source, stop_before_pixels=True, specific_tags=_KEYWORDS)
        class_uid = str(header.file_meta.get("MediaStorageSOPClassUID") or "")
        class_uid = str(header.get("SOPClassUID") or class_uid)
        if class_uid == _DIRECTORY_CLASS:
            return None
        is_part = inflated is not None and inflated.tell() >= _MAX_INFLATED_BYTES
        if "Rows" not in header and is_part:
            raise InputError("NN-FILE-014", "a header of more than 1 MB", path.name)
        is_ct = class_uid in CT_CLASSES
        modality = _text(header, "Modality") or ("CT" if is_ct else "")
        cut_off = is_ct and modality.upper() == "CT" and not is_part and not source.read(1)
        patient = [str(header.get(name) or "") for name in ("PatientID", "PatientName")]
        shared = _shared_measures(header)
        n_frames = int(header.get("NumberOfFrames") or 1) if header.get("Rows") else 0
        n_pixels = int(header.get("Rows") or 0) * int(header.get("Columns") or 0)
        n_bits = int(header.get("BitsAllocated") or 16) * int(header.get("SamplesPerPixel") or 1)
        position = _numbers(header, "ImagePositionPatient", 3)
        orientation = _numbers(header, "ImageOrientationPatient", 6)
        spacing = _numbers(header, "PixelSpacing", 2)
        names = _words(patient[1]) | _words(patient[0])
        enhanced = class_uid in ENHANCED_CLASSES
        return Summary(
            path=path,
            uid=str(header.get("SOPInstanceUID") or path),
            series_uid=str(header.get("SeriesInstanceUID") or ""),
            modality=modality.upper(),
            patient=digest_of(patient[0] or patient[1])[:16],
            study=digest_of([*patient, str(header.get("StudyInstanceUID") or path.parent)])[:16],
            flaw=CUT_OFF if cut_off else _flaw(header, modality.upper(), n_frames),
            weak_flaw=_weak_flaw(class_uid, enhanced or position is not None),
            n_frames=n_frames,
            grid=str((n_pixels, header.get("Rows"), _rounded(orientation), _rounded(spacing))),
            offset_mm=_offset(position, orientation),
            thickness_mm=_first(_numbers(shared or header, "SliceThickness", 1)),
            description=_shown(header, "SeriesDescription", names),
            kernel=_shown(header, "ConvolutionKernel", names),
            body_part=_shown(header, "BodyPartExamined", names).upper(),
            derived=not enhanced and str((header.get("ImageType") or [""])[0]).upper() == "DERIVED",
            n_image_bytes=n_pixels * n_bits // 8 * max(n_frames, 1),
        )


def _inflated(handle: BinaryIO) -> io.BytesIO | None:
    """The first part of a deflated file, inflated; None for any other file."""
    start = handle.read(2**14)
    handle.seek(0)
    syntax = _SYNTAX.search(start, 132)
    if syntax is None or syntax[1].rstrip(b"\0") != DEFLATED_SYNTAX.encode():
        return None
    skip_meta(handle)
    end = handle.tell()
    inflated = zlib.decompressobj(-15).decompress(handle.read(), _MAX_INFLATED_BYTES)
    head = start[:end].replace(DEFLATED_SYNTAX.encode(), b"1.2.840.10008.1.2.1\0\0\0")
    return io.BytesIO(head + inflated)


def _shared_measures(header: Any) -> Any | None:
    """Pixel measures that all frames of an enhanced image share."""
    for group in header.get("SharedFunctionalGroupsSequence") or ():
        for measures in group.get("PixelMeasuresSequence") or ():
            return measures
    return None


def _flaw(header: Any, modality: str, n_frames: int) -> str:
    if modality != "CT":
        return "" if not modality else "another modality"
    if not n_frames:
        return "no image"
    if int(header.get("SamplesPerPixel") or 1) > 1:
        return "colour picture"
    if "LOCALIZER" in (header.get("ImageType") or ()):
        return "localizer"
    return ""


def _weak_flaw(class_uid: str, has_position: bool) -> str:
    if class_uid.startswith(_SECONDARY_CAPTURE):
        return "secondary capture"
    return "" if has_position else "no position"


def _text(header: Any, keyword: str) -> str:
    value = header.get(keyword)
    if value is None:
        return ""
    parts = [value] if isinstance(value, str) else list(value) if _is_list(value) else [value]
    return " ".join(str(part) for part in parts).strip()


def _is_list(value: Any) -> bool:
    return hasattr(value, "__iter__")


def _shown(header: Any, keyword: str, names: set[str]) -> str:
    """A text tag without control characters, long numbers, and words of the patient's name."""
    words = re.split(r"([^\w]+)", _text(header, keyword))
    kept = ["***" if word.lower() in names else word for word in words]
    text = re.sub(r"\d{7,}", "***", "".join(kept))
    return "".join(c if c.isprintable() else "?" for c in text)[:_MAX_TEXT].strip()


def _words(text: str) -> set[str]:
    return {word.lower() for word in re.split(r"[^\w]+|_", text) if len(word) > 2}


def _numbers(header: Any, keyword: str, n_wanted: int) -> np.ndarray | None:
    value = header.get(keyword)
    if value is None or value == "":
        return None
    try:
        values = np.atleast_1d(np.array(value, dtype=float))
    except (TypeError, ValueError):
        return None
    return values if values.shape == (n_wanted,) and np.isfinite(values).all() else None


def _rounded(values: np.ndarray | None) -> list[float]:
    return [] if values is None else [round(float(value), 3) + 0.0 for value in values]


def _first(values: np.ndarray | None) -> float:
    return math.nan if values is None else float(values[0])


def _offset(position: np.ndarray | None, orientation: np.ndarray | None) -> float:
    if position is None or orientation is None:
        return math.nan
    normal = np.cross(orientation[:3], orientation[3:])
    return float(position @ normal)
