"""The picture sheet of `normnet synthesize`: every step of Fig. 3, and what each setting does."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from normnet.config import Config, SynthesisConfig
from normnet.errors import InputError
from normnet.preparation.cache import STEP_HU, NormalCase
from normnet.preparation.prepare import LOWEST_HU
from normnet.preparation.window import scale_hu
from normnet.synthesis.generator import (
    SyntheticLesion,
    insert_lesions,
    sample_lesions,
    target_normal,
)
from normnet.synthesis.shapes import Blob
from normnet.synthesis.textures import sample_texture

WIDTH, MARGIN, GAP, CAPTION = 1840, 24, 12, 46  # pixels of the sheet
PAPER, INK, FAINT = (255, 255, 255), (25, 28, 33), (105, 110, 118)
NORMAL, LESION, CLIPPED = (64, 196, 128), (236, 64, 122), (120, 120, 128)
BLOB_COLOURS = (
    (236, 64, 122),
    (255, 167, 38),
    (66, 165, 245),
    (171, 71, 188),
    (255, 238, 88),
    (38, 198, 218),
    (156, 204, 101),
    (255, 112, 67),
)
LARGEST_FIELD_VOX = 112  # blobs in wider boxes are not shown enlarged


class Panel(NamedTuple):
    """One picture with its two lines of text."""

    picture: np.ndarray  # (h, w, 3) uint8
    title: str
    note: str


def draw_sheet(case: NormalCase, config: Config, seed: int) -> Image.Image:
    """Show how one slab of a normal CT gets its synthetic lesions.

    The first row shows Eqs. 2 to 9 and 1 on the patch of one lesion, the second row shows the whole
    slice, and the third row shows that lesion with each setting of the texture at both ends of its
    range.

    Args:
        case: A cached normal CT.
        config: All settings.
        seed: Shapes and textures follow from it.

    Raises:
        InputError: If the case has no lung, or nothing was drawn.
    """
    healthy, lung_mask = _fullest_slab(case, config)
    n_lung, rng = int(lung_mask.sum()), torch.Generator().manual_seed(seed)
    lesions = list(sample_lesions(lung_mask, n_lung, config.synthesis, rng))
    if not lesions:
        raise InputError(
            "NN-SYN-002",
            "no lesion was drawn",
            case.case_id,
            "raise n_small or n_medium in the config",
        )

    slab = insert_lesions(healthy, lesions)
    blobs = [lesion.blob for lesion in lesions]
    lesion = max(lesions, key=_shows_well)
    z = lesion.blob.low[0] + int(lesion.inside.sum(dim=(1, 2)).argmax())
    target = target_normal(healthy, slab.lesion_mask, config.window.tau)
    field = _field(lesion.blob, lung_mask.shape)
    images = {
        "H": healthy[z].numpy(),
        "A": slab.image[z].numpy(),
        "GT": target[z].numpy(),
        "G": slab.lesion_mask[z].numpy(),
    }

    rows = [
        (
            "One lesion, step by step",
            _step_panels(lesion, z, field, images),
            10,
        ),
        (
            f"The whole slice: {len(_crossing(blobs, z))} of the slab's {len(blobs)} "
            "separate shapes cross it",
            _slice_panels(blobs, z, images, lung_mask),
            50,
        ),
        (
            "The same lesion, one setting at either end of its range, the others in the middle",
            _variants(lesion, z, field, healthy, config.synthesis, seed),
            10,
        ),
    ]
    heading = (
        f"Synthetic lesions in {case.case_id}: slice {z + 1} of a slab of {healthy.shape[0]}, "
        f"seed {seed}"
    )
    return _compose(heading, rows, config.preparation.spacing_mm[1:])


def _fullest_slab(case: NormalCase, config: Config) -> tuple[torch.Tensor, torch.Tensor]:
    """Windowed lung and lung mask, (D, H, W), of the usable slab with the most lung.

    Lambda is 1 there.
    """
    depth = min(config.training.slab_vox[0], case.codes.shape[0])
    lung_mask = case.lung_mask & ~case.edge_mask
    per_slice = lung_mask.sum(axis=(1, 2)) * case.usable
    start = int(np.convolve(per_slice, np.ones(depth, int), mode="valid").argmax())
    if not per_slice[start : start + depth].any():
        raise InputError(
            "NN-SYN-001", "no usable slice with lung", case.case_id, "give another normal CT"
        )
    part = slice(start, start + depth)
    hu = case.codes[part].astype(np.float32) * STEP_HU + LOWEST_HU
    window = config.window
    healthy = scale_hu(hu, window) * lung_mask[part]
    return torch.from_numpy(healthy), torch.from_numpy(lung_mask[part])


def _shows_well(lesion: SyntheticLesion) -> tuple[bool, int]:
    """Highest for the largest cross-section in the lung that is small enough to be enlarged."""
    fits = max(lesion.inside.shape[1:]) <= LARGEST_FIELD_VOX
    area = int(lesion.inside.sum(dim=(1, 2)).max())
    return fits and area > 0, area if fits else -lesion.inside.numel()


def _crossing(blobs: list[Blob], z: int) -> list[Blob]:
    """The blobs that have voxels in slice z."""
    spans = ((blob, z - blob.low[0]) for blob in blobs)
    return [
        blob
        for blob, inner in spans
        if 0 <= inner < blob.shape_mask.shape[0] and blob.shape_mask[inner].any()
    ]


def _field(blob: Blob, slab: tuple[int, ...]) -> tuple[slice, slice]:
    """A square a little wider than the blob's box, moved into the slice where it would leave it."""
    side = min(max(64, max(blob.shape_mask.shape[1:]) + 12), *slab[1:])
    low = [
        min(max(0, first + n // 2 - side // 2), limit - side)
        for first, n, limit in zip(blob.low[1:], blob.shape_mask.shape[1:], slab[1:], strict=True)
    ]
    return slice(low[0], low[0] + side), slice(low[1], low[1] + side)


def _grey(image: np.ndarray, top: float = 1.0) -> np.ndarray:
    """(h, w) in [0, top] to (h, w, 3) uint8."""
    grey = np.rint(np.clip(image / top, 0, 1) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _tint(
    picture: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], alpha: float = 1.0
) -> np.ndarray:
    """Mix a colour into the masked pixels."""
    mixed = picture.astype(np.float32)
    mixed[mask] = (1 - alpha) * mixed[mask] + alpha * np.asarray(colour, np.float32)
    tinted: np.ndarray = np.rint(mixed).astype(np.uint8)
    return tinted


def _outline(mask: np.ndarray) -> np.ndarray:
    """The mask's own border pixels."""
    from scipy.ndimage import binary_erosion

    border: np.ndarray = mask & ~binary_erosion(mask, border_value=1)
    return border


def _on_slice(
    patch: np.ndarray, blob: Blob, plane: tuple[int, int], outside: float = 0.0
) -> np.ndarray:
    """A (h, w) patch of the blob's box put at its place in an otherwise constant slice."""
    whole = np.full(plane, outside, np.float32)
    whole[blob.box[1:]] = patch
    return whole


def _step_panels(
    lesion: SyntheticLesion, z: int, field: tuple[slice, slice], images: dict[str, np.ndarray]
) -> list[Panel]:
    blob, inside, steps = lesion
    plane, inner = images["H"].shape, z - blob.low[0]

    def patch(volume: torch.Tensor, top: float = 1.0) -> np.ndarray:
        picture = _grey(_on_slice(volume[inner].numpy(), blob, plane), top)
        beyond = np.ones(plane, bool)
        beyond[blob.box[1:]] = False
        return _tint(picture, beyond, (226, 228, 232))[field]

    shape = _grey(_on_slice(blob.shape_mask[inner].numpy(), blob, plane))
    clipped = _on_slice((blob.shape_mask & ~inside)[inner].numpy(), blob, plane) > 0
    low, high = float(steps.prob_map.min()), float(steps.prob_map.max())
    top = float(steps.filtered.max())
    target = _tint(_grey(images["A"] * 0.45), images["GT"], NORMAL)
    target = _tint(target, _outline(images["G"]), LESION)
    return [
        Panel(patch(steps.noise), "a1  uniform noise", "0 to 1"),
        Panel(
            patch(steps.prob_map, high),
            "a  probability map, Eq. 8",
            f"{low:.2f} to {high:.2f}, white is high",
        ),
        Panel(patch(steps.salt_noise), "b1  salt noise, Eq. 2", "1 with probability a"),
        Panel(patch(steps.filtered, top), "b2  filtered, Eq. 3", f"0 to {top:.2f}, white is high"),
        Panel(patch(steps.scaled), "B  scaled, clipped, Eq. 5", "0 to 1"),
        Panel(
            _tint(shape, clipped, CLIPPED)[field], "G  shape", "white: in the lung, grey: cut off"
        ),
        Panel(_grey(images["A"])[field], "A  inserted, Eq. 9", "max(H, B) inside G"),
        Panel(target[field], "GT  target, Eq. 1", "green: normal tissue to learn"),
    ]


def _slice_panels(
    blobs: list[Blob], z: int, images: dict[str, np.ndarray], lung_mask: torch.Tensor
) -> list[Panel]:
    plane = images["H"].shape
    shapes = _grey(images["H"] * 0.6)
    lung = lung_mask[z].numpy()
    for number, blob in enumerate(_crossing(blobs, z)):
        mask = _on_slice(blob.shape_mask[z - blob.low[0]].numpy(), blob, plane) > 0
        shapes = _tint(shapes, mask & lung, BLOB_COLOURS[number % len(BLOB_COLOURS)], 0.75)
    target = _tint(_grey(images["A"] * 0.45), images["GT"], NORMAL)
    target = _tint(target, _outline(images["G"]), LESION)
    return [
        Panel(_grey(images["H"]), "H  healthy lung", "windowed, erroneous edges removed"),
        Panel(shapes, "G  all shapes", "one colour each, merged where they touched"),
        Panel(_grey(images["A"]), "A  what the network sees", "H with all lesions"),
        Panel(
            target,
            "GT  what it should find",
            "green: normal tissue, magenta: outline of the lesions",
        ),
    ]


def _variants(
    lesion: SyntheticLesion,
    z: int,
    field: tuple[slice, slice],
    healthy: torch.Tensor,
    config: SynthesisConfig,
    seed: int,
) -> list[Panel]:
    """The lesion with sigma_a, sigma_b, a and mu0 at both ends of their ranges."""
    width = config.a_gap * 1.05
    low_a, high_a = config.a_limits

    def a_from(low: float) -> dict[str, object]:
        return {"a_limits": (low, low + width)}

    def sigma_b(value: float) -> dict[str, object]:
        return {"sigma_b_fine_vox": (value, value), "sigma_b_coarse_vox": (value, value)}

    def fixed(name: str, value: float) -> dict[str, object]:
        return {name: (value, value)}

    middle = fixed("sigma_a_vox", sum(config.sigma_a_vox) / 2) | sigma_b(
        sum(config.sigma_b_fine_vox) / 2
    )
    middle |= a_from((low_a + high_a - width) / 2) | fixed("mu0", sum(config.mu0) / 2)
    choices = []
    for word, end in (("small", 0), ("large", 1)):
        choices.append(
            (
                0,
                f"{word} sigma_a = {config.sigma_a_vox[end]:g}",
                fixed("sigma_a_vox", config.sigma_a_vox[end]),
            )
        )
        value = (config.sigma_b_fine_vox[0], config.sigma_b_coarse_vox[1])[end]
        choices.append((1, f"{word} sigma_b = {value:g}", sigma_b(value)))
        start = (low_a, high_a - width)[end]
        choices.append((2, f"{word} a = {start:.2f} to {start + width:.2f}", a_from(start)))
        choices.append((3, f"{word} mu0 = {config.mu0[end]:g}", fixed("mu0", config.mu0[end])))
    notes = (
        "voxels; smoothness of a",
        "voxels; smoothness of b2",
        "salt grains per voxel",
        "mean brightness of B",
    )
    panels = []
    for kind, title, values in sorted(choices, key=lambda choice: choice[0]):
        rng = torch.Generator().manual_seed(seed)
        settings = config.model_copy(update=middle | values)
        texture = sample_texture(tuple(lesion.inside.shape), settings, rng)
        image = insert_lesions(healthy, [lesion._replace(texture=texture)]).image
        panels.append(Panel(_grey(image[z].numpy())[field], title, notes[kind]))
    return panels


def _compose(
    heading: str, rows: list[tuple[str, list[Panel], int]], spacing_mm: tuple[float, ...]
) -> Image.Image:
    """Put titled rows of panels below each other, with a legend.

    The last panel of each row has a scale bar.
    """
    title_font, row_font, text_font, note_font = (
        ImageFont.load_default(size) for size in (30, 22, 17, 14)
    )
    placed, y = [], MARGIN + 52
    for title, panels, bar_mm in rows:
        width = (WIDTH - 2 * MARGIN - GAP * (len(panels) - 1)) // len(panels)
        mm = [n * s for n, s in zip(panels[0].picture.shape, spacing_mm, strict=False)]
        height = round(width * mm[0] / mm[1])
        placed.append((title, panels, bar_mm, width, height, y))
        y += 34 + CAPTION + height + 24
    sheet = Image.new("RGB", (WIDTH, y + 30), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 6), heading, INK, title_font)
    for title, panels, bar_mm, width, height, top in placed:
        draw.text((MARGIN, top), title, INK, row_font)
        picture_top = top + 34 + CAPTION
        for column, panel in enumerate(panels):
            left = MARGIN + column * (width + GAP)
            draw.text((left, top + 36), panel.title, INK, text_font)
            draw.text((left, top + 58), panel.note, FAINT, note_font)
            sheet.paste(
                Image.fromarray(panel.picture).resize((width, height), Image.Resampling.NEAREST),
                (left, picture_top),
            )
            if len(panels) == 4:
                draw.text((left + 8, picture_top + 6), "R", (200, 200, 205), row_font)
                draw.text(
                    (left + width - 8, picture_top + 6), "L", (200, 200, 205), row_font, anchor="ra"
                )
        length = round(bar_mm / spacing_mm[1] * width / panels[0].picture.shape[1])
        right, bottom = left + width - 12, picture_top + height - 12
        text = f"{bar_mm} mm"
        draw.rectangle((right - max(length, 52) - 6, bottom - 26, right + 6, bottom + 8), (0, 0, 0))
        draw.rectangle((right - length, bottom - 3, right, bottom), (255, 255, 255))
        draw.text((right, bottom - 23), text, (255, 255, 255), note_font, anchor="ra")

    x = MARGIN
    for colour, text in (
        (NORMAL, "normal bright tissue, the target"),
        (LESION, "outline of synthetic lesions"),
        (CLIPPED, "shape outside the lung, cut off"),
        ((226, 228, 232), "outside the lesion's patch"),
    ):
        draw.rectangle((x, y + 2, x + 16, y + 18), colour, outline=FAINT)
        draw.text((x + 24, y + 1), text, INK, note_font)
        x += 24 + int(draw.textlength(text, note_font)) + 28
    draw.text(
        (WIDTH - MARGIN, y + 1),
        "Seen from the feet: the patient's right is on the left, front on top.",
        FAINT,
        note_font,
        anchor="ra",
    )
    return sheet
