"""What lungs look like as masks: two large components with hardly any dense gap around them."""

from __future__ import annotations

import numpy as np

from normnet.filters import bounding_box
from normnet.lungs.sides import doubt_sides
from normnet.scan import Doubt

SMALL_ML = 30.0  # smaller components are airways, bowel gas or noise
SMALL_SHARE = 0.04  # of the largest component
AIR_HU = -960.0  # largest mean of air beside the body, for instance between back and table
BAY_MM, DENSE_HU, BAY_SHARE = 12.0, -500.0, 0.02
SMALL_SIDE = 0.5  # of the other lung
CUT_CM2 = 10.0  # of lung in the outermost plane of the scan
JUMPS_SHARE = 0.01  # of the lungs, where one slice says otherwise than both beside it
FAT_HU, FAT_SPREAD_HU, EVEN_MM, FAT_ML = (-140.0, -50.0), 12.0, 6.0, 1.0
FAT_EDGE_HU = 30.0  # beyond FAT_HU, of what belongs to fat that was found


def keep_lungs(
    mask: np.ndarray, volume_hu: np.ndarray, spacing_mm: tuple[float, ...]
) -> np.ndarray:
    """The components that are lung; holes that lung encloses on all sides are filled.

    A lung that a consolidation cuts in two keeps both parts if the smaller one is not tiny.

    Args:
        mask: (z, y, x) bool, z to head.
        volume_hu: Same shape.
        spacing_mm: (z, y, x).
    """
    import cc3d

    labels, n = cc3d.connected_components(mask, connectivity=6, return_N=True)
    if n == 0:
        return mask
    inside = labels[mask]
    n_voxels = np.bincount(inside, minlength=n + 1)
    mean_hu = np.bincount(inside, volume_hu[mask], n + 1) / np.maximum(n_voxels, 1)
    ml = np.where(mean_hu > AIR_HU, n_voxels, 0) * (np.prod(spacing_mm) / 1000.0)
    ml[0] = 0
    large = (ml >= SMALL_ML) & (ml >= SMALL_SHARE * ml.max())
    largest = np.argsort(ml)[::-1][:4]
    kept = np.zeros(n + 1, bool)
    kept[largest] = large[largest]
    return fill_holes(kept[labels])


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """A mask with what it encloses on all sides; the border of the array encloses nothing.

    Args:
        mask: (z, y, x) bool.
    """
    import cc3d

    rest, n = cc3d.connected_components(~mask, connectivity=6, return_N=True)
    outside = np.zeros(n + 1, bool)
    for axis in range(3):
        for end in (0, -1):
            outside[np.unique(rest.take(end, axis))] = True
    outside[0] = False  # the mask itself
    filled: np.ndarray = ~outside[rest]
    return filled


def find_fat(volume_hu: np.ndarray, lungs: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Fat in a lung mask that was taken for consolidated lung, for instance under a high diaphragm.

    Nothing in a lung is as even at these HU: ground glass is lighter, consolidation is denser, and
    at the edge of either the HU pass steeply through this range.

    Args:
        volume_hu: (z, y, x) float32.
        lungs: Same shape, bool.
        spacing_mm: (z, y, x).

    Returns:
        Same shape, bool, inside ``lungs``.
    """
    import cc3d
    from scipy.ndimage import binary_dilation, uniform_filter

    sizes = [max(1, round(EVEN_MM / own)) // 2 * 2 + 1 for own in spacing_mm]
    smooth = uniform_filter(volume_hu, (1, 3, 3))
    mean = uniform_filter(smooth, sizes)
    spread = np.sqrt(np.maximum(uniform_filter(smooth**2, sizes) - mean**2, 0))
    fat = lungs & (mean > FAT_HU[0]) & (mean < FAT_HU[1]) & (spread < FAT_SPREAD_HU)
    fat = cc3d.dust(fat, threshold=FAT_ML * 1000 / np.prod(spacing_mm), connectivity=6)
    fatty = lungs & (smooth > FAT_HU[0] - FAT_EDGE_HU) & (smooth < FAT_HU[1] + FAT_EDGE_HU)
    if fat.any():
        fat = binary_dilation(fat, iterations=max(sizes), mask=fatty)
    found: np.ndarray = fat
    return found


def left_out_share(
    volume_hu: np.ndarray, lung_labels: np.ndarray, spacing_mm: tuple[float, ...]
) -> float:
    """Dense tissue in the bays and holes of each lung's outline, as a share of the lungs.

    Bays and holes are what is added to one lung by a closing with a disc of 12 mm radius and by
    filling the holes of each slice. Healthy lungs and well segmented sick lungs have 0.5 to 1.9 %,
    the hilum; sick lungs that were found by a threshold have 3.5 % and more.

    Args:
        volume_hu: (z, y, x), z to head.
        lung_labels: Same shape, 1 right, 2 left, not empty.
        spacing_mm: (z, y, x); about 3 mm is fine enough.
    """
    from scipy.ndimage import binary_closing, binary_fill_holes

    radius = [max(1, round(BAY_MM / spacing)) for spacing in spacing_mm[1:]]
    rows, columns = (np.arange(-r, r + 1) / r for r in radius)
    disc = rows[:, None] ** 2 + columns[None, :] ** 2 <= 1
    inner = tuple(slice(r, -r) for r in radius)
    dense = (volume_hu > DENSE_HU) & (lung_labels == 0)
    n_left_out = 0
    for label in (1, 2):
        lung = lung_labels == label
        if not lung.any():
            continue
        box = bounding_box(lung)  # a closing adds nothing beyond it
        for plane, dense_plane in zip(lung[box], dense[box], strict=True):
            if plane.any():
                closed = binary_closing(np.pad(plane, [(r, r) for r in radius]), disc)[inner]
                n_left_out += int((binary_fill_holes(closed) & dense_plane).sum())
    return n_left_out / int((lung_labels > 0).sum())


def jumping_share(lung_labels: np.ndarray) -> float:
    """Voxels that differ from both neighbours along z, as a share of the lungs.

    Args:
        lung_labels: (z, y, x), 0 outside the lungs, not empty.
    """
    lungs = lung_labels > 0
    below, here, above = lungs[:-2], lungs[1:-1], lungs[2:]
    return int(((below == above) & (here != below)).sum()) / int(lungs.sum())


def doubts(
    volume_hu: np.ndarray, lung_labels: np.ndarray, spacing_mm: tuple[float, ...]
) -> tuple[str, ...]:
    """Reasons why the lung mask may be wrong, one line each; empty if nothing is unusual.

    Args:
        volume_hu: (z, y, x), z to head.
        lung_labels: Same shape, 1 right, 2 left.
        spacing_mm: (z, y, x).
    """
    found = []
    share = left_out_share(volume_hu, lung_labels, spacing_mm)
    if share > BAY_SHARE:
        told = (
            f"dense tissue of {100 * share:.1f} % of the lungs lies in bays of the lung mask: "
            "lung may have been left out; look at lungs.nii.gz"
        )
        found.append(Doubt(told, "dense_lung_left_out"))
    share = jumping_share(lung_labels)
    if share > JUMPS_SHARE:
        told = (
            f"slices of the lung mask disagree on {100 * share:.1f} % of the lungs: "
            "look at lungs.nii.gz, solid bases above all"
        )
        found.append(Doubt(told, "lung_slices_disagree"))
    right, left = (int((lung_labels == label).sum()) for label in (1, 2))
    apart = doubt_sides(volume_hu, lung_labels, spacing_mm)
    if not apart and min(right, left) < SMALL_SIDE * max(right, left):
        told = (
            f"the {'left' if left < right else 'right'} lung is less than half the other: "
            "a lung may have been left out; look at lungs.nii.gz"
        )
        found.append(Doubt(told, "lung_missing"))
    return (*found, *apart)


def doubt_cut(lung_labels: np.ndarray, spacing_mm: tuple[float, ...]) -> tuple[str, ...]:
    """A line where the borders of the scan cut the lungs.

    Args:
        lung_labels: (z, y, x) of the whole scan, turned to head, back, left.
        spacing_mm: (z, y, x).
    """
    z_mm, y_mm, x_mm = spacing_mm
    borders = {
        "at the bottom": (lung_labels[0], y_mm * x_mm),
        "at the top": (lung_labels[-1], y_mm * x_mm),
        "in front": (lung_labels[:, 0], z_mm * x_mm),
        "at the back": (lung_labels[:, -1], z_mm * x_mm),
        "on the right": (lung_labels[:, :, 0], z_mm * y_mm),
        "on the left": (lung_labels[:, :, -1], z_mm * y_mm),
    }
    cut = [
        name
        for name, (plane, mm2) in borders.items()
        if np.count_nonzero(plane) * mm2 / 100 >= CUT_CM2
    ]
    if not cut:
        return ()
    found = (
        f"the scan cuts the lungs {' and '.join(cut)}: volumes and shares are those of the part "
        "that is in view"
    )
    return (Doubt(found, "lungs_cut"),)
