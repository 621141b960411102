"""The models that ship with the package, loaded once for all tests."""

from __future__ import annotations

import pytest


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
