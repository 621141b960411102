"""Table II: bright voxels of the lungs, healthy against lesion, in one case or in all together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from normnet.evaluation.metrics import check_shapes, compute_share

BRIGHT_HU = -500.0  # T of the paper, tau = 1/3 in its window
N_LEVELS = 256  # steps of a probability stored as uint8


class BrightCounts(NamedTuple):
    """Bright voxels by their probability of normal; all scores of Table II follow from them.

    Attributes:
        healthy: (levels,) int64, number of healthy voxels at each level, the lowest level first.
        lesion: (levels,) int64, the same for lesion voxels.
        n_normal: Number of healthy voxels and number of lesion voxels that were voted normal;
            None if the votes are not known.
    """

    healthy: np.ndarray
    lesion: np.ndarray
    n_normal: tuple[int, int] | None = None


@dataclass(frozen=True)
class BrightScores:
    """Scores of Table II. Healthy is the positive class; NaN where a score is not defined.

    Attributes:
        precision: Share of the voxels voted normal that are healthy.
        sensitivity: Share of the healthy voxels that are voted normal.
        specificity: Share of the lesion voxels that are not voted normal.
        n_healthy: Number of bright voxels outside the lesions.
        n_lesion: Number of bright voxels inside the lesions.
        auc: Area under the ROC curve of the probability of normal.
    """

    precision: float
    sensitivity: float
    specificity: float
    n_healthy: int
    n_lesion: int
    auc: float


def count_bright(
    prob_normal: np.ndarray,
    lesion_mask: np.ndarray,
    bright_in_lung_mask: np.ndarray,
    normal_mask: np.ndarray | None = None,
) -> BrightCounts:
    """Count the bright voxels of one case.

    Args:
        prob_normal: (z, y, x) probability of normal. If it is uint8 (x 255), each of its 256 steps
            is a level, so that cases can be pooled; else each value that occurs is a level.
        lesion_mask: Same shape, bool, the reference.
        bright_in_lung_mask: Same shape, bool: in the lungs and at least -500 HU.
        normal_mask: Same shape, bool, voted normal; None if not known.

    Raises:
        GeometryError: If shapes differ.
    """
    for array in (normal_mask, lesion_mask, bright_in_lung_mask):
        if array is not None:
            check_shapes(prob_normal, array)
    codes, is_lesion = prob_normal[bright_in_lung_mask], lesion_mask[bright_in_lung_mask]
    n_levels = N_LEVELS
    if prob_normal.dtype != np.uint8:
        levels, codes = np.unique(codes, return_inverse=True)
        n_levels = len(levels)
    healthy, lesion = (
        np.bincount(codes[chosen], minlength=n_levels) for chosen in (~is_lesion, is_lesion)
    )
    if normal_mask is None:
        return BrightCounts(healthy, lesion)
    normal = normal_mask[bright_in_lung_mask]
    n_right, n_wrong = (
        int(np.count_nonzero(normal & chosen)) for chosen in (~is_lesion, is_lesion)
    )
    return BrightCounts(healthy, lesion, (n_right, n_wrong))


def pool_bright(cases: Sequence[BrightCounts]) -> BrightCounts:
    """Add up cases that were counted from uint8, so that every voxel counts the same.

    The votes of the whole are known only if they are known for every case.
    """
    zero = np.zeros(N_LEVELS, np.int64)
    votes = [case.n_normal for case in cases if case.n_normal is not None]
    n_normal = (sum(right for right, _ in votes), sum(wrong for _, wrong in votes))
    return BrightCounts(
        sum((case.healthy for case in cases), zero),
        sum((case.lesion for case in cases), zero),
        n_normal if len(votes) == len(cases) else None,
    )


def score_bright(counts: BrightCounts) -> BrightScores:
    """Precision, sensitivity and specificity of the vote, and AUC of the probability of normal."""
    n_healthy, n_lesion = int(counts.healthy.sum()), int(counts.lesion.sum())
    auc = _compute_auc(counts.healthy, counts.lesion)
    if counts.n_normal is None:
        return BrightScores(math.nan, math.nan, math.nan, n_healthy, n_lesion, auc)
    n_right, n_wrong = counts.n_normal
    return BrightScores(
        compute_share(n_right, n_right + n_wrong),
        compute_share(n_right, n_healthy),
        compute_share(n_lesion - n_wrong, n_lesion),
        n_healthy,
        n_lesion,
        auc,
    )


def _compute_auc(healthy: np.ndarray, lesion: np.ndarray) -> float:
    """Area under the ROC curve, 0 to 1; NaN if there is no healthy or no lesion voxel.

    It is exact: the share of all (healthy, lesion) pairs of voxels in which the healthy voxel has
    the higher probability; a tie counts as half a pair.
    """
    lesion_below = np.cumsum(lesion) - lesion
    twice_won = int((healthy * (2 * lesion_below + lesion)).sum())
    return compute_share(twice_won, 2 * int(healthy.sum()) * int(lesion.sum()))
