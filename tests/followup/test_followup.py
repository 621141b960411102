"""Two results of one patient: the change, its range, its doubts, its files."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from normnet.cli.main import main
from normnet.config import Config
from normnet.followup.comparison import (
    COLUMNS,
    REGIONS,
    Exam,
    Span,
    compare,
    doubt_change,
    read_exam,
)
from normnet.followup.picture import choose_places
from normnet.followup.registration import GONE, KEPT, NEW, View, measure_change, register
from normnet.io.fingerprint import sha256_of
from normnet.io.formats.nifti import write_image
from normnet.io.read import read_stored
from normnet.models import Members, Model
from normnet.pipeline import Segmentation
from normnet.quantification import Found, measure, measure_range, quantify
from normnet.results.folder import write_results
from normnet.scan import Scan
from tests.phantoms import ORIENTATIONS, reorient, thorax_phantom, write_nifti

SHAPE, SPACING_MM = (40, 64, 64), (4.0, 5.0, 5.0)
PHANTOM = thorax_phantom(SHAPE, SPACING_MM, vessels=False)
LABELS = np.where(PHANTOM.lung_mask, np.where(np.arange(64) >= 32, 2, 1), 0).astype(np.uint8)
RIGHT, LEFT = (PHANTOM.lesion_mask & (label == LABELS) for label in (1, 2))
VOXEL_ML = 0.1
MODEL = Model(*(Members([], Config(), {}) for _ in range(3)))


def write_exam(
    folder: Path,
    lesions: np.ndarray,
    name: str,
    scan: Scan = PHANTOM.scan,
    key: dict[str, str] | None = None,
    source: str = "",
    **quality: object,
) -> Path:
    """A result as ``segment`` writes it; the edges are 20 % narrower and 25 % wider."""
    nothing = np.zeros(lesions.shape, np.uint8)
    volumes = quantify(lesions, LABELS, VOXEL_ML)
    found = Found(scan.volume_hu, lesions, LABELS, nothing, nothing > 0, 5, SPACING_MM)
    quantification = measure(found)
    ml = [row["lesion_ml"] for row in quantification["zones"].values()]
    n_vox = np.array([[125, 100, 80] if v else [0, 0, 0] for v in ml])
    total = volumes["both"]["lesion_ml"]
    told = measure_range(volumes, quantification, n_vox, (0.8 * total, 1.25 * total), VOXEL_ML)
    segmentation = Segmentation(
        lesions,
        LABELS,
        nothing,
        nothing,
        volumes,
        certainty={"tissue_in_air": 0.01},
        quantification=quantification,
        uncertainty=told,
        quality={"flags": [], "slice_mm": 4.0, **quality},
    )
    write_results(segmentation, replace(scan, case_id=name), folder, MODEL, key=key, source=source)
    return folder


@pytest.fixture
def exams(tmp_path):
    """The right lesion stays, the left one goes."""
    both = write_exam(tmp_path / "june", RIGHT | LEFT, "june")
    return both, write_exam(tmp_path / "july", RIGHT, "july")


def test_ranges_are_added_as_squares():
    first, second = Span(10, 7, 14), Span(30, 26, 33)
    change = first.change_to(second)
    assert change.value == 20
    assert (change.low, change.high) == pytest.approx(
        (20 - math.hypot(4, 4, 1.6, 4.8), 20 + math.hypot(3, 3, 1.6, 4.8))
    )
    back = second.change_to(first)
    assert (back.low, back.high) == pytest.approx((-change.high, -change.low))
    assert math.isnan(Span(1).change_to(second).low)


def test_a_known_change_is_found(exams):
    """The left lesion, of each region, within the range and exactly."""
    rows = compare(*map(read_exam, exams))["regions"]
    gone = quantify(LEFT, LABELS, VOXEL_ML)["both"]["lesion_ml"]
    assert gone > 5
    for region in ("both", "left"):
        assert rows[region]["change_ml"] == pytest.approx(-gone, abs=2e-3)
        assert rows[region]["change_ml_low"] < -gone < rows[region]["change_ml_high"]
    assert rows["left"]["change_ml_high"] < 0
    assert rows["right"]["change_ml"] == 0
    assert rows["right"]["change_ml_low"] < 0 < rows["right"]["change_ml_high"]
    zones = [rows[f"left_{third}"]["change_ml"] for third in ("upper", "middle", "lower")]
    assert sum(zones) == pytest.approx(-gone, abs=3e-3)
    lung_ml = rows["left"]["later_lung_ml"]
    assert rows["left"]["change_percent"] == pytest.approx(-100 * gone / lung_ml, abs=2e-3)
    assert list(rows) == list(REGIONS)


def test_a_known_change_of_a_real_ct():
    """46.1 ml of pale disease were put into the right lung of Coronacases 4, then segmented."""
    change = Span(0, 0, 0).change_to(Span(51.318, 47.848, 54.474))
    assert change.low < 46.07 < change.high


def test_the_same_scan_twice_is_exactly_zero(tmp_path):
    keys = [{"input": "a", "model": "m", "config": "c", "place": place} for place in "pq"]
    same = [read_exam(write_exam(tmp_path / k["place"], RIGHT, "x", key=k)) for k in keys]
    told = compare(*same)
    for row in told["regions"].values():
        assert {row[name] for name in COLUMNS if "change" in name} == {0}
    assert told["warnings"] == ["both results are of the same scan"]


def test_an_unchanged_pair_is_about_zero(tmp_path):
    """Another scan of the same lesion: the change is 0, but its range is not."""
    pair = [read_exam(write_exam(tmp_path / n, RIGHT, n, key={"input": n})) for n in "ab"]
    row = compare(*pair)["regions"]["both"]
    assert row["change_ml"] == 0
    assert row["change_ml_low"] < 0 < row["change_ml_high"]


def changed(exam: Exam, section: str, **values: object) -> Exam:
    return Exam(exam.folder, {**exam.result, section: {**exam.result[section], **values}})


def test_protocols_that_differ_are_told_of(exams):
    first, second = map(read_exam, exams)
    assert doubt_change(first, second) == ()
    lungs = {**second.result["volumes"]["both"], "lung_ml": 1.2 * 2000}
    for other, words in (
        (changed(second, "quality", slice_mm=6.5), "distance of the slices"),
        (changed(second, "scan", spacing_mm_zyx=[4.0, 2.0, 2.0]), "size of the pixels"),
        (changed(second, "quality", flags=["contrast_medium"]), "only the later scan has the flag"),
        (changed(second, "certainty", tissue_in_air=0.045), "depth of breath"),
        (changed(second, "volumes", both=lungs), "depth of breath"),
        (changed(second, "key", config="other"), "other models, settings"),
        (changed(second, "key", lungs="given"), "given lung mask"),
    ):
        (warning,) = doubt_change(first, other)
        assert words in warning
    sharp, soft = (
        changed(exam, "scan", kernel=k) for exam, k in ((first, "B70f"), (second, "B31"))
    )
    assert doubt_change(sharp, soft) == ("the kernel differs: B70f earlier, B31 later",)
    assert doubt_change(sharp, second) == ()
    thick, thin = (changed(exam, "scan", thickness_mm=t) for exam, t in ((first, 5.0), (second, 1)))
    assert "thickness" in doubt_change(thick, thin)[0]


def test_what_is_no_result_is_refused(tmp_path, exams, capsys):
    (tmp_path / "empty").mkdir()
    june, july = exams
    for path, code in ((tmp_path / "empty", "NN-CMP-001"), (tmp_path, "NN-CMP-002")):
        assert main(["compare", str(path), str(july)]) == 3
        assert code in capsys.readouterr().err
    told = json.loads((june / "result.json").read_text())
    del told["quantification"]
    (june / "result.json").write_text(json.dumps(told))
    assert main(["compare", str(june), str(july)]) == 3
    assert "NN-CMP-003" in capsys.readouterr().err
    assert main(["compare", str(july), str(july), "--register"]) == 2
    assert read_exam(july / "result.json") == read_exam(july)


def test_the_command_writes_table_picture_and_numbers(tmp_path, exams, capsys):
    june, july = exams
    out = tmp_path / "change"
    assert main(["compare", str(june), str(july), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "june and july" in shown
    assert "june: its CT is not known, so the picture shows the masks alone; add --earlier-ct" in (
        shown
    )
    assert "left middle" in shown
    assert {path.name for path in out.iterdir()} == {
        "comparison.json", "comparison.csv", "comparison.png"
    }  # fmt: skip
    told = json.loads((out / "comparison.json").read_text())
    assert told["files"] == {
        name: sha256_of(out / name) for name in ("comparison.csv", "comparison.png")
    }
    rows = list(csv.DictReader((out / "comparison.csv").open(encoding="utf-8", newline="")))
    assert [row["region"] for row in rows] == list(REGIONS)
    assert float(rows[0]["change_ml"]) == told["regions"]["both"]["change_ml"] < 0
    before = sha256_of(out / "comparison.json")
    assert main(["compare", str(june), str(july), "--out", str(out)]) == 0
    assert sha256_of(out / "comparison.json") == before
    (out / "comparison.csv").write_text("mine")
    assert main(["compare", str(june), str(july), "--out", str(out)]) == 7
    assert (out / "comparison.csv").read_text() == "mine"


@pytest.mark.parametrize("n_moved", [0, 1, 2, 3])
@pytest.mark.parametrize("older", [False, True])
def test_a_killed_comparison_is_made_again(tmp_path, exams, monkeypatch, n_moved, older):
    """Whatever had its place already; no reader finds half of it as a comparison."""
    june, july = exams
    out, command = tmp_path / "change", ["compare", str(june), str(july), "--out"]
    if older:
        assert main(["compare", str(june), str(june), "--out", str(out)]) == 0
    real, moved = Path.replace, []

    def killed(self, target):
        if out in (self.parent, Path(target).parent):
            if len(moved) == n_moved:
                raise KeyboardInterrupt
            moved.append(target)
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        main([*command, str(out)])
    assert len(moved) == n_moved
    told = out / "comparison.json"
    if told.exists():
        files = json.loads(told.read_text())["files"]
        assert files == {name: sha256_of(out / name) for name in files}
    assert main([*command, str(out)]) == 0
    assert main([*command, str(tmp_path / "fresh")]) == 0
    contents = [
        {path.name: sha256_of(path) for path in folder.iterdir()}
        for folder in (out, tmp_path / "fresh")
    ]
    assert contents[0] == contents[1]


def test_a_changed_mask_is_refused(tmp_path, exams, capsys):
    june, july = exams
    write_image(july / "lesions.nii.gz", LEFT.astype(np.uint8), PHANTOM.scan.geometry)
    assert main(["compare", str(june), str(july), "--out", str(tmp_path / "out")]) == 3
    assert "NN-CMP-004" in capsys.readouterr().err


def test_the_picture_shows_the_ct_where_it_is_at_hand(tmp_path, capsys):
    ct = tmp_path / "ct.nii.gz"
    write_nifti(PHANTOM.scan, ct)
    key = {"input": sha256_of(ct)}
    from normnet.io.fingerprint import fingerprint

    key = {"input": fingerprint(ct, (ct,))}
    june = write_exam(tmp_path / "june", RIGHT | LEFT, "june", key=key, source=str(ct))
    july = write_exam(tmp_path / "july", RIGHT, "july", key={**key, "config": "other"})
    command = ["compare", str(june), str(july), "--out", str(tmp_path / "out")]
    moved = write_exam(tmp_path / "moved", RIGHT, "moved", source="old/july.nii.gz")
    assert main(["compare", str(june), str(moved), "--out", str(tmp_path / "out")]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "moved: its CT is not at old/july.nii.gz in the current folder" in told
    assert "add --later-ct FOLDER/july.nii.gz" in told
    assert "june: its CT" not in told
    assert main([*command, "--later-ct", str(ct)]) == 0
    assert "masks alone" not in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "comparison.png") as picture:
        grey = np.asarray(picture)
    assert (grey.max(axis=2) > 150).mean() > 0.15  # soft tissue
    other = tmp_path / "other.nii.gz"
    write_nifti(replace(PHANTOM.scan, volume_hu=PHANTOM.scan.volume_hu + 1), other)
    assert main([*command, "--later-ct", str(other)]) == 3
    assert "NN-CMP-005" in capsys.readouterr().err


def test_the_same_heights_are_shown():
    """The later lungs are lower; the height with lesion is chosen, else the middle of a part."""
    first = View(LABELS, LEFT, SPACING_MM)
    second = View(LABELS[:, ::-1], np.zeros_like(LEFT), SPACING_MM)
    places = choose_places(first, second)
    assert places == sorted(places, reverse=True)
    planes = np.flatnonzero(LABELS.any(axis=(1, 2)))
    area = LEFT.sum(axis=(1, 2))[planes]
    best = (area.argmax() + 0.5) / len(planes)
    assert min(abs(place - best) for place in places) < 3 / len(planes)
    assert min(np.diff(places[::-1])) > 0.05
    assert choose_places(second, second) == pytest.approx(
        [(n + 0.5) / 6 for n in range(6)][::-1], abs=0.01
    )


def test_registration_follows_the_lungs():
    """The later lungs are wider, higher and moved; the lesions move with them."""
    later = thorax_phantom((44, 60, 70), (4.4, 5.5, 4.8), vessels=False)
    left = np.arange(70) >= 35
    labels = np.where(later.lung_mask, np.where(left, 2, 1), 0).astype(np.uint8)
    moved = np.roll(labels, (1, 2, -3), (0, 1, 2))
    lesions = np.roll(later.lesion_mask & ~left, (1, 2, -3), (0, 1, 2))
    first = View(LABELS, RIGHT | LEFT, SPACING_MM)
    registered = register(first, View(moved, lesions, (4.4, 5.5, 4.8)))
    assert registered.lung_dice > 0.95 > registered.lung_dice_before
    assert set(np.unique(registered.change)) <= {0, KEPT, NEW, GONE}
    rows = measure_change(registered, first)
    gone_ml, stay_ml = (float(mask.sum()) * VOXEL_ML for mask in (LEFT, RIGHT))
    assert rows["left"]["gone_ml"] == pytest.approx(gone_ml, abs=0.01)
    assert rows["right"]["kept_ml"] > 0.75 * stay_ml
    assert rows["both"]["new_ml"] < 0.25 * stay_ml
    again = register(first, View(moved, lesions, (4.4, 5.5, 4.8)))
    np.testing.assert_array_equal(again.change, registered.change)


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS[13:48:17])
def test_the_change_lies_on_the_grid_of_the_earlier_scan(tmp_path, order, flips, monkeypatch):
    june = write_exam(tmp_path / "june", RIGHT | LEFT, "june")
    july = write_exam(tmp_path / "july", RIGHT, "july")
    turned = reorient(PHANTOM.scan, order, flips)
    told = json.loads((june / "result.json").read_text())
    for name, mask in (("lungs", LABELS), ("lesions", RIGHT | LEFT)):
        scan = reorient(replace(PHANTOM.scan, volume_hu=mask.astype(np.int16)), order, flips)
        write_image(june / f"{name}.nii.gz", scan.volume_hu.astype(np.uint8), turned.geometry)
        told["files"][f"{name}.nii.gz"] = sha256_of(june / f"{name}.nii.gz")
    (june / "result.json").write_text(json.dumps(told))
    out = tmp_path / "out"
    assert main(["compare", str(june), str(july), "-o", str(out), "--register"]) == 0
    change = read_stored(out / "change.nii.gz")
    expected = reorient(
        replace(PHANTOM.scan, volume_hu=(RIGHT + 3 * LEFT).astype(np.int16)), order, flips
    )
    assert (change.voxels == expected.volume_hu).mean() > 0.999
    np.testing.assert_allclose(change.geometry.affine, turned.geometry.affine, atol=1e-4)
    assert json.loads((out / "comparison.json").read_text())["registration"]["lung_dice"] > 0.98
