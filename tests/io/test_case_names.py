"""Names of cases become names of files: they never lead out of the output folder."""

from __future__ import annotations

import pytest

from normnet.cli.main import main
from normnet.datasets.manifest import read_rows
from normnet.errors import InputError
from normnet.io.case_names import check_case_id

UNSAFE = [
    "../../x",
    "/x",
    "..",
    ".",
    "a/b",
    "a\\b",
    "..\\x",
    "a\0b",
    "a\nb",
    "a\x1bb",
    "",
    "  ",
    "é" * 101,
    "a" * 201,
    "\ud800",
]
SAFE = ["a", "ct 1", "b:c", "1.3.6.1.4", "..a", "Müller-Lüdenscheidt", "胸部", "é" * 100, "a" * 200]


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_names_are_refused(name):
    with pytest.raises(InputError) as caught:
        check_case_id(name, "list.csv")
    assert caught.value.code == "NN-DAT-006"
    assert "list.csv" in str(caught.value)


@pytest.mark.parametrize("name", SAFE)
def test_other_names_are_not(name):
    check_case_id(name, "list.csv")


@pytest.mark.parametrize("name", ["../../x", "/x", "..", "sub/x", "a" * 300])
def test_a_list_cannot_write_outside_the_output(tmp_path, name, capsys):
    (tmp_path / "ct.nii.gz").write_bytes(b"x")
    path = tmp_path / "list.csv"
    path.write_text(f"case_id,file\ngood,ct.nii.gz\n{name},ct.nii.gz\n")
    with pytest.raises(InputError) as caught:
        read_rows(path)
    assert caught.value.code == "NN-DAT-006"
    assert "ct.nii.gz" in str(caught.value)
    before = sorted(tmp_path.rglob("*"))
    for command in ("prepare", "train", "train-lungs"):
        out = tmp_path / "out" / command
        assert main([command, str(path), "--out", str(out), "--device", "cpu"]) == 3
        assert "NN-DAT-006" in capsys.readouterr().err
    assert [p for p in sorted(tmp_path.rglob("*")) if "out" not in p.parts] == before
    assert not list(tmp_path.rglob("*.npz"))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("case_id,file\na,\n", "NN-DAT-007"),
        ("case_id,file\na\n", "NN-DAT-007"),
        ("case_id,folder,file\na,sub,\n", "NN-DAT-007"),
        ("case_id,file\n,ct.nii.gz\n", "NN-DAT-006"),
        ("name,file\na,ct.nii.gz\n", "NN-DAT-002"),
        ("\udcff", "NN-DAT-001"),
    ],
)
def test_lists_that_lack_something(tmp_path, text, code):
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as caught:
        read_rows(path)
    assert caught.value.code == code


def test_a_list_from_a_spreadsheet_has_a_byte_order_mark(tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes(b"\xef\xbb\xbfcase_id,file\r\na,ct.nii.gz\r\n")
    assert [case.case_id for case in read_rows(path)] == ["a"]


def test_only_regular_files_are_lists(tmp_path):
    import os

    os.mkfifo(tmp_path / "list.csv")
    for path in (tmp_path / "list.csv", tmp_path, tmp_path / "nothing.csv"):
        with pytest.raises(InputError) as caught:
            read_rows(path)
        assert caught.value.code == "NN-DAT-001"
