"""The lungs of a later scan laid over those of an earlier one, and the lesions with them.

Both lung masks become signed distances on a coarse grid. An affine transform brings the distances
together (SimpleITK). Only the outline of the lungs decides, so that disease
which comes or goes does not pull.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from normnet.quantification import SIDES, ZONES, zones_of_planes
from normnet.scan import Triple

if TYPE_CHECKING:
    import SimpleITK as sitk

GRID_MM = 6.0
REACH_MM = 30.0  # distances beyond count as this
MARGIN_MM = 20.0
N_STEPS = 60
KEPT, NEW, GONE = 1, 2, 3


class View(NamedTuple):
    """Masks of one scan, turned to head, back, left.

    Attributes:
        lung_labels: (z, y, x), 1 right, 2 left.
        lesion_mask: Same shape, bool.
        spacing_mm: (z, y, x).
    """

    lung_labels: np.ndarray
    lesion_mask: np.ndarray
    spacing_mm: Triple


class Registered(NamedTuple):
    """A later scan on the grid of an earlier one.

    Attributes:
        change: (z, y, x) uint8, lesion: 1 in both scans, 2 only in the later one, 3 only in the
            earlier one.
        lung_dice: Overlap of the lungs after registration, 0 to 1.
        lung_dice_before: The same when only the centres of the lungs are brought together.
    """

    change: np.ndarray
    lung_dice: float
    lung_dice_before: float


def register(earlier: View, later: View) -> Registered:
    """Lay the later lungs over the earlier ones, and compare the lesions voxel by voxel.

    The same input gives the same voxels: every voxel of the coarse grid counts, in one thread.
    """
    import SimpleITK as sitk

    fixed, moving = _distances(earlier), _distances(later)
    start = sitk.CenteredTransformInitializer(
        sitk.Cast(fixed > 0, sitk.sitkFloat32),
        sitk.Cast(moving > 0, sitk.sitkFloat32),
        sitk.AffineTransform(3),
        sitk.CenteredTransformInitializerFilter.MOMENTS,
    )
    best = _optimise(fixed, moving, start)
    lungs = _moved(later.lung_labels > 0, later, earlier, best)
    lesions = _moved(later.lesion_mask, later, earlier, best)
    change = np.zeros(earlier.lesion_mask.shape, np.uint8)
    change[earlier.lesion_mask & lesions] = KEPT
    change[lesions & ~earlier.lesion_mask & (earlier.lung_labels > 0)] = NEW
    change[earlier.lesion_mask & ~lesions] = GONE
    centred = _moved(later.lung_labels > 0, later, earlier, start)
    there = earlier.lung_labels > 0
    return Registered(change, _dice(there, lungs), _dice(there, centred))


def measure_change(registered: Registered, earlier: View) -> dict[str, dict[str, float]]:
    """Millilitres of what stayed, came and went, of both lungs and of each side and zone.

    Returns:
        ``{"both" | side | zone: {"kept_ml", "new_ml", "gone_ml"}}``, on the earlier scan.
    """
    voxel_ml = float(np.prod(earlier.spacing_mm)) / 1000
    place = np.nonzero(registered.change)
    zone = zones_of_planes(earlier.lung_labels)[place[0], earlier.lung_labels[place]]
    what = registered.change[place]
    counts = np.bincount(zone * np.uint8(4) + what, minlength=28).reshape(7, 4)[1:, 1:] * voxel_ml
    rows = {"both": counts.sum(axis=0)}
    rows |= {side: counts[3 * n - 3 : 3 * n].sum(axis=0) for side, n in SIDES.items()}
    rows |= dict(zip(ZONES, counts, strict=True))
    names = ("kept_ml", "new_ml", "gone_ml")
    return {
        region: dict(zip(names, (round(float(ml), 3) for ml in row), strict=True))
        for region, row in rows.items()
    }


def _image(array: np.ndarray, spacing_mm: Triple) -> sitk.Image:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing(spacing_mm[::-1])
    return image


def _distances(view: View) -> sitk.Image:
    """Signed distance to the outline of the lungs in mm, positive inside, on the coarse grid."""
    import SimpleITK as sitk

    share = _image((view.lung_labels > 0).astype(np.uint8) * np.uint8(200), view.spacing_mm)
    size_mm = [n * d for n, d in zip(share.GetSize(), share.GetSpacing(), strict=True)]
    coarse = sitk.Resample(
        share,
        [int((mm + 2 * MARGIN_MM) / GRID_MM) + 1 for mm in size_mm],
        sitk.Transform(),
        sitk.sitkLinear,
        [-MARGIN_MM] * 3,
        [GRID_MM] * 3,
    )
    distance = sitk.SignedMaurerDistanceMap(
        coarse >= 100, insideIsPositive=True, squaredDistance=False, useImageSpacing=True
    )
    return sitk.Clamp(distance, sitk.sitkFloat32, -REACH_MM, REACH_MM)


def _optimise(fixed: sitk.Image, moving: sitk.Image, start: sitk.Transform) -> sitk.Transform:
    import SimpleITK as sitk

    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)  # sums in another order would give other digits
    method.SetMetricAsMeanSquares()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-2, N_STEPS)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(start, inPlace=False)
    return method.Execute(fixed, moving)


def _moved(mask: np.ndarray, later: View, earlier: View, transform: sitk.Transform) -> np.ndarray:
    """A mask of the later scan on the grid of the earlier one, (z, y, x) bool."""
    import SimpleITK as sitk

    image = _image(mask.astype(np.uint8) * np.uint8(200), later.spacing_mm)
    shape = earlier.lung_labels.shape
    moved = sitk.Resample(
        image, shape[::-1], transform, sitk.sitkLinear, [0.0] * 3, earlier.spacing_mm[::-1]
    )
    inside: np.ndarray = sitk.GetArrayFromImage(moved) >= 100
    return inside


def _dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * int((first & second).sum()) / max(1, int(first.sum()) + int(second.sum()))
