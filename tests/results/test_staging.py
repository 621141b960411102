"""A new result replaces the files of an older one, all of them or none, and no other file."""

import json
import os
from pathlib import Path

import pytest

from normnet.errors import GeometryError, OutputError
from normnet.io.fingerprint import sha256_of
from normnet.io.json_files import write_json
from normnet.results.folder import claimed_folder, is_result_file, write_failure
from normnet.results.schema import FILES, RESULT
from normnet.results.staging import staged
from normnet.results.table import TABLE, write_table

ERROR = GeometryError("NN-GEO-002", "a slice is missing", "x")
KEY = {"place": "p", "input": "i"}


def write(folder: Path, text: str) -> None:
    """A result whose files all hold ``text``."""
    with staged(folder) as new:
        for name in FILES:
            (new / name).write_text(text)
        files = {name: sha256_of(new / name) for name in FILES}
        ours = {"normnet": "0", "status": "ok", "case_id": folder.name, "key": KEY}
        write_json(new / RESULT, {**ours, "files": files})


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def is_whole(folder: Path) -> bool:
    files = json.loads((folder / RESULT).read_text())["files"]
    return all(sha256_of(folder / name) == files[name] for name in FILES)


@pytest.mark.parametrize("name", [*FILES, RESULT])
def test_a_file_of_the_user_is_kept(tmp_path, name):
    folder = tmp_path / "ct"
    folder.mkdir()
    (folder / name).write_text('{"status": "mine"}')
    for act in (lambda: write(folder, "new"), lambda: write_failure(folder, "ct", ERROR)):
        with pytest.raises(OutputError, match=f"NN-OUT-015.*ct/{name}"):
            act()
    with (
        pytest.raises(OutputError, match="NN-OUT-015"),
        claimed_folder(tmp_path, Path("ct.nii.gz"), set(), KEY),
    ):
        pass
    assert content(folder) == {name: b'{"status": "mine"}'}
    assert [path.name for path in folder.iterdir()] == [name]


@pytest.mark.parametrize("name", FILES)
def test_an_edited_result_is_kept(tmp_path, name):
    write(tmp_path / "ct", "old")
    (tmp_path / "ct" / name).write_text("edited by hand")
    before = content(tmp_path / "ct")
    with pytest.raises(OutputError, match=f"NN-OUT-015.*{name}"):
        write(tmp_path / "ct", "new")
    assert content(tmp_path / "ct") == before


@pytest.mark.parametrize("name", [*FILES, RESULT])
@pytest.mark.parametrize("kind", ["link", "dangling", "folder", "pipe"])
def test_what_is_no_file_is_kept(tmp_path, name, kind):
    folder, own = tmp_path / "ct", tmp_path / "own"
    folder.mkdir()
    own.write_text("mine")
    if kind == "folder":
        (folder / name).mkdir()
    elif kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to(own if kind == "link" else tmp_path / "nowhere")
    with pytest.raises(OutputError, match=f"NN-OUT-016.*{name}"):
        write(folder, "new")
    assert own.read_text() == "mine"
    assert os.path.lexists(folder / name)


def test_a_result_folder_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/ct").symlink_to(tmp_path / "elsewhere")
    with (
        pytest.raises(OutputError, match="NN-OUT-016"),
        claimed_folder(tmp_path / "out", Path("ct.nii.gz"), set(), KEY),
    ):
        pass
    assert list((tmp_path / "elsewhere").iterdir()) == []


class Killed(BaseException):
    """Stands for SIGKILL: nothing is cleaned up after it."""


N_RENAMES = len(FILES) + 2  # of an older result.json, each file, and the new result.json


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("n", range(N_RENAMES))
def test_killed_between_two_renames(tmp_path, monkeypatch, n, old):
    folder = tmp_path / "ct"
    if old:
        write(folder, "old")
    real, renamed = Path.replace, []

    def kill(self, target):
        if Path(target).parent == folder or self.parent == folder:
            if len(renamed) == n:
                raise Killed
            renamed.append(target)
        return real(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", kill)
        patched.setattr("normnet.results.staging._clear", lambda *_: None)
        try:
            write(folder, "new")
        except Killed:
            if (folder / RESULT).exists():  # complete, or recognised as incomplete
                assert old
                assert is_whole(folder)
            for name in FILES:  # a search for scans passes over all of them
                assert is_result_file(folder / name)
            assert len([path for path in folder.iterdir() if path.name.startswith(".")]) == 1
    (folder / "notes.txt").write_text("the user's own")
    write(folder, "newest")
    assert is_whole(folder)
    assert {path.name for path in folder.iterdir()} == {*FILES, RESULT, "notes.txt"}
    assert (folder / FILES[0]).read_text() == "newest"


def test_a_file_of_the_user_survives_a_killed_run(tmp_path):
    """It was put in the place of a file that the killed run had not moved yet."""
    folder = tmp_path / "ct"
    stage = folder / ".normnet-0badcafe"
    stage.mkdir(parents=True)
    for name in FILES:
        (stage / name).write_text("new")
    files = {name: sha256_of(stage / name) for name in FILES}
    write_json(stage / RESULT, {"files": files})
    (stage / FILES[0]).rename(folder / FILES[0])
    (folder / FILES[1]).write_text("mine")
    with pytest.raises(OutputError, match=f"NN-OUT-015.*{FILES[1]}"):
        write(folder, "newest")
    assert content(folder) == {FILES[1]: b"mine"}


def test_a_failed_rename_leaves_no_result(tmp_path, monkeypatch):
    folder = tmp_path / "ct"
    write(folder, "old")
    real = Path.replace

    def broken(self, target):
        if Path(target) == folder / FILES[2]:
            raise OSError(5, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(OutputError, match="NN-OUT-003"):
        write(folder, "new")
    assert list(folder.iterdir()) == []


def test_a_hidden_folder_of_the_user_is_kept(tmp_path):
    for name in (".normnet-mine", ".normnet-0badcafe"):
        (tmp_path / "ct" / name).mkdir(parents=True)
        (tmp_path / "ct" / name / "notes.txt").write_text("mine")
    write(tmp_path / "ct", "new")
    assert len(list((tmp_path / "ct").glob(".normnet-*/notes.txt"))) == 2


@pytest.mark.parametrize(
    "text",
    ['{"key": "abc"}', '{"status": 3}', '{"files": []}', "[" * 100_000, "[1]", "", "\xff"],
)
def test_a_foreign_result_json_is_no_bug(tmp_path, text):
    (tmp_path / "ct").mkdir()
    (tmp_path / "ct" / RESULT).write_text(text)
    with (
        pytest.raises(OutputError, match="NN-OUT-015"),
        claimed_folder(tmp_path, Path("ct.nii.gz"), set(), KEY),
    ):
        pass
    write_table(tmp_path)
    assert (tmp_path / "ct" / RESULT).read_text() == text


@pytest.mark.parametrize("text", ["case_id,dice\na,0.9\n", "mine", "", "case_id,folder,status,x\n"])
def test_a_table_of_the_user_is_kept(tmp_path, text):
    (tmp_path / TABLE).write_text(text)
    with pytest.raises(OutputError, match=f"NN-OUT-015.*{TABLE}"):
        write_table(tmp_path)
    assert (tmp_path / TABLE).read_text() == text


def test_a_table_of_an_older_version_is_replaced(tmp_path):
    (tmp_path / TABLE).write_text("case_id,folder,status,error\nx,x,ok,\n")
    (tmp_path / f".{TABLE}.0badcafe.tmp").write_text("half")
    write(tmp_path / "ct", "new")
    write_table(tmp_path)
    assert "\nct,ct,,ok" in (tmp_path / TABLE).read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"ct", TABLE}


def test_a_table_that_is_a_link_is_kept(tmp_path):
    (tmp_path / "own.csv").write_text("case_id,folder,status\n")
    (tmp_path / TABLE).symlink_to(tmp_path / "own.csv")
    with pytest.raises(OutputError, match="NN-OUT-016"):
        write_table(tmp_path)
    assert (tmp_path / TABLE).is_symlink()
    assert (tmp_path / "own.csv").read_text() == "case_id,folder,status\n"
