"""What may make the numbers of a scan unreliable: one list of flags.

Most flags belong to a warning, which says more: a ``Doubt`` of any stage carries its flag. Three
are measured here and have no warning: thick slices, noise and contrast medium.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from normnet.preparation.orient import Orientation
from normnet.scan import Doubt, Scan

# Each flag and when it is raised. The thresholds of those with a warning stand where they are made.
FLAGS = {
    "thick_slices": "the slices are more than 3 mm apart",
    "noise": "soft tissue has a standard deviation of more than 45 HU within 6 mm",
    "contrast_medium": "more than 25 % of the tissue between the lungs has more than 100 HU",
    "breath_out": "the lungs are far denser than in a deep inspiration, or disease is all over",
    "motion": "a slice does not fit its neighbours (motion, or damaged data)",
    "lungs_cut": "the border of the scan cuts the lungs",
    "dense_lung_left_out": "dense tissue lies in bays or holes of the lung mask",
    "lung_slices_disagree": "slices of the lung mask differ from both neighbours",
    "lung_missing": "a lung is not in view, or less than half the other",
    "orientation_unsure": "the image may be turned or mirrored",
    "hu_scale": "the HU of air, fat and muscle are not those of a CT",
}
# Of the data sets tried, slices of 5 mm moved the volume by 9 % (docs/results.md).
THICK_MM = 3.0
# Noise of 60 HU moved the volume by up to 5 %, of 40 HU by up to 1.5 % (docs/results.md).
NOISE_HU = 45.0
# 8 CTs whose source states contrast medium have 35 to 73 % there; of 21 without such a statement 17
# have 0 to 16 %, the others 42 % and more (docs/explanation/quantification.md).
CONTRAST_HU, CONTRAST_SHARE = (100.0, 700.0), 0.25
N_PLANES, SQUARE_MM, SPINE_MM, MIN_VOX = 12, 6.0, 60.0, 200
SOFT_HU, MOST_SD_HU, SD_BIN_HU = (0.0, 100.0), 150.0, 2.0


def describe_quality(
    scan: Scan, lung_labels: np.ndarray, warnings: Iterable[str]
) -> dict[str, Any]:
    """The flags of a scan, and the numbers behind those that have no warning.

    Args:
        scan: As read.
        lung_labels: The scan's shape, 1 right, 2 left.
        warnings: Of all stages before; a ``Doubt`` among them has a flag.

    Returns:
        ``flags``: ids in the order of ``FLAGS``; ``slice_mm``: distance of the slices along the
        body; ``noise_hu``; ``contrast_percent``. The last two are None where they are unknown.
    """
    orientation = Orientation.of(scan.geometry)
    spacing_mm = orientation.spacing_mm(scan.geometry)
    volume_hu, labels = (orientation.apply(array) for array in (scan.volume_hu, lung_labels))
    slice_mm = max(spacing_mm)
    noise_hu, contrast = _look_at_tissue(volume_hu, labels, spacing_mm)
    raised = {doubt.flag for doubt in warnings if isinstance(doubt, Doubt)}
    if slice_mm > THICK_MM:
        raised.add("thick_slices")
    if noise_hu is not None and noise_hu > NOISE_HU:
        raised.add("noise")
    if contrast is not None and contrast > CONTRAST_SHARE:
        raised.add("contrast_medium")
    return {
        "flags": [flag for flag in FLAGS if flag in raised],
        "slice_mm": round(slice_mm, 4),
        "noise_hu": None if noise_hu is None else round(noise_hu, 1),
        "contrast_percent": None if contrast is None else round(100 * contrast, 1),
    }


def _look_at_tissue(
    volume_hu: np.ndarray, labels: np.ndarray, spacing_mm: tuple[float, ...]
) -> tuple[float | None, float | None]:
    """Noise and contrast medium, from 12 planes spread over the lungs.

    Noise: the most frequent standard deviation of small squares of soft tissue, as in
    doi:10.2214/AJR.14.13613. Contrast medium: the share of the tissue between the lungs and in
    front of the spine that is as dense as blood with contrast medium, averaged over the square.

    Returns:
        HU, and a share; None where there is too little such tissue.
    """
    from scipy.ndimage import uniform_filter

    levels = np.flatnonzero(labels.any(axis=(1, 2)))
    places = np.linspace(levels[0], levels[-1], N_PLANES + 2)[1:-1].round().astype(int)
    size = max(3, round(SQUARE_MM / spacing_mm[2]) // 2 * 2 + 1)
    deviations, between = [], []
    for z in np.unique(places):
        plane = volume_hu[z].astype(np.float32)
        mean = uniform_filter(plane, size)
        spread = uniform_filter(plane * plane, size) - mean * mean
        sd = np.sqrt(np.maximum(spread, 0) * (size**2 / (size**2 - 1)))
        soft = (mean > SOFT_HU[0]) & (mean < SOFT_HU[1]) & (sd < MOST_SD_HU)
        deviations.append(sd[soft])
        between.append(mean[_between(labels[z], size, spacing_mm[1])])
    noise_hu = contrast = None
    all_sd, all_hu = np.concatenate(deviations), np.concatenate(between)
    if len(all_sd) >= MIN_VOX:
        edges = np.arange(0, MOST_SD_HU + SD_BIN_HU, SD_BIN_HU)
        smooth = np.convolve(np.histogram(all_sd, edges)[0], (1, 2, 3, 2, 1), "same")
        noise_hu = float(edges[smooth.argmax()] + SD_BIN_HU / 2)
    if len(all_hu) >= MIN_VOX:
        low, high = CONTRAST_HU
        contrast = float(((all_hu > low) & (all_hu < high)).mean())
    return noise_hu, contrast


def _between(labels: np.ndarray, margin: int, row_mm: float) -> np.ndarray:
    """(y, x) bool: between both lungs, a square away from them, in front of the spine."""
    right, left = labels == 1, labels == 2
    n = labels.shape[1]
    from_column = n - 1 - right[:, ::-1].argmax(axis=1) + margin
    to_column = left.argmax(axis=1) - margin
    lung_rows = np.flatnonzero((right | left).any(axis=1))
    back = lung_rows[-1] - SPINE_MM / row_mm if len(lung_rows) else -1
    rows = right.any(axis=1) & left.any(axis=1) & (np.arange(len(labels)) < back)
    columns = np.arange(n)
    inside: np.ndarray = (
        rows[:, None] & (columns >= from_column[:, None]) & (columns < to_column[:, None])
    )
    return inside
