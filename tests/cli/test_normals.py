"""``--exclude`` of ``normnet prepare``: slices that no one should learn from."""

from __future__ import annotations

from pathlib import Path

import pytest

from normnet.cli.main import main
from normnet.cli.normals import without_slices
from normnet.datasets.manifest import Case
from normnet.errors import ConfigError
from tests.datasets import trees

CASES = [Case("a", Path("a.nii.gz"), excluded_slices=frozenset({1})), Case("b:c", Path("b.nii.gz"))]


def test_slices_are_added_to_those_of_the_list():
    found = without_slices(CASES, ["a:4-6", "a:9-9", "b:c:0-1"])
    assert [case.excluded_slices for case in found] == [{1, 4, 5, 6, 9}, {0, 1}]
    assert [case.excluded_slices for case in CASES] == [{1}, set()]
    assert without_slices(CASES, []) == CASES


@pytest.mark.parametrize(
    "text", ["", "a", "a:", "a:4", "a:4-", "a:-4", "a:6-4", "a:4-x", "a:²-4", "nobody:4-6", "4-6"]
)
def test_anything_else_is_told(text):
    with pytest.raises(ConfigError) as caught:
        without_slices(CASES, [text])
    assert caught.value.code == "NN-CFG-013"
    assert "--exclude" in str(caught.value)


def test_excluded_slices_are_not_usable(scans, tiny_models, tmp_path, capsys):
    from normnet.preparation.cache import load_case

    scan = str(scans / "a.nii.gz")
    options = [
        "--out",
        str(tmp_path / "cache"),
        "--lung-model",
        str(tiny_models[1]),
        "--device",
        "cpu",
    ]
    assert main(["prepare", scan, *options]) == 0
    whole = load_case(tmp_path / "cache/a.npz").usable
    assert main(["prepare", scan, "--exclude", "a:10-15", *options]) == 0
    assert "a: prepared" in capsys.readouterr().out
    part = load_case(tmp_path / "cache/a.npz").usable
    assert len(part) == len(whole)
    assert 25 < whole.sum() - part.sum() < 45  # six slices of 5 mm on a grid of 1 mm
    assert main(["prepare", scan, "--exclude", "b:10-15", *options]) == 2


def test_luna16_brings_its_nodules(tmp_path):
    """A nodule of 12 mm on slices 5 mm apart."""
    from normnet.cli.normals import find_normals

    first = trees.chest().scan.geometry.origin_mm[0]
    root = trees.luna16(tmp_path / "luna", f"{trees.SERIES}1,0,0,{first + 50},12\n")
    cases = find_normals([tmp_path], None, [])
    assert [(case.case_id, sorted(case.excluded_slices)) for case in cases] == [
        (f"{trees.SERIES}0", []),
        (f"{trees.SERIES}1", [9, 10, 11]),
    ]
    assert cases[0].image.parent == root / "subset0"
