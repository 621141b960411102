"""Scans that are too large to be worked on in memory: neighbouring slices are averaged.

Error ids: NN-RES-001 not even the averages fit, or the slices would become too thick.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from normnet.errors import ResourceError
from normnet.io.limits import MAX_HELD_VOXELS, MAX_JOINED_MM
from normnet.scan import Geometry, Joined, Scan

_INT16 = np.iinfo(np.int16)


def join_slices(scan: Scan, where: str = "") -> Scan:
    """Average neighbouring slices of a scan that is too large, so that it fits in memory.

    Groups are as small as possible. The networks see slices of 1 mm, so that averages of thinner
    slices lose nothing.

    Args:
        scan: As read, any orientation.
        where: File for messages; the scan's ``case_id`` if empty.

    Returns:
        The scan itself where it fits. Else int16 HU, with ``joined`` set and a warning more.

    Raises:
        ResourceError: NN-RES-001.
    """
    if scan.volume_hu.size <= MAX_HELD_VOXELS:
        return scan
    joined = _group(scan.shape, scan.geometry, where or " ".join(str(scan.case_id).split()))
    slice_mm = scan.geometry.spacing_mm[joined.axis]
    told = (
        f"{joined.n_slices} slices of {slice_mm:.4g} mm were averaged in groups of {joined.size}, "
        "so that they fit in memory; the masks have the scan's own slices"
    )
    return replace(
        scan,
        volume_hu=_average(scan.volume_hu, joined),
        geometry=joined.averaged_geometry(scan.geometry),
        warnings=(*scan.warnings, told),
        joined=joined,
    )


def check_held(scan: Scan) -> None:
    """Refuse a scan that is too large to be worked on, which a caller made in Python.

    Raises:
        ResourceError: NN-RES-001.
    """
    if scan.volume_hu.size > MAX_HELD_VOXELS:
        todo = "average its slices with normnet.io.joining.join_slices"
        raise _too_large(scan.shape, "", " ".join(str(scan.case_id).split()), todo)


def _group(shape: tuple[int, ...], geometry: Geometry, where: str) -> Joined:
    """The smallest groups of slices whose averages fit in memory."""
    axis = geometry.body_axis
    n_slices, slice_mm = shape[axis], geometry.spacing_mm[axis]
    most = MAX_HELD_VOXELS // (math.prod(shape) // n_slices)  # slices
    size = math.ceil(n_slices / max(most, 1))
    if most < 2 or size * slice_mm > MAX_JOINED_MM:
        found = f", and averages of {size} slices of {slice_mm:.4g} mm would be too thick"
        raise _too_large(shape, found, where, "crop or resample it")
    return Joined(axis, size, n_slices)


def _average(volume_hu: np.ndarray, joined: Joined) -> np.ndarray:
    """The means of the groups, as int16."""
    starts = np.arange(0, joined.n_slices, joined.size)
    shape = [len(starts) if axis == joined.axis else n for axis, n in enumerate(volume_hu.shape)]
    averaged = np.empty(shape, np.int16)

    def store(target: np.ndarray, mean_hu: np.ndarray) -> None:
        target[...] = np.rint(mean_hu).clip(_INT16.min, _INT16.max)

    if joined.axis == 0:
        for target, start in zip(averaged, starts, strict=True):
            group = volume_hu[start : start + joined.size]
            store(target, group.mean(axis=0, dtype=np.float32))
        return averaged
    counts = np.diff(starts, append=joined.n_slices).astype(np.float32)
    for target, plane in zip(averaged, volume_hu, strict=True):
        sums = np.add.reduceat(plane, starts, axis=joined.axis - 1, dtype=np.float32)
        store(target, sums / (counts[:, None] if joined.axis == 1 else counts))
    return averaged


def _too_large(shape: tuple[int, ...], more: str, where: str, todo: str) -> ResourceError:
    size = " x ".join(str(n) for n in shape)
    found = f"a volume of {size} voxels; {MAX_HELD_VOXELS} fit in memory{more}"
    return ResourceError("NN-RES-001", found, where, todo)
