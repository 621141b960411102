"""From stored voxels to Hounsfield units or labels, and checks of single values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from normnet.errors import ValueRangeError
from normnet.scan import Geometry

_INT16 = np.iinfo(np.int16)
_MAX_SAMPLES = 4_000_000
WHOLE_HU = 1e-3  # a slope of 0.1, which files keep as float32, moves whole HU by less


@dataclass(frozen=True)
class Stored:
    """A volume as its file stores it.

    Attributes:
        voxels: (z, y, x), any numeric type; the values are ``voxels * slope + intercept``.
        geometry: Where the array lies in the patient.
        slope: Factor.
        intercept: Summand.
        warnings: What the reader noticed and accepted, one line each.
    """

    voxels: np.ndarray
    geometry: Geometry
    slope: float = 1.0
    intercept: float = 0.0
    warnings: tuple[str, ...] = ()


def rescale(stored: Stored, where: str, in_place: bool = False) -> np.ndarray:
    """The values: (z, y, x) int16 if all are whole (within WHOLE_HU) and fit, else float32.

    Args:
        stored: As read.
        where: File name for messages.
        in_place: Whether the values may take the place of the stored voxels in memory, so that two
            volumes are never held.

    Raises:
        ValueRangeError: NN-VAL-005 if a voxel is NaN or infinite.
    """
    voxels, slope, intercept = stored.voxels, stored.slope, stored.intercept
    if voxels.dtype.kind in "iub" and slope == int(slope) and intercept == int(intercept):
        ends = [int(end) * int(slope) + int(intercept) for end in (voxels.min(), voxels.max())]
        small = max(abs(slope), abs(intercept)) <= _INT16.max
        if small and _INT16.min <= min(ends) and max(ends) <= _INT16.max:
            # A step between may overflow and wrap around; the result fits in 16 bits.
            if voxels.dtype == np.int16 and (slope, intercept) == (1, 0):
                return voxels
            whole = _room(voxels, np.int16, in_place)
            for target, part in zip(whole, voxels, strict=True):
                values = part.astype(np.int16) * np.int16(slope)
                values += np.int16(intercept)
                target[...] = values
            return whole
    fits = True
    with np.errstate(over="ignore", invalid="ignore"):
        for part in voxels:  # slice by slice, so that no second float volume is needed
            values = (part * np.float64(slope) + intercept).astype(np.float32)
            check_finite(values, where)
            fits = (
                fits
                and values.min() >= _INT16.min
                and values.max() <= _INT16.max
                and np.abs(values - np.rint(values)).max() <= WHOLE_HU
            )
    volume = _room(voxels, np.int16 if fits else np.float32, in_place)
    for target, part in zip(volume, voxels, strict=True):
        values = (part * np.float64(slope) + intercept).astype(np.float32)
        target[...] = np.rint(values) if fits else values
    return volume


def _room(voxels: np.ndarray, dtype: type[np.number], in_place: bool) -> np.ndarray:
    """An array for the values, to be filled from plane [0] on, each plane when it has been read.

    Args:
        voxels: As stored.
        dtype: Of the values.
        in_place: Whether the array may begin where the voxels begin, if it is not longer.
    """
    fits = np.dtype(dtype).itemsize <= voxels.itemsize
    if not (in_place and fits and voxels.flags.c_contiguous and voxels.flags.writeable):
        return np.empty(voxels.shape, dtype)
    room: np.ndarray = voxels.reshape(-1).view(dtype)[: voxels.size].reshape(voxels.shape)
    return room


def number(text: str) -> float:
    """The number in a text header; Python's ``float`` would take ``1_000``, too.

    Raises:
        ValueError: If it is none.
    """
    if "_" in text:
        raise ValueError(text)
    return float(text)


def labels_of(stored: Stored, where: str) -> np.ndarray:
    """The values as (z, y, x) uint8 labels.

    Raises:
        ValueRangeError: NN-VAL-005 if a voxel is NaN or infinite, NN-VAL-009 if a value is not a
            whole number in 0..255.
    """
    voxels = stored.voxels
    if voxels.dtype in (np.uint8, np.bool_) and (stored.slope, stored.intercept) == (1, 0):
        return voxels.astype(np.uint8)
    values = rescale(stored, where)
    if values.dtype != np.int16 or values.min() < 0 or values.max() > 255:
        raise ValueRangeError(
            "NN-VAL-009",
            f"a mask with values {values.min():g} to {values.max():g}",
            where,
            "store whole-number labels from 0 (background) to 255",
        )
    return values.astype(np.uint8)


def check_finite(values: np.ndarray, where: str) -> None:
    """Raise NN-VAL-005 if a value is NaN or infinite."""
    if not np.isfinite(values).all():
        raise ValueRangeError(
            "NN-VAL-005", "NaN or infinite voxels", where, "replace them or export the scan again"
        )


def check_hu(volume_hu: np.ndarray, where: str) -> None:
    """Refuse a volume that cannot be a chest CT in Hounsfield units.

    Air (lung) and soft tissue must both be there, and bright metal must be rare. Padding around the
    field of view (-2000, -3024 ...) counts as neither of them.

    Raises:
        ValueRangeError: NN-VAL-006 constant, NN-VAL-007 not HU.
    """
    low, high = float(volume_hu.min()), float(volume_hu.max())
    if low == high:
        raise ValueRangeError(
            "NN-VAL-006", f"every voxel is {low:g}", where, "export the scan again"
        )
    flat = volume_hu.reshape(-1)
    sample = flat[:: max(1, flat.size // _MAX_SAMPLES)].copy()

    def share(start: float, end: float) -> float:
        return np.count_nonzero((sample >= start) & (sample < end)) / sample.size

    if low >= 0:
        fault = "no negative value, so not Hounsfield units"
    elif share(4000, np.inf) > 0.05:
        fault = "more than 5 % above 4000 HU (wrong signedness or scale?)"
    elif share(-1300, -400) < 0.005:
        fault = "less than 0.5 % at the density of air or lung"
    elif share(-250, 250) < 0.005:
        fault = "less than 0.5 % at the density of soft tissue"
    else:
        return
    raise ValueRangeError(
        "NN-VAL-007",
        f"values {low:g} to {high:g}: {fault}",
        where,
        "give the CT in HU, not windowed or normalised",
    )
