"""Depth of breath: found in the lightest lung, undone, and put back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from normnet.config import Config, PreparationConfig, WindowConfig, load_config
from normnet.preparation.breath import FLUID_HU, add_fluid, estimate_fluid, take_fluid
from normnet.preparation.cache import STEP_HU, prepare_normal
from normnet.preparation.prepare import LOWEST_HU, Prepared, prepare
from tests.phantoms import Phantom, thorax_phantom

WIDE = PreparationConfig(breath_limits=(-0.5, 0.5))
DEFAULT = load_config("default")
COARSE = DEFAULT.model_copy(
    update={"preparation": DEFAULT.preparation.model_copy(update={"spacing_mm": (2.5, 2, 2)})}
)
SHAPE = (24, 32, 32)
LUNG = np.zeros(SHAPE, bool)
LUNG[4:20, 4:28, 4:28] = True


def chest(lung_hu: float, noise_hu: float = 0.0) -> np.ndarray:
    """A box of lung in tissue."""
    hu = np.where(LUNG, lung_hu, 40).astype(np.float32)
    return hu + np.random.default_rng(0).normal(0, noise_hu, SHAPE).astype(np.float32)


def with_fluid(hu: np.ndarray, share: float) -> np.ndarray:
    """The same lung with its air filled to this share, written out by hand."""
    return np.where(LUNG, (1 - share) * hu + share * 50, hu).astype(np.float32)


# --- putting in and taking out ---


@pytest.mark.parametrize("share", [-0.06, 0.0, 0.1, 0.6])
@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_taking_out_is_the_inverse_of_putting_in(kind, share):
    hu = kind([-1024.0, -905.0, -500.0, 50.0, 400.0])
    wet = add_fluid(hu, share)
    assert type(wet) is type(hu)
    np.testing.assert_allclose(take_fluid(wet, share), hu, atol=1e-4)
    np.testing.assert_allclose(add_fluid(take_fluid(hu, share), share), hu, atol=1e-4)
    assert float(wet[3]) == pytest.approx(FLUID_HU)
    assert float(take_fluid(hu, share)[3]) == pytest.approx(FLUID_HU)


def test_a_tenth_of_the_air_by_hand():
    """0.9 x -900 + 0.1 x 50 = -805."""
    assert add_fluid(np.array([-900.0]), 0.1) == pytest.approx(-805)
    assert take_fluid(np.array([-805.0]), 0.1) == pytest.approx(-900)


def test_a_share_for_each_voxel():
    shares = torch.tensor([0.0, 0.1, 1.0])
    np.testing.assert_allclose(
        add_fluid(torch.full((3,), -900.0), shares), [-900, -805, 50], atol=1e-4
    )


# --- the estimate ---


@pytest.mark.parametrize("share", [-0.04, 0.0, 0.05, 0.12])
def test_fluid_in_the_air_is_found_and_undone(share):
    """A lung of a deep inspiration with so much fluid in its air comes back to where it was."""
    inspired = chest(-905)
    wet = with_fluid(inspired, share)
    fluid = estimate_fluid(wet, LUNG, WIDE)
    assert fluid == pytest.approx(share, abs=1e-4)
    np.testing.assert_allclose(take_fluid(wet, fluid)[LUNG], inspired[LUNG], atol=0.1)


def test_noise_hardly_counts():
    """A block reduces noise of 100 HU to 12 HU: the lightest tenth is 16 HU off, not 128."""
    fluid = estimate_fluid(chest(-905, noise_hu=100), LUNG, WIDE)
    assert -25 / 955 < fluid < -5 / 955


def test_what_the_lightest_lung_is_brought_to():
    other = WIDE.model_copy(update={"inspired_hu": -880.0})
    assert estimate_fluid(chest(-880), LUNG, other) == pytest.approx(0, abs=1e-5)
    assert estimate_fluid(chest(-880), LUNG, WIDE) == pytest.approx(25 / 955, abs=1e-5)


@pytest.mark.parametrize(
    ("lung_hu", "limit"), [(-1010, -0.06), (-720, 0.15), (-630, 0.15), (-610, 0)]
)
def test_limits(lung_hu, limit):
    """The share is 0.30 at -618.5: what is denser still is disease all over, and stays."""
    config = DEFAULT.preparation
    assert config.breath_limits == (-0.06, 0.15)
    assert estimate_fluid(chest(lung_hu), LUNG, config) == limit


def test_without_limits_nothing_is_undone():
    for lung_hu in (-1010, -905, -700):
        assert estimate_fluid(chest(lung_hu), LUNG, PreparationConfig(breath_limits=(0, 0))) == 0
    assert load_config("paper").preparation.breath_limits == (0, 0)


@pytest.mark.parametrize("disease_hu", [-650, -300, 20])
def test_disease_in_most_of_the_lung_does_not_count(disease_hu):
    """60 %, pale or dense; what is left is the lung that tells."""
    hu = with_fluid(chest(-905), 0.05)
    part = LUNG & (np.arange(SHAPE[1])[:, None] >= 28 - 0.6 * 24)
    assert 0.58 < part.sum() / LUNG.sum() < 0.64
    hu[part] = disease_hu
    assert estimate_fluid(hu, LUNG, WIDE) == pytest.approx(0.05, abs=2e-3)


@pytest.mark.parametrize(("every", "fluid"), [(2, 0), (4, 55 / 955)])
def test_vessels_do_not_count(every, fluid):
    """A quarter of each block may be vessel; of blocks that are half vessel nothing is said."""
    hu = chest(-850)
    hu[:, ::every] = np.where(LUNG[:, ::every], 40, hu[:, ::every])
    assert estimate_fluid(hu, LUNG, WIDE) == pytest.approx(fluid, abs=1e-4)


@pytest.mark.parametrize("shape", [SHAPE, (3, 32, 32), (24, 32, 2)])
def test_without_light_lung_there_is_nothing_to_find(shape):
    """All of it solid, no lung, or a scan thinner than a block."""
    whole = np.ones(shape, bool)
    assert estimate_fluid(np.full(shape, 20, np.float32), whole, WIDE) == 0
    assert estimate_fluid(np.full(shape, -800, np.float32), ~whole, WIDE) == 0
    assert (estimate_fluid(np.full(shape, -800, np.float32), whole, WIDE) > 0) == (min(shape) >= 4)


# --- prepared CTs ---


@pytest.fixture(scope="module")
def inspired() -> Phantom:
    """Lungs of -890: lighter than the other phantoms' as they hold enough air for a breath out."""
    phantom = thorax_phantom((48, 96, 100), (3.3, 3.3, 3.2))
    hu = phantom.scan.volume_hu.copy()
    hu[phantom.lung_mask & (hu < -750)] -= 40
    return replace(phantom, scan=replace(phantom.scan, volume_hu=hu))


def breathed_out(phantom: Phantom, share: float) -> Phantom:
    hu = phantom.scan.volume_hu.astype(np.float32)
    hu = np.rint(np.where(phantom.lung_mask, add_fluid(hu, share), hu)).astype(np.int16)
    return replace(phantom, scan=replace(phantom.scan, volume_hu=hu))


def prepared(phantom: Phantom, config: Config = COARSE) -> Prepared:
    return prepare(
        phantom.scan, phantom.lung_mask.astype(np.uint8), config.preparation, config.window
    )


@pytest.mark.parametrize(
    ("share", "config"), [(-0.03, COARSE), (0.05, COARSE), (0.1, COARSE), (0.1, DEFAULT)]
)
def test_a_breath_out_is_prepared_as_a_breath_in(inspired, share, config):
    """Disease keeps its contrast with the lung, and the vessels theirs."""
    before, after = prepared(inspired, config), prepared(breathed_out(inspired, share), config)
    assert 1 - after.fluid == pytest.approx((1 - share) * (1 - before.fluid), abs=2e-3)
    np.testing.assert_array_equal(before.lung_mask, after.lung_mask)
    inside = np.abs(before.volume_hu - after.volume_hu)[before.lung_mask]
    assert np.percentile(inside, 99) < 3
    assert np.abs(before.thorax - after.thorax)[before.lung_mask].mean() < 1 / 900
    raw = breathed_out(inspired, share).scan.volume_hu - inspired.scan.volume_hu.astype(float)
    assert np.abs(raw[inspired.lung_mask]).mean() > 20


def test_the_lightest_lung_is_as_in_a_deep_inspiration(inspired):
    for share in (0.0, 0.1):
        whole = prepared(breathed_out(inspired, share))
        clear = whole.volume_hu[whole.lung_mask & (whole.volume_hu < -700)]
        assert np.median(clear) == pytest.approx(-905, abs=10)


def test_the_paper_prepares_hu_as_they_are(inspired):
    paper = load_config("paper")
    coarse = paper.preparation.model_copy(update={"pad_to": "crop", "spacing_mm": (2.5, 2, 2)})
    whole = prepared(inspired, paper.model_copy(update={"preparation": coarse}))
    assert whole.fluid == 0
    clear = whole.volume_hu[whole.lung_mask & (whole.volume_hu < -700)]
    assert np.median(clear) == pytest.approx(-890, abs=3)


def test_nothing_is_darker_than_the_lowest_hu(inspired):
    assert prepared(breathed_out(inspired, 0.1)).volume_hu.min() == LOWEST_HU


def test_cached_codes_are_at_the_common_depth(inspired):
    """As prepared, to half a step; the tissue around the lungs included."""
    scan = breathed_out(inspired, 0.08).scan
    lungs = inspired.lung_mask.astype(np.uint8)
    config = COARSE.model_copy(update={"window": WindowConfig(low_hu=-1024, high_hu=506)})
    case, whole = (
        prepare_normal(scan, lungs, config),
        prepared(breathed_out(inspired, 0.08), config),
    )
    assert whole.fluid > 0.08
    difference = np.abs(case.codes * float(STEP_HU) + LOWEST_HU - whole.volume_hu)
    assert difference[whole.volume_hu < 400].max() <= STEP_HU / 2 + 0.01
