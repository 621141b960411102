"""The slices where a mask and its reference differ most."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from normnet.preparation.orient import Orientation
from normnet.results.preview import (
    GAP_PX,
    PAPER,
    TEXT,
    TILE_PX,
    annotate,
    as_picture,
    enlarge,
    grey_canvas,
    lungs_box,
    outline,
    shade,
    write,
)
from normnet.scan import Scan

FOUND, MISSED, EXTRA, LUNG = (90, 210, 90), (70, 140, 255), (255, 70, 60), (200, 200, 90)
ALPHA, N_SLICES, APART_MM = 0.3, 4, 15.0
HEAD_PX, FOOT_PX = 34, 40


def draw_worst_slices(
    scan: Scan,
    lung_labels: np.ndarray,
    lesion_mask: np.ndarray,
    reference_mask: np.ndarray,
    n: int = N_SLICES,
) -> Image.Image:
    """The slices with the most wrong voxels, at least 15 mm apart.

    The upper row shows the slices alone, the lower row shows what was found, missed and marked too
    much.

    Args:
        scan: As read, any orientation.
        lung_labels: The scan's shape, 0 outside the lungs.
        lesion_mask: Same shape, bool.
        reference_mask: Same shape, bool.
        n: Largest number of slices.

    Returns:
        RGB picture, the worst slice first.
    """
    orientation = Orientation.of(scan.geometry)
    geometry = orientation.geometry(scan.geometry, scan.shape)
    arrays = (scan.volume_hu, lung_labels, lesion_mask, reference_mask)
    hu, lungs, lesions, reference = (orientation.apply(array) for array in arrays)
    box = lungs_box(lungs, geometry.spacing_mm)
    dz, dy, dx = geometry.spacing_mm
    height_mm, width_mm = (box[1].stop - box[1].start) * dy, (box[2].stop - box[2].start) * dx
    size = (TILE_PX, max(1, round(TILE_PX * height_mm / width_mm)))
    chosen = choose_worst((lesions ^ reference).sum(axis=(1, 2)), max(1, round(APART_MM / dz)), n)
    width = max(len(chosen), 2) * (TILE_PX + GAP_PX) + GAP_PX
    sheet = Image.new("RGB", (width, HEAD_PX + 2 * (size[1] + GAP_PX) + FOOT_PX), PAPER)
    for place, z in enumerate(chosen):
        cut = (z, box[1], box[2])
        canvas = grey_canvas(hu[cut], size)
        unmarked = as_picture(canvas)
        canvas[outline(enlarge(lungs[cut] > 0, size))] = LUNG
        found, wanted = enlarge(lesions[cut], size), enlarge(reference[cut], size)
        for part, colour in (
            (found & wanted, FOUND),
            (wanted & ~found, MISSED),
            (found & ~wanted, EXTRA),
        ):
            shade(canvas, part, colour, ALPHA)
        index = scan.shape[orientation.axes[0]] - 1 - z if orientation.flips[0] else z
        index = scan.file_slice(index, orientation.axes[0])
        for row, tile in enumerate((unmarked, as_picture(canvas))):
            annotate(tile, f"slice {index}", "", TILE_PX / width_mm, bar=row == place == 0)
            sheet.paste(
                tile, (GAP_PX + place * (TILE_PX + GAP_PX), HEAD_PX + row * (size[1] + GAP_PX))
            )
    draw = ImageDraw.Draw(sheet)
    write(draw, (GAP_PX + 4, 8), f"{scan.case_id}: worst slices; lung window -600 / 1500 HU", 16)
    x, middle = GAP_PX + 6.0, sheet.height - FOOT_PX / 2
    for colour, name in (
        (FOUND, "found"),
        (MISSED, "missed"),
        (EXTRA, "too much"),
        (LUNG, "lungs"),
    ):
        draw.rectangle([x, middle - 8, x + 22, middle + 8], outline=colour, width=2)
        write(draw, (x + 30, middle), name, 15, "lm", TEXT)
        x += 130
    return sheet


def choose_worst(wrong: np.ndarray, apart: int, n: int) -> list[int]:
    """Indices of the largest values, at least ``apart`` from each other.

    Args:
        wrong: (z,) number of wrong voxels in each slice.
        apart: Least distance of two indices.
        n: Largest number of indices.

    Returns:
        At least one index; further ones only where there are wrong voxels.
    """
    left = wrong.astype(float)
    chosen: list[int] = []
    while len(chosen) < n and (left.max() > 0 or not chosen):
        z = int(left.argmax())
        chosen.append(z)
        left[max(0, z - apart + 1) : z + apart] = 0
    return chosen
