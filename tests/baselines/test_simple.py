"""Thresholds of the HU: what their maps hold, and that a cut of a map is a cut of the HU."""

import numpy as np
import pytest

from normnet.baselines.simple import SIMPLE_METHODS
from tests.baselines.conftest import CONFIG


@pytest.mark.parametrize("method", SIMPLE_METHODS.values(), ids=SIMPLE_METHODS)
def test_map(method, sick):
    score = method.score(sick, CONFIG)
    assert (score.shape, score.dtype) == (sick.thorax.shape, np.float32)
    assert not score[~sick.lung_mask].any()
    assert score.min() == 0
    assert method.label


def test_a_hundredth_is_ten_hu(sick):
    method = SIMPLE_METHODS["hu-threshold"]
    score = method.score(sick, CONFIG)
    for threshold in (0.0, 0.3, 0.65, 1.0):
        hu = method.to_hu(threshold, CONFIG)
        assert hu == pytest.approx(-1000 + 1000 * threshold)
        bright = sick.lung_mask & (sick.volume_hu > hu + 0.01)
        assert np.array_equal(score > np.float32(threshold) + 1e-5, bright)
    assert score.max() > 0.5  # the lesion


def test_the_mean_is_that_of_the_window(sick):
    """In the middle of the lungs the mean over a cube of k_f voxels, in HU of the window."""
    method, k = SIMPLE_METHODS["mean-hu"], CONFIG.postprocessing.k_f
    score = method.score(sick, CONFIG)
    z, y, x = (int(axis[len(axis) // 2]) for axis in np.nonzero(sick.lung_mask))
    cube = tuple(slice(place - k // 2, place + k // 2 + 1) for place in (z, y, x))
    assert sick.thorax[cube].shape == (k, k, k)
    whole = sick.thorax[cube].mean()
    if CONFIG.postprocessing.normalised:
        whole *= k**3 / sick.lung_mask[cube].sum()
    assert score[z, y, x] == pytest.approx(whole, rel=1e-4)
    window = CONFIG.window
    assert method.to_hu(0, CONFIG) == window.low_hu
    assert method.to_hu(1, CONFIG) == window.high_hu
