"""From scores to lesions, step by step on volumes made by hand."""

import numpy as np
from scipy.ndimage import median_filter

from normnet.baselines.score import compute_anomaly, filter_median, segment_anomalies


def test_median_is_scipys():
    rng = np.random.default_rng(0)
    values = (rng.random((19, 14, 11)) ** 3 * 100).astype(np.uint8)
    assert np.array_equal(filter_median(values), median_filter(values, 5, mode="constant"))


def test_median_of_a_cube():
    """The middle of a cube of 5 voxels stays (even one voxel off: 98 of 125 neighbours)."""
    values = np.zeros((11, 11, 11), np.uint8)
    values[3:8, 3:8, 3:8] = 40
    values[0, 0, 0] = 90
    filtered = filter_median(values)
    assert filtered[5, 5, 5] == filtered[5, 5, 4] == 40
    assert filtered[5, 3, 3] == 0  # 5 x 3 x 3 of 125
    assert filtered[0, 0, 0] == 0


def test_hundredths_are_rounded_up_and_the_lungs_cut_out():
    """What is above a threshold of two decimals stays above it."""
    lung_mask = np.ones((8, 8, 8), bool)
    lung_mask[:, :, 4:] = False
    scored = [(z, None, np.full((8, 8), 0.2401, np.float32)) for z in range(8)]
    anomaly = compute_anomaly(scored, lung_mask)
    assert anomaly.dtype == np.uint8
    assert anomaly[4, 4, 2] == 25
    assert not anomaly[:, :, 4:].any()


def test_small_components_are_dropped():
    score_map = np.zeros((10, 10, 10), np.float32)
    score_map[0, 0, :7] = 0.9  # seven voxels
    score_map[5, 5, :7] = 0.9
    score_map[6, 6, 7] = 0.9  # the eighth, across a corner
    score_map[9, :, :] = 0.5
    found = segment_anomalies(score_map, 0.5)
    assert found.dtype == bool
    assert found.sum() == 8
    assert found[6, 6, 7] and not found[0].any() and not found[9].any()
