"""``normnet segment``, ``prepare`` and ``info`` on folders as people have them."""

from __future__ import annotations

import csv
import json
import shutil
import zipfile
from pathlib import Path

import pytest

from normnet.cli.main import main
from normnet.io.formats.nifti import write_image
from tests.cli.conftest import SHAPE, SPACING_MM
from tests.phantoms import thorax_phantom, write_dicom, write_nifti


@pytest.fixture(scope="module")
def phantom():
    return thorax_phantom(SHAPE, SPACING_MM)


def rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "results.csv").open(newline="") as file:
        return {row["folder"]: row for row in csv.DictReader(file)}


def tags(**values):
    def edit(datasets):
        for data in datasets:
            for keyword, value in values.items():
                setattr(data, keyword, value)

    return edit


def test_a_tree_of_a_data_set(segment, phantom, tmp_path, capsys):
    tree = tmp_path / "tree"
    for subject in ("s1", "s2"):
        (tree / subject / "masks").mkdir(parents=True)
        write_nifti(phantom.scan, tree / subject / "ct.nii.gz")
        for organ in ("heart", "liver", "lobe"):
            path = tree / subject / "masks" / f"{organ}.nii.gz"
            write_image(path, phantom.lung_mask, phantom.scan.geometry)
    write_dicom(phantom.scan, tree / "s3" / "SEG", tags(Modality="SEG"))
    write_dicom(phantom.scan, tree / "s3" / "CT")
    with zipfile.ZipFile(tree / "s4.zip", "w") as archive:
        archive.write(tree / "s1" / "ct.nii.gz", "deep/ct.nii.gz")
    assert segment(tree) == 0
    told = capsys.readouterr().out
    assert "6 files hold labels, not HU" in told
    assert "1 series left out: 1 SEG" in told
    found = rows(tmp_path / "out")
    assert {name: row["source"] for name, row in found.items()} == {
        "s1": "tree/s1/ct.nii.gz",
        "s2": "tree/s2/ct.nii.gz",
        "CT": "tree/s3/CT",
        "s4": "tree/s4.zip/deep/ct.nii.gz",
    }
    assert {row["status"] for row in found.values()} == {"ok"}
    result = json.loads((tmp_path / "out" / "s1" / "result.json").read_text())
    assert (result["case_id"], result["source"]) == ("s1", "tree/s1/ct.nii.gz")
    assert str(tmp_path) not in json.dumps(result)
    assert segment(tree) == 0
    assert "4 done already" in capsys.readouterr().out


def test_results_keep_their_names(segment, phantom, tmp_path):
    first = tmp_path / "tree" / "S1" / "scans" / "2" / "DICOM"
    write_dicom(phantom.scan, first)
    assert segment(tmp_path / "tree") == 0
    shutil.copytree(first, tmp_path / "tree" / "S2" / "scans" / "2" / "DICOM")
    assert segment(tmp_path / "tree") == 0
    assert {name: row["source"] for name, row in rows(tmp_path / "out").items()} == {
        "DICOM": "tree/S1/scans/2/DICOM",
        "S2": "tree/S2/scans/2/DICOM",
    }


def test_the_proposed_series_is_taken(segment, phantom, tmp_path, capsys):
    for uid, kernel in (("1.2.1", "FC51"), ("1.2.2", "FC03")):
        write_dicom(
            phantom.scan,
            tmp_path / uid,
            tags(SeriesInstanceUID=uid, ConvolutionKernel=kernel, StudyInstanceUID="1.2"),
        )
    both = tmp_path / "both"
    both.mkdir()
    for uid in ("1.2.1", "1.2.2"):
        for file in (tmp_path / uid).iterdir():
            file.rename(both / f"{uid}-{file.name}")
    assert segment(both) == 4
    assert "--series auto takes 1.2.2" in capsys.readouterr().err
    assert segment(both, "--series", "auto") == 0
    assert segment(both, "--series", "1.2.9") == 3


def test_a_slice_that_cannot_be_read(segment, phantom, tmp_path, capsys):
    folder = write_dicom(phantom.scan, tmp_path / "ct")
    for file in list(folder.iterdir()):
        file.rename(file.with_suffix(""))
    (folder / "0031").write_bytes(b"")
    assert segment(folder) == 3
    assert "NN-FILE-002" in capsys.readouterr().err
    assert rows(tmp_path / "out")["ct"]["error"] == "NN-FILE-002"


@pytest.mark.parametrize("command", ["segment", "prepare", "info", "train"])
def test_an_empty_argument(command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = [] if command == "info" else ["--out", "out"]
    assert main([command, "", *options]) == 2
    assert capsys.readouterr().err.startswith("NN-CLI-003: ")
    assert not (tmp_path / "out").exists()


def test_info_lists_a_folder(phantom, tmp_path, capsys):
    write_dicom(
        phantom.scan,
        tmp_path / "P1" / "ct",
        tags(SeriesDescription="Thorax Secret", ConvolutionKernel="B30f"),
    )
    write_dicom(phantom.scan, tmp_path / "P1" / "mr", tags(Modality="MR"))
    write_image(tmp_path / "mask.nii.gz", phantom.lung_mask, phantom.scan.geometry)
    assert main(["info", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    for part in ("P1/ct", "CT DICOM", "B30f", "Thorax ***", "MR DICOM", "labels, not HU", "HU:"):
        assert part in told
    assert "Secret" not in told


def test_info_names_the_best_of_a_study(phantom, tmp_path, capsys):
    for name, kernel in (("soft", "B30f"), ("sharp", "B70f")):
        write_dicom(
            phantom.scan,
            tmp_path / name,
            tags(ConvolutionKernel=kernel, StudyInstanceUID="1.2"),
        )
    assert main(["info", str(tmp_path)]) == 0
    assert "proposed of its study" in capsys.readouterr().out


def test_normals_of_one_name(phantom, tmp_path):
    from normnet.cli.normals import find_normals

    for subject in ("s1", "s2"):
        (tmp_path / subject).mkdir()
        write_nifti(phantom.scan, tmp_path / subject / "ct.nii.gz")
        write_image(tmp_path / subject / "m.nii.gz", phantom.lung_mask, phantom.scan.geometry)
    assert [case.case_id for case in find_normals([tmp_path], None, [])] == ["s1", "s2"]
