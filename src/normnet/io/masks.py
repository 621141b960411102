"""Masks and maps on the grid of a scan, in whatever orientation their file stores them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from normnet.errors import GeometryError
from normnet.io.formats.nifti import write_image
from normnet.io.read import read_stored
from normnet.io.values import Stored, labels_of
from normnet.scan import Geometry, Scan

_TOLERANCE_VOX = 0.1


def read_labels(path: Path | str, like: Scan) -> np.ndarray:
    """Read a label image onto the grid of a scan; it may be stored in any orientation.

    Args:
        path: An image file of any format in ``io.formats``.
        like: The scan it belongs to.

    Returns:
        (z, y, x) uint8, the shape of ``like``.

    Raises:
        GeometryError: NN-GEO-016 if the grids differ in more than the order and direction of their
            axes.
        ValueRangeError: NN-VAL-009 if the values are not labels.
    """
    path = Path(path)
    return labels_of(_reordered(read_stored(path), like, path.name), path.name)


def read_mask(path: Path | str, like: Scan) -> np.ndarray:
    """As ``read_labels``, but (z, y, x) bool: every label except 0 is inside."""
    return read_labels(path, like) > 0


def read_codes(path: Path | str, like: Scan) -> np.ndarray:
    """As ``read_labels``, but the whole numbers that a map stores, without its scale."""
    path = Path(path)
    stored = replace(_reordered(read_stored(path), like, path.name), slope=1.0, intercept=0.0)
    return labels_of(stored, path.name)


def write_mask(path: Path | str, mask: np.ndarray, geometry: Geometry) -> None:
    """Write a (z, y, x) bool or uint8 array as ``.nii.gz``; raises as ``write_image``."""
    write_image(Path(path), mask, geometry)


def _reordered(stored: Stored, like: Scan, where: str) -> Stored:
    """Flip and permute the axes of a mask or a map to those of the scan.

    Only the affines decide how, never the shapes. Of slices that were averaged in the scan, one per
    group stays.
    """
    labels, geometry, shape = stored.voxels, stored.geometry, like.file_shape
    # From an index of the mask to the index of the scan.
    step = np.linalg.solve(like.file_geometry.affine, geometry.affine)
    # The axis of the scan along which each axis of the mask runs.
    axes = np.argmax(np.abs(step[:3, :3]), axis=0)
    if sorted(axes) == [0, 1, 2]:
        flips = tuple(axis for axis in range(3) if step[axes[axis], axis] < 0)
        order = np.argsort(axes)
        moved = np.flip(labels, flips).transpose(order)
        first = np.array([labels.shape[axis] - 1 if axis in flips else 0 for axis in range(3)])
        last = np.array([n - 1 for n in labels.shape]) - first
        corners = step @ np.column_stack([[*first, 1.0], [*last, 1.0]])
        expected = np.column_stack([np.zeros(3), np.array(moved.shape) - 1.0])
        if moved.shape == shape and np.abs(corners[:3] - expected).max() <= _TOLERANCE_VOX:
            thinned = moved if like.joined is None else like.joined.thinned(moved)
            return replace(stored, voxels=np.ascontiguousarray(thinned))
    found = f"mask {_grid(labels.shape, geometry)} on a scan {_grid(shape, like.file_geometry)}"
    raise GeometryError("NN-GEO-016", found, where, "resample the mask onto the grid of the scan")


def _grid(shape: tuple[int, ...], geometry: Geometry) -> str:
    size = " x ".join(str(n) for n in shape)
    spacing = " x ".join(f"{v:.4g}" for v in geometry.spacing_mm)
    origin = ", ".join(f"{v:.4g}" for v in geometry.origin_mm)
    return f"of {size} voxels, {spacing} mm, origin ({origin})"
