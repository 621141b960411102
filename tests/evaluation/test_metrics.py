"""Metrics against hand-derived numbers and independent formulas; pairing and leaving out."""

import csv
import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normnet.errors import GeometryError, InputError
from normnet.evaluation.evaluate import evaluate_folder, pair_names, to_csv
from normnet.evaluation.metrics import compute_bright_auc, compute_bright_scores, compute_overlap
from normnet.io.images import write_image
from normnet.scan import Geometry


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
    [((), (), (1, 1, 1)), ((), (1,), (0, math.nan, 0)), ((1,), (), (0, 0, math.nan)), ((1,), (2,), (0, 0, 0))],
)
def test_overlap_of_empty_masks(prediction, reference, expected):
    overlap = compute_overlap(_mask(*prediction), _mask(*reference))
    np.testing.assert_equal((overlap.dsc, overlap.precision, overlap.sensitivity), expected)


def test_different_shapes_are_named():
    with pytest.raises(GeometryError, match=r"\(3,\) and \(4,\)"):
        compute_overlap(_mask(n=3), _mask(n=4))


def _auc_by_trapezoids(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the explicit ROC curve, a formula without ranks."""
    points = [(0.0, 0.0)]
    for threshold in np.unique(score)[::-1]:
        called = score >= threshold
        points.append(((called & ~positive).sum() / (~positive).sum(), (called & positive).sum() / positive.sum()))
    x, y = np.array(points).T
    return float(np.trapezoid(y, x))


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_auc_equals_the_area_under_the_curve(voxels):
    score, lesion, bright = (np.array(column) for column in zip(*voxels, strict=True))
    lesion, bright = lesion.astype(bool), bright.astype(bool)
    auc = compute_bright_auc(score / 6, lesion, bright)
    healthy = ~lesion[bright]
    if healthy.all() or not healthy.any():
        assert math.isnan(auc)
    else:
        assert auc == pytest.approx(_auc_by_trapezoids(score[bright], healthy), abs=1e-12)


def test_auc_counts_healthy_as_positive():
    lesion = np.array([False, False, True, True])
    assert compute_bright_auc(np.array([0.9, 0.8, 0.2, 0.1]), lesion, np.ones(4, bool)) == 1
    assert compute_bright_auc(np.array([0.1, 0.2, 0.8, 0.9]), lesion, np.ones(4, bool)) == 0
    assert compute_bright_auc(np.full(4, 0.5), lesion, np.ones(4, bool)) == 0.5


def test_bright_scores_by_hand():
    normal = np.array([1, 1, 1, 0, 0, 1, 1], bool)
    lesion = np.array([0, 0, 1, 0, 1, 1, 1], bool)
    bright = np.array([1, 1, 1, 1, 1, 1, 0], bool)  # the last voxel does not count
    scores = compute_bright_scores(normal, lesion, bright)
    assert (scores.n_healthy, scores.n_lesion) == (3, 3)
    assert (scores.precision, scores.sensitivity, scores.specificity) == pytest.approx((2 / 4, 2 / 3, 1 / 3))


def test_pairs_by_name():
    pairs = pair_names(["case_1_ct", "case_10_ct", "other", "case"], ["case_1", "case_10", "case", "lonely"])
    assert pairs == {"case_1_ct": "case_1", "case_10_ct": "case_10", "case": "case"}


@pytest.fixture
def folders(tmp_path):
    """Two cases: a_1 with DSC 2/3, b with DSC 0; one result without a partner."""
    found, reference = tmp_path / "found", tmp_path / "reference"
    reference.mkdir()
    geometry = Geometry((2.0, 1.0, 1.0))

    def mask(*on: int) -> np.ndarray:
        return _mask(*on, n=27).reshape(3, 3, 3)

    for name, on in (("a_1_ct", (0, 1)), ("b", (4,)), ("c", (1,))):
        (found / name).mkdir(parents=True)
        write_image(found / name / "lesions.nii.gz", mask(*on), geometry)
    write_image(reference / "a_1_lesion.nii.gz", mask(0), geometry)
    write_image(reference / "a_1_lung.nii.gz", mask(*range(27)), geometry)
    write_image(reference / "b-lesions.nii.gz", mask(5, 6), geometry)
    return found, reference


def test_folder_of_results(folders):
    evaluation = evaluate_folder(*folders)
    assert [(row.case_id, row.overlap.dsc) for row in evaluation.rows] == [("a_1", pytest.approx(2 / 3)), ("b", 0)]
    assert evaluation.mean_sd("dsc") == pytest.approx((1 / 3, 2 / 3 / math.sqrt(2)))
    assert evaluation.unmatched == ("result c",)
    assert evaluation.rows[0].prediction_ml == pytest.approx(2 * 2 / 1000)


def test_left_out_case_stays_in_the_table(folders):
    evaluation = evaluate_folder(*folders, leave_out=["b"])
    assert [row.counted for row in evaluation.rows] == [True, False]
    assert evaluation.mean_sd("dsc")[0] == pytest.approx(2 / 3)
    assert math.isnan(evaluation.mean_sd("dsc")[1])
    with pytest.raises(InputError, match="NN-EVA-004"):
        evaluate_folder(*folders, leave_out=["nobody"])


def test_csv_holds_no_formula(folders):
    found, reference = folders
    (found / "b").rename(found / "=cmd")
    (reference / "b-lesions.nii.gz").rename(reference / "=cmd_lesion.nii.gz")
    rows = list(csv.reader(io.StringIO(to_csv(evaluate_folder(found, reference)))))
    assert [row[0] for row in rows] == ["case", "'=cmd", "a_1", "mean", "sd"]
    assert rows[2][1] == "0.6667"


def test_reference_on_another_grid_is_refused(folders):
    found, reference = folders
    write_image(reference / "b-lesions.nii.gz", np.ones((3, 3, 4), bool), Geometry((2.0, 1.0, 1.0)))
    with pytest.raises(GeometryError):
        evaluate_folder(found, reference)


def test_nothing_in_common(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="NN-EVA-003"):
        evaluate_folder(folders[0], tmp_path / "empty")
    with pytest.raises(InputError, match="NN-EVA-001"):
        evaluate_folder(tmp_path / "nowhere", folders[1])
