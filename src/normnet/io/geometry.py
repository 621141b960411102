"""From the axes that a file stores to a checked ``Geometry``, and back to axes for writers."""

from __future__ import annotations

import numpy as np

from normnet.errors import GeometryError
from normnet.scan import Geometry, Triple

MIN_SPACING_MM = 0.01
MAX_SPACING_MM = 20.0
ORTHONORMAL_TOLERANCE = 1e-3

# The first two patient axes change sign between RAS+ (NIfTI) and LPS+ (DICOM, ITK).
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def check_spacing(spacing_mm: np.ndarray, where: str) -> None:
    """Refuse spacings that no chest CT has.

    Raises:
        GeometryError: NN-GEO-011 if zero, negative, not finite, or beyond the limits.
    """
    values = np.asarray(spacing_mm, dtype=float)
    good = np.isfinite(values) & (values >= MIN_SPACING_MM) & (values <= MAX_SPACING_MM)
    if not good.all():
        shown = " x ".join(f"{v:g}" for v in values)
        raise GeometryError(
            "NN-GEO-011",
            f"voxel spacing {shown} mm (allowed: {MIN_SPACING_MM:g} to {MAX_SPACING_MM:g})",
            where,
            "correct the header or export the scan again",
        )


def geometry_from_axes(axes_xyz: np.ndarray, origin_xyz: np.ndarray, where: str) -> Geometry:
    """Geometry of an array that a file stores with its fastest axis first.

    Args:
        axes_xyz: (3, 3) in mm; column n is the step along the file's n-th axis, LPS+ (x, y, z).
        origin_xyz: (3,) in mm; position of the first voxel, LPS+ (x, y, z).
        where: File name for messages.

    Raises:
        GeometryError: NN-GEO-010 not finite or sheared, NN-GEO-011 spacing.
    """
    axes = np.asarray(axes_xyz, dtype=float)
    origin = np.asarray(origin_xyz, dtype=float)
    if not (np.isfinite(axes).all() and np.isfinite(origin).all()):
        raise GeometryError(
            "NN-GEO-010", "NaN or infinity in the orientation", where, "correct the header"
        )
    spacing = np.linalg.norm(axes, axis=0)
    check_spacing(spacing, where)
    direction = axes / spacing + 0.0  # no negative zeros
    if shear_of(axes) > ORTHONORMAL_TOLERANCE:
        raise GeometryError(
            "NN-GEO-010",
            "axes that are not at right angles (shear)",
            where,
            "resample it onto a regular grid",
        )
    rows = direction[::-1, ::-1]
    return Geometry(
        spacing_mm=_triple(spacing[::-1]),
        origin_mm=_triple(origin[::-1]),
        direction=(_triple(rows[0]), _triple(rows[1]), _triple(rows[2])),
    )


def check_geometry(geometry: Geometry, where: str) -> None:
    """Refuse a geometry that no file could have given.

    Raises:
        GeometryError: NN-GEO-009 if a number is missing, else as ``geometry_from_axes``.
    """
    try:
        spacing = np.array(geometry.spacing_mm, dtype=float)
        origin = np.array(geometry.origin_mm, dtype=float)
        direction = np.array(geometry.direction, dtype=float)
        complete = (spacing.shape, origin.shape, direction.shape) == ((3,), (3,), (3, 3))
    except (TypeError, ValueError):
        complete = False
    if not complete:
        raise GeometryError(
            "NN-GEO-009",
            "spacing, origin and direction are not 3, 3 and 3 x 3 numbers",
            where,
            "give all of them",
        )
    check_spacing(spacing, where)
    unit_length = np.abs(np.linalg.norm(direction, axis=0) - 1) <= ORTHONORMAL_TOLERANCE
    if np.isfinite(direction).all() and not unit_length.all():
        raise GeometryError(
            "NN-GEO-010", "directions that are not of length 1", where, "correct the direction"
        )
    geometry_from_axes(*axes_of(geometry), where)


def shear_of(axes_xyz: np.ndarray) -> float:
    """The largest cosine between two of three axes, the columns; NaN if one has no length."""
    with np.errstate(invalid="ignore"):
        direction = axes_xyz / np.linalg.norm(axes_xyz, axis=0)
    return float(np.abs(direction.T @ direction - np.eye(3)).max())


def axes_of(geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Inverse of ``geometry_from_axes``.

    Returns:
        (3, 3) steps in mm as columns, and the (3,) origin in mm; both LPS+ (x, y, z).
    """
    affine = geometry.affine
    return affine[:3, :3][::-1, ::-1].copy(), affine[:3, 3][::-1].copy()


def _triple(values: np.ndarray) -> Triple:
    first, second, third = (float(value) for value in values)
    return first, second, third
