"""One thread per process, and the shipped models, loaded once for all tests of a process."""

from __future__ import annotations

import os

import pytest

# Read when torch is imported, and by the processes that tests start. Sums of floats depend on the
# number of threads, and pytest-xdist gives every core a process of its own.
os.environ["OMP_NUM_THREADS"] = "1"

LONG = ("test_real.py", "test_readme.py", "test_reproduce.py", "test_pipeline.py")


def pytest_collection_modifyitems(items):
    """Long files first, so that no process is busy alone at the end."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(scope="session")
def lung_networks():
    """The shipped lung segmenter."""
    from normnet.models import shipped
    from normnet.network.weights import load_members

    return load_members(shipped("lungs"), "lungs")[0]


@pytest.fixture(scope="session")
def shipped_model():
    """The shipped ensemble with the shipped lung segmenter."""
    from normnet.models import load_model

    return load_model()


@pytest.fixture
def old_model(tmp_path):
    """Writes a model folder of format 1, with settings that exist no more; called with its kind."""
    import json
    from pathlib import Path

    import torch

    from normnet.config import NetworkConfig
    from normnet.network.unet import build_unet
    from normnet.network.weights import save_model

    def write(kind="normnet"):
        manifest = json.loads((Path(__file__).parent / "data/manifest_format_1.json").read_text())
        folder, network = tmp_path / f"old_{kind}", NetworkConfig(**manifest["network"])
        torch.manual_seed(0)
        save_model(folder, {"member-1": build_unet(network).state_dict()}, kind, network, {})
        members = json.loads((folder / "manifest.json").read_text())["members"]
        (folder / "manifest.json").write_text(
            json.dumps({**manifest, "kind": kind, "members": members})
        )
        return folder

    return write
