"""One CT series from a folder of DICOM files, whatever their order and names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from normnet.errors import GeometryError, InputError, ResourceError, ValueRangeError
from normnet.io.acceptance import accept
from normnet.io.dicom.header import Slice, read_header, shown_uid, slice_of
from normnet.io.dicom.pixels import SliceDecoder
from normnet.io.dicom.stack import order_slices, stack_geometry
from normnet.io.limits import MAX_FILES, MAX_SLICES, check_size
from normnet.io.sniff import is_dicom
from normnet.scan import Scan

_INT16 = np.iinfo(np.int16)
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")


def read_dicom(path: Path, case_id: str, series_uid: str | None = None) -> Scan:
    """Read the one CT series of a folder and its sub-folders.

    Args:
        path: Folder; a single file is refused as a single slice.
        case_id: For the scan.
        series_uid: Which SeriesInstanceUID, where there are several.

    Raises:
        NormNetError: With the id of what is wrong; see ``normnet.io``.
    """
    warnings: list[str] = []
    files = [path] if path.is_file() else _dicom_files(path, warnings)
    slices: Sequence[Slice] = _choose_series(files, path.name, series_uid, warnings)
    with SliceDecoder() as decoder:
        if len(slices) == 1:
            decoder.decode(slices[0])  # a broken file is the better reason than a single slice
        slices = order_slices(slices, partial(_same_pixels, decoder), path.name, warnings)
        check_size((len(slices), slices[0].rows, slices[0].columns), path.name)
        geometry = stack_geometry(slices, path.name, warnings)
        _note_missing_end(slices, path.name, warnings)
        volume_hu = _read_volume(slices, decoder, path.name, warnings)
    return accept(Scan(volume_hu, geometry, case_id, tuple(warnings)), path.name)


def _dicom_files(folder: Path, warnings: list[str]) -> list[Path]:
    """Files with DICOM magic bytes; others are counted, or refused if their name says DICOM."""
    files: list[Path] = []
    n_other = 0
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            file = Path(root, name)
            if is_dicom(file):
                files.append(file)
            elif name.startswith(".") or not name.lower().endswith(_DICOM_SUFFIXES):
                n_other += 1
            elif file.stat().st_size == 0:
                raise InputError(
                    "NN-FILE-002", "the file is empty (0 bytes)", name, "copy or download it again"
                )
            else:
                raise InputError(
                    "NN-FILE-003",
                    "not a DICOM file, despite its name",
                    name,
                    "remove or replace it",
                )
        if len(files) + n_other > MAX_FILES:
            raise ResourceError(
                "NN-RES-002", f"more than {MAX_FILES} files", folder.name, "give a smaller folder"
            )
    if not files:
        raise InputError(
            "NN-FILE-008",
            "no DICOM file in the folder",
            folder.name,
            "give the folder of a CT series",
        )
    if n_other:
        warnings.append(f"{folder.name}: {n_other} files that are not DICOM were ignored")
    return files


def _choose_series(
    files: list[Path], where: str, series_uid: str | None, warnings: list[str]
) -> list[Slice]:
    """The slices of the one series of one patient."""
    headers = [(file, read_header(file)) for file in files]
    images = [(file, header) for file, header in headers if header is not None]
    if len(images) < len(files):
        n_ignored = len(files) - len(images)
        warnings.append(f"{where}: {n_ignored} localizers and objects without images were ignored")
    if series_uid is not None:
        images = [
            (file, header)
            for file, header in images
            if str(header.get("SeriesInstanceUID")) == series_uid
        ]
    if not images:
        found = "no CT image" if series_uid is None else "no image of the chosen series"
        raise InputError("NN-FILE-008", found, where, "give the folder of a CT series")
    if len(images) > MAX_SLICES:
        raise ResourceError(
            "NN-RES-002", f"{len(images)} slices; at most {MAX_SLICES}", where, "give one series"
        )
    series = sorted({str(header.get("SeriesInstanceUID")) for _, header in images})
    patients = {
        str(header.get("PatientID") or header.get("PatientName") or "") for _, header in images
    }
    if len(patients) > 1:
        raise ValueRangeError(
            "NN-VAL-004", "slices of several patients", where, "give one patient at a time"
        )
    if len(series) > 1:
        uids = ", ".join(shown_uid(uid) for uid in series[:8]) + (" ..." if len(series) > 8 else "")
        raise GeometryError(
            "NN-GEO-001", f"{len(series)} series: {uids}", where, "choose one with --series UID"
        )
    return [slice_of(header, file) for file, header in images]


def _same_pixels(decoder: SliceDecoder, one: Slice, other: Slice) -> bool:
    if (one.slope, one.intercept) != (other.slope, other.intercept):
        return False
    return np.array_equal(decoder.decode(one), decoder.decode(other))


def _note_missing_end(slices: Sequence[Slice], where: str, warnings: list[str]) -> None:
    """Warn of a missing first slice: it leaves no gap, only InstanceNumber can show it."""
    numbers = {item.instance for item in slices if item.instance is not None}
    if numbers and min(numbers) > 1 and max(numbers) - min(numbers) == len(slices) - 1:
        warnings.append(
            f"{where}: InstanceNumber starts at {min(numbers)}; slices may be missing at one end"
        )


def _read_volume(
    slices: Sequence[Slice], decoder: SliceDecoder, where: str, warnings: list[str]
) -> np.ndarray:
    """(z, y, x) in HU: int16 if every slope and intercept is a whole number, else float32."""
    scales = {(item.slope, item.intercept) for item in slices}
    if len(scales) > 1:
        warnings.append(
            f"{where}: {len(scales)} different rescale pairs; each was applied to its slices"
        )
    whole = all(value == int(value) for scale in scales for value in scale)
    volume_hu = np.empty(
        (len(slices), slices[0].rows, slices[0].columns), np.int16 if whole else np.float32
    )
    for target, item in zip(volume_hu, slices, strict=True):
        values = decoder.decode(item) * np.float64(item.slope) + item.intercept
        # The limits are far beyond any HU; ``accept`` checks the values.
        target[...] = np.clip(values, _INT16.min, _INT16.max)
    return volume_hu
