"""``normnet segment`` with DICOM objects, with a .seg.nrrd, and with a real PACS."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from contextlib import contextmanager

import numpy as np
import pytest

from normnet.io.read import read_ct, read_stored
from normnet.results.schema import EXPORTS, FILES, RESULT
from tests import pacs

pytest.importorskip("highdicom", reason="the extra 'dicom' is not installed")
pytest.importorskip("dicomweb_client", reason="the extra 'dicom' is not installed")
needs_pacs = pytest.mark.skipif(bool(pacs.MISSING), reason=pacs.MISSING)
ALL = ("--dicom-sr", "--dicom-anomaly", "--seg-nrrd")


def result_of(folder):
    return json.loads((folder / RESULT).read_text())


def test_all_files_are_written_and_listed(segment, scans, tmp_path):
    from pydicom import dcmread

    assert segment(tmp_path / "series", *ALL) == 0
    folder = tmp_path / "out/series"
    assert {path.name for path in folder.iterdir()} == {*FILES, *EXPORTS, RESULT}
    result = result_of(folder)
    assert set(result["files"]) == {*FILES, *EXPORTS}
    assert result["dicom"] == {"identity": "removed"}
    seg = dcmread(folder / "segmentation.dcm")
    lesions = read_stored(folder / "lesions.nii.gz").voxels
    frames = [
        frame
        for group, frame in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True)
        if group.SegmentIdentificationSequence[0].ReferencedSegmentNumber == 3
    ]
    assert sum(int(frame.sum()) for frame in frames) == np.count_nonzero(lesions)
    report = str(dcmread(folder / "measurements.dcm"))
    assert str(result["volumes"]["both"]["lung_ml"]) in report
    assert seg.DeviceSerialNumber == result["model"]["sha256"][:16]


def test_what_is_done_depends_on_what_is_asked_for(segment, scans, tmp_path, capsys):
    series, folder = tmp_path / "series", tmp_path / "out/series"

    def again(*options):
        capsys.readouterr()
        assert segment(series, *options) == 0
        return "done already" not in capsys.readouterr().out

    assert again()
    assert again("--dicom-seg")
    assert not again("--dicom-seg")
    assert not again()  # the result holds more than is asked for
    assert (folder / "segmentation.dcm").exists()
    assert again("--dicom-seg", "--keep-identity")
    assert result_of(folder)["dicom"] == {"identity": "kept"}
    assert again("--seg-nrrd", "--overwrite")
    assert {path.name for path in folder.iterdir()} == {*FILES, RESULT, "segmentation.seg.nrrd"}
    (folder / "segmentation.seg.nrrd").write_bytes(b"x")
    assert segment(series, "--seg-nrrd") == 7  # altered since: not ours any more


def test_a_nifti_has_no_dicom_objects(segment, scans, tmp_path, capsys):
    assert segment(scans / "a.nii.gz", "--dicom-seg") == 7
    assert "NN-OUT-021" in capsys.readouterr().err
    assert result_of(tmp_path / "out/a")["error"]["id"] == "NN-OUT-021"
    assert segment(scans / "a.nii.gz", "--seg-nrrd") == 0
    assert (tmp_path / "out/a/segmentation.seg.nrrd").exists()


def test_an_object_that_fails_leaves_the_older_result(segment, scans, tmp_path, monkeypatch):
    from normnet.errors import OutputError

    assert segment(tmp_path / "series") == 0

    def fail(*_, **__):
        raise OutputError("NN-OUT-023", "no", "here", "do")

    monkeypatch.setattr("normnet.io.dicom.segmentation.make_segmentation", fail)
    assert segment(tmp_path / "series", "--dicom-seg") == 7
    assert not list((tmp_path / "out/series").glob("*.dcm"))
    assert not list((tmp_path / "out/series").glob(".normnet-*"))


def test_a_zip_of_dicom_has_objects(segment, scans, tmp_path):
    import shutil

    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "series")
    assert segment(archive, "--dicom-seg") == 0
    assert (tmp_path / "out/packed/segmentation.dcm").exists()


def test_results_among_the_inputs_are_no_scans(segment, scans, tmp_path, capsys):
    assert segment(tmp_path / "series", *ALL) == 0
    (tmp_path / "out").rename(tmp_path / "series" / "out")
    capsys.readouterr()
    assert segment(tmp_path / "series", out="new") == 0
    assert "left out" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, code",
    [
        (("--keep-identity",), "NN-CLI-002"),
        (("--empty-frames", "--seg-nrrd"), "NN-CLI-002"),
        (("--store",), "NN-CLI-002"),
        (("--study", "1.2"), "NN-CLI-002"),
        (("--dicomweb", "http://127.0.0.1:9/x"), "NN-CLI-002"),
    ],
)
def test_options_that_do_not_fit(segment, scans, tmp_path, capsys, options, code):
    assert segment(tmp_path / "series", *options) == 2
    error = capsys.readouterr().err
    assert code in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "options, code",
    [
        ((), "NN-CLI-002"),
        (("--dicomweb", "http://127.0.0.1:9/x"), "NN-CLI-002"),
        (("--dicomweb", "ftp://127.0.0.1/x", "--study", "1.2"), "NN-NET-007"),
        (("--dicomweb", "http://me:s3cr@127.0.0.1/x", "--study", "1.2"), "NN-NET-007"),
        (("--dicomweb", "http://127.0.0.1:9/x", "--study", "a/../b"), "NN-NET-003"),
        (("--dicomweb", "http://127.0.0.1:9/x", "--study", "1.2", "--store"), "NN-CLI-002"),
        (
            ("--dicomweb", "http://127.0.0.1:9/x", "--study", "1.2", "--store", "--dicom-seg"),
            "NN-CLI-002",
        ),
    ],
)
def test_servers_that_do_not_fit(segment, capsys, options, code):
    assert segment(*options) == 2
    error = capsys.readouterr().err
    assert code in error and "s3cr" not in error and error.count("\n") == 1


def test_a_missing_library_is_named(segment, scans, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert segment(tmp_path / "series", "--dicom-seg") == 2
    assert (
        "NN-CLI-004: highdicom is missing; pip install 'normnet[dicom]'" in capsys.readouterr().err
    )


# --- a server


@contextmanager
def answering(status, body=b"", headers=()):
    """A server with one answer to everything; yields its address and the requests it got."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.path, dict(self.headers)))
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()


ANSWERS = {
    "401": (401, b"", (), "NN-NET-002", 3),
    "403": (403, b"", (), "NN-NET-002", 3),
    "404": (404, b"", (), "NN-NET-003", 3),
    "500": (500, b"", (), "NN-NET-006", 3),
    "503": (503, b"", (), "NN-NET-006", 3),
    "html": (200, b"<html>", (("Content-Type", "text/html"),), "NN-NET-006", 3),
    "json of another kind": (
        200, b'{"a": 1}', (("Content-Type", "application/dicom+json"),), "NN-NET-006", 3,
    ),
    "nothing": (200, b"[]", (("Content-Type", "application/dicom+json"),), "NN-NET-003", 3),
    "elsewhere": (302, b"", (("Location", "http://127.0.0.2:1/"),), "NN-NET-006", 3),
    "mr": (
        200,
        b'[{"0020000E": {"vr": "UI", "Value": ["1.2.3"]}, '
        b'"00080060": {"vr": "CS", "Value": ["MR"]}}]',
        (("Content-Type", "application/dicom+json"),),
        "NN-VAL-003",
        5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_odd_answers_are_one_line(segment, capsys, monkeypatch, tmp_path, name):
    status, body, headers, code, exit_code = ANSWERS[name]
    monkeypatch.setenv("NORMNET_DICOMWEB_TOKEN", "s3cret-token")
    with answering(status, body, headers) as (url, seen):
        assert segment("--dicomweb", url, "--study", "1.2.3") == exit_code
    shown = "".join(capsys.readouterr())
    assert code in shown and shown.count("\n") == 1 and "s3cret" not in shown
    assert seen and {h["Authorization"] for _, h in seen} == {"Bearer s3cret-token"}
    assert not (tmp_path / "out").exists()


def test_a_server_that_is_not_there(segment, capsys):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert segment("--dicomweb", f"http://127.0.0.1:{port}", "--study", "1.2") == 3
    assert "NN-NET-001" in capsys.readouterr().err


def test_a_server_that_does_not_answer(segment, capsys, monkeypatch):
    monkeypatch.setattr("normnet.io.dicomweb._TIMEOUT_S", (0.5, 0.5))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        assert segment("--dicomweb", f"http://127.0.0.1:{port}", "--study", "1.2") == 3
    assert "NN-NET-001: the server does not answer in time" in capsys.readouterr().err


def test_a_server_that_sends_too_much(segment, capsys, monkeypatch):
    monkeypatch.setattr("normnet.io.dicomweb.MAX_DOWNLOAD_BYTES", 1000)
    body = json.dumps([{"0020000E": {"vr": "UI", "Value": ["1.2"]}}] * 100).encode()
    with answering(200, body, (("Content-Type", "application/dicom+json"),)) as (url, _):
        assert segment("--dicomweb", url, "--study", "1.2") == 8
    assert "NN-RES-041" in capsys.readouterr().err


# --- Orthanc


@pytest.fixture
def server(tmp_path):
    with pacs.orthanc(tmp_path / "orthanc", users={"me": "pass-77"}) as url:
        yield url


def uploaded(url, folder):
    """Send the files through the REST API; the data set of one of them."""
    import requests
    from pydicom import dcmread

    for path in folder.iterdir():
        answer = requests.post(f"{url}/instances", path.read_bytes(), auth=("me", "pass-77"))
        answer.raise_for_status()
    return dcmread(path, stop_before_pixels=True)


@needs_pacs
def test_from_a_pacs_and_back(segment, scans, tmp_path, server, capsys, monkeypatch):
    """Queried back through DICOMweb, the stored objects have the very pixels of the files."""
    import requests
    from dicomweb_client import DICOMwebClient
    from pydicom import dcmread

    image = uploaded(server, tmp_path / "series")
    root = f"{server}/dicom-web"
    source = ("--dicomweb", root, "--study", image.StudyInstanceUID)
    assert segment(*source) == 3  # without a password
    assert "NN-NET-002" in capsys.readouterr().err
    monkeypatch.setenv("NORMNET_DICOMWEB_USER", "me")
    monkeypatch.setenv("NORMNET_DICOMWEB_PASSWORD", "pass-77")
    options = (*source, "--dicom-sr", "--dicom-anomaly", "--keep-identity", "--store")
    assert segment(*options) == 0
    shown = "".join(capsys.readouterr())
    for word in ("pass-77", "Secret", image.StudyInstanceUID, image.SeriesInstanceUID):
        assert word not in shown
    (folder,) = (path for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert folder.name.startswith("dicomweb_")
    assert image.StudyInstanceUID not in (folder / RESULT).read_text()
    assert not list(tmp_path.glob("**/dicomweb_*/*/00001.dcm"))

    session = requests.Session()
    session.auth = ("me", "pass-77")
    client = DICOMwebClient(root, session)
    kept = client.search_for_series(image.StudyInstanceUID)
    modalities = sorted(row["00080060"]["Value"][0] for row in kept)
    assert modalities == ["CT", "SEG", "SEG", "SR"]  # one study, one patient
    assert len(client.search_for_studies()) == 1
    for name in ("segmentation.dcm", "anomaly.dcm", "measurements.dcm"):
        own = dcmread(folder / name)
        back = client.retrieve_instance(
            own.StudyInstanceUID, own.SeriesInstanceUID, own.SOPInstanceUID
        )
        if "PixelData" in own:
            np.testing.assert_array_equal(back.pixel_array, own.pixel_array)
        else:
            assert back.to_json() == own.to_json()
    assert segment(*options) == 0  # nothing to compute; stored again as the same objects
    assert "done already" in capsys.readouterr().out
    assert len(client.search_for_series(image.StudyInstanceUID)) == 4


@needs_pacs
def test_the_pacs_draws_the_lesions_where_they_are(segment, scans, tmp_path, server):
    """Orthanc's own pictures of SEG frames, over its picture of the slice that each refers to."""
    import io

    import requests
    from PIL import Image
    from pydicom import dcmread

    series = tmp_path / "series"
    uploaded(server, series)
    assert segment(series, "--dicom-seg", "--keep-identity") == 0
    seg = dcmread(tmp_path / "out/series/segmentation.dcm")
    get = lambda path: requests.get(f"{server}{path}", auth=("me", "pass-77"))  # noqa: E731
    data = (tmp_path / "out/series/segmentation.dcm").read_bytes()
    stored = requests.post(f"{server}/instances", data, auth=("me", "pass-77")).json()["ID"]
    scan, lungs = read_ct(series), read_stored(tmp_path / "out/series/lungs.nii.gz").voxels
    place = {dcmread(path).SOPInstanceUID: dcmread(path) for path in series.iterdir()}
    n_seen = 0
    for n, group in enumerate(seg.PerFrameFunctionalGroupsSequence):
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        if number != 1 or n % 3:
            continue
        uid = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        z = [float(v) for v in place[uid].ImagePositionPatient][2]
        index = round((z - scan.geometry.origin_mm[0]) / scan.geometry.spacing_mm[0])
        picture = np.array(
            Image.open(io.BytesIO(get(f"/instances/{stored}/frames/{n}/preview").content))
        )
        np.testing.assert_array_equal(picture > 0, lungs[index] == 1)
        n_seen += 1
    assert n_seen > 3


@needs_pacs
def test_several_series_in_a_study(segment, scans, tmp_path, server, capsys, monkeypatch):
    from pydicom import dcmread

    image = uploaded(server, tmp_path / "series")
    other = tmp_path / "other"
    other.mkdir()
    for path in (tmp_path / "series").iterdir():
        data = dcmread(path)
        data.SeriesInstanceUID = "1.2.826.7"
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = (
            f"1.2.826.7.{data.InstanceNumber}"
        )
        data.save_as(other / path.name)
    uploaded(server, other)
    monkeypatch.setenv("NORMNET_DICOMWEB_USER", "me")
    monkeypatch.setenv("NORMNET_DICOMWEB_PASSWORD", "pass-77")
    source = ("--dicomweb", f"{server}/dicom-web", "--study", image.StudyInstanceUID)
    assert segment(*source) == 3
    assert "NN-NET-004: 2 CT series" in capsys.readouterr().err
    assert segment(*source, "--series", "1.2.3") == 3
    assert "NN-NET-003: no such series" in capsys.readouterr().err
    assert segment(*source, "--series", image.SeriesInstanceUID) == 0
    assert segment(*source, "--series", "auto", out="auto") == 0
    capsys.readouterr()
    assert segment(*source[:2], "--study", "1.2.3") == 3
    assert "NN-NET-003: no such study" in capsys.readouterr().err
