"""Distances in mm between the surfaces of two masks: surface Dice, HD95, average distance.

The surface of a mask is the set of its voxels that have a face neighbour outside it; voxels beyond
the array are outside. A distance goes from the centre of a surface voxel to the nearest such centre
of the other surface. Every surface voxel counts the same, whatever its area is.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from normnet.evaluation.metrics import check_shapes
from normnet.scan import Triple

TOLERANCE_MM = 2.0


class SurfaceScores(NamedTuple):
    """How close two surfaces are.

    The results of empty masks are fixed; means leave out NaN, where there is no distance:

    ==========  =========  ============  =======  =======
    prediction  reference  surface_dice  hd95_mm  mean_mm
    ==========  =========  ============  =======  =======
    empty       empty      1             0        0
    empty       some       0             NaN      NaN
    some        empty      0             NaN      NaN
    ==========  =========  ============  =======  =======

    Attributes:
        surface_dice: Share of both surfaces' voxels within the tolerance of the other one
            (doi:10.2196/26151).
        hd95_mm: The larger of the 95th percentiles of both directions.
        mean_mm: Mean over the voxels of both surfaces (average symmetric surface distance).
    """

    surface_dice: float
    hd95_mm: float
    mean_mm: float


def compute_surface_scores(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: Triple,
    tolerance_mm: float = TOLERANCE_MM,
) -> SurfaceScores:
    """Surface Dice, HD95 and average distance of two masks on one grid.

    Args:
        prediction: (z, y, x) bool; cropped to both masks it gives the same in less time.
        reference: Same shape, bool.
        spacing_mm: Of the voxels, (z, y, x).
        tolerance_mm: Distance up to which, inclusive, surfaces agree.

    Raises:
        GeometryError: If the shapes differ; names both.
    """
    check_shapes(prediction, reference)
    some_predicted, some_reference = bool(prediction.any()), bool(reference.any())
    if not (some_predicted or some_reference):
        return SurfaceScores(1.0, 0.0, 0.0)
    if not (some_predicted and some_reference):
        return SurfaceScores(0.0, math.nan, math.nan)
    outward, inward = surface_distances_mm(prediction, reference, spacing_mm)
    both = np.concatenate([outward, inward])
    hd95_mm = max(float(np.percentile(distances, 95)) for distances in (outward, inward))
    return SurfaceScores(float(np.mean(both <= tolerance_mm + 1e-6)), hd95_mm, float(both.mean()))


def surface_distances_mm(
    first: np.ndarray, second: np.ndarray, spacing_mm: Triple
) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each surface voxel of one mask to the surface of the other, both ways.

    A search tree of the surface voxels finds them: exact, and several times faster than two
    distance transforms of the volume.

    Args:
        first: (z, y, x) bool, not empty.
        second: Same shape, not empty.
        spacing_mm: Of the voxels, (z, y, x).

    Returns:
        Two float64 arrays, one value per surface voxel.
    """
    from scipy.spatial import KDTree

    points = [
        np.argwhere(surface_of(mask)) * np.asarray(spacing_mm, float) for mask in (first, second)
    ]
    return KDTree(points[1]).query(points[0])[0], KDTree(points[0]).query(points[1])[0]


def surface_of(mask: np.ndarray) -> np.ndarray:
    """Voxels of a mask with a face neighbour outside it or outside the array, bool."""
    from scipy.ndimage import binary_erosion

    surface: np.ndarray = mask & ~binary_erosion(mask)
    return surface
