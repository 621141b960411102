"""Tiny CTs, a tiny model, and a folder through which tests talk to other processes."""

from pathlib import Path

import pytest

from tests.cli.batch import stubs
from tests.cli.conftest import tiny_models  # noqa: F401 - a fixture of this folder, too

ROOT = Path(__file__).parents[3]


@pytest.fixture
def words(tmp_path, monkeypatch):
    """The folder of ``stubs``."""
    folder = tmp_path / "words"
    folder.mkdir()
    monkeypatch.setenv(stubs.FOLDER, str(folder))
    monkeypatch.setattr("normnet.cli.segment.load_networks", stubs.load)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT}")
    return folder


@pytest.fixture
def cts(tmp_path):
    """A folder of four different tiny CTs."""
    from tests.phantoms import thorax_phantom, write_nifti

    folder = tmp_path / "cts"
    folder.mkdir()
    for n, name in enumerate("abcd"):
        phantom = thorax_phantom((16, 32, 32), (10.0, 10.0, 10.0), seed=n)
        write_nifti(phantom.scan, folder / f"{name}.nii.gz")
    return folder


@pytest.fixture
def options(tiny_models):  # noqa: F811
    """The options of the tiny model."""
    names = ("--model", "--lung-model", "--lesion-model")
    given = [str(part) for pair in zip(names, tiny_models, strict=True) for part in pair]
    return [*given, "--device", "cpu"]


@pytest.fixture
def segment(options, tmp_path):
    """Run ``normnet segment`` in this process, into ``out``."""
    from normnet.cli.main import main

    def run(*arguments: object, out: object = None) -> int:
        place = str(out or tmp_path / "out")
        return main([*map(str, ("segment", *arguments)), *options, "--out", place])

    return run
