"""Names of results: short, telling, and the same in every run."""

from __future__ import annotations

from pathlib import Path

import pytest

from normnet.results.folder import output_folder
from normnet.results.names import result_names, safe_name

CASES = {
    "unique": (["c/a.nii.gz", "c/b.mha", "c/deep/P1"], ["a", "b", "P1"]),
    "xnat": (
        [f"c/{s}/scans/{n}/DICOM" for s in ("SUBJ001", "SUBJ002") for n in (2, 3)],
        ["SUBJ001_2", "SUBJ001_3", "SUBJ002_2", "SUBJ002_3"],
    ),
    "one subject": (
        [f"c/SUBJ001/scans/{n}/DICOM" for n in (2, 3)],
        ["SUBJ001_2", "SUBJ001_3"],
    ),
    "total": (["c/s0001/ct.nii.gz", "c/s0002/ct.nii.gz"], ["s0001", "s0002"]),
    "depths": (["c/P1/ct.nii.gz", "c/P2/late/ct.nii.gz"], ["P1", "P2"]),
    "some alike": (["c/x.nii", "c/P1/ct.nii", "c/P2/ct.nii"], ["x", "P1", "P2"]),
    "redundant": (
        ["c/P1/old/1/DICOM", "c/P1/old/2/DICOM", "c/P2/new/1/DICOM"],
        ["P1_1", "P1_2", "P2_1"],
    ),
    "suffix only": (["c/ct.nii.gz", "c/ct.mha"], ["ct", "ct"]),
}


@pytest.mark.parametrize("case", CASES)
def test_names(case):
    paths, names = CASES[case]
    assert result_names([Path(path) for path in paths], [Path("c")] * len(paths)) == names


def test_files_that_a_shell_lists():
    paths = [Path("s0001/ct.nii.gz"), Path("s0002/ct.nii.gz")]
    assert result_names(paths, paths) == ["s0001", "s0002"]


@pytest.mark.parametrize(
    ("name", "safe"),
    [("a/b:c*?", "a_b_c__"), ("a\x1b\nb", "a__b"), ("患者 01", "患者 01"), ("..", "scan"),
     ("x" * 300, "x" * 120), ("end. ", "end"), ("a\udcff", "a_")],
)  # fmt: skip
def test_safe_names(name, safe):
    assert safe_name(name) == safe


def test_names_stay_when_scans_are_added(tmp_path):
    """The folder of a place is used again under whatever name it got."""
    first = {"place": "p1", "input": "i1"}
    other = {"place": "p2", "input": "i2"}
    owners = {"p1": [tmp_path / "ct"]}
    taken: set[Path] = set()
    assert output_folder(tmp_path, Path("s1/ct.nii"), taken, first, "s1", owners).name == "ct"
    assert output_folder(tmp_path, Path("s2/ct.nii"), taken, other, "s2", owners).name == "s2"
