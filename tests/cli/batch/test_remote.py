"""``s3://`` in and out, against a server on this machine."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
import SimpleITK as sitk

from normnet import read_ct
from normnet.io.formats.nifti import write_image
from normnet.io.remote import find_remote, is_address, list_files
from normnet.results.remote import NOTE, RemoteResults
from normnet.results.schema import FILES, RESULT, read_result
from tests.cli.batch.stubs import n_done
from tests.phantoms import thorax_phantom, write_dicom

pytest.importorskip("s3fs", reason="s3fs is not installed (pip install 'normnet[cluster]')")
pytest.importorskip("moto", reason="moto is not installed (pip install 'moto[server]')")


@pytest.fixture(scope="module")
def server():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(server, monkeypatch):
    """An empty bucket, and the file system that a user's variables lead to."""
    import requests
    import s3fs

    requests.post(f"{server}/moto-api/reset", timeout=10)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    storage = s3fs.S3FileSystem()
    storage.mkdir("bucket")
    return storage


def _rows(s3, place):
    return list(csv.DictReader(io.StringIO(s3.cat_file(f"{place}/results.csv").decode())))


def _names(s3, place):
    s3.invalidate_cache()
    return {path.rpartition("/")[2] for path in s3.ls(place, detail=False)}


def test_in_and_out(segment, cts, words, s3, tmp_path, capfd):
    s3.put(f"{cts}/", "bucket/in/", recursive=True)
    phantom = thorax_phantom((16, 32, 32), (10.0, 10.0, 10.0), seed=9)
    write_dicom(phantom.scan, tmp_path / "series")
    s3.put(f"{tmp_path / 'series'}/", "bucket/in/p1/series/", recursive=True)
    write_image(tmp_path / "m.nii.gz", phantom.lesion_mask.astype(np.uint8), phantom.scan.geometry)
    s3.put_file(str(tmp_path / "m.nii.gz"), "bucket/in/mask.nii.gz")
    s3.pipe_file("bucket/in/README.md", b"not a scan")

    assert segment("s3://bucket/in", out="s3://bucket/out") == 0
    told = capfd.readouterr()
    assert "mask: left out; no CT: 1 files hold labels, not HU; left out" in told.out
    assert "5 scans: 5 segmented, 0 done already, 0 failed" in told.out
    assert told.err == ""
    names = ["a", "b", "c", "d", "series"]
    assert [row["folder"] for row in _rows(s3, "bucket/out")] == names
    for name in names:
        assert _names(s3, f"bucket/out/{name}") == {*FILES, RESULT}
    assert segment(cts, tmp_path / "series", out=tmp_path / "here") == 0
    for name in names:
        there = json.loads(s3.cat_file(f"bucket/out/{name}/{RESULT}"))
        here = read_result(tmp_path / "here" / name)
        assert there["files"] == here["files"]
        assert there["source"] == {"series": "in/p1/series"}.get(name, f"in/{name}.nii.gz")

    capfd.readouterr()
    s3.rm_file("bucket/out/b/votes.nii.gz")
    s3.pipe_file("bucket/in/c.nii.gz", (cts / "d.nii.gz").read_bytes())
    assert segment("s3://bucket/in", "--workers", "2", out="s3://bucket/out") == 0
    assert "5 scans: 2 segmented, 3 done already, 0 failed" in capfd.readouterr().out
    assert [n_done(words, name) for name in names] == [2, 3, 3, 2, 2]  # those of "here", too
    assert _names(s3, "bucket/out/b") == {*FILES, RESULT}


def test_a_report_later(segment, cts, words, s3, tmp_path, capfd):
    s3.put_file(str(cts / "a.nii.gz"), "bucket/in/a.nii.gz")
    assert segment("s3://bucket/in") == 0
    assert segment("s3://bucket/in", "--report") == 0
    assert "1 done already" in capfd.readouterr().out
    assert (tmp_path / "out/a/report.html").exists()


def test_a_header_and_its_voxels(segment, cts, words, s3, tmp_path):
    scan = read_ct(cts / "a.nii.gz")
    image = sitk.GetImageFromArray(scan.volume_hu)
    image.SetSpacing(scan.geometry.spacing_mm[::-1])
    sitk.WriteImage(image, str(tmp_path / "x.mhd"))
    for name in ("x.mhd", "x.raw"):
        s3.put_file(str(tmp_path / name), f"bucket/{name}")
    assert segment("s3://bucket/x.mhd") == 0
    assert read_result(tmp_path / "out/x")["status"] == "ok"


def test_a_result_that_goes_while_it_is_fetched(s3, tmp_path, monkeypatch):
    for name in ("a", "b"):
        s3.pipe_file(f"bucket/out/{name}/{RESULT}", b"{}")
    real = list_files

    def and_then(address):
        found = real(address)
        s3.rm_file(f"bucket/out/a/{RESULT}")
        return found

    monkeypatch.setattr("normnet.results.remote.list_files", and_then)
    RemoteResults("s3://bucket/out", tmp_path).pull()
    assert (tmp_path / "b" / RESULT).read_bytes() == b"{}"
    assert not (tmp_path / "a" / RESULT).exists()


def test_one_file_in_and_a_folder_out(segment, cts, words, s3, tmp_path, capfd):
    s3.put_file(str(cts / "a.nii.gz"), "bucket/a.nii.gz")
    assert segment("s3://bucket/a.nii.gz") == 0
    assert read_result(tmp_path / "out/a")["status"] == "ok"
    assert segment("s3://bucket/a.nii.gz", "--workers", "1") == 0
    assert "1 done already" in capfd.readouterr().out


def test_results_in_the_folder_of_the_scans(segment, cts, words, s3, capfd):
    s3.put(f"{cts}/", "bucket/in/", recursive=True)
    assert segment("s3://bucket/in", out="s3://bucket/in/results") == 0
    assert segment("s3://bucket/in", out="s3://bucket/in/results") == 0
    assert "4 scans: 0 segmented, 4 done already" in capfd.readouterr().out


def test_failures(segment, words, s3, capfd):
    s3.pipe_file("bucket/bad.nii.gz", b"bad")
    assert segment("s3://bucket/bad.nii.gz", out="s3://bucket/out") == 3
    assert capfd.readouterr().err.startswith("bad: NN-FILE-0")
    assert [row["status"] for row in _rows(s3, "bucket/out")] == ["error"]
    assert _names(s3, "bucket/out/bad") == {RESULT}
    for place, told in (
        ("s3://bucket/gone.nii.gz", "NN-FILE-001: no such file or folder; gone.nii.gz"),
        ("s3://nowhere/x", "NN-FILE-001: no such file or folder; x"),
        ("nosuch://x/y", "NN-NET-008: the remote storage cannot be read (ValueError); y"),
    ):
        assert segment(place, out="s3://bucket/out") == 3
        assert capfd.readouterr().err.startswith(told)
    assert segment("s3://bucket/bad.nii.gz", "--report", out="s3://bucket/out") == 2
    assert "NN-CLI-002: a remote output" in capfd.readouterr().err


def test_a_server_that_is_not_there(segment, words, s3, monkeypatch, capfd):
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    assert segment("s3://bucket/a.nii.gz") == 3
    assert "NN-NET-008: the remote storage cannot be read" in capfd.readouterr().err


def _result(folder, files=("lesions.nii.gz",)):
    folder.mkdir(exist_ok=True)
    for name in files:
        (folder / name).write_text("new")
    content = {"normnet": "1", "status": "ok", "case_id": "a", "files": dict.fromkeys(files, "x")}
    (folder / RESULT).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("n_sent", [0, 1, 2])
def test_no_reader_sees_a_half_result(s3, tmp_path, monkeypatch, n_sent):
    """A sending that is cut off anywhere leaves no result.json, and the next one goes on."""
    import s3fs

    remote = RemoteResults("s3://bucket/out", tmp_path)
    remote.push(_result(tmp_path / "a", ("lesions.nii.gz", "report.html")))
    assert _names(s3, "bucket/out/a") == {"lesions.nii.gz", "report.html", RESULT}
    real, sent = s3fs.S3FileSystem._put_file, []

    async def cut_off(*arguments, **options):
        if len(sent) == n_sent:
            raise ConnectionError
        sent.append(arguments)
        await real(*arguments, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_put_file", cut_off)
    s3fs.S3FileSystem.clear_instance_cache()  # an instance binds its methods when it is made
    folder = _result(tmp_path / "a", ("lesions.nii.gz", "votes.nii.gz"))
    (folder / "report.html").unlink()
    with pytest.raises(Exception, match="NN-NET-009"):
        remote.push(folder)
    assert RESULT not in _names(s3, "bucket/out/a")
    assert NOTE in _names(s3, "bucket/out/a")
    monkeypatch.setattr(s3fs.S3FileSystem, "_put_file", real)
    s3fs.S3FileSystem.clear_instance_cache()
    remote.push(folder)
    assert _names(s3, "bucket/out/a") == {"lesions.nii.gz", "votes.nii.gz", RESULT}


@pytest.mark.parametrize("name", ["lesions.nii.gz", RESULT])
def test_a_file_of_the_user_stays(s3, tmp_path, name):
    s3.pipe_file(f"bucket/out/a/{name}", b"mine")
    with pytest.raises(Exception, match="NN-OUT-015"):
        RemoteResults("s3://bucket/out", tmp_path).push(_result(tmp_path / "a"))
    assert s3.cat_file(f"bucket/out/a/{name}") == b"mine"


def test_what_is_one_scan(s3):
    for name in (
        "p1/s1/0001.dcm", "p1/s1/0002.dcm", "p1/s2/IM1", "p1/s2/IM2", "p1/notes.txt", "p2/ct.zip",
        "p2/x.mhd", "p2/x.raw", ".hidden/ct.nii", "done/lesions.nii.gz", "done/result.json",
    ):  # fmt: skip
        s3.pipe_file(f"bucket/{name}", b"1")
    s3.pipe_file("bucket/sent/lesions.nii.gz", b"1")  # a result on its way
    s3.pipe_file(f"bucket/sent/{NOTE}", b"{}")
    items = find_remote("s3://bucket", ("lesions.nii.gz", RESULT), (RESULT, NOTE))
    found = {str(item.source): [path.name for path in item.files] for item in items}
    assert found == {
        "bucket/p1/s1": ["0001.dcm", "0002.dcm"],
        "bucket/p1/s2": ["IM1", "IM2"],
        "bucket/p2/ct.zip": ["ct.zip"],
        "bucket/p2/x.mhd": ["x.mhd", "x.raw"],
    }
    (header,) = find_remote("s3://bucket/p2/x.mhd")  # by its own address
    assert [path.name for path in header.files] == ["x.mhd", "x.raw"]
    assert str(header.source) == "x.mhd"
    before = {item.path: item.content for item in items}
    s3.pipe_file("bucket/p1/s2/IM2", b"2")
    changed = {
        item.path for item in find_remote("s3://bucket") if item.content != before.get(item.path)
    }
    assert {path.name for path in changed} >= {"s2"}
    assert "s1" not in {path.name for path in changed}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://b/x", True),
        ("gs://b", True),
        ("C:/x", False),
        ("a/b.nii", False),
        ("file:///x", False),
    ],
)
def test_addresses(text, expected):
    assert is_address(text) is expected
