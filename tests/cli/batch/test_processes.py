"""``--workers``: the same results by several processes; one that is killed loses no scan."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from normnet.cli.batch import worker
from normnet.cli.batch.worker import Worker
from normnet.results.schema import FILES, RESULT, read_result
from tests.cli.batch.conftest import ROOT
from tests.cli.batch.stubs import n_done
from tests.phantoms import thorax_phantom, write_dicom
from tests.waiting import wait_until


def _bytes(out):
    return {
        path.relative_to(out): path.read_bytes()
        for path in sorted(out.glob("*/*"))
        if path.name != RESULT
    }


def _without_times(text):
    return sorted(re.sub(r"[\d.]+ s$", "s", line) for line in text.splitlines())


def _table(out):
    return list(csv.DictReader((out / "results.csv").open(encoding="utf-8", newline="")))


def test_the_same_lines_results_and_bytes(segment, cts, words, tmp_path, capfd):
    (cts / "bad.nii.gz").write_bytes(b"")
    assert segment(cts) == 9
    alone = capfd.readouterr()
    assert segment(cts, "--workers", "2", out=tmp_path / "two") == 9
    two = capfd.readouterr()
    assert _without_times(two.out) == _without_times(alone.out)
    assert _without_times(two.err) == _without_times(alone.err)
    assert _bytes(tmp_path / "two") == _bytes(tmp_path / "out")
    assert len(_bytes(tmp_path / "out")) == 4 * len(FILES)
    for name in ("a", "b", "c", "d", "bad"):
        first, second = (read_result(tmp_path / out / name) for out in ("out", "two"))
        assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert segment(cts, "--workers", "2", out=tmp_path / "two") == 9
    assert "0 segmented, 4 done already, 1 failed" in capfd.readouterr().out


def test_a_killed_worker_loses_no_scan(segment, cts, words, tmp_path, capfd):
    (words / "kill-b").write_text("1")
    assert segment(cts, "--workers", "2") == 0
    told = capfd.readouterr()
    assert told.err == "b: the process that segmented it has ended; it is tried again\n"
    assert "4 scans: 4 segmented, 0 done already, 0 failed" in told.out
    assert [row["status"] for row in _table(tmp_path / "out")] == ["ok"] * 4
    assert [n_done(words, name) for name in "abcd"] == [1, 2, 1, 1]
    names = {path.name for path in (tmp_path / "out/b").iterdir()}
    assert names == {*FILES, RESULT}


def test_a_second_run_knows_scans_of_one_place(segment, cts, words, tmp_path, capfd):
    """Three studies in one folder, and a link to a CT."""
    dump = tmp_path / "dump"
    for n in range(3):
        phantom = thorax_phantom((16, 32, 32), (10.0, 10.0, 10.0), seed=n)
        write_dicom(phantom.scan, tmp_path / f"s{n}")
        dump.mkdir(exist_ok=True)
        for file in (tmp_path / f"s{n}").iterdir():
            file.rename(dump / f"{n}-{file.name}")
    (cts / "link.nii.gz").symlink_to(cts / "a.nii.gz")
    assert segment(cts, dump, "--series", "auto") == 0
    n_scans = len(_table(tmp_path / "out"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/result.json")}
    capfd.readouterr()
    assert segment(cts, dump, "--series", "auto") == 0
    assert f"0 segmented, {n_scans} done already" in capfd.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/result.json")}
    assert after == before


def test_a_process_that_ended_after_its_result(segment, cts, words, tmp_path, capfd, monkeypatch):
    """What was asked for beside the result is made in the second try."""
    real = Worker.do

    def again(self, job, *rest):
        if job.name == "a" and job.n_tries == 1:
            real(Worker(replace(self.run, pages=frozenset())), job, *rest)
            job = replace(job, n_tries=2)
        return real(self, job, *rest)

    monkeypatch.setattr(Worker, "do", again)
    assert segment(cts / "a.nii.gz", "--report") == 0
    assert (tmp_path / "out/a/report.html").exists()


@pytest.mark.parametrize("workers", [(), ("--workers", "1")])
def test_a_lost_gpu_is_no_failure_of_a_scan(
    segment, cts, words, tmp_path, capfd, monkeypatch, workers
):
    """A new process gets the GPU back; without one the run ends, and no scan is to blame."""
    monkeypatch.setattr(worker, "is_lost", worker.is_lost)  # the stub's own goes after the test
    (words / "gpu-b").write_text("1")
    code = segment(cts, *workers)
    told = capfd.readouterr()
    if workers:
        assert code == 0
        assert "b: the process that segmented it has ended; it is tried again" in told.err
        assert [row["status"] for row in _table(tmp_path / "out")] == ["ok"] * 4
    else:
        assert code != 0
        assert "NN-RES-009" in told.err
        assert read_result(tmp_path / "out/b") is None
        assert read_result(tmp_path / "out/a")["status"] == "ok"


def test_a_scan_that_kills_each_worker_is_a_failure(segment, cts, words, tmp_path, capfd):
    (words / "kill-b").write_text("9")
    assert segment(cts, "--workers", "1") == 9
    told = capfd.readouterr()
    assert "b: NN-RES-007: the process that segmented it ended 3 times" in told.err
    assert "4 scans: 3 segmented, 0 done already, 1 failed" in told.out
    assert read_result(tmp_path / "out/b")["error"]["id"] == "NN-RES-007"
    assert n_done(words, "b") == 3
    (words / "kill-b").unlink()
    assert segment(cts, "--workers", "1") == 0
    assert "1 segmented, 3 done already" in capfd.readouterr().out


def test_a_model_that_cannot_be_loaded_ends_the_run(segment, cts, words, monkeypatch, capfd):
    monkeypatch.setattr("normnet.cli.segment.load_networks", _no_model)
    assert segment(cts, "--workers", "2") == 6
    assert capfd.readouterr().err == "NN-MOD-001: gone\n"


def _no_model(*_):
    from normnet.errors import ModelError

    raise ModelError("NN-MOD-001", "gone")


RUN = """
import sys
import normnet.cli.segment
from tests.cli.batch import stubs
normnet.cli.segment.load_networks = stubs.load
from normnet.cli.main import main
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_processes(segment, cts, options, words, tmp_path, number, capfd):
    """Ctrl-C reaches the whole group of processes, as in a terminal."""
    script = tmp_path / "run.py"
    script.write_text(RUN)
    (words / "wait").touch()
    command = [sys.executable, str(script), "segment", str(cts), "--workers", "2", *options]
    with subprocess.Popen(
        [*command, "--out", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=ROOT,
    ) as process:
        wait_until(lambda: n_done(words, "a") and n_done(words, "b"))
        os.killpg(process.pid, number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert err == f"stopped by {number.name}; the same command goes on from here\n"
    wait_until(lambda: not _is_any_left(process.pid))
    left = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert left == ["results.csv"]
    (words / "wait").unlink()
    assert segment(cts, "--workers", "2") == 0
    assert "4 segmented, 0 done already" in capfd.readouterr().out


def _is_any_left(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--workers", "0"], "NN-CLI-001: Invalid value for '--workers'"),
        (["--shard", "0/4"], "NN-CLI-007: no share of the scans: '0/4'; --shard; give i/n"),
        (["--shard", "5/4"], "NN-CLI-007"),
        (["--shard", "1"], "NN-CLI-007"),
        (["--ray", "auto", "--dicomweb", "http://x", "--study", "1"], "NN-CLI-002"),
    ],
)
def test_wrong_options(segment, cts, words, capfd, arguments, told):
    assert segment(cts, *arguments) == 2
    err = capfd.readouterr().err
    assert err.startswith(told)
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "library"),
    [(["--ray", "auto"], "ray"), (["--parquet"], "pyarrow"), (["s3://b/ct.nii"], "fsspec")],
)
def test_what_is_not_installed(segment, cts, words, capfd, monkeypatch, arguments, library):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == library else 1)
    assert segment(cts, *arguments) == 2
    told = f"NN-CLI-004: {library} is missing; pip install 'normnet[cluster]'\n"
    assert capfd.readouterr().err == told


def test_shards_do_each_scan_once(segment, cts, words, tmp_path, capfd):
    (cts / "below").mkdir()
    (cts / "d.nii.gz").rename(cts / "below/a.nii.gz")
    for shard, said in (("1/3", "2 scans: 2"), ("3/3", ""), ("2/3", "")):
        assert segment(cts, "--shard", shard) == 0
        assert said in capfd.readouterr().out
    shared = _bytes(tmp_path / "out")
    assert [row["folder"] for row in _table(tmp_path / "out")] == ["a", "b", "below", "c"]
    assert all(n_done(words, name) == 1 for name in ("a", "b", "below", "c"))
    assert segment(cts, out=tmp_path / "alone") == 0
    assert _bytes(tmp_path / "alone") == shared


def test_more_shards_than_scans(segment, cts, words, tmp_path, capfd):
    assert segment(cts, "--shard", "9/9") == 0
    assert "0 segmented, 0 done already, 0 failed" in capfd.readouterr().out


def test_a_plan_reads_no_scan(segment, cts, words, monkeypatch):
    """Each of many shards would otherwise read all scans of an archive."""
    from normnet.io import fingerprint

    read = []
    real = fingerprint.sha256_of
    monkeypatch.setattr(
        fingerprint, "sha256_of", lambda content: (read.append(content), real(content))[1]
    )
    assert segment(cts, "--shard", "2/4") == 0
    assert [path.name for path in read if not isinstance(path, bytes)] == ["b.nii.gz"]
