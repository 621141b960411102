"""Table II: how well the bright voxels of the lungs are told apart, healthy against lesion, per case and pooled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from normnet.evaluation.metrics import (
    BrightScores,
    check_shapes,
    compute_auc_of_counts,
    compute_bright_scores_of_counts,
)

BRIGHT_HU = -500.0  # T of the paper, tau = 1/3 in its window
N_LEVELS = 256  # steps of a probability stored as uint8


class BrightCounts(NamedTuple):
    """Bright voxels of one case, or of many together; all scores of Table II follow from them.

    Attributes:
        healthy: (256,) int64, healthy voxels at each step of the probability of normal, 1 -
            anomaly.
        lesion: (256,) int64, the same of lesion voxels.
        n_normal: Healthy voxels and lesion voxels voted normal; None where the votes are not known.
    """

    healthy: np.ndarray
    lesion: np.ndarray
    n_normal: tuple[int, int] | None = None


def count_bright(
    prob_normal_codes: np.ndarray,
    lesion_mask: np.ndarray,
    bright_in_lung_mask: np.ndarray,
    normal_mask: np.ndarray | None = None,
) -> BrightCounts:
    """Count the bright voxels of one case.

    Args:
        prob_normal_codes: (z, y, x) uint8, probability of normal, 1 - anomaly, x 255.
        lesion_mask: Same shape, bool, the reference.
        bright_in_lung_mask: Same shape, bool: in the lungs and at least -500 HU.
        normal_mask: Same shape, bool, voted normal; None if not known.

    Raises:
        GeometryError: If shapes differ.
    """
    for array in (normal_mask, lesion_mask, bright_in_lung_mask):
        if array is not None:
            check_shapes(prob_normal_codes, array)
    codes, is_lesion = prob_normal_codes[bright_in_lung_mask], lesion_mask[bright_in_lung_mask]
    healthy, lesion = (
        np.bincount(codes[chosen], minlength=N_LEVELS) for chosen in (~is_lesion, is_lesion)
    )
    if normal_mask is None:
        return BrightCounts(healthy, lesion)
    normal = normal_mask[bright_in_lung_mask]
    n_right, n_wrong = (
        int(np.count_nonzero(normal & chosen)) for chosen in (~is_lesion, is_lesion)
    )
    return BrightCounts(healthy, lesion, (n_right, n_wrong))


def pool_bright(cases: Sequence[BrightCounts]) -> BrightCounts:
    """Cases together, every voxel counting the same; the votes are known if they are known of every case."""
    zero = np.zeros(N_LEVELS, np.int64)
    votes = [case.n_normal for case in cases if case.n_normal is not None]
    return BrightCounts(
        sum((case.healthy for case in cases), zero),
        sum((case.lesion for case in cases), zero),
        (sum(right for right, _ in votes), sum(wrong for _, wrong in votes))
        if len(votes) == len(cases)
        else None,
    )


def score_bright(counts: BrightCounts) -> tuple[BrightScores, float]:
    """Precision, sensitivity and specificity of the vote, and the AUC of the mean probability; NaN without a value."""
    n_healthy, n_lesion = int(counts.healthy.sum()), int(counts.lesion.sum())
    auc = compute_auc_of_counts(counts.healthy, counts.lesion)
    if counts.n_normal is None:
        return BrightScores(math.nan, math.nan, math.nan, n_healthy, n_lesion), auc
    return compute_bright_scores_of_counts(*counts.n_normal, n_healthy, n_lesion), auc
