"""Axial training slices with lung masks, from volumes and from archives of single slices."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from normnet.config import LungsConfig
from normnet.datasets.manifest import Case, read_cases
from normnet.datasets.reading import read_lungs, read_scan
from normnet.errors import InputError
from normnet.io.fingerprint import digest_of, fingerprint
from normnet.io.npz import read_npz
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
    keep = ~scan.holds_slices(orientation.axes[0], excluded)
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
        InputError: NN-DAT-003 if it cannot be read as that, or holds NaN or infinity.
        ResourceError: NN-RES-003 if it inflates beyond the limits.
    """
    try:
        arrays = read_npz(path)
        slope, inter = to_hu or (float(arrays["slope"]), float(arrays["inter"]))
        images, masks = arrays["images"], arrays["masks"]
        pixel_mm = float(arrays.get("pixel_mm", 1.4))
        if images.ndim != 3 or images.size == 0 or images.dtype.kind not in "uif":
            raise ValueError(f"images of shape {images.shape}")
        if not (np.isfinite([slope, inter]).all() and slope > 0 and 0.1 <= pixel_mm <= 20):
            raise ValueError("a scale or a pixel size that cannot be")
        if masks.shape == (*images.shape[:-1], -(-images.shape[-1] // 8)):
            masks = np.unpackbits(masks, axis=-1, count=images.shape[-1])
        if masks.shape != images.shape or masks.dtype.kind not in "bui":
            raise ValueError(f"masks of {masks.shape} on images of {images.shape}")
        images_hu = np.empty(images.shape, np.int16)
        for target, image in zip(images_hu, images, strict=True):
            values = np.rint(image.astype(np.float32) * slope + inter)
            if not np.isfinite(values).all():
                raise ValueError("NaN or infinite pixels")
            target[...] = values.clip(-1024, 3071)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            "NN-DAT-003",
            "not an archive of slices",
            path.name,
            "see normnet.training.lungs.slices",
        ) from error
    n_seen, masks = config.n_seen, masks.astype(bool)
    return [
        LungSlice(images_hu, masks, (z,) * n_seen, pixel_mm, (0.0,) * n_seen)
        for z in range(len(images_hu))
    ]


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
            continue
        for case in _listed(path, leave_out):
            scan = read_scan(case)
            lungs = read_lungs(case, scan)
            assert lungs is not None
            slices += volume_slices(scan, lungs, config, case.excluded_slices)
    if not any(item.lung_mask.any() for item in slices):
        raise InputError(
            "NN-DAT-005", "no slice with a lung mask", ", ".join(map(str, inputs)), "give masks"
        )
    return slices


def fingerprints(
    inputs: list[Path], leave_out: frozenset[str] = frozenset()
) -> dict[str, dict[str, str]]:
    """What ``read_lung_slices`` reads: of each input its cases, each with a hash of its files.

    Args:
        inputs: As ``read_lung_slices`` takes them.
        leave_out: Names of cases to leave out.

    Raises:
        InputError: If an input is neither a list nor an archive.
    """
    found = {}
    for n, path in enumerate(inputs, 1):
        if path.suffix == ".npz":
            hashes = {"archive": fingerprint(path)}
        else:
            hashes = {
                case.case_id: digest_of(
                    [
                        fingerprint(case.image),
                        fingerprint(case.lung_mask) if case.lung_mask else "",
                        sorted(case.excluded_slices),
                        case.reading(),
                    ]
                )
                for case in _listed(path, leave_out)
            }
        found[f"{n}: {path.name}"] = hashes
    return found


def _listed(path: Path, leave_out: frozenset[str]) -> list[Case]:
    """The cases of a list that have a lung mask and split ``train`` or none.

    Raises:
        InputError: NN-DAT-004 if the file is no list.
    """
    if path.suffix != ".csv":
        raise InputError(
            "NN-DAT-004", "neither a CSV manifest nor an .npz archive", str(path), "see the README"
        )
    return [
        case
        for case in read_cases(path)
        if case.lung_mask is not None
        and case.split in ("", "train")
        and case.case_id not in leave_out
    ]
