"""From single slices to one regular stack, or the error that says why they form none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np

from normnet.errors import GeometryError
from normnet.io.dicom.header import Slice
from normnet.io.geometry import check_spacing, geometry_from_axes
from normnet.io.limits import check_extent
from normnet.scan import Geometry

SAME_PLACE_MM = 0.005
# Of the spacing, off an even grid; above 1 % because decimal strings are rounded.
SILENT_JITTER = 0.0101
REFUSED_JITTER = 0.05  # of the spacing, from one slice to the next
# Positions rounded to 0.1 mm: so much from one slice to the next, and off an even grid.
ROUNDED_STEP_MM, ROUNDED_POSITION_MM = 0.12, 0.08
REFUSED_DRIFT = 0.5  # of the spacing, off an even grid
MAX_TILT_DEGREES = 0.5
MAX_SHIFT_MM = 1.0
_ORIENTATION_TOLERANCE = 1e-3
_EXPORT = "export the whole series"
_RESAMPLE = "resample it onto a regular grid, or export another series"


def order_slices(
    slices: Sequence[Slice],
    same_pixels: Callable[[Slice, Slice], bool],
    where: str,
    warnings: list[str],
) -> list[Slice]:
    """Slices of one series, ascending along their patient axis, identical duplicates dropped.

    Args:
        slices: In any order; file names and InstanceNumber do not matter.
        same_pixels: Whether two slices at one place have the same pixels.
        where: Folder name for messages.
        warnings: Every kind of oddity that is accepted adds a line.

    Raises:
        GeometryError: NN-GEO-003, 006, 007, 008, 012 or 014.
    """
    first = slices[0]
    for item in slices:
        _check_alike(first, item)
    ordered = sorted(slices, key=lambda item: (item.position @ first.normal, item.path.name))
    kept = ordered[:1]
    for item in ordered[1:]:
        step = item.position - kept[-1].position
        if step @ first.normal > SAME_PLACE_MM:
            kept.append(item)
        elif np.linalg.norm(step) > SAME_PLACE_MM or not same_pixels(kept[-1], item):
            raise GeometryError(
                "NN-GEO-003",
                f"two different slices at z = {item.offset_mm:.2f} mm",
                f"{kept[-1].path.name} and {item.path.name}",
                "keep one of them (two phases or reconstructions in one folder?)",
            )
    if len(kept) < 2:
        raise GeometryError("NN-GEO-012", "a single slice", where, "give the whole series")
    n_silent = sum(not item.has_modality for item in kept)
    if n_silent:
        found = f"{n_silent} slices have no Modality; their class is that of a CT"
        warnings.append(f"{where}: {found}")
    if len(kept) < len(slices):
        warnings.append(f"{where}: {len(slices) - len(kept)} duplicate slices were dropped")
    return kept


def stack_geometry(slices: Sequence[Slice], where: str, warnings: list[str]) -> Geometry:
    """Geometry of the (z, y, x) stack of ordered slices.

    Raises:
        GeometryError: NN-GEO-002 missing slice, 004 uneven spacing, 005 tilt or shift, 011 spacing,
            041 larger than any scanner.
    """
    positions = np.array([item.position for item in slices])
    normal = slices[0].normal
    offsets = positions @ normal
    _check_straight(positions, normal, offsets, where)
    spacing = _check_even(offsets, where, warnings)
    check_spacing(np.array([spacing]), where)
    thickness = slices[0].thickness_mm
    if 0 < thickness < spacing / 2:
        found = f"slices of {thickness:g} mm lie {spacing:g} mm apart"
        warnings.append(f"{where}: {found}; lung between them is unseen")
    between_rows, between_columns = slices[0].pixel_spacing_mm
    along_row, along_column = slices[0].orientation
    axes = np.column_stack(
        [along_row * between_columns, along_column * between_rows, normal * spacing]
    )
    geometry = geometry_from_axes(axes, positions[0], where)
    check_extent((len(slices), slices[0].rows, slices[0].columns), geometry, where)
    return geometry


def _check_alike(first: Slice, item: Slice) -> None:
    where = f"{first.path.name} and {item.path.name}"
    keep = "keep the slices of one reconstruction"
    if np.abs(item.orientation - first.orientation).max() > _ORIENTATION_TOLERANCE:
        raise GeometryError("NN-GEO-006", "slices of different orientation", where, keep)
    if (item.rows, item.columns) != (first.rows, first.columns):
        sizes = f"{first.rows} x {first.columns} and {item.rows} x {item.columns}"
        raise GeometryError("NN-GEO-007", f"slices of {sizes} pixels", where, keep)
    if not np.allclose(item.pixel_spacing_mm, first.pixel_spacing_mm, rtol=1e-4, atol=0):
        raise GeometryError("NN-GEO-008", "slices of different PixelSpacing", where, keep)
    if item.frame_uid != first.frame_uid:
        raise GeometryError("NN-GEO-014", "slices of different frames of reference", where, keep)


def _check_straight(
    positions: np.ndarray, normal: np.ndarray, offsets: np.ndarray, where: str
) -> None:
    """Check that every slice lies straight above the first."""
    sideways = positions - positions[0] - np.outer(offsets - offsets[0], normal)  # (n, 3)
    height = offsets[-1] - offsets[0]
    tilt = np.degrees(np.arctan2(np.linalg.norm(sideways[-1]), height))
    if tilt > MAX_TILT_DEGREES:
        raise GeometryError("NN-GEO-005", f"gantry tilt of {tilt:.1f} degrees", where, _RESAMPLE)
    bent = sideways - np.outer((offsets - offsets[0]) / height, sideways[-1])
    shift = np.linalg.norm(bent, axis=1)
    if shift.max() > MAX_SHIFT_MM:
        z = offsets[np.argmax(shift)]
        raise GeometryError(
            "NN-GEO-005",
            f"slice at z = {z:.2f} mm shifted by {shift.max():.1f} mm",
            where,
            _RESAMPLE,
        )


def _check_even(offsets: np.ndarray, where: str, warnings: list[str]) -> float:
    """Check that the slices are evenly spaced; their spacing in mm."""
    steps = np.diff(offsets)
    usual = float(np.median(steps))
    n_steps = np.round(steps / usual)
    gaps = np.flatnonzero(n_steps > 1)
    n_missing = (n_steps[gaps] - 1).sum()
    few = len(gaps) <= max(3, len(steps) // 10) and n_missing <= len(steps)
    if n_missing and few and np.abs(steps / usual - n_steps).max() <= 2 * REFUSED_JITTER:
        missing = (offsets[g] + usual * k for g in gaps for k in range(1, int(n_steps[g])))
        shown = ", ".join(f"{z:.2f}" for z in islice(missing, 5))
        shown += " ..." if n_missing > 5 else ""
        raise GeometryError(
            "NN-GEO-002", f"missing slices ({n_missing:.0f}) at z = {shown} mm", where, _EXPORT
        )
    spacing = float(offsets[-1] - offsets[0]) / len(steps)
    off_mm = np.abs(offsets - offsets[0] - spacing * np.arange(len(offsets))).max()
    jitter_mm = np.abs(steps - spacing).max()
    rounded = jitter_mm <= ROUNDED_STEP_MM and _residual(offsets) <= ROUNDED_POSITION_MM
    uneven = jitter_mm > REFUSED_JITTER * spacing and not rounded
    if uneven or off_mm > REFUSED_DRIFT * spacing:
        worst_z = offsets[int(np.argmax(np.abs(steps - usual)))]
        found = f"spacing varies from {steps.min():.3g} to {steps.max():.3g} mm"
        raise GeometryError(
            "NN-GEO-004", f"{found}, first at z = {worst_z:.2f} mm", where, _RESAMPLE
        )
    if off_mm > SILENT_JITTER * spacing:
        found = f"slices lie up to {off_mm:.2f} mm off an even grid"
        warnings.append(f"{where}: {found}; taken as even")
    return spacing


def _residual(offsets: np.ndarray) -> float:
    """Largest distance in mm of a position from the straight line that fits them best."""
    index = np.arange(len(offsets))
    return float(np.abs(offsets - np.polyval(np.polyfit(index, offsets, 1), index)).max())
