"""The pictures of a report: key slices across and along the body, with the lesions as a layer."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from normnet.preparation.orient import Orientation
from normnet.results.preview import (
    BAR_MM,
    LESION,
    LUNGS,
    OVERLAY_ALPHA,
    as_picture,
    choose_slices,
    enlarge,
    grey_canvas,
    lungs_box,
    outline,
)
from normnet.scan import Scan

N_AXIAL, N_CORONAL = 6, 2
WIDTH_PX = 640
JPEG_QUALITY = 88


@dataclass(frozen=True)
class View:
    """One slice, as large in the picture as in the patient: the same mm per pixel both ways.

    Attributes:
        plane: ``axial`` or ``coronal``.
        index: Number of the slice in the order of the file, from 0.
        n_slices: Slices of that direction.
        position_mm: Along the body (axial, z) or from front to back (coronal, y), LPS.
        lesion_cm2: Area of the lesions in it.
        picture: JPEG in the lung window, without marks.
        marks: PNG of the same size, transparent but for lungs' outlines and lesions.
        width_px, height_px: Of both pictures.
        bar_px: Length of the scale bar, ``bar_mm``.
        bar_mm: What the scale bar measures.
    """

    plane: str
    index: int
    n_slices: int
    position_mm: float
    lesion_cm2: float
    picture: bytes
    marks: bytes
    width_px: int
    height_px: int
    bar_px: float
    bar_mm: float = BAR_MM


def draw_views(scan: Scan, lung_labels: np.ndarray, lesion_mask: np.ndarray) -> list[View]:
    """Draw the slices that show most, seen from the feet and from the front.

    The patient's right is on the left. Axial slices run from head to foot, coronal ones from front
    to back.

    Args:
        scan: As read, any orientation.
        lung_labels: The scan's shape, 1 right, 2 left.
        lesion_mask: Same shape, bool.
    """
    orientation = Orientation.of(scan.geometry)
    geometry = orientation.geometry(scan.geometry, scan.shape)
    hu, lungs, lesions = (
        orientation.apply(array) for array in (scan.volume_hu, lung_labels, lesion_mask)
    )
    box = lungs_box(lungs, geometry.spacing_mm)
    views = []
    for axis, plane, n in ((0, "axial", N_AXIAL), (1, "coronal", N_CORONAL)):
        chosen = choose_slices(lungs, lesions, axis, n)
        spacing_mm = [s for other, s in enumerate(geometry.spacing_mm) if other != axis]
        flipped = orientation.flips[axis]
        for place in chosen[::-1] if axis == 0 else chosen:
            cut = (place, box[1], box[2]) if axis == 0 else (box[0], place, box[2])
            upward = slice(None, None, 1 if axis == 0 else -1)  # the head is above
            found = lesions[cut][upward]
            size, px_per_mm = _size(found.shape, spacing_mm)
            picture, marks = _draw(hu[cut][upward], lungs[cut][upward], found, size)
            index = hu.shape[axis] - 1 - place if flipped else place
            views.append(
                View(
                    plane,
                    scan.file_slice(index, orientation.axes[axis]),
                    scan.file_shape[orientation.axes[axis]],
                    geometry.origin_mm[axis] + place * geometry.spacing_mm[axis],
                    float(np.count_nonzero(found)) * spacing_mm[0] * spacing_mm[1] / 100,
                    picture,
                    marks,
                    *size,
                    BAR_MM * px_per_mm,
                )
            )
    return views


def _size(shape: tuple[int, ...], spacing_mm: list[float]) -> tuple[tuple[int, int], float]:
    """(width, height) in pixels, and pixels per mm."""
    height_mm, width_mm = shape[0] * spacing_mm[0], shape[1] * spacing_mm[1]
    px_per_mm = WIDTH_PX / width_mm
    return (WIDTH_PX, max(1, round(height_mm * px_per_mm))), px_per_mm


def _draw(
    hu: np.ndarray, lungs: np.ndarray, lesions: np.ndarray, size: tuple[int, int]
) -> tuple[bytes, bytes]:
    """A slice as JPEG, and its marks as transparent PNG."""
    marks = np.zeros((size[1], size[0], 4), np.uint8)
    for label, colour in LUNGS.items():
        marks[outline(enlarge(lungs == label, size))] = (*colour, 216)
    found = enlarge(lesions, size)
    marks[found] = (*LESION, round(255 * OVERLAY_ALPHA))
    marks[outline(found)] = (*LESION, 255)
    files = []
    for image, kind, options in (
        (as_picture(grey_canvas(hu, size)).convert("L"), "JPEG", {"quality": JPEG_QUALITY}),
        (Image.fromarray(marks), "PNG", {"optimize": False}),
    ):
        file = io.BytesIO()
        image.save(file, kind, **options)
        files.append(file.getvalue())
    return files[0], files[1]
