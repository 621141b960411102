"""The commands with a scan whose slices were averaged because all of them do not fit in memory."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from normnet import pipeline
from normnet.cli.main import main
from normnet.io import joining, read_ct, read_labels
from normnet.io.formats.nifti import write_image
from normnet.io.read import read_stored
from normnet.results.schema import RESULT
from tests import phantoms

N_SLICES, SIZE = 95, 3  # the last group has two
MASKS = ("lesions.nii.gz", "lungs.nii.gz", "anomaly.nii.gz", "votes.nii.gz")


@pytest.fixture(autouse=True)
def small_memory(monkeypatch):
    monkeypatch.setattr(joining, "MAX_HELD_VOXELS", 32 * 64 * 64)


@pytest.fixture(scope="module")
def phantom():
    return phantoms.thorax_phantom((N_SLICES, 64, 64), (0.8, 5.0, 5.0))


@pytest.fixture
def ct(phantom, tmp_path):
    return phantoms.write_nifti(phantom.scan, tmp_path / "ct.nii.gz")


def result_of(folder):
    return json.loads((folder / RESULT).read_text())


def test_the_result_has_the_slices_of_the_file(segment, ct, phantom, tmp_path, capsys):
    assert segment(ct, "--seg-nrrd", "--report") == 0
    assert "95 slices of 0.8 mm were averaged in groups of 3" in capsys.readouterr().out
    folder = tmp_path / "out/ct"
    result = result_of(folder)
    assert result["scan"]["shape_zyx"] == [N_SLICES, 64, 64]
    assert result["scan"]["spacing_mm_zyx"] == [0.8, 5.0, 5.0]
    assert result["scan"]["averaged_slices"] == SIZE
    assert sum("averaged" in line for line in result["warnings"]) == 1
    for name in MASKS:
        stored = read_stored(folder / name)
        assert stored.voxels.shape == phantom.scan.shape
        np.testing.assert_allclose(stored.geometry.affine, phantom.scan.geometry.affine, atol=1e-4)
        groups = stored.voxels[: N_SLICES // SIZE * SIZE].reshape(-1, SIZE, 64, 64)
        assert (groups == groups[:, :1]).all()
    lungs = read_stored(folder / "lungs.nii.gz").voxels
    ml = np.count_nonzero(lungs) * phantom.scan.geometry.voxel_ml
    assert ml == pytest.approx(result["volumes"]["both"]["lung_ml"], rel=0.01)
    assert (folder / "segmentation.seg.nrrd").is_file()
    again = segment(ct, "--seg-nrrd", "--report")
    assert (again, "done already" in capsys.readouterr().out) == (0, True)


def test_given_masks_are_thinned(segment, ct, phantom, tmp_path):
    labels = np.where(phantom.lung_mask, np.where(np.arange(64) >= 32, 2, 1), 0).astype(np.uint8)
    lobes = np.where(labels == 2, 1, np.where(labels == 1, 3, 0)).astype(np.uint8)
    for name, mask in (("lungs", labels), ("lobes", lobes)):
        write_image(tmp_path / f"{name}.nii.gz", mask, phantom.scan.geometry)
    masks = ("--lungs", tmp_path / "lungs.nii.gz", "--lobes", tmp_path / "lobes.nii.gz")
    assert segment(ct, *masks) == 0
    folder, scan = tmp_path / "out/ct", read_ct(ct)
    np.testing.assert_array_equal(
        read_labels(folder / "lungs.nii.gz", scan), read_labels(tmp_path / "lungs.nii.gz", scan)
    )
    lung_ml = result_of(folder)["quantification"]["lobes"]["left_upper"]["lung_ml"]
    assert lung_ml == pytest.approx(result_of(folder)["volumes"]["left"]["lung_ml"])


@pytest.mark.parametrize("option", ["--dicom-seg", "--dicom-sr", "--dicom-anomaly"])
def test_dicom_objects_are_refused_before_the_work(
    segment, phantom, tmp_path, capsys, monkeypatch, option
):
    pytest.importorskip("highdicom", reason="the extra 'dicom' is not installed")
    monkeypatch.setattr("normnet.pipeline.segment", None)  # is not reached
    phantoms.write_dicom(phantom.scan, tmp_path / "series")
    assert segment(tmp_path / "series", option) == 7
    assert capsys.readouterr().err.splitlines()[-1] == (
        "series: NN-OUT-024: no DICOM object of 95 slices that were averaged to fit in memory; "
        "series; leave out the DICOM output (--seg-nrrd is possible)"
    )
    assert result_of(tmp_path / "out/series")["error"]["id"] == "NN-OUT-024"


def test_other_commands_take_such_a_result(segment, ct, phantom, tmp_path, capsys, monkeypatch):
    original = pipeline.segment

    def with_lesions(scan, *arguments, **options):
        found = original(scan, *arguments, **options)
        return replace(found, lesion_mask=scan.joined.thinned(phantom.lesion_mask))

    monkeypatch.setattr("normnet.pipeline.segment", with_lesions)
    assert segment(ct) == 0
    folder, out = tmp_path / "out/ct", tmp_path / "compared"
    assert main(["report", str(folder), "--scans", str(ct)]) == 0
    assert "(0 to 94)" in (folder / "report.html").read_text()
    command = ["compare", str(folder), str(folder), "--register", "--out", str(out)]
    assert main([*command, "--earlier-ct", str(ct), "--later-ct", str(ct)]) == 0
    change = read_stored(out / "change.nii.gz")
    lesions = read_stored(folder / "lesions.nii.gz")
    assert change.voxels.shape == lesions.voxels.shape
    np.testing.assert_allclose(change.geometry.affine, lesions.geometry.affine, atol=1e-4)
    assert np.count_nonzero(lesions.voxels) > 500
    np.testing.assert_array_equal(change.voxels > 0, lesions.voxels > 0)
    (tmp_path / "references").mkdir()
    write_image(tmp_path / "references/ct.nii.gz", phantom.lesion_mask, phantom.scan.geometry)
    assert main(["evaluate", str(folder.parent), str(tmp_path / "references")]) == 0
    assert "0.9" in capsys.readouterr().out
    assert main(["info", str(ct)]) == 0
    told = capsys.readouterr().out
    assert "voxels: 95 x 64 x 64" in told
    assert "spacing: 0.8 x 5 x 5 mm" in told
