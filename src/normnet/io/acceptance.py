"""The one gate for scans: what a reader made of a file and what a caller made in Python."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from normnet.errors import GeometryError, ValueRangeError
from normnet.io.appearance import check_appearance
from normnet.io.geometry import check_geometry
from normnet.io.limits import check_size, check_thickness
from normnet.io.values import Stored, check_finite, check_hu, labels_of, rescale
from normnet.scan import Scan

_AS_READ = (np.dtype(np.int16), np.dtype(np.float32))


def accept(scan: Scan, where: str = "") -> Scan:
    """Check everything that the stages rely on.

    Args:
        scan: From a reader or a caller.
        where: File for messages; the scan's ``case_id`` if empty.

    Returns:
        The scan with int16 or float32 HU, and with a warning for each thing that is doubtful.

    Raises:
        GeometryError: NN-GEO-009 to 013 or 017.
        ValueRangeError: NN-VAL-005 to 008 or 011 to 013.
        ResourceError: NN-RES-001 larger than the limits.
    """
    where = where or " ".join(str(scan.case_id).split())
    _check_array(scan.volume_hu, where)
    check_geometry(scan.geometry, where)
    if scan.volume_hu.dtype in _AS_READ:
        for plane in scan.volume_hu if scan.volume_hu.dtype.kind == "f" else ():
            check_finite(plane, where)
    else:
        scan = replace(scan, volume_hu=rescale(Stored(scan.volume_hu, scan.geometry), where))
    check_hu(scan.volume_hu, where)
    warnings = (*scan.warnings, *check_appearance(scan, where))
    return replace(scan, warnings=tuple(dict.fromkeys(warnings)))


def accept_labels(labels: np.ndarray, scan: Scan) -> np.ndarray:
    """Check labels that a caller gives on the grid of a scan.

    Args:
        labels: (z, y, x) bool, or whole numbers from 0 to 255 of any type.
        scan: The scan they belong to.

    Returns:
        (z, y, x) uint8.

    Raises:
        GeometryError: NN-GEO-031 if the shapes differ.
        ValueRangeError: NN-VAL-005 NaN or infinite, 008 no numbers, 009 no labels.
    """
    where = f"labels of {' '.join(str(scan.case_id).split())}"
    _check_type(labels, where)
    if labels.shape != scan.shape:
        found = f"labels {labels.shape}, scan {scan.shape}"
        raise GeometryError("NN-GEO-031", found, where, "use one grid")
    return labels_of(Stored(labels, scan.geometry), where)


def _check_array(volume_hu: np.ndarray, where: str) -> None:
    _check_type(volume_hu, where)
    if volume_hu.dtype == bool:
        raise ValueRangeError("NN-VAL-008", "a mask, not HU", where, "give the CT")
    if volume_hu.ndim != 3:
        raise GeometryError(
            "NN-GEO-013", f"{volume_hu.ndim} dimensions", where, "give one three-dimensional volume"
        )
    check_thickness(volume_hu.shape, where)
    check_size(volume_hu.shape, where)


def _check_type(array: np.ndarray, where: str) -> None:
    """Refuse what is no array of whole or real numbers."""
    if not isinstance(array, np.ndarray):
        found = f"a {type(array).__name__}, not a numpy array"
    elif array.dtype.kind not in "iufb":
        found = f"voxel type {str(array.dtype)[:40]}"
    else:
        return
    raise ValueRangeError("NN-VAL-008", found, where, "give whole or real numbers")
