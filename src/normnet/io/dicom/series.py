"""One CT series from its DICOM files, whatever their order and names."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from normnet.errors import InputError, ResourceError, ValueRangeError
from normnet.io.acceptance import accept
from normnet.io.dicom.header import Slice, read_header, slice_of
from normnet.io.dicom.multiframe import is_multiframe, split_frames
from normnet.io.dicom.pixels import SliceDecoder
from normnet.io.dicom.stack import order_slices, stack_geometry
from normnet.io.limits import MAX_SLICES, check_size
from normnet.scan import Scan

_INT16 = np.iinfo(np.int16)


def read_dicom(
    files: Sequence[Path], where: str, case_id: str, warnings: Sequence[str] = ()
) -> Scan:
    """Read one CT series.

    Args:
        files: Of the series. A single slice is refused; an enhanced CT is one file.
        where: Name of the scan, for messages.
        case_id: For the scan.
        warnings: What was accepted before, one line each.

    Raises:
        NormNetError: With the id of what is wrong; see ``normnet.io``.
    """
    told = list(warnings)
    # Frames of an enhanced CT become files of this folder.
    with tempfile.TemporaryDirectory(prefix="normnet-") as folder, SliceDecoder() as decoder:
        slices: Sequence[Slice] = _read_slices(files, where, Path(folder), told)
        if len(slices) == 1:
            decoder.decode(slices[0])  # a broken file is the better reason than a single slice
        slices = order_slices(slices, partial(_same_pixels, decoder), where, told)
        check_size((len(slices), slices[0].rows, slices[0].columns), where)
        geometry = stack_geometry(slices, where, told)
        _note_missing_end(slices, where, told)
        volume_hu = _read_volume(slices, decoder, where, told)
    return accept(Scan(volume_hu, geometry, case_id, tuple(told)), where)


def _read_slices(
    files: Sequence[Path], where: str, folder: Path, warnings: list[str]
) -> list[Slice]:
    """The slices of one patient, before their pixels are decoded."""
    headers = [(file, read_header(file)) for file in files]
    images = [(file, header) for file, header in headers if header is not None]
    if len(images) < len(files):
        n_ignored = len(files) - len(images)
        warnings.append(f"{where}: {n_ignored} localizers and objects without images were ignored")
    if not images:
        raise InputError("NN-FILE-008", "no CT image", where, "give the folder of a CT series")
    if len(images) > MAX_SLICES:
        raise ResourceError(
            "NN-RES-002", f"{len(images)} slices; at most {MAX_SLICES}", where, "give one series"
        )
    patients = {_patient(header) for _, header in images}
    if len(patients) > 1:
        raise ValueRangeError(
            "NN-VAL-004", "slices of several patients", where, "give one patient at a time"
        )
    slices = []
    for file, header in images:
        if is_multiframe(header, file):
            frames = split_frames(file, folder)
            slices += [slice_of(read_header(frame), frame) for frame in frames]
        else:
            slices.append(slice_of(header, file))
    return slices


def _patient(header: Any) -> str:
    return str(header.get("PatientID") or header.get("PatientName") or "")


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
