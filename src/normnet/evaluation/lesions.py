"""Lesions one by one: which of the reference were found, and which were invented."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from normnet.evaluation.metrics import check_shapes

MIN_LESION_ML = (
    0.1  # 100 mm³, below which a nodule needs no follow-up (doi:10.1148/radiol.2017161659)
)


class Detection(NamedTuple):
    """Lesions of one case.

    Masks without a lesion of the minimum size have stated results: no reference lesion gives a
        sensitivity of NaN,
    which is left out of means; no prediction finds 0 with 0 false ones; with both empty all counts
    are 0.

    Attributes:
        n_reference: Lesions of the reference.
        n_found: Of these, the ones that share a voxel with the prediction.
        n_false: Lesions of the prediction that share no voxel with the reference.
    """

    n_reference: int
    n_found: int
    n_false: int

    @property
    def sensitivity(self) -> float:
        """Share of the reference's lesions that was found, NaN without one."""
        return self.n_found / self.n_reference if self.n_reference else math.nan


def compute_detection(
    prediction: np.ndarray,
    reference: np.ndarray,
    voxel_ml: float,
    min_lesion_ml: float = MIN_LESION_ML,
) -> Detection:
    """Count found, missed and invented lesions.

    A lesion is a 26-connected component of at least the minimum size. What it has to touch may be
    of any size: a crumb of the prediction finds a lesion, and a crumb of the reference excuses a
    predicted one.

    Args:
        prediction: (z, y, x) bool.
        reference: Same shape, bool.
        voxel_ml: Volume of a voxel.
        min_lesion_ml: Smaller components are not counted; 0 counts all.

    Raises:
        GeometryError: If the shapes differ; names both.
    """
    check_shapes(prediction, reference)
    min_vox = min_lesion_ml / voxel_ml
    touched = _touched_components(reference, prediction, min_vox)
    excused = _touched_components(prediction, reference, min_vox)
    return Detection(len(touched), int(touched.sum()), int((~excused).sum()))


def _touched_components(mask: np.ndarray, other: np.ndarray, min_vox: float) -> np.ndarray:
    """For each component of a mask that is large enough, whether it shares a voxel with the other: (n,) bool."""
    import cc3d

    labels, n = cc3d.connected_components(mask, connectivity=26, return_N=True)
    sizes = np.bincount(labels[mask], minlength=n + 1)[1:]
    shared = np.bincount(labels[mask & other], minlength=n + 1)[1:]
    return shared[sizes >= min_vox - 1e-6] > 0  # a size on the limit counts, whatever the rounding
