"""Folders of results: pairing, leaving out, summaries, tables, two methods compared."""

import csv
import io
import json
import math

import nibabel
import numpy as np
import pytest

from normnet.errors import GeometryError, InputError
from normnet.evaluation.case_tables import cases_csv, slices_csv
from normnet.evaluation.evaluate import compare, evaluate_folder
from normnet.evaluation.pairing import pair_names
from normnet.evaluation.scores import SCORES
from normnet.evaluation.statistics import bootstrap_mean
from normnet.io.formats.nifti import write_image
from normnet.scan import Geometry
from tests.datasets import trees

SPACING_MM = (2.0, 1.0, 1.0)


def test_pairs_by_name():
    pairs = pair_names(
        ["case_1_ct", "case_10_ct", "other", "case"], ["case_1", "case_10", "case", "lonely"]
    )
    assert pairs == {"case_1_ct": "case_1", "case_10_ct": "case_10", "case": "case"}


def _mask(*on: int) -> np.ndarray:
    mask = np.zeros(27, bool)
    mask[list(on)] = True
    return mask.reshape(3, 3, 3)


def _table(evaluation) -> dict[str, dict[str, str]]:
    return {row["case"]: row for row in csv.DictReader(io.StringIO(cases_csv(evaluation)))}


@pytest.fixture
def folders(tmp_path):
    """Two cases: a_1 with DSC 2/3, b with DSC 0; one result without a partner."""
    found, reference = tmp_path / "found", tmp_path / "reference"
    reference.mkdir()
    geometry = Geometry(SPACING_MM)
    for name, on in (("a_1_ct", (0, 1)), ("b", (4,)), ("c", (1,))):
        (found / name).mkdir(parents=True)
        write_image(found / name / "lesions.nii.gz", _mask(*on), geometry)
    write_image(reference / "a_1_lesion.nii.gz", _mask(0), geometry)
    write_image(reference / "a_1_lung.nii.gz", _mask(*range(27)), geometry)
    write_image(reference / "b-lesions.nii.gz", _mask(5, 6), geometry)
    return found, reference


def test_folder_of_results(folders):
    evaluation = evaluate_folder(*folders)
    assert [(row.case_id, row.values["dsc"]) for row in evaluation.rows] == [
        ("a_1", pytest.approx(2 / 3)),
        ("b", 0),
    ]
    assert evaluation.mean_sd("dsc") == pytest.approx((1 / 3, 2 / 3 / math.sqrt(2)))
    assert evaluation.unmatched == ("result c",)
    assert evaluation.rows[0].values["prediction_ml"] == pytest.approx(2 * 2 / 1000)


def test_left_out_case_stays_in_the_table(folders):
    evaluation = evaluate_folder(*folders, leave_out=["b"])
    assert [row.counted for row in evaluation.rows] == [True, False]
    assert evaluation.mean_sd("dsc")[0] == pytest.approx(2 / 3)
    assert math.isnan(evaluation.mean_sd("dsc")[1])
    with pytest.raises(InputError, match="NN-EVA-004"):
        evaluate_folder(*folders, leave_out=["nobody"])


def values(row, names):
    return tuple(row.values[name] for name in names)


def test_every_score_of_a_case(folders):
    """a_1: two voxels along x against the first of them; b: one voxel, two others are missed."""
    first, second = evaluate_folder(*folders, tolerance_mm=0.5, min_lesion_ml=0).rows
    surfaces = ("surface_dice", "hd95_mm", "surface_mean_mm")
    detection = ("n_lesions", "n_found", "n_false")
    assert values(first, surfaces) == pytest.approx((2 / 3, 0.95, 1 / 3))
    assert second.values["surface_dice"] == 0
    assert [values(row, detection) for row in (first, second)] == [(1, 1, 0), (2, 0, 1)]
    assert [row.values["error_ml"] for row in (first, second)] == pytest.approx([0.002, -0.002])
    assert second.values["abs_error_ml"] == pytest.approx(0.002)
    assert math.isnan(first.values["auc"])
    coarse = evaluate_folder(*folders, min_lesion_ml=0.003).rows
    assert [values(row, detection) for row in coarse] == [(0, 0, 0)] * 2
    assert coarse[1].values["surface_dice"] == pytest.approx(1)  # every distance is within 2 mm


def test_summaries_of_the_table(folders):
    evaluation = evaluate_folder(*folders, min_lesion_ml=0)
    table = _table(evaluation)
    assert list(table)[2:] == [
        "mean",
        "sd",
        "ci95_low",
        "ci95_high",
        "n",
        "pooled",
        "loa_low",
        "loa_high",
    ]
    assert list(table["mean"]) == ["case", *SCORES, "in_mean"]
    assert table["mean"]["dsc"] == "0.3333"
    assert (table["ci95_low"]["dsc"], table["ci95_high"]["dsc"]) == ("0.0000", "0.6667")
    assert evaluation.interval("dsc") == bootstrap_mean([2 / 3, 0])
    assert [table[name]["n_false"] for name in ("a_1", "b", "mean", "n")] == [
        "0",
        "1",
        "0.5000",
        "2",
    ]
    assert table["n"]["auc"] == "0"
    spread = 1.96 * 0.002 * math.sqrt(2)  # differences of 0.002 and -0.002 ml
    assert float(table["mean"]["error_ml"]) == 0
    assert float(table["loa_high"]["error_ml"]) == pytest.approx(spread, abs=1e-4)
    assert float(table["loa_low"]["error_ml"]) == pytest.approx(-spread, abs=1e-4)
    assert table["loa_low"]["dsc"] == table["pooled"]["dsc"] == ""


def test_empty_masks_in_a_folder(folders):
    found, reference = folders
    for path in (
        found / "a_1_ct/lesions.nii.gz",
        reference / "a_1_lesion.nii.gz",
        found / "b/lesions.nii.gz",
    ):
        write_image(path, _mask(), Geometry(SPACING_MM))
    evaluation = evaluate_folder(found, reference, min_lesion_ml=0)
    table = _table(evaluation)
    scores = (
        "dsc",
        "precision",
        "sensitivity",
        "surface_dice",
        "hd95_mm",
        "n_lesions",
        "n_found",
        "n_false",
    )
    ones, zeros = ["1.0000"] * 3, ["0", "0", "0"]
    assert [table["a_1"][score] for score in scores] == [*ones, "1.0000", "0.0000", *zeros]
    assert [table["b"][score] for score in scores] == [
        "0.0000",
        "",
        "0.0000",
        "0.0000",
        "",
        "2",
        "0",
        "0",
    ]
    assert (table["a_1"]["lesion_sensitivity"], table["b"]["lesion_sensitivity"]) == ("", "0.0000")
    assert table["n"]["hd95_mm"] == "1"


def test_areas_of_slices(folders):
    rows = list(csv.DictReader(io.StringIO(slices_csv(evaluate_folder(*folders)))))
    assert [(row["case"], row["slice"]) for row in rows] == [
        (case, n) for case in ("a_1", "b") for n in "012"
    ]
    assert rows[0] == {
        "case": "a_1",
        "slice": "0",
        "position_mm": "0.00",
        "prediction_mm2": "2.00",
        "reference_mm2": "1.00",
    }
    assert rows[2]["position_mm"] == "4.00"
    assert rows[4]["prediction_mm2"] == "0.00"


@pytest.fixture
def bright_folders(tmp_path):
    """A result with maps and votes of one case, its CT and reference in a list."""
    geometry, place = Geometry(SPACING_MM), tmp_path / "found" / "a"
    place.mkdir(parents=True)
    volume_hu = np.full((3, 3, 3), -900, np.int16)
    volume_hu.ravel()[:8], volume_hu.ravel()[26] = -400, 40
    codes, votes = np.zeros((2, 27), np.uint8)
    codes[:8] = [10, 20, 30, 200, 25, 240, 250, 255]  # of anomaly
    votes[:8] = [5, 5, 5, 1, 3, 2, 0, 3]
    write_image(tmp_path / "a.nii.gz", volume_hu, geometry)
    write_image(tmp_path / "a_lesion.nii.gz", _mask(4, 5, 6, 7), geometry)
    write_image(place / "lesions.nii.gz", _mask(5, 6, 7), geometry)
    write_image(place / "lungs.nii.gz", _mask(*range(8)), geometry)
    write_image(place / "anomaly.nii.gz", codes.reshape(3, 3, 3), geometry, 1 / 255)
    write_image(place / "votes.nii.gz", votes.reshape(3, 3, 3), geometry)
    (place / "result.json").write_text(json.dumps({"model": {"min_votes": 3}}))
    (tmp_path / "list.csv").write_text("case_id,file,lesion_mask\na,a.nii.gz,a_lesion.nii.gz\n")
    return tmp_path / "found", tmp_path / "list.csv"


def test_bright_voxels_by_hand(bright_folders):
    """Voted normal: 3 of 4 healthy voxels and 2 of 4 lesion voxels; 14 of 16 pairs in order."""
    evaluation = evaluate_folder(*bright_folders)
    expected = {
        "bright_precision": 3 / 5,
        "bright_sensitivity": 3 / 4,
        "bright_specificity": 2 / 4,
        "auc": 14 / 16,
    }
    assert {column: evaluation.rows[0].values[column] for column in expected} == pytest.approx(
        expected
    )
    assert evaluation.pooled() == pytest.approx(expected)
    assert _table(evaluation)["pooled"]["auc"] == "0.8750"


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_bright_voxels_of_a_ct_in_another_orientation(bright_folders, axis):
    """The same place in the patient, stored from the other end of an axis."""
    expected = evaluate_folder(*bright_folders).rows[0].bright
    for name in ("a.nii.gz", "a_lesion.nii.gz"):
        path = bright_folders[1].parent / name
        image = nibabel.load(path)
        flip = np.stack([np.arange(3), np.where(np.arange(3) == axis, -1, 1)], axis=1)
        nibabel.save(image.as_reoriented(flip), path)
    found = evaluate_folder(*bright_folders).rows[0].bright
    for own, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize(
    "told", ["", "[]", "{}", '{"model": "x"}', '{"model": {"min_votes": null}}']
)
def test_bright_voxels_without_known_votes(bright_folders, told):
    (bright_folders[0] / "a" / "result.json").write_text(told)
    row = evaluate_folder(*bright_folders).rows[0]
    assert row.values["auc"] == pytest.approx(14 / 16)
    assert math.isnan(row.values["bright_precision"])


def test_methods_compared_case_by_case(folders, tmp_path):
    found, reference = folders
    other = tmp_path / "other"
    for name, on in (("a_1", (0,)), ("b", (5,))):
        (other / name).mkdir(parents=True)
        write_image(other / name / "lesions.nii.gz", _mask(*on), Geometry(SPACING_MM))
    evaluation = evaluate_folder(found, reference)
    compared = compare(evaluation, evaluate_folder(other, reference))
    dsc = compared["dsc"]
    assert (dsc.n, dsc.first, dsc.second) == (2, pytest.approx(1 / 3), pytest.approx(5 / 6))
    assert dsc.interval == pytest.approx((-2 / 3, -1 / 3))
    assert dsc.p_wilcoxon == pytest.approx(0.5)
    assert "auc" not in compared
    left_out = compare(
        evaluate_folder(found, reference, ["a_1"]), evaluate_folder(other, reference)
    )
    assert left_out["dsc"].difference == pytest.approx(-2 / 3)


def test_methods_without_a_common_case(folders, tmp_path):
    found, reference = folders
    write_image(tmp_path / "b.nii.gz", _mask(5), Geometry(SPACING_MM))
    (tmp_path / "other").mkdir()
    (tmp_path / "b.nii.gz").rename(tmp_path / "other" / "b.nii.gz")
    with pytest.raises(InputError, match="NN-EVA-005"):
        compare(
            evaluate_folder(found, reference, ["b"]), evaluate_folder(tmp_path / "other", reference)
        )


def test_csv_holds_no_formula(folders):
    found, reference = folders
    (found / "b").rename(found / "=cmd")
    (reference / "b-lesions.nii.gz").rename(reference / "=cmd_lesion.nii.gz")
    rows = list(csv.reader(io.StringIO(cases_csv(evaluate_folder(found, reference)))))
    assert [row[0] for row in rows][:5] == ["case", "'=cmd", "a_1", "mean", "sd"]
    assert rows[2][1] == "0.6667"


def test_reference_on_another_grid_is_refused(folders):
    found, reference = folders
    write_image(reference / "b-lesions.nii.gz", np.ones((3, 3, 4), bool), Geometry(SPACING_MM))
    with pytest.raises(GeometryError):
        evaluate_folder(found, reference)


def test_nothing_in_common(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="NN-DAT-011"):  # no masks, and no data set either
        evaluate_folder(folders[0], tmp_path / "empty")
    write_image(tmp_path / "empty/z_lesion.nii.gz", _mask(1), Geometry(SPACING_MM))
    with pytest.raises(InputError, match="NN-EVA-003"):
        evaluate_folder(folders[0], tmp_path / "empty")
    with pytest.raises(InputError, match="NN-EVA-001"):
        evaluate_folder(tmp_path / "nowhere", folders[1])


def test_a_data_set_in_its_own_layout_is_a_reference(tmp_path):
    """Label 3 of Radiopaedia's masks is no lesion; volume 6 is left out as in the paper."""
    root = trees.radiopaedia(tmp_path / "medseg")
    phantom = trees.chest()
    (tmp_path / "found").mkdir()
    write_image(tmp_path / "found/1.nii.gz", phantom.lesion_mask, phantom.scan.geometry)
    evaluation = evaluate_folder(tmp_path / "found", root)
    # a sensitivity of 1: no voxel is missed
    assert [values(row, ("dsc", "sensitivity")) for row in evaluation.rows] == [(1.0, 1.0)]
