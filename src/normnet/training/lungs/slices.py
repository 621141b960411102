"""Axial training slices with lung masks, from volumes and from archives of single slices."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from normnet.config import LungsConfig
from normnet.datasets.manifest import read_cases
from normnet.errors import InputError
from normnet.io.masks import read_mask
from normnet.io.read import read_ct
from normnet.lungs.learned import seen_slices
from normnet.preparation.orient import Orientation
from normnet.preparation.resample import Grid, resample
from normnet.scan import Scan
from normnet.training.lungs.segmenter import LungSlice

THIN_MM, THICK_MM = 2.0, 6.0  # every volume is shown at its own thickness and as thick slices


def volume_slices(
    scan: Scan, lung_mask: np.ndarray, config: LungsConfig, excluded: frozenset[int] = frozenset()
) -> list[LungSlice]:
    """Slices of one CT at ``pixel_mm`` with their neighbours, as they are and as thick slices.

    Args:
        scan: As read.
        lung_mask: Shape of the scan, 0 outside the lungs.
        config: Pixel size.
        excluded: Slices of the file not to learn from.
    """
    orientation = Orientation.of(scan.geometry)
    hu, mask = orientation.apply(scan.volume_hu), orientation.apply(lung_mask) > 0
    keep = ~np.isin(np.arange(hu.shape[0]), list(excluded))
    if orientation.flips[0]:
        keep = keep[::-1]
    spacing = orientation.spacing_mm(scan.geometry)
    step = (1.0, config.pixel_mm / spacing[1], config.pixel_mm / spacing[2])
    shape = (hu.shape[0], int(hu.shape[1] / step[1]), int(hu.shape[2] / step[2]))
    grid = Grid((0, 0, 0), step, shape)
    hu = resample(hu.astype(np.float32), grid, outside=config.low_hu)
    part = resample(mask.astype(np.float32), grid)
    slices = []
    for thickness in (0.0, THICK_MM):
        together = max(1 if thickness == 0 else 2, round(thickness / spacing[0]))
        every = max(1, round((THIN_MM if thickness == 0 else 0.7 * THICK_MM) / spacing[0]))
        last = len(hu) - together
        if last < 0:
            continue
        apart = seen_slices(spacing[0], config)
        images = _running_means(hu, together).astype(np.int16)
        masks = _running_means(part, together) > 0.5
        for z in range(0, last + 1, every):
            if keep[z : z + together].all():
                rows = (z + apart).clip(0, last)
                slices.append(
                    LungSlice(
                        images, masks, tuple(rows), config.pixel_mm, tuple(apart * spacing[0])
                    )
                )
    return slices


def _running_means(volume: np.ndarray, together: int) -> np.ndarray:
    """Means of ``together`` slices in a row, one for each first slice."""
    n = len(volume) - together + 1
    total = volume[:n].copy()
    for k in range(1, together):
        total += volume[k : k + n]
    return total / together


def archive_slices(
    path: Path, config: LungsConfig, to_hu: tuple[float, float] | None = None
) -> list[LungSlice]:
    """Single slices from an ``.npz``; their neighbours are copies.

    ``images`` (N, H, W) uint8 with ``slope`` and ``inter`` to HU, ``masks`` (N, H, ⌈W / 8⌉) bits or
    (N, H, W), and, optional, ``pixel_mm`` (1.4 without it).

    Args:
        path: The archive.
        config: How many neighbours a slice has.
        to_hu: Slope and intercept to use instead of the archive's own, where those do not give HU.

    Raises:
        InputError: If it cannot be read as that.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            slope, inter = to_hu or (float(file["slope"]), float(file["inter"]))
            images = (
                np.rint(file["images"].astype(np.float32) * slope + inter)
                .clip(-1024, 3071)
                .astype(np.int16)
            )
            masks, width = file["masks"], images.shape[-1]
            if masks.shape == (*images.shape[:-1], -(-width // 8)):
                masks = np.unpackbits(masks, axis=-1, count=width)
            if masks.shape != images.shape:
                raise ValueError(f"masks of {masks.shape} on images of {images.shape}")
            pixel_mm = float(file["pixel_mm"]) if "pixel_mm" in file else 1.4
            n_seen, masks = config.n_seen, masks.astype(bool)
            return [
                LungSlice(images, masks, (z,) * n_seen, pixel_mm, (0.0,) * n_seen)
                for z in range(len(images))
            ]
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        zlib.error,
        zipfile.BadZipFile,
    ) as error:
        raise InputError(
            "NN-DAT-003", "not an archive of slices", str(path), "see normnet.training.lungs.slices"
        ) from error


def read_lung_slices(
    inputs: list[Path],
    config: LungsConfig,
    leave_out: frozenset[str] = frozenset(),
    archive_to_hu: tuple[float, float] | None = None,
) -> list[LungSlice]:
    """All training slices of manifests and archives.

    Args:
        inputs: CSV manifests, of which the rows with a lung mask and with split ``train`` or none
            count, and ``.npz``.
        config: Pixel size.
        leave_out: Names of cases to leave out.
        archive_to_hu: See ``archive_slices``.

    Raises:
        InputError: If an input is neither, or nothing with a lung mask is found.
    """
    slices = []
    for path in inputs:
        if path.suffix == ".npz":
            slices += archive_slices(path, config, archive_to_hu)
        elif path.suffix == ".csv":
            for case in read_cases(path):
                if (
                    case.lung_mask is None
                    or case.split not in ("", "train")
                    or case.case_id in leave_out
                ):
                    continue
                scan = read_ct(case.image)
                slices += volume_slices(
                    scan, read_mask(case.lung_mask, scan), config, case.excluded_slices
                )
        else:
            raise InputError(
                "NN-DAT-004",
                "neither a CSV manifest nor an .npz archive",
                str(path),
                "see the README",
            )
    if not any(item.lung_mask.any() for item in slices):
        raise InputError(
            "NN-DAT-005", "no slice with a lung mask", ", ".join(map(str, inputs)), "give masks"
        )
    return slices
