"""The app over HTTP: the queue, numbers that are exact, edited results, who may talk to it."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import stat
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from normnet.errors import InputError, ResourceError
from normnet.quality import FLAGS
from normnet.serve import jobs as job_module
from normnet.serve.app import SUFFIXES, _suffix
from normnet.serve.guard import Guard
from normnet.serve.jobs import CANCELLED, DONE, FAILED, QUEUED, RUNNING, Jobs, make_private
from normnet.serve.worker import Worker
from tests.serve.conftest import Server, mask_of
from tests.waiting import wait_until


@pytest.fixture
def jobs(tmp_path):
    make_private(tmp_path / "app")
    return Jobs(tmp_path / "app")


def waiting(jobs, title="a"):
    job = jobs.create(title)
    jobs.reserve(job.id, 1)
    jobs.queue(job.id)
    return job.id


def folder_of(server, job):
    return Path(server.process.args[1]).with_suffix("") / job


# --- the queue ---


def test_jobs_survive_a_restart(jobs):
    first, second, third, fourth = (waiting(jobs, title) for title in "abcd")
    assert jobs.take().id == first
    jobs.end(first, DONE)
    assert jobs.take().id == second
    jobs.end(second, FAILED, "NN-X")
    assert jobs.take().id == third
    half = jobs.create("half")
    (jobs.folder / ("0" * 16)).mkdir()  # of a job that is in no row
    jobs.close()
    again = Jobs(jobs.folder)
    states = {job.id: (job.state, job.error) for job in again.all()}
    assert states == {
        first: (DONE, ""), second: (FAILED, "NN-X"), third: (QUEUED, ""), fourth: (QUEUED, ""),
    }  # fmt: skip
    assert again.take().id == third
    assert not again.place(half).exists()
    assert not (jobs.folder / ("0" * 16)).exists()


def test_uploads_have_limits(jobs, monkeypatch):
    monkeypatch.setattr(job_module, "MAX_FILES", 2)
    monkeypatch.setattr(job_module, "MAX_BYTES", 100)
    job = jobs.create("a").id
    assert jobs.reserve(job, 60) == 1
    with pytest.raises(ResourceError, match="NN-APP-005"):
        jobs.reserve(job, 41)
    assert jobs.reserve(job, 40) == 2
    with pytest.raises(ResourceError, match="NN-APP-004"):
        jobs.reserve(job, 0)
    jobs.queue(job)
    with pytest.raises(InputError, match="NN-APP-007"):
        jobs.reserve(job, 0)
    with pytest.raises(InputError, match="NN-APP-006"):
        jobs.reserve("../../etc", 0)
    monkeypatch.setattr(job_module, "MAX_JOBS", 1)
    with pytest.raises(ResourceError, match="NN-APP-004"):
        jobs.create("b")


def test_a_cancelled_job_stays_cancelled_and_old_ones_are_found(jobs):
    job = waiting(jobs)
    assert jobs.take().state == RUNNING
    assert jobs.cancel(job)
    jobs.end(job, DONE)
    assert jobs.get(job).state == CANCELLED
    assert jobs.old(60) == []
    assert [old.id for old in jobs.old(-1)] == [job]
    jobs.delete(job)
    assert not (jobs.folder / job).exists()


def test_an_upload_that_was_left_is_old_one_day(jobs):
    left = jobs.create("left").id
    assert jobs.old(60) == []
    assert [old.id for old in jobs.old(-1)] == [left]


class StubChild:
    """Does a job by raising what it was given."""

    def __init__(self, *raised):
        self.raised = list(raised)

    def call(self, *arguments, **options):
        if (error := self.raised.pop(0)) is not None:
            raise error

    def name_error(self, error, where):
        return ResourceError("NN-BUG-001", str(error), where, "")

    def stop(self):
        pass


def test_no_error_ends_the_thread(jobs, monkeypatch):
    """Neither one of the child, nor a disk that is full for a while when a job ends."""
    monkeypatch.setattr("normnet.serve.worker._TRY_AGAIN_S", 0.05)
    first, second, third = (waiting(jobs, title) for title in "abc")
    real, faults = jobs.end, [sqlite3.OperationalError("disk I/O error")] * 3

    def end(*arguments):
        if faults:
            raise faults.pop()
        real(*arguments)

    monkeypatch.setattr(jobs, "end", end)
    worker = Worker(jobs, StubChild(BlockingIOError("no process"), ValueError("odd"), None), None)
    worker.start()
    try:
        wait_until(lambda: jobs.get(third).state == DONE)
    finally:
        worker.stop()
    assert [jobs.get(job).state for job in (first, second)] == [FAILED, FAILED]
    assert "no process" in jobs.get(first).error


def test_cookies_of_other_programs(server):
    own = f"normnet_{server.port}={server.token}"
    status, _ = server.ask("GET", "/", Cookie=f'prefs={{"a":1}}; a b=1; {own}; last=')
    assert status == 200


def test_the_folder_is_private_and_ours(jobs, tmp_path):
    assert stat.S_IMODE(jobs.folder.stat().st_mode) == 0o700
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(Exception, match="NN-APP-003"):
        make_private(tmp_path / "mine")
    jobs.folder.chmod(0o755)
    make_private(jobs.folder)
    assert stat.S_IMODE(jobs.folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("ct.NII.GZ", ".nii.gz"), ("../../x", ""), ("a.nii.gz/../../x", ""), ("x.exe", ""),
        ("IM0001", ""), ("a\x00.dcm", ".dcm"), ("a" * 5000 + ".zip", ".zip"),
    ],
)  # fmt: skip
def test_of_a_name_only_a_known_ending_is_used(name, suffix):
    assert _suffix(name) == suffix
    assert suffix in ("", *SUFFIXES)


# --- numbers ---


def test_the_first_position_is_the_saved_mask_exactly(server, done):
    result = server.json("GET", f"/api/jobs/{done}/result/result.json")
    for body in ({}, {"share": None, "removed": []}, {"share": 0.12, "removed": []}):
        edit = server.json("POST", f"/api/jobs/{done}/preview", body)
        assert edit["default_share"] == edit["share"] == 0.12
        assert edit["volumes"] == result["volumes"]
        _, volume = server.ask("GET", f"/api/jobs/{done}/volumes/lesions")
        assert server.ask("POST", f"/api/jobs/{done}/mask", body) == (200, volume)
    assert result["volumes"]["both"]["lesion_ml"] > 1
    assert len(edit["lesions"]) == result["quantification"]["lesions"]["count"] > 1
    shown = [{k: v for k, v in row.items() if k != "at_mm_xyz"} for row in edit["lesions"]]
    assert shown == result["quantification"]["lesions"]["largest"]


def test_the_slider_moves_as_a_setting_does(server, done):
    """Its ends in the range are those of the result; any position is that of the pipeline."""
    from normnet.serve.editing import Session

    session = Session(folder_of(server, done))
    low, high = session.result["certainty"]["lesion_ml_range"]
    shares = session.config.postprocessing.share_range
    ml = [
        server.json("POST", f"/api/jobs/{done}/preview", {"share": share})["volumes"]["both"][
            "lesion_ml"
        ]
        for share in (0.0, shares[0], 0.12, shares[1], 0.6, 1.0)
    ]
    assert ml == sorted(ml, reverse=True)
    assert ml[0] > ml[2] > ml[-1]
    assert (ml[3], ml[1]) == pytest.approx((low, high), rel=0.25)  # counted on another grid

    from normnet.postprocessing import postprocess

    post = session.config.postprocessing.model_copy(update={"share": 0.6})
    prepared = session.prepared
    whole = postprocess(
        prepared.thorax, prepared.volume_hu, prepared.lung_mask, session.normal_mask,
        session.config.window.tau, post, session.prob_lesion,
    )  # fmt: skip
    np.testing.assert_array_equal(session.edit(0.6, []).steps.lesions, whole.lesions)


def test_the_picture_is_that_of_the_numbers(server, done):
    """It is made before them, without what only they need."""

    def mask(**body):
        return server.ask("POST", f"/api/jobs/{done}/mask", body)[1]

    first, quick = mask(), mask(share=0.7)
    server.json("POST", f"/api/jobs/{done}/preview", {"share": 0.7})
    assert quick == mask(share=0.7) != first
    assert mask(share=0.7, removed=[1]) != quick
    assert mask() == first
    assert server.ask("POST", f"/api/jobs/{done}/mask", {"removed": [77]})[0] == 400


def test_the_cached_steps_are_those_of_the_run(server, done, ct, tiny_models):
    """Nothing was rounded on the way to the disk: a run in this process says the same."""
    from normnet import pipeline
    from normnet.io.read import read_ct
    from normnet.serve.editing import Session
    from tests.serve.conftest import load_tiny

    before = pipeline.find_lungs
    try:
        loaded, kept = load_tiny(tiny_models), []
        found = pipeline.segment(
            read_ct(ct), loaded.model, loaded.config, on_findings=lambda *both: kept.append(both)
        )
    finally:
        pipeline.find_lungs = before
    lungs, findings = kept[0]
    session = Session(folder_of(server, done))
    np.testing.assert_array_equal(session.lungs.labels, lungs.labels)
    np.testing.assert_array_equal(session.lungs.possible, lungs.possible)
    np.testing.assert_array_equal(session.normal_mask, findings.normal_mask)
    np.testing.assert_array_equal(session.prob_lesion, findings.prob_lesion)
    np.testing.assert_array_equal(session.steps.edges, findings.steps.edges)
    edit = session.edit(None, [])
    np.testing.assert_array_equal(session.prepared.embed(edit.found.lesion_mask), found.lesion_mask)
    np.testing.assert_array_equal(session.prepared.embed(edit.found.lung_labels), found.lung_labels)


def test_a_lesion_is_taken_out_and_saved_as_a_new_marked_result(server, done):
    folder = folder_of(server, done)
    before = {path.name: path.read_bytes() for path in (folder / "result").iterdir()}
    edit = server.json("POST", f"/api/jobs/{done}/preview", {"removed": [1]})
    first = server.json("GET", f"/api/jobs/{done}/result/result.json")
    removed = first["quantification"]["lesions"]["largest"][0]
    left_ml = first["volumes"]["both"]["lesion_ml"] - removed["ml"]
    assert edit["volumes"]["both"]["lesion_ml"] == pytest.approx(left_ml, abs=0.002)
    assert len(list(folder.glob("edited-*"))) == 0  # nothing is written before "save"

    name = server.json("POST", f"/api/jobs/{done}/saved", {"removed": [1]})["name"]
    result = server.json("GET", f"/api/jobs/{done}/{name}/result.json")
    assert result["volumes"] == edit["volumes"]
    assert result["edited"]["removed"][0]["ml"] == removed["ml"]
    assert result["edited"]["removed_ml"] == pytest.approx(removed["ml"], abs=0.002)
    assert (result["edited"]["share"], result["edited"]["rest_removed"]) == (0.12, False)
    assert result["warnings"][0].startswith("edited by a person in the local app: 1 lesion of")
    assert result["case_id"] == "ct.nii.gz (edited 1)"
    assert result["uncertainty"] == {}
    assert result["key"] != first["key"]
    assert "share_range" not in result["certainty"]
    mask, voxel_ml = mask_of(folder / name)
    whole, _ = mask_of(folder / "result")
    assert mask.sum() * voxel_ml == pytest.approx(edit["volumes"]["both"]["lesion_ml"], abs=0.001)
    assert not (mask & ~whole).any()
    at = result["edited"]["removed"][0]["at_mm_xyz"]
    import nibabel

    affine = nibabel.load(folder / name / "lesions.nii.gz").affine
    voxel = np.rint(np.linalg.solve(affine, [-at[0], -at[1], at[2], 1]))[:3].astype(int)
    assert (whole[tuple(voxel)], mask[tuple(voxel)]) == (1, 0)
    report = (folder / name / "report.html").read_text()
    assert "edited by a person" in report
    assert before == {path.name: path.read_bytes() for path in (folder / "result").iterdir()}

    second = server.json("POST", f"/api/jobs/{done}/saved", {"share": 0.6})["name"]
    said = server.json("GET", f"/api/jobs/{done}/{second}/result.json")
    assert (name, second) == ("edited-1", "edited-2")
    assert "60 % in place of 12 %" in said["warnings"][0]
    moved = server.json("POST", f"/api/jobs/{done}/preview", {"share": 0.6})
    assert said["volumes"] == moved["volumes"]

    _, data = server.ask("GET", f"/api/jobs/{done}/{name}/all.zip")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        names = {Path(member).name for member in archive.namelist()}
        folders = {str(Path(member).parent) for member in archive.namelist()}
    assert {"lesions.nii.gz", "report.html", "result.json", "segmentation.seg.nrrd"} <= names
    assert folders == {f"normnet-{done[:6]}-edited-1"}


def test_what_is_not_there_is_refused(server, done):
    for body in ({"removed": [49]}, {"removed": [1, 77]}):
        status, text = server.ask("POST", f"/api/jobs/{done}/preview", body)
        assert status == 400
        assert b"NN-APP-009" in text
    for body in ({"share": 2}, {"share": "x"}, {"removed": [-1]}, {"removed": "<script>"}, []):
        status, text = server.ask("POST", f"/api/jobs/{done}/preview", body)
        assert status == 422, body
        assert json.loads(text)["error"].startswith("NN-APP-010")
    for path in (
        f"/api/jobs/{done}/volumes/x", f"/api/jobs/{done}/result/../steps.npz",
        f"/api/jobs/{done}/result/steps.npz", f"/api/jobs/{done}/input/00001.nii.gz",
        f"/api/jobs/{done}/result/..%2Fsteps.npz", "/static/..%2Fapp.py", "/static/app.py",
        "/jobs/0123456789abcdef", "/jobs/..%2f..", "/docs", "/openapi.json", "/x",
    ):  # fmt: skip
        status, text = server.ask("GET", path)
        assert status == 404, path
        assert b"NN-APP-0" in text
        assert b"Traceback" not in text


# --- DICOM, several scans, faults ---


def test_a_dicom_folder_gets_dicom_objects_and_shows_no_tag(server, series):
    pytest.importorskip("highdicom")
    from pydicom import dcmread

    source = dcmread(next(series.iterdir()))
    job = server.give(sorted(series.iterdir()), title="a\x07/../<b>")
    assert server.wait(job)["state"] == "done", server.job(job)
    _, page = server.ask("GET", f"/jobs/{job}")
    assert b"onerror" not in page and b"alert(2)" not in page and b"<b>" not in page
    assert "a_" in server.job(job)["title"]
    name = server.json("POST", f"/api/jobs/{job}/saved", {"removed": [1]})["name"]
    for kept in ("result", name):
        _, data = server.ask("GET", f"/api/jobs/{job}/{kept}/segmentation.dcm")
        found = dcmread(io.BytesIO(data))
        assert ("EDITED BY HAND" in found.SeriesDescription) == (kept == name)
        assert "onerror" not in str(found.PatientName)
        assert found.PatientID != source.PatientID
        assert found.StudyInstanceUID != source.StudyInstanceUID
        assert server.ask("GET", f"/api/jobs/{job}/{kept}/measurements.dcm")[0] == 200
    server.json("DELETE", f"/api/jobs/{job}", {})
    assert server.job(job) is None
    assert not folder_of(server, job).exists()


def test_a_zip_is_taken_and_its_patient_kept_where_asked(server, done, series, tiny, tmp_path):
    """The numbers are those of the same CT as a file, and objects fit the study in a PACS."""
    pytest.importorskip("highdicom")
    from pydicom import dcmread

    source = dcmread(next(series.iterdir()))
    assert source.PatientID
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", series))
    keeping = Server(tmp_path / "app", tiny, keep_identity=True)
    try:
        job = keeping.give([archive], archive.name)
        assert keeping.wait(job)["state"] == "done", keeping.job(job)
        saved = keeping.json("POST", f"/api/jobs/{job}/saved", {"removed": [1]})["name"]
        for kept in ("result", saved):
            result = keeping.json("GET", f"/api/jobs/{job}/{kept}/result.json")
            assert result["dicom"] == {"identity": "kept"}
            for name in ("segmentation.dcm", "measurements.dcm"):
                _, data = keeping.ask("GET", f"/api/jobs/{job}/{kept}/{name}")
                found = dcmread(io.BytesIO(data))
                for key in ("PatientID", "PatientName", "StudyInstanceUID"):
                    assert found[key].value == source[key].value
        zipped = keeping.json("GET", f"/api/jobs/{job}/result/result.json")
        assert zipped["volumes"] == server.json(
            "GET", f"/api/jobs/{done}/result/result.json"
        )["volumes"]  # fmt: skip
    finally:
        assert keeping.stop() == ""


@pytest.mark.parametrize("option", [[], ["--keep-identity"]])
def test_the_command_passes_on_whether_the_patient_is_kept(option, tmp_path, monkeypatch):
    from normnet.cli.main import main
    from normnet.serve import server as server_module

    setups = []
    monkeypatch.setattr(server_module, "serve", lambda setup, on_start: setups.append(setup))
    assert main(["serve", "--no-browser", f"--folder={tmp_path / 'app'}", *option]) == 0
    assert [setup.keep_identity for setup in setups] == [bool(option)]


def test_refusals_are_one_line_of_the_readers(server, ct, tmp_path):
    empty = tmp_path / "empty.nii.gz"
    empty.touch()
    text = tmp_path / "x.dcm"
    text.write_text("no image")
    broken = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", ct.parent))
    broken.write_bytes(broken.read_bytes()[:-40])
    for paths, code in (
        ([empty], "NN-FILE-00"), ([text], "NN-FILE-0"), ([ct, ct], "NN-GEO-001"),
        ([broken], "NN-FILE-0"),
    ):  # fmt: skip
        job = server.give(paths)
        found = server.wait(job)
        assert found["state"] == "failed"
        assert found["error"].startswith(code), found
        assert "\n" not in found["error"] and "Traceback" not in found["error"]


def test_the_page_says_what_a_quality_flag_means(server, done):
    page = server.ask("GET", f"/jobs/{done}")[1].decode()
    assert f"<strong>Thick slices</strong>: {FLAGS['thick_slices']}" in page
    assert "thick_slices" not in page


def test_a_crash_ends_one_job_and_not_the_server(tmp_path, ct):
    server = Server(tmp_path / "app", "c.Crash()")
    try:
        jobs = [server.give([ct]), server.give([ct])]
        for job in jobs:
            assert server.wait(job)["error"].startswith("NN-APP-001")
    finally:
        assert server.stop() == ""


def test_a_killed_server_goes_on_after_a_restart_and_cancels(tmp_path, ct, tiny):
    server = Server(tmp_path / "app", "c.Hang()")
    first, second, third = (server.give([ct], name) for name in "abc")
    server.wait(first, "running")
    assert server.job(second)["state"] == "queued"
    server.json("POST", f"/api/jobs/{third}/cancel", {})
    server.stop(kill=True)

    server = Server(tmp_path / "app", "c.Hang()")
    try:
        server.wait(first, "running")
        assert server.job(third)["state"] == "cancelled"
        start = time.monotonic()
        server.json("POST", f"/api/jobs/{first}/cancel", {})
        server.wait(second, "running")
        assert time.monotonic() - start < 20
        assert server.job(first)["state"] == "cancelled"
    finally:
        assert server.stop() == ""


# --- who may talk to it ---


def test_only_the_page_of_the_token_may_ask(server, done):
    path = f"/api/jobs/{done}/preview"
    assert server.ask("GET", "/api/jobs", Cookie="")[0] == 403
    assert server.ask("GET", "/api/jobs", Cookie=f"normnet_{server.port}=wrong")[0] == 403
    assert server.ask("GET", "/?token=wrong", Cookie="")[0] == 403
    assert server.ask("GET", "/static/viewer.js", Cookie="")[0] == 403
    for host in ("evil.example", f"evil.example:{server.port}", "127.0.0.1", ""):
        assert server.ask("GET", "/api/jobs", Host=host)[0] in (400, 403)
    for origin in ("http://evil.example", "null", "", f"https://127.0.0.1:{server.port}"):
        assert server.ask("POST", path, {}, Origin=origin)[0] == 403
    assert server.ask("POST", path, {}, Sec_Fetch_Site="cross-site")[0] == 403
    assert server.ask("POST", path, b"x" * 70_000)[0] == 413


def test_headers_and_cookie(server):
    import http.client

    def headers_of(path, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("GET", path, headers=headers)
        return connection.getresponse()

    welcome = headers_of(f"/?token={server.token}")
    cookie = welcome.getheader("set-cookie")
    assert (welcome.status, welcome.getheader("location")) == (303, "/")
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    for path in ("/", "/static/viewer.js", "/x", "/?token=wrong"):
        answer = headers_of(path, Cookie=cookie.split(";")[0])
        policy = answer.getheader("content-security-policy")
        assert "script-src 'self';" in policy and "unsafe" not in policy and "*" not in policy
        assert answer.getheader("x-content-type-options") == "nosniff"
        assert answer.getheader("referrer-policy") == "no-referrer"
        assert answer.getheader("cache-control") == "no-store"
        assert answer.getheader("access-control-allow-origin") is None
        assert answer.getheader("server") is None


def test_a_length_is_needed_and_sockets_are_no_way_in():
    import asyncio

    async def ask(scope):
        sent = []

        async def send(message):
            sent.append(message)

        async def never(*arguments):
            raise AssertionError("it was let through")

        await Guard(never, "t", 1)(scope, None, send)
        return sent

    headers = [(b"host", b"127.0.0.1:1"), (b"cookie", b"normnet_1=t"),
               (b"origin", b"http://127.0.0.1:1")]  # fmt: skip
    scope = {"type": "http", "method": "PUT", "path": "/", "query_string": b"", "headers": headers}
    assert asyncio.run(ask(scope))[0]["status"] == 411
    chunked = [*headers, (b"content-length", b"1"), (b"transfer-encoding", b"chunked")]
    assert asyncio.run(ask({**scope, "headers": chunked}))[0]["status"] == 411
    assert asyncio.run(ask({**scope, "type": "websocket"})) == []


def test_uploaded_files_have_names_of_the_server(server, ct):
    assert server.ask("POST", "/api/jobs", {"title": "\ud800"})[0] == 422
    job = server.json("POST", "/api/jobs", {"title": "<img onerror>\n\x07" + "x" * 900})["id"]
    for name in ("..%2F..%2Fx", "%3Cimg%20onerror%3E.zip", "a" * 3000, "%00%07.nii.gz"):
        server.json("PUT", f"/api/jobs/{job}/files?name={name}", b"data")
    stored = sorted(path.name for path in (folder_of(server, job) / "input").iterdir())
    assert stored == ["00001", "00002.zip", "00003", "00004.nii.gz"]
    for path in (folder_of(server, job) / "input").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    title = server.job(job)["title"]
    assert len(title) <= 120 and title.isprintable() and "<" not in title
    server.json("DELETE", f"/api/jobs/{job}", {})
    assert server.job(job) is None


def test_the_command_says_where_to_go_and_stops(tmp_path, tiny_models):
    import signal
    import subprocess
    import sys

    from tests.serve.conftest import _environment

    models = [f"--{name}={path}" for name, path in zip(
        ("model", "lung-model", "lesion-model"), tiny_models, strict=True)]  # fmt: skip
    command = [sys.executable, "-m", "normnet", "serve", "--no-browser", "--port=0", *models]
    started = subprocess.Popen(
        [*command, f"--folder={tmp_path / 'app'}"], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=_environment(),
    )  # fmt: skip
    line = started.stdout.readline()
    assert line.startswith("open http://127.0.0.1:") and "?token=" in line
    port = line.split(":")[2].split("/")[0]
    again = subprocess.run(
        [*command, f"--folder={tmp_path / 'app'}"], capture_output=True, text=True,
        env=_environment(), timeout=60,
    )  # fmt: skip
    assert (again.returncode, again.stderr[:10]) == (7, "NN-OUT-012")
    taken = subprocess.run(
        [*command, f"--folder={tmp_path / 'b'}", f"--port={port}"], capture_output=True, text=True,
        env=_environment(), timeout=60,
    )  # fmt: skip
    assert (taken.returncode, taken.stderr[:10]) == (7, "NN-APP-002")
    started.send_signal(signal.SIGINT)
    _, errors = started.communicate(timeout=30)
    assert started.returncode == 130
    assert "Traceback" not in errors
