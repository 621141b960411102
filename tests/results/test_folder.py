"""A result folder is whole or has no result.json; what is whole is recognised."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from normnet.config import Config
from normnet.errors import GeometryError, NormNetError, OutputError, ValueRangeError
from normnet.io.fingerprint import fingerprint
from normnet.io.masks import read_labels
from normnet.io.output_folder import check_output
from normnet.models import Members, Model
from normnet.pipeline import Segmentation
from normnet.quantification import quantify
from normnet.results.folder import (
    is_done,
    output_folder,
    read_owners,
    result_key,
    shared_key,
    write_failure,
    write_results,
)
from normnet.results.schema import FILES, RESULT
from tests.phantoms import reorient, thorax_phantom, write_nifti

MODEL = Model(
    Members([None] * 3, Config(), {"name": "tiny", "version": "1"}),
    Members([], Config(), {"name": "lungs"}),
    Members([], Config(), {"name": "lesions"}),
)


@pytest.fixture(scope="module")
def result():
    """A scan stored foot-first and mirrored, and its truth as a segmentation."""
    phantom = thorax_phantom((16, 32, 40), (10.0, 10.0, 8.0), vessels=False)
    order, flips = (0, 2, 1), (True, False, True)
    scan = reorient(phantom.scan, order, flips)
    index = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    lesions, lungs = (
        mask.transpose(order)[index] for mask in (phantom.lesion_mask, phantom.lung_mask)
    )
    labels = np.where(lungs, 1, 0).astype(np.uint8)
    codes = np.where(lesions, 191, 0).astype(np.uint8)
    votes = lesions.astype(np.uint8) * 2
    volumes = quantify(lesions, labels, scan.geometry.voxel_ml)
    certainty = {"tissue_in_air": 0.05, "lesion_ml_range": [1.5, 2.5], "healthy_hu": -890.5}
    return scan, Segmentation(
        lesions,
        labels,
        codes,
        votes,
        volumes,
        ("seen",),
        {"lungs": 0.1},
        "lungs",
        certainty,
        "float32",
        "torch 2.0, cpu",
    )


@pytest.fixture
def scan_file(tmp_path, result):
    return write_nifti(result[0], tmp_path / "ct.nii.gz")


def test_files_lie_on_the_grid_of_the_scan(tmp_path, result, scan_file):
    scan, found = result
    written = write_results(found, scan, tmp_path / "out", MODEL)
    assert set(written["files"]) == set(FILES)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*FILES, RESULT}
    affine = nibabel.load(scan_file).affine
    for name in FILES[:4]:
        image = nibabel.load(tmp_path / "out" / name)
        np.testing.assert_allclose(image.affine, affine, atol=1e-4)
        assert image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(
        read_labels(tmp_path / "out/lesions.nii.gz", scan), found.lesion_mask
    )
    np.testing.assert_array_equal(
        read_labels(tmp_path / "out/lungs.nii.gz", scan), found.lung_labels
    )
    anomaly = nibabel.load(tmp_path / "out/anomaly.nii.gz").get_fdata()
    np.testing.assert_allclose(
        anomaly.transpose(2, 1, 0), found.prob_anomaly, atol=0.5 / 255 + 1e-6
    )
    assert Image.open(tmp_path / "out/preview.png").width > 1000


def test_result_json_tells_what_a_reader_needs(tmp_path, result):
    scan, found = result
    write_results(found, scan, tmp_path / "out", MODEL)
    text = (tmp_path / "out" / RESULT).read_text()
    told = json.loads(text)
    assert told["status"] == "ok"
    assert told["notice"] == "Research use only, not a medical device."
    assert told["scan"] == {
        "shape_zyx": list(scan.shape),
        "spacing_mm_zyx": list(scan.geometry.spacing_mm),
        "averaged_slices": 1,
        "thickness_mm": None,
        "kernel": "",
    }
    assert told["volumes"]["both"]["lesion_ml"] == pytest.approx(
        found.lesion_mask.sum() * scan.geometry.voxel_ml
    )
    assert told["certainty"] == found.certainty != {}
    assert told["model"]["n_members"] == 3
    assert told["model"]["lungs"] == "lungs"
    assert told["model"]["precision"] == "float32"
    assert told["model"]["backend"] == "torch 2.0, cpu"
    assert told["model"]["min_votes"] == 2
    assert told["warnings"] == [*scan.warnings, "seen"]
    assert list(told["seconds"]) == ["lungs", "writing"]
    assert str(tmp_path) not in text


def test_two_runs_differ_in_seconds_only(tmp_path, result):
    scan, found = result
    first, second = (write_results(found, scan, tmp_path / name, MODEL) for name in ("one", "two"))
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_whole_results_are_recognised(tmp_path, result, scan_file):
    scan, found = result
    shared = shared_key([MODEL.ensemble.manifest, MODEL.lungs.manifest], MODEL.config)
    key = result_key(scan_file, shared)
    folder = tmp_path / "out"
    assert not is_done(folder, key)
    write_results(found, scan, folder, MODEL, key=key)
    assert is_done(folder, key)
    assert not is_done(
        folder,
        result_key(scan_file, shared_key([{"name": "other"}, MODEL.lungs.manifest], MODEL.config)),
    )
    assert not is_done(folder, {**key, "config": "other"})
    assert not is_done(folder, {**key, "lungs": "given now"})
    (folder / "votes.nii.gz").write_bytes(b"damaged")
    assert not is_done(folder, key)
    (folder / "votes.nii.gz").unlink()
    assert not is_done(folder, key)


def test_a_changed_input_is_not_done(tmp_path, result, scan_file):
    before = fingerprint(scan_file)
    scan_file.write_bytes(scan_file.read_bytes() + b"\0")
    assert fingerprint(scan_file) != before
    folder = tmp_path / "dicom"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(b"1")
    before = fingerprint(folder)
    (folder / "a.dcm").rename(folder / "b.dcm")
    assert fingerprint(folder) != before


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("broken", ["votes.nii.gz", "preview.png", RESULT])
def test_only_an_older_result_is_left_when_a_new_one_fails(
    tmp_path, result, monkeypatch, broken, old
):
    scan, found = result
    (tmp_path / "out").mkdir()
    if old:
        write_results(found, scan, tmp_path / "out", MODEL)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    real = Path.replace

    def fail(self, target):
        if Path(target).name == broken:
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OutputError, match="NN-OUT-001"):
        write_results(found, scan, tmp_path / "out", MODEL)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_leftovers_of_a_killed_run_are_removed(tmp_path, result):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / ".lesions.nii.gz.0badcafe.tmp").write_bytes(b"half")
    (folder / "notes.txt").write_text("the user's own")
    write_results(result[1], result[0], folder, MODEL)
    assert {path.name for path in folder.iterdir()} == {*FILES, RESULT, "notes.txt"}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (GeometryError("NN-GEO-002", "a slice is missing", "x"), "error"),
        (ValueRangeError("NN-VAL-020", "no lung found", "x"), "no_lung"),
    ],
)
def test_a_failure_replaces_older_results(tmp_path, result, error: NormNetError, status):
    write_results(result[1], result[0], tmp_path / "out", MODEL)
    told = write_failure(tmp_path / "out", "case", error)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [RESULT]
    assert told["status"] == status
    assert told["error"] == {"id": error.code, "message": str(error), "exit_code": error.exit_code}


def _key(place: str, content: str) -> dict[str, str]:
    return {"place": place, "input": content}


def test_inputs_of_one_name_get_distinct_folders(tmp_path):
    taken: set[Path] = set()
    for d in "abc":
        taken.add(output_folder(tmp_path, Path(f"{d}/ct.nii.gz"), taken, _key(d, d)))
    assert {folder.name for folder in taken} == {"ct", "ct_2", "ct_3"}
    assert output_folder(tmp_path, Path("d/ct_2.nrrd"), taken, _key("d", "d")).name == "ct_2_2"


def test_folders_belong_to_their_input_in_later_runs(tmp_path):
    for name, owner in (("ct", "a"), ("ct_2", "b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / RESULT).write_text(
            json.dumps({"status": "ok", "key": _key(owner, owner)})
        )
    path = Path("x/ct.nii.gz")
    assert output_folder(tmp_path, path, set(), _key("b", "b")).name == "ct_2"
    assert output_folder(tmp_path, path, set(), _key("a", "changed")).name == "ct"
    assert output_folder(tmp_path, path, set(), _key("moved", "b")).name == "ct_2"
    assert output_folder(tmp_path, path, set(), _key("c", "c")).name == "ct_3"


def test_scans_of_one_place_keep_their_folders(tmp_path):
    """The series of one folder, or a file and a link to it, in whatever order they come."""
    path, taken = Path("dump"), set()
    for name, content in (("dump", "a"), ("dump_2", "b"), ("dump_3", "c")):
        (tmp_path / name).mkdir()
        (tmp_path / name / RESULT).write_text(
            json.dumps({"status": "ok", "key": _key("dump", content)})
        )
    owners = read_owners(tmp_path)
    for content, expected in (("b", "dump_2"), ("new", "dump_4"), ("c", "dump_3"), ("a", "dump")):
        key = _key("dump", content)
        folder = output_folder(tmp_path, path, taken, key, "dump", owners, by_content=True)
        assert folder.name == expected
        taken.add(folder)


@pytest.mark.parametrize("path", [".", ".."])
def test_a_folder_without_a_name_stays_inside_the_output(tmp_path, path, monkeypatch):
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    folder = output_folder(tmp_path / "out", Path(path), set(), _key("a", "a"))
    assert folder == tmp_path / "out" / Path(path).resolve().name


def test_the_output_is_no_input(tmp_path, scan_file):
    dicom = tmp_path / "series"
    dicom.mkdir()
    (dicom / "1.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 100)
    for out in (tmp_path / "series", tmp_path / "series" / "results"):
        with pytest.raises(OutputError, match="NN-OUT-011"):
            check_output(out, [dicom])
    with pytest.raises(OutputError, match="NN-OUT-011"):
        check_output(tmp_path, [tmp_path])
    with pytest.raises(OutputError, match="NN-OUT-011"):
        output_folder(tmp_path, dicom, set(), _key("a", "a"))
    check_output(tmp_path / "results", [tmp_path])  # below a folder of scans is fine
    assert list((tmp_path / "results").iterdir()) == []
