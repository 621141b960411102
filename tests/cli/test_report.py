"""Reports by command: with a segmentation, afterwards, and where the CT is gone."""

import json
import shutil

import pytest

from normnet.cli.main import main
from normnet.results.schema import RESULT, read_result


@pytest.fixture
def command(capsys):
    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_segment_writes_reports_where_asked(segment, scans, tmp_path, capsys):
    assert segment(scans / "a.nii.gz") == 0
    out = tmp_path / "out"
    assert not (out / "a/report.html").exists() and not (out / "index.html").exists()
    before = (out / "a/lesions.nii.gz").read_bytes()
    assert segment(scans, "--report") == 0  # of the one that is done, too
    assert "1 done already" in capsys.readouterr().out
    for name in "ab":
        page = (out / name / "report.html").read_text()
        assert f"<h1>{name}</h1>" in page
        assert "report.html" in read_result(out / name)["files"]
    assert (out / "a/lesions.nii.gz").read_bytes() == before
    assert 'href="b/report.html"' in (out / "index.html").read_text()
    assert segment(scans, "--report") == 0
    assert "2 done already" in capsys.readouterr().out


def test_reports_are_written_afterwards(segment, scans, tmp_path, command, monkeypatch):
    assert segment(scans) == 0
    out = tmp_path / "out"
    monkeypatch.chdir(tmp_path)  # where "scans" lies
    assert command("report", out)[0] == 0
    assert (out / "b/report.html").is_file() and (out / "index.html").is_file()
    monkeypatch.chdir("/")
    (out / "index.html").unlink()
    code, _, error = command("report", out / "a")
    assert code == 3 and "NN-RPT-001" in error and not (out / "index.html").exists()
    moved = tmp_path / "moved"
    shutil.move(scans, moved)
    assert command("report", out / "a", "--scans", moved)[0] == 0


def test_a_changed_ct_has_no_report(segment, scans, tmp_path, command, monkeypatch):
    assert segment(scans) == 0
    monkeypatch.chdir(tmp_path)
    shutil.copy(scans / "b.nii.gz", scans / "a.nii.gz")
    out = tmp_path / "out"
    code, printed, error = command("report", out)
    assert code == 9 and "a: NN-RPT-001" in error and "b: report written" in printed
    assert not (out / "a/report.html").exists()
    text = (out / "index.html").read_text()
    assert 'href="b/report.html"' in text and 'href="a/report.html"' not in text


def test_a_failure_stands_on_the_page(segment, scans, tmp_path):
    (scans / "c.nii.gz").write_bytes(b"no image")
    assert segment(scans, "--report") == 9
    text = (tmp_path / "out/index.html").read_text()
    assert "Without a result" in text and "NN-FILE" in text


def test_refusals(segment, scans, tmp_path, command, monkeypatch, capsys):
    code, _, error = command("report", tmp_path)
    assert code == 3 and "NN-RPT-005" in error
    out = tmp_path / "out"
    out.mkdir()
    (out / "index.html").write_text("mine")
    assert segment(scans, "--report") == 7
    assert "NN-OUT-015" in capsys.readouterr().err
    assert (out / "index.html").read_text() == "mine"
    (out / "index.html").unlink()
    monkeypatch.setattr("normnet.report.printing.shutil.which", lambda name: None)
    assert segment(scans, "--report-pdf") == 7
    assert "NN-RPT-002" in capsys.readouterr().err
    assert not list(out.glob(f"*/{RESULT}"))


def test_a_result_that_is_no_result_is_passed_over(tmp_path, command):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / RESULT).write_text(json.dumps({"status": "ok", "files": 3}))
    assert command("report", tmp_path)[0] == 0
