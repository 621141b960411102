"""Whether the HU of air, lung, fat and muscle, and the orientation of a volume are plausible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from normnet.filters import block_means
from normnet.scan import Doubt, Scan

BLOCK_MM = 2.5  # voxels are averaged over cubes of about this edge, against noise
EVEN_HU = 30.0  # largest step between neighbouring blocks inside one tissue ...
EVEN_PER_CENT = 25.0  # ... or the step that so many per cent of the soft tissue stay below
BIN_HU = 5.0
MIN_BLOCKS = 60  # fewer are no tissue
MIN_SHARE = 0.02  # of the highest peak of the soft tissue
# Between which HU each tissue is looked for; an offset of 60 HU does not lead out of them.
AIR_HU, LUNG_HU = (-1200.0, -880.0), (-1000.0, -500.0)
FAT_HU, MUSCLE_HU = (-180.0, -25.0), (-30.0, 200.0)
FAT_TO_MUSCLE_HU = (125.0, 180.0)
# Usual HU; 40 CTs differ by 15 HU at most. Muscle that differs by more holds contrast medium.
USUAL_FAT_HU, USUAL_MUSCLE_HU, CONTRAST_HU = -103.0, 46.0, 35.0
OFFSET_HU = 22.0
LOWEST_AIR_HU = -1040.0
NIFTI_IDENTITY = np.diag([1.0, -1.0, -1.0])  # the directions of an affine that is the identity


@dataclass(frozen=True)
class TissuePeaks:
    """The most frequent HU of each tissue; None where the tissue is not in view.

    Attributes:
        air_hu: Air around the body, without voxels of one constant value (padding).
        lung_hu: Air inside the body.
        fat_hu: Fat, about -105 HU.
        muscle_hu: The soft tissue that lies above fat as muscle does, about 45 HU; where there is
            none, the densest peak of soft tissue, which contrast medium may have raised.
    """

    air_hu: float | None = None
    lung_hu: float | None = None
    fat_hu: float | None = None
    muscle_hu: float | None = None


def tissue_peaks(scan: Scan) -> TissuePeaks:
    """Find the peaks of air, lung, fat and muscle among the HU of a scan.

    Soft tissue counts where it is even over about 8 mm, so that edges between tissues make no peak.

    Args:
        scan: As read, any orientation.
    """
    from scipy.ndimage import label, maximum_filter, minimum_filter

    volume_hu, spacing_mm = scan.upright()
    blocks = block_means(volume_hu, [max(1, round(BLOCK_MM / own)) for own in spacing_mm])
    step = maximum_filter(blocks, (1, 3, 3)) - minimum_filter(blocks, (1, 3, 3))

    parts, _ = label(blocks < LUNG_HU[1])
    border = np.concatenate([parts[:, [0, -1]].ravel(), parts[:, :, [0, -1]].ravel()])
    outside = np.isin(parts, np.unique(border[border > 0]))
    air = _peaks(blocks[outside & (step > 0) & (step < 2 * EVEN_HU)], AIR_HU)
    lung = _peaks(blocks[(parts > 0) & ~outside], LUNG_HU)

    soft = (blocks > FAT_HU[0] - EVEN_HU) & (blocks < MUSCLE_HU[1] + EVEN_HU)
    even_hu = max(EVEN_HU, float(np.percentile(step[soft], EVEN_PER_CENT))) if soft.any() else 0
    limits_hu = (FAT_HU[0] - EVEN_HU, MUSCLE_HU[1] + EVEN_HU)
    fat_hu, muscle_hu = _fat_and_muscle(_peaks(blocks[soft & (step < even_hu)], limits_hu))
    return TissuePeaks(_highest(air), _highest(lung), fat_hu, muscle_hu)


def doubt_scan(scan: Scan) -> tuple[str, ...]:
    """Warnings about the scale of HU and about a header that says nothing of the orientation."""
    found = []
    geometry = scan.geometry
    if (
        geometry.spacing_mm == (1, 1, 1)
        and geometry.origin_mm == (0, 0, 0)
        and np.array_equal(geometry.direction, NIFTI_IDENTITY)
    ):
        told = (
            "the affine is the identity, so orientation and spacing seem to be lost: volumes may "
            "be wrong, and right and left may be swapped"
        )
        found.append(Doubt(told, "orientation_unsure"))
    peaks = tissue_peaks(scan)
    offset_hu = _offset_hu(peaks)
    if abs(offset_hu) >= OFFSET_HU:
        told = (
            f"the HU are about {abs(offset_hu):.0f} too {'high' if offset_hu > 0 else 'low'} "
            f"({_listed(peaks)}): volumes are less certain"
        )
        found.append(Doubt(told, "hu_scale"))
    elif peaks.air_hu is not None and peaks.air_hu < LOWEST_AIR_HU:
        told = (
            f"the air around the body has {peaks.air_hu:.0f} HU: the scale of HU may be wrong, and "
            "volumes are less certain"
        )
        found.append(Doubt(told, "hu_scale"))
    return tuple(found)


def _offset_hu(peaks: TissuePeaks) -> float:
    """By how much fat and muscle are too bright, 0 where the air around the body contradicts."""
    if peaks.fat_hu is None:
        return 0.0
    offset_hu = peaks.fat_hu - USUAL_FAT_HU
    if (
        peaks.muscle_hu is not None
        and abs(peaks.muscle_hu - USUAL_MUSCLE_HU - offset_hu) < CONTRAST_HU
    ):
        offset_hu = (offset_hu + peaks.muscle_hu - USUAL_MUSCLE_HU) / 2
    if peaks.air_hu is not None and offset_hu > 0 and peaks.air_hu < -1000:
        return 0.0
    return offset_hu


def _listed(peaks: TissuePeaks) -> str:
    named = {"air": peaks.air_hu, "fat": peaks.fat_hu, "muscle": peaks.muscle_hu}
    return ", ".join(f"{name} {hu:.0f}" for name, hu in named.items() if hu is not None)


def _fat_and_muscle(peaks: dict[float, float]) -> tuple[float | None, float | None]:
    """The two peaks that lie as far apart as fat and muscle do; else the highest of each."""
    fat, muscle = (
        {hu: n for hu, n in peaks.items() if low <= hu <= high} for low, high in (FAT_HU, MUSCLE_HU)
    )
    low, high = FAT_TO_MUSCLE_HU
    pairs = [(one, other) for one in fat for other in muscle if low <= other - one <= high]
    if pairs:
        return max(pairs, key=lambda pair: fat[pair[0]] * muscle[pair[1]])
    return _highest(fat), _highest(muscle)


def _peaks(values_hu: np.ndarray, limits_hu: tuple[float, float]) -> dict[float, float]:
    """Local maxima of the smoothed histogram: HU of the peak to its height in blocks."""
    from scipy.ndimage import gaussian_filter1d

    edges = np.arange(limits_hu[0], limits_hu[1] + BIN_HU, BIN_HU)
    counts = np.histogram(values_hu, edges)[0].astype(float)
    if counts.sum() < MIN_BLOCKS:
        return {}
    smooth = np.pad(gaussian_filter1d(counts, 2.0, mode="constant"), 1)
    middle = smooth[1:-1]
    tops = (middle > smooth[:-2]) & (middle >= smooth[2:]) & (middle >= MIN_SHARE * middle.max())
    return {float(edges[n] + BIN_HU / 2): float(middle[n]) for n in np.flatnonzero(tops)}


def _highest(peaks: dict[float, float]) -> float | None:
    return max(peaks, key=lambda hu: peaks[hu], default=None)
