"""Normal CTs and a CT with a lesion, made of phantoms."""

import pytest

from normnet.baselines.fitting import BaselineSettings
from normnet.config import Config, PreparationConfig
from normnet.preparation.cache import prepare_normal
from normnet.preparation.prepare import prepare
from tests.phantoms import thorax_phantom

SHAPE, SPACING_MM = (24, 64, 64), (6.0, 5.0, 5.0)
CONFIG = Config(preparation=PreparationConfig(spacing_mm=(6.0, 5.0, 5.0)))
TINY = BaselineSettings(size=32, batch=4, iterations=3, restore_steps=3)


@pytest.fixture(scope="session")
def cases():
    phantoms = [thorax_phantom(SHAPE, SPACING_MM, lesions=False, seed=seed) for seed in range(2)]
    return [prepare_normal(phantom.scan, phantom.lung_mask, CONFIG) for phantom in phantoms]


@pytest.fixture(scope="session")
def sick():
    """The CT on the training grid."""
    phantom = thorax_phantom(SHAPE, SPACING_MM, seed=7)
    return prepare(phantom.scan, phantom.lung_mask, CONFIG.preparation, CONFIG.window)
