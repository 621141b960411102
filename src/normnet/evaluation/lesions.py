"""Lesions one by one: which were found, and which predictions are false."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from normnet.evaluation.metrics import check_shapes
from normnet.quantification import MIN_LESION_ML


class Detection(NamedTuple):
    """Lesions of one case.

    The results of masks without a lesion of the minimum size are fixed. No lesion in the reference:
    the sensitivity is NaN, and means leave the case out. No lesion in the prediction: 0 found,
    0 false. Neither: all counts are 0.

    Attributes:
        n_reference: Number of lesions in the reference.
        n_found: Number of these that share a voxel with the prediction.
        n_false: Number of lesions in the prediction that share no voxel with the reference.
    """

    n_reference: int
    n_found: int
    n_false: int

    @property
    def sensitivity(self) -> float:
        """Share of the lesions in the reference that was found; NaN without one."""
        return self.n_found / self.n_reference if self.n_reference else math.nan


def compute_detection(
    prediction: np.ndarray,
    reference: np.ndarray,
    voxel_ml: float,
    min_lesion_ml: float = MIN_LESION_ML,
) -> Detection:
    """Count found, missed and false lesions.

    A lesion is a 26-connected component of at least the minimum size. The component that it must
    touch in the other mask may be of any size: one predicted voxel is enough to find a lesion, and
    one voxel of the reference is enough for a predicted lesion not to be false.

    Args:
        prediction: (z, y, x) bool.
        reference: Same shape, bool.
        voxel_ml: Volume of a voxel.
        min_lesion_ml: Smaller components are not counted; 0: all are.

    Raises:
        GeometryError: If the shapes differ; names both.
    """
    check_shapes(prediction, reference)
    min_vox = min_lesion_ml / voxel_ml
    touched = _touched_components(reference, prediction, min_vox)
    true = _touched_components(prediction, reference, min_vox)
    return Detection(len(touched), int(touched.sum()), int((~true).sum()))


def _touched_components(mask: np.ndarray, other: np.ndarray, min_vox: float) -> np.ndarray:
    """(n,) bool: whether each large enough component of a mask shares a voxel with the other."""
    import cc3d

    labels, n = cc3d.connected_components(mask, connectivity=26, return_N=True)
    sizes = np.bincount(labels[mask], minlength=n + 1)[1:]
    shared = np.bincount(labels[mask & other], minlength=n + 1)[1:]
    return shared[sizes >= min_vox - 1e-6] > 0  # a size on the limit counts, whatever the rounding
