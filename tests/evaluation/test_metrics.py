"""Metrics of voxels against hand-derived numbers, independent formulas and SimpleITK."""

import math

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from normnet.errors import GeometryError
from normnet.evaluation.bright import count_bright, score_bright
from normnet.evaluation.metrics import compute_overlap
from tests.evaluation.masks import blobs


def _mask(*on: int, n: int = 10) -> np.ndarray:
    mask = np.zeros(n, bool)
    mask[list(on)] = True
    return mask


def test_overlap_by_hand():
    overlap = compute_overlap(_mask(0, 1, 2), _mask(1, 2, 3, 4))
    assert (overlap.n_true, overlap.n_false, overlap.n_missed) == (2, 1, 2)
    assert overlap.dsc == pytest.approx(4 / 7)
    assert overlap.precision == pytest.approx(2 / 3)
    assert overlap.sensitivity == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ((), (), (1, 1, 1)),
        ((), (1,), (0, math.nan, 0)),
        ((1,), (), (0, 0, math.nan)),
        ((1,), (2,), (0, 0, 0)),
    ],
)
def test_overlap_of_empty_masks(prediction, reference, expected):
    overlap = compute_overlap(_mask(*prediction), _mask(*reference))
    np.testing.assert_equal((overlap.dsc, overlap.precision, overlap.sensitivity), expected)


@pytest.mark.parametrize("seed", range(3))
def test_overlap_agrees_with_simpleitk(seed):
    prediction, reference = blobs(seed), blobs(seed + 10, 0.1)
    measures = sitk.LabelOverlapMeasuresImageFilter()
    measures.Execute(
        *(sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in (prediction, reference))
    )
    overlap = compute_overlap(prediction, reference)
    assert 0 < overlap.dsc == pytest.approx(measures.GetDiceCoefficient())
    assert overlap.precision == pytest.approx(1 - measures.GetFalseDiscoveryRate())
    assert overlap.sensitivity == pytest.approx(1 - measures.GetFalseNegativeError())


def test_different_shapes_are_named():
    with pytest.raises(GeometryError, match=r"\(3,\) and \(4,\)"):
        compute_overlap(_mask(n=3), _mask(n=4))


def _auc_by_trapezoids(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the explicit ROC curve, a formula without ranks."""
    points = [(0.0, 0.0)]
    for threshold in np.unique(score)[::-1]:
        called = score >= threshold
        points.append(
            (
                (called & ~positive).sum() / (~positive).sum(),
                (called & positive).sum() / positive.sum(),
            )
        )
    x, y = np.array(points).T
    return float(np.trapezoid(y, x))


@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.booleans()), min_size=1, max_size=60)
)
def test_auc_equals_the_area_under_the_curve(voxels):
    score, lesion, bright = (np.array(column) for column in zip(*voxels, strict=True))
    lesion, bright = lesion.astype(bool), bright.astype(bool)
    auc = score_bright(count_bright(score / 6, lesion, bright)).auc
    healthy = ~lesion[bright]
    if healthy.all() or not healthy.any():
        assert math.isnan(auc)
    else:
        assert auc == pytest.approx(_auc_by_trapezoids(score[bright], healthy), abs=1e-12)


def test_auc_counts_healthy_as_positive():
    lesion = np.array([False, False, True, True])

    def auc(*prob_normal):
        return score_bright(count_bright(np.array(prob_normal), lesion, np.ones(4, bool))).auc

    assert auc(0.9, 0.8, 0.2, 0.1) == 1
    assert auc(0.1, 0.2, 0.8, 0.9) == 0
    assert auc(0.5, 0.5, 0.5, 0.5) == 0.5


def test_bright_scores_by_hand():
    normal = np.array([1, 1, 1, 0, 0, 1, 1], bool)
    lesion = np.array([0, 0, 1, 0, 1, 1, 1], bool)
    bright = np.array([1, 1, 1, 1, 1, 1, 0], bool)  # the last voxel does not count
    scores = score_bright(count_bright(np.full(7, 0.5), lesion, bright, normal))
    assert (scores.n_healthy, scores.n_lesion) == (3, 3)
    assert (scores.precision, scores.sensitivity, scores.specificity) == pytest.approx(
        (2 / 4, 2 / 3, 1 / 3)
    )
