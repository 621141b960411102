"""``comparison.png``: the same heights of the lungs in both scans, at one scale and in one window.

The patient's right is on the left of each slice. The columns run from head to foot. With a
registration a third row shows on the earlier scan which lesions stayed, came and went.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from normnet.followup.registration import GONE, KEPT, NEW, View
from normnet.results.preview import (
    DIM,
    LESION,
    LUNGS,
    MARGIN_MM,
    OVERLAY_ALPHA,
    PAPER,
    annotate,
    as_picture,
    enlarge,
    grey_canvas,
    outline,
    shade,
    write,
)

N_PLACES, TILE_PX, GAP_PX, HEAD_PX, FOOT_PX, LINE_PX = 6, 300, 6, 70, 42, 20
N_LEVELS = 120
# Colours that people with any kind of colour blindness tell apart (doi:10.1038/nmeth.1618).
CHANGES = {
    KEPT: ("in both", (240, 228, 66)),
    NEW: ("only later", (213, 94, 0)),
    GONE: ("only earlier", (204, 121, 167)),
}


class Shown(NamedTuple):
    """One scan of the picture.

    Attributes:
        name: Heading of its row.
        view: Its masks.
        volume_hu: (z, y, x), turned as the masks; None where the CT is not at hand.
    """

    name: str
    view: View
    volume_hu: np.ndarray | None


def draw_comparison(
    earlier: Shown,
    later: Shown,
    comparison: dict[str, Any],
    change: np.ndarray | None = None,
) -> Image.Image:
    """Draw both scans slice by slice.

    Args:
        earlier: The first scan.
        later: The second scan.
        comparison: As made by ``compare``; its numbers and warnings are written.
        change: As ``Registered`` has it, on the grid of the earlier scan.

    Returns:
        RGB picture.
    """
    centres = [_centre_mm(shown.view) for shown in (earlier, later)]
    height_mm, width_mm = (
        max(_extent_mm(shown.view, axis) for shown in (earlier, later)) + 2 * MARGIN_MM
        for axis in (1, 2)
    )
    px_per_mm = TILE_PX / width_mm
    size = (TILE_PX, max(1, round(height_mm * px_per_mm)))
    warnings = [f"Warning: {text}" for text in comparison["warnings"]]
    rows: list[tuple[Shown, tuple[float, float], np.ndarray | None]]
    rows = [(earlier, centres[0], None), (later, centres[1], None)]
    if change is not None:
        rows.append((earlier, centres[0], change))
    width = N_PLACES * (TILE_PX + GAP_PX) + GAP_PX
    head = HEAD_PX + LINE_PX * len(warnings)
    sheet = Image.new("RGB", (width, head + len(rows) * (size[1] + GAP_PX) + FOOT_PX), PAPER)
    places = choose_places(earlier.view, later.view)
    for row, (shown, centre_mm, changes) in enumerate(rows):
        for column, place in enumerate(places):
            z = _plane_at(shown.view, place)
            tile = _tile(shown, z, centre_mm, changes, (height_mm, width_mm), size)
            name = shown.name if changes is None else "change"
            annotate(
                tile,
                name if column == 0 else "",
                f"{100 * place:.0f} % of height",
                px_per_mm,
                bar=column == 0,
            )
            corner = (GAP_PX + column * (TILE_PX + GAP_PX), head + row * (size[1] + GAP_PX))
            sheet.paste(tile, corner)
    _head(sheet, comparison, warnings)
    _legend(sheet, change is not None)
    return sheet


def choose_places(earlier: View, later: View) -> list[float]:
    """Heights in the lungs, 0 at their base and 1 at their top, from head to foot.

    The height is divided into ``N_PLACES`` parts. Of each part the height with the largest area of
    lesion in both scans is chosen, heights near its middle being preferred; its middle where there
    is no lesion.
    """
    levels = (np.arange(N_LEVELS) + 0.5) / N_LEVELS
    area = np.zeros(N_LEVELS)
    for view in (earlier, later):
        of_plane = view.lesion_mask.sum(axis=(1, 2)) * view.spacing_mm[1] * view.spacing_mm[2]
        area += of_plane[[_plane_at(view, float(level)) for level in levels]]
    chosen = []
    for part in np.array_split(np.arange(N_LEVELS), N_PLACES):
        nearness = 1 - 1.6 * np.abs(np.arange(len(part)) - len(part) / 2) / len(part)
        best = part[(area[part] * nearness).argmax()] if area[part].any() else part[len(part) // 2]
        chosen.append(float(levels[best]))
    return chosen[::-1]


def _plane_at(view: View, place: float) -> int:
    planes = np.flatnonzero(view.lung_labels.any(axis=(1, 2)))
    return int(planes[0] + min(place, 0.999999) * (planes[-1] - planes[0] + 1))


def _span(view: View, axis: int) -> tuple[int, int]:
    others = tuple(a for a in range(3) if a != axis)
    hits = np.flatnonzero(view.lung_labels.any(axis=others))
    return int(hits[0]), int(hits[-1]) + 1


def _extent_mm(view: View, axis: int) -> float:
    first, last = _span(view, axis)
    return (last - first) * float(view.spacing_mm[axis])


def _centre_mm(view: View) -> tuple[float, float]:
    """(y, x) of the middle of the lungs' box, in mm from the outer edge of the first voxel."""
    y, x = (sum(_span(view, axis)) / 2 * float(view.spacing_mm[axis]) for axis in (1, 2))
    return y, x


def _tile(
    shown: Shown,
    z: int,
    centre_mm: tuple[float, float],
    change: np.ndarray | None,
    field_mm: tuple[float, float],
    size: tuple[int, int],
) -> Image.Image:
    """A slice around the middle of the lungs; what lies beyond the scan is black."""
    view = shown.view

    def cut(plane: np.ndarray, outside: float) -> np.ndarray:
        spans = []
        for axis in (0, 1):
            spacing = view.spacing_mm[axis + 1]
            first = round((centre_mm[axis] - field_mm[axis] / 2) / spacing)
            spans.append((first, first + max(1, round(field_mm[axis] / spacing))))
        part = np.full([stop - start for start, stop in spans], outside, plane.dtype)
        inner = tuple(
            slice(max(0, start), max(0, min(n, stop)))
            for (start, stop), n in zip(spans, plane.shape, strict=True)
        )
        target = tuple(
            slice(piece.start - start, piece.stop - start)
            for piece, (start, _) in zip(inner, spans, strict=True)
        )
        part[target] = plane[inner]
        return part

    labels = cut(view.lung_labels[z], 0)
    if shown.volume_hu is None:
        canvas = np.zeros((size[1], size[0], 3), np.float32)
    else:
        canvas = grey_canvas(cut(shown.volume_hu[z], -1024), size)
    for label, colour in LUNGS.items():
        canvas[outline(enlarge(labels == label, size))] = np.array(colour) * 0.85
    if change is None:
        shade(canvas, enlarge(cut(view.lesion_mask[z], 0), size), LESION, OVERLAY_ALPHA)
    else:
        here = cut(change[z], 0)
        for value, (_, colour) in CHANGES.items():
            shade(canvas, enlarge(here == value, size), colour, OVERLAY_ALPHA)
    return as_picture(canvas)


def _head(sheet: Image.Image, comparison: dict[str, Any], warnings: list[str]) -> None:
    draw = ImageDraw.Draw(sheet)
    row = comparison["regions"]["both"]
    names = [comparison[when]["case_id"][:40] for when in ("earlier", "later")]
    write(draw, (GAP_PX + 4, 8), f"{names[0]} and {names[1]}", 21)
    text = (
        f"Lesions {row['earlier_lesion_ml']:.1f} and {row['later_lesion_ml']:.1f} ml: change "
        f"{row['change_ml']:+.1f} ml"
    )
    if row["change_ml_low"] is not None:
        text += f" ({row['change_ml_low']:+.1f} to {row['change_ml_high']:+.1f})"
    write(draw, (GAP_PX + 4, 38), text, 19, fill=LESION)
    right = sheet.width - GAP_PX - 4
    write(draw, (right, 8), "Research use only, not a medical device", 17, "ra")
    write(draw, (right, 36), "lung window -600 / 1500 HU", 14, "ra", DIM)
    for n, line in enumerate(warnings):
        write(draw, (GAP_PX + 4, HEAD_PX - 4 + n * LINE_PX), line, 15)


def _legend(sheet: Image.Image, with_change: bool) -> None:
    draw = ImageDraw.Draw(sheet)
    middle, x = sheet.height - FOOT_PX / 2, GAP_PX + 6.0
    entries = [("lesions", LESION), ("right lung", LUNGS[1]), ("left lung", LUNGS[2])]
    if with_change:
        entries += list(CHANGES.values())
    for name, colour in entries:
        draw.rectangle([x, middle - 8, x + 22, middle + 8], outline=colour, width=2)
        write(draw, (x + 30, middle), name, 15, "lm")
        x += 60 + 8.5 * len(name)
    right = sheet.width - GAP_PX - 4
    write(draw, (right, middle), "R: the patient's right", 14, "rm", DIM)
