"""``preview.png``: axial and coronal slices with the lesions, as a radiologist reads them.

The patient's right is on the left of the picture. In axial slices the front is above, in coronal
slices the head. The axial slices run from head to foot, the coronal ones from front to back.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from normnet.filters import bounding_box
from normnet.preparation.orient import Orientation

if TYPE_CHECKING:
    from normnet.pipeline import Segmentation
    from normnet.scan import Scan

WINDOW_HU = (-1350.0, 150.0)  # lung window: centre -600, width 1500
LESION = (255, 122, 0)
LUNGS = {1: (70, 190, 255), 2: (120, 225, 140)}  # right, left
TEXT, DIM, PAPER = (236, 236, 236), (160, 160, 160), (16, 16, 16)
OVERLAY_ALPHA = 0.35
N_AXIAL, N_CORONAL, N_COLUMNS = 8, 3, 4
TILE_PX, GAP_PX, HEAD_PX, FOOT_PX = 340, 6, 84, 46
MARGIN_MM = 14.0
BAR_MM = 50.0


def draw_preview(
    scan: Scan, segmentation: Segmentation, caption: str = "", model_name: str = ""
) -> Image.Image:
    """Draw a sheet of slices with lungs and lesions.

    Args:
        scan: As read, any orientation.
        segmentation: Its ``lesion_mask``, ``lung_labels`` and ``volumes`` are shown.
        caption: Line with the numbers, as made by ``write_caption``.
        model_name: Line that names the model.

    Returns:
        RGB picture.
    """
    orientation = Orientation.of(scan.geometry)
    geometry = orientation.geometry(scan.geometry, scan.shape)
    hu = orientation.apply(scan.volume_hu)
    lungs = orientation.apply(segmentation.lung_labels)
    lesions = orientation.apply(segmentation.lesion_mask)
    box = lungs_box(lungs, geometry.spacing_mm)
    dz, dy, _ = geometry.spacing_mm
    depth_mm, height_mm, width_mm = (
        (part.stop - part.start) * d for part, d in zip(box, geometry.spacing_mm, strict=True)
    )
    px_per_mm = TILE_PX / width_mm
    axial_px = max(1, round(height_mm * px_per_mm))
    row_px = N_COLUMNS * TILE_PX + (N_COLUMNS - 1) * GAP_PX
    coronal_scale = (row_px - (N_CORONAL - 1) * GAP_PX) / (N_CORONAL * width_mm)
    coronal_size = (round(width_mm * coronal_scale), max(1, round(depth_mm * coronal_scale)))
    n_rows = -(-N_AXIAL // N_COLUMNS)
    width = N_COLUMNS * TILE_PX + (N_COLUMNS + 1) * GAP_PX
    height = HEAD_PX + n_rows * (axial_px + GAP_PX) + coronal_size[1] + GAP_PX + FOOT_PX
    sheet = Image.new("RGB", (width, height), PAPER)

    inner = lungs[box], lesions[box]
    for place, inner_z in enumerate(choose_slices(*inner, 0, N_AXIAL)[::-1]):
        z = inner_z + box[0].start
        cut = (z, box[1], box[2])
        tile = _tile(hu[cut], lungs[cut], lesions[cut], (TILE_PX, axial_px))
        index = scan.shape[orientation.axes[0]] - 1 - z if orientation.flips[0] else z
        index = scan.file_slice(index, orientation.axes[0])
        annotate(
            tile,
            f"slice {index}",
            f"z {geometry.origin_mm[0] + z * dz:.0f} mm",
            px_per_mm,
            bar=place == 0,
        )
        row, column = divmod(place, N_COLUMNS)
        sheet.paste(
            tile, (GAP_PX + column * (TILE_PX + GAP_PX), HEAD_PX + row * (axial_px + GAP_PX))
        )
    for place, inner_y in enumerate(choose_slices(*inner, 1, N_CORONAL)):
        y = inner_y + box[1].start
        coronal = (box[0], y, box[2])
        hu_plane, lung_plane, lesion_plane = (
            array[coronal][::-1] for array in (hu, lungs, lesions)
        )
        tile = _tile(hu_plane, lung_plane, lesion_plane, coronal_size)
        annotate(
            tile,
            "coronal",
            f"y {geometry.origin_mm[1] + y * dy:.0f} mm",
            coronal_scale,
            bar=place == 0,
        )
        sheet.paste(
            tile,
            (GAP_PX + place * (coronal_size[0] + GAP_PX), HEAD_PX + n_rows * (axial_px + GAP_PX)),
        )
    _head(sheet, scan, caption, model_name)
    _legend(sheet, segmentation)
    return sheet


def choose_slices(lungs: np.ndarray, lesions: np.ndarray, axis: int, n: int) -> list[int]:
    """Choose slices for the sheet, spread over the lungs, with much lesion.

    The lungs without their outermost fiftieth on both sides are divided into ``n`` stretches. Of
    each the slice with the most lesion is chosen, slices near its middle being preferred; its
    middle where there is no lesion. The slice with the most lesion of all is always chosen.

    Args:
        lungs: (z, y, x), 0 outside.
        lesions: Same shape, bool.
        axis: Across which to cut.
        n: How many at most.

    Returns:
        Ascending indices.
    """
    share = np.cumsum(_count_planes(lungs, axis))
    first, last = 0, lungs.shape[axis] - 1
    if share[-1]:
        first, last = (int(np.searchsorted(share, share[-1] * part)) for part in (0.02, 0.98))
    area = _count_planes(lesions, axis).astype(float)
    area[:first], area[last + 1 :] = 0, 0
    edges = np.linspace(first, last + 1, min(n, last - first + 1) + 1).round().astype(int)
    chosen = []
    for start, stop in pairwise(edges.tolist()):
        centre = (start + stop - 1) / 2
        # Prefers the middle: neighbours look alike.
        nearness = 1 - 0.8 * np.abs(np.arange(start, stop) - centre) / (stop - start)
        stretch = area[start:stop] * nearness
        if start <= area.argmax() < stop:
            stretch = area[start:stop]
        chosen.append(int(start + stretch.argmax()) if stretch.any() else int(centre))
    return chosen


def _count_planes(mask: np.ndarray, axis: int) -> np.ndarray:
    """How many voxels are not 0 in each plane across axis 0 or 1."""
    counts: np.ndarray = np.count_nonzero(mask, axis=2).sum(axis=1 - axis)
    return counts


def lungs_box(lungs: np.ndarray, spacing_mm: tuple[float, ...]) -> tuple[slice, slice, slice]:
    """The box around the lungs with a margin; the whole array where there are no lungs."""
    z, y, x = (slice(0, n) for n in lungs.shape)
    if lungs.any():
        z, y, x = bounding_box(lungs, [round(MARGIN_MM / own) for own in spacing_mm])
    return z, y, x


def _tile(
    hu: np.ndarray, lungs: np.ndarray, lesions: np.ndarray, size: tuple[int, int]
) -> Image.Image:
    """One slice of ``size`` (width, height) pixels, with lungs outlined and lesions tinted."""
    canvas = grey_canvas(hu, size)
    for label, colour in LUNGS.items():
        canvas[outline(enlarge(lungs == label, size))] = np.array(colour) * 0.85
    shade(canvas, enlarge(lesions, size), LESION, OVERLAY_ALPHA)
    return as_picture(canvas)


def grey_canvas(hu: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A slice in the lung window, (height, width, 3) float32 of 0 to 255."""
    low, high = WINDOW_HU
    grey = np.clip((hu.astype(np.float32) - low) * (255 / (high - low)), 0, 255).astype(np.uint8)
    large = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC))
    return np.repeat(large[..., None], 3, 2).astype(np.float32)


def shade(canvas: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], alpha: float) -> None:
    """Tint a mask on the canvas and draw its outline."""
    canvas[mask] = (1 - alpha) * canvas[mask] + alpha * np.array(colour)
    canvas[outline(mask)] = colour


def as_picture(canvas: np.ndarray) -> Image.Image:
    """The canvas as an RGB picture."""
    return Image.fromarray(canvas.round().astype(np.uint8))


def enlarge(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask resized to (width, height) pixels, smoothly: linear interpolation, cut at one half."""
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    enlarged: np.ndarray = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
    return enlarged >= 128


def outline(mask: np.ndarray) -> np.ndarray:
    """The outermost pixels of a mask."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    border: np.ndarray = mask & ~inner
    return border


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def write(
    draw: ImageDraw.ImageDraw,
    xy: tuple[float, float],
    text: str,
    size: int,
    anchor: str = "la",
    fill: tuple[int, int, int] = TEXT,
) -> None:
    """Write text with a dark rim, readable on any slice."""
    draw.text(
        xy, text, font=_font(size), fill=fill, anchor=anchor, stroke_width=1, stroke_fill=(0, 0, 0)
    )


def annotate(tile: Image.Image, name: str, position: str, px_per_mm: float, bar: bool) -> None:
    """Write sides, name and position on a slice, and draw a scale bar where wanted."""
    draw = ImageDraw.Draw(tile)
    width, height = tile.size
    write(draw, (7, height / 2), "R", 17, "lm")
    write(draw, (width - 7, height / 2), "L", 17, "rm")
    write(draw, (7, 5), name, 13)
    write(draw, (width - 7, 5), position, 13, "ra")
    if bar:
        length, y = BAR_MM * px_per_mm, height - 9
        for colour, wide in (((0, 0, 0), 5), (TEXT, 2)):
            draw.line([(9, y), (9 + length, y)], fill=colour, width=wide)
            for x in (9, 9 + length):
                draw.line([(x, y - 4), (x, y + 4)], fill=colour, width=wide)
        write(draw, (9 + length / 2, y - 6), f"{BAR_MM / 10:.0f} cm", 13, "mb")


def _head(sheet: Image.Image, scan: Scan, caption: str, model_name: str) -> None:
    draw = ImageDraw.Draw(sheet)
    dz, dy, dx = scan.file_geometry.spacing_mm
    nz, ny, nx = scan.file_shape
    write(draw, (GAP_PX + 4, 10), _fitting(scan.case_id, 56), 24)
    write(draw, (GAP_PX + 4, 46), caption, 21, fill=LESION)
    right = sheet.width - GAP_PX - 4
    write(draw, (right, 10), "Research use only, not a medical device", 17, "ra")
    write(draw, (right, 35), model_name, 14, "ra", DIM)
    grid = f"{nz} x {ny} x {nx} voxels of {dz:.3g} x {dy:.3g} x {dx:.3g} mm"
    write(draw, (right, 56), f"{grid}; lung window -600 / 1500 HU", 14, "ra", DIM)


def _legend(sheet: Image.Image, segmentation: Segmentation) -> None:
    draw = ImageDraw.Draw(sheet)
    middle = sheet.height - FOOT_PX / 2
    x: float = GAP_PX + 6
    rows = [(LESION, "lesions", segmentation.volumes["both"]["lesion_ml"], True)]
    for label, side in ((1, "right"), (2, "left")):
        row = segmentation.volumes[side]
        share = "" if row["lesion_percent"] is None else f", {row['lesion_percent']:.1f} % lesion"
        rows.append((LUNGS[label], f"{side} lung{share}", row["lung_ml"], False))
    for colour, name, ml, filled in rows:
        inside = tuple(round(c * OVERLAY_ALPHA) for c in colour) if filled else None
        draw.rectangle([x, middle - 8, x + 22, middle + 8], outline=colour, fill=inside, width=2)
        text = f"{name}: {ml:.1f} ml" if filled else f"{name}: {ml:.0f} ml"
        write(draw, (x + 30, middle), text, 16, "lm")
        x += 30 + draw.textlength(text, font=_font(16)) + 34
    write(draw, (sheet.width - GAP_PX - 4, middle), "R: the patient's right", 14, "rm", DIM)


def _fitting(text: str, n: int) -> str:
    return text if len(text) <= n else f"{text[: n - 3]}..."
