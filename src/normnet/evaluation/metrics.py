"""Pure numbers: overlap of two masks, and how well bright voxels are told apart (Table II of the paper)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from normnet.errors import GeometryError


@dataclass(frozen=True)
class Overlap:
    """Overlap of a prediction with a reference mask.

    Masks without a voxel have stated results, NaN where a ratio has no meaning:

    ==========  =========  ===  =========  ===========
    prediction  reference  dsc  precision  sensitivity
    ==========  =========  ===  =========  ===========
    empty       empty      1    1          1
    empty       some       0    NaN        0
    some        empty      0    0          NaN
    ==========  =========  ===  =========  ===========

    Attributes:
        dsc: Dice similarity coefficient, 0 to 1.
        precision: Share of the prediction that is in the reference.
        sensitivity: Share of the reference that is in the prediction.
        n_true: Voxels in both (true positives).
        n_false: Voxels in the prediction alone (false positives).
        n_missed: Voxels in the reference alone (false negatives).
    """

    dsc: float
    precision: float
    sensitivity: float
    n_true: int
    n_false: int
    n_missed: int


@dataclass(frozen=True)
class BrightScores:
    """Bright voxels of the lungs, healthy ones being the positive class; NaN where a share has no whole.

    Attributes:
        precision: Share of the voxels called normal that are healthy.
        sensitivity: Share of the healthy voxels that are called normal.
        specificity: Share of the lesion voxels that are not called normal.
        n_healthy: Bright voxels outside the lesions.
        n_lesion: Bright voxels inside.
    """

    precision: float
    sensitivity: float
    specificity: float
    n_healthy: int
    n_lesion: int


def compute_overlap(prediction: np.ndarray, reference: np.ndarray) -> Overlap:
    """Dice, precision and sensitivity of two masks on one grid.

    Args:
        prediction: bool, any shape.
        reference: bool, the same shape.

    Raises:
        GeometryError: If the shapes differ; names both.
    """
    check_shapes(prediction, reference)
    n_true = int(np.count_nonzero(prediction & reference))
    n_false = int(np.count_nonzero(prediction)) - n_true
    n_missed = int(np.count_nonzero(reference)) - n_true
    if n_true + n_false + n_missed == 0:
        return Overlap(1.0, 1.0, 1.0, 0, 0, 0)
    return Overlap(
        2 * n_true / (2 * n_true + n_false + n_missed),
        _ratio(n_true, n_true + n_false),
        _ratio(n_true, n_true + n_missed),
        n_true,
        n_false,
        n_missed,
    )


def compute_bright_auc(
    prob_normal: np.ndarray, lesion_mask: np.ndarray, bright_in_lung_mask: np.ndarray
) -> float:
    """Area under the ROC curve of Table II: bright voxels, healthy is positive, the probability of normal scores.

    Exact: the share of (healthy, lesion) pairs of voxels in which the healthy one scores higher,
        ties counted half.

    Args:
        prob_normal: Any shape, any real type.
        lesion_mask: Same shape, bool, the reference.
        bright_in_lung_mask: Same shape, bool: in the lungs and at least -500 HU.

    Returns:
        0 to 1; NaN if there is no healthy or no lesion voxel.

    Raises:
        GeometryError: If the shapes differ.
    """
    check_shapes(prob_normal, lesion_mask)
    check_shapes(prob_normal, bright_in_lung_mask)
    levels, level = np.unique(prob_normal[bright_in_lung_mask], return_inverse=True)
    is_lesion = lesion_mask[bright_in_lung_mask]
    lesion = np.bincount(level[is_lesion], minlength=len(levels))
    healthy = np.bincount(level[~is_lesion], minlength=len(levels))
    return compute_auc_of_counts(healthy, lesion)


def compute_auc_of_counts(healthy: np.ndarray, lesion: np.ndarray) -> float:
    """The same area from counts alone, so that cases can be pooled by adding theirs.

    Args:
        healthy: (levels,) int64, healthy voxels of each score, lowest score first.
        lesion: (levels,) int64, the same of lesion voxels.

    Returns:
        0 to 1; NaN if either has no voxel.
    """
    lesion_below = np.cumsum(lesion) - lesion
    twice_won = int((healthy * (2 * lesion_below + lesion)).sum())
    return _ratio(twice_won, 2 * int(healthy.sum()) * int(lesion.sum()))


def compute_bright_scores(
    normal_mask: np.ndarray, lesion_mask: np.ndarray, bright_in_lung_mask: np.ndarray
) -> BrightScores:
    """Precision, sensitivity and specificity of a vote for normal among bright voxels.

    Args:
        normal_mask: Any shape, bool: voted normal.
        lesion_mask: Same shape, bool, the reference.
        bright_in_lung_mask: Same shape, bool.

    Raises:
        GeometryError: If the shapes differ.
    """
    check_shapes(normal_mask, lesion_mask)
    check_shapes(normal_mask, bright_in_lung_mask)
    normal, lesion = normal_mask[bright_in_lung_mask], lesion_mask[bright_in_lung_mask]
    n_lesion = int(np.count_nonzero(lesion))
    n_right = int(np.count_nonzero(normal & ~lesion))
    n_wrong = int(np.count_nonzero(normal & lesion))
    return compute_bright_scores_of_counts(n_right, n_wrong, lesion.size - n_lesion, n_lesion)


def compute_bright_scores_of_counts(
    n_right: int, n_wrong: int, n_healthy: int, n_lesion: int
) -> BrightScores:
    """The same from counts alone, of one case or of many together.

    Args:
        n_right: Healthy voxels voted normal.
        n_wrong: Lesion voxels voted normal.
        n_healthy: All healthy voxels.
        n_lesion: All lesion voxels.
    """
    return BrightScores(
        _ratio(n_right, n_right + n_wrong),
        _ratio(n_right, n_healthy),
        _ratio(n_lesion - n_wrong, n_lesion),
        n_healthy,
        n_lesion,
    )


def check_shapes(first: np.ndarray, second: np.ndarray) -> None:
    """Raise ``GeometryError`` unless both have one shape."""
    if first.shape != second.shape:
        raise GeometryError(
            "NN-GEO-030", f"shapes {first.shape} and {second.shape} differ", "", "use one grid"
        )


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
