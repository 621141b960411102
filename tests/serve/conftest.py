"""The app with a tiny untrained model; phantoms have their own lungs in place of learned ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import tiny_models  # noqa: F401
from tests.phantoms import phantom_lungs, thorax_phantom, write_dicom, write_nifti
from tests.report.conftest import browser  # noqa: F401

HOLD = "NORMNET_TEST_HOLD"
SHAPE, SPACING_MM = (32, 64, 64), (5.0, 5.0, 5.0)


def load_tiny(folders):
    """As ``cli.serve.load``, with lesion networks that see what is denser than lung."""
    import torch
    from torch import nn

    from normnet import pipeline
    from normnet.config import PostprocessingConfig
    from normnet.lungs.learned import Lungs
    from normnet.models import Members, Model, load_model
    from normnet.serve.segmenting import Loaded

    class Bright(nn.Module):
        def forward(self, image):
            return 20 * (image - 0.3)

    torch.set_num_threads(1)
    loaded = load_model(*folders)
    post = PostprocessingConfig(lesion_networks=True, lungs_vox=2, rim_vox=1)
    config = loaded.config.model_copy(update={"postprocessing": post})
    lesions = Members([Bright()], loaded.lesions.config, loaded.lesions.manifest)

    def find_lungs(scan, networks, settings, device="cpu", prob_possible=None):
        while (hold := os.environ.get(HOLD)) and Path(hold).exists():
            time.sleep(0.05)
        labels = phantom_lungs(scan, networks, settings)
        return Lungs(labels, labels)

    pipeline.find_lungs = find_lungs
    return Loaded(Model(loaded.ensemble, loaded.lungs, lesions), config, "cpu")


class Crash:
    """A model that ends the process, as a lack of memory does."""

    def __call__(self):
        os.kill(os.getpid(), 9)


class Hang:
    """A model that takes an hour to load."""

    def __call__(self):
        time.sleep(3600)


def name_error(error, where):
    from normnet.cli.failures import as_named_error

    return as_named_error(error, where)


@pytest.fixture(scope="session")
def ct(tmp_path_factory):
    """A phantom CT as a file."""
    scan = thorax_phantom(SHAPE, SPACING_MM).scan
    return write_nifti(scan, tmp_path_factory.mktemp("cts") / "ct.nii.gz")


@pytest.fixture(scope="session")
def series(tmp_path_factory):
    """The same as a DICOM folder with hostile tags."""

    def spoil(datasets):
        for data in datasets:
            data.PatientName = "<img src=x onerror=alert(1)>"
            data.StudyDescription = data.SeriesDescription = "<script>alert(2)</script>"

    scan = thorax_phantom(SHAPE, SPACING_MM).scan
    return write_dicom(scan, tmp_path_factory.mktemp("dicom") / "series", spoil)


class Server:
    """``normnet serve`` as a process of its own, with the tiny model.

    Args:
        folder: Of the app.
        code: Python expression of what loads the models.
        keep_identity: As ``--keep-identity``.
    """

    def __init__(self, folder: Path, code: str, keep_identity: bool = False):
        program = (
            "import tests.serve.conftest as c\n"
            "from functools import partial\n"
            "from pathlib import Path\n"
            "from normnet.serve.server import Setup, serve\n"
            "if __name__ == '__main__':\n"
            f"    load = {code}\n"
            f"    serve(Setup(Path({str(folder)!r}), 0, load, c.name_error, {keep_identity}),"
            " lambda url: print(url, flush=True))\n"
        )
        script = folder.with_suffix(".py")
        script.write_text(program)
        self._hold = folder.with_suffix(".hold")
        self.process = subprocess.Popen(
            [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**_environment(), HOLD: str(self._hold)},
        )  # fmt: skip
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, self.process.stderr.read()
        self.base, self.token = self.url.split("/?token=")
        self.port = int(self.base.rsplit(":", 1)[1])

    @contextmanager
    def held(self):
        """No CT gets past the search for its lungs."""
        self._hold.touch()
        try:
            yield
        finally:
            self._hold.unlink()

    def ask(self, method, path, body=None, **headers):
        """(status, bytes) of a request with the token."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        own = {
            "Cookie": f"normnet_{self.port}={self.token}",
            "Origin": self.base,
            "Content-Type": "application/json",
        }
        request = urllib.request.Request(
            self.base + path, data, {**own, **{k.replace("_", "-"): v for k, v in headers.items()}},
            method=method,
        )  # fmt: skip
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def json(self, *arguments, **headers):
        """The JSON of an answer that must be good."""
        status, body = self.ask(*arguments, **headers)
        assert status < 300, body
        return json.loads(body) if body else None

    def give(self, paths, title="ct.nii.gz"):
        """Upload files and start the job; its id."""
        job = self.json("POST", "/api/jobs", {"title": title})["id"]
        for path in paths:
            self.json("PUT", f"/api/jobs/{job}/files?name={path.name}", path.read_bytes())
        self.json("POST", f"/api/jobs/{job}/start", {})
        return job

    def job(self, job):
        """What the list says of a job."""
        jobs = self.json("GET", "/api/jobs")["jobs"]
        return next((each for each in jobs if each["id"] == job), None)

    def wait(self, job, *states, within_s=300):
        """Wait until a job is in one of some states."""
        last = time.monotonic() + within_s
        while (found := self.job(job))["state"] not in (states or ("done", "failed")):
            assert time.monotonic() < last, found
            time.sleep(0.1)
        return found

    def stop(self, kill=False):
        """End the server; what it printed to the standard error."""
        (self.process.kill if kill else self.process.terminate)()
        _, errors = self.process.communicate(timeout=30)
        return errors


def _environment():
    root = Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def tiny(tiny_models):  # noqa: F811
    """Python expression that loads the tiny model."""
    return f"partial(c.load_tiny, {tuple(map(str, tiny_models))!r})"


@pytest.fixture(scope="session")
def server(tmp_path_factory, tiny):
    """A running app."""
    server = Server(tmp_path_factory.mktemp("app") / "jobs", tiny)
    yield server
    assert server.stop() == ""


@pytest.fixture(scope="session")
def done(server, ct):
    """The id of a job that is done."""
    job = server.give([ct])
    assert server.wait(job)["state"] == "done", server.job(job)
    return job


def mask_of(folder, name="lesions.nii.gz"):
    """A mask of a result folder, and the millilitres of a voxel."""
    import nibabel

    image = nibabel.load(folder / name)
    array = np.asarray(image.dataobj)
    return array, float(np.prod(image.header.get_zooms())) / 1000
