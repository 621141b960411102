"""The search of thresholds, on maps whose best threshold is known."""

import math

import numpy as np
import pytest

from normnet.evaluation.metrics import compute_overlap
from normnet.experiments.thresholds import (
    Threshold,
    choose_threshold,
    choose_without_own,
    count_hundredths,
)


def find_threshold(maps, references):
    threshold, dice = choose_threshold(
        [count_hundredths(*pair) for pair in zip(maps, references, strict=True)]
    )
    assert threshold.high == math.inf
    return threshold.low, dice


def test_first_decimals_then_hundredths():
    """DSC: above 0.3 two of three are right (0.8), above 0.4 one (2 / 3), above 0.35 both (1)."""
    scores = np.array([0.29, 0.35, 0.36, 0.9])
    assert find_threshold([scores], [np.array([False, False, True, True])]) == (0.35, 1.0)


def test_the_search_is_greedy():
    """Above 0.55 lie 4 voxels, the lesion; 20 just below; 1 at 0.45: the best tenth is 0.5.

    With two more of the lesion at 0.02, all above 0.0 is better than above 0.5, 12 / 33 and 8 / 30;
    that above 0.55 it would be 0.8 is not seen any more.
    """
    scores = np.array([0.56] * 4 + [0.545] * 20 + [0.45])
    reference = np.array([True] * 4 + [False] * 21)
    assert find_threshold([scores], [reference]) == (0.55, 1.0)
    scores, reference = np.append(scores, [0.02, 0.02]), np.append(reference, [True, True])
    assert compute_overlap(scores > 0.55, reference).dsc == 0.8
    assert find_threshold([scores], [reference]) == (0.0, pytest.approx(12 / 33))


def test_the_mean_over_the_maps_is_what_counts():
    """One map is best above 0.1, the other above 0.3; together 0.1 with (1 + 2 / 3) / 2."""
    maps = [np.array([0.25, 0.25, 0.1]), np.array([0.7, 0.3, 0.0])]
    references = [np.array([True, True, False]), np.array([True, False, False])]
    assert find_threshold(iter(maps), iter(references)) == (0.1, pytest.approx((1 + 2 / 3) / 2))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_counts_say_what_every_threshold_of_two_decimals_gives(dtype):
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.random(500), np.arange(101) / 100, np.zeros(50)]).astype(dtype)
    reference = rng.random(scores.size) < 0.3
    lesion, rest = count_hundredths(scores, reference)
    assert lesion.sum() == reference.sum()
    assert lesion.sum() + rest.sum() == scores.size
    for n in range(101):
        above = scores > n / 100
        assert lesion[n + 1 :].sum() == np.count_nonzero(above & reference)
        assert rest[n + 1 :].sum() == np.count_nonzero(above & ~reference)
    dice = [compute_overlap(scores > n / 100, reference).dsc for n in range(101)]
    tenth = int(np.argmax(dice[:100:10])) * 10
    window = range(max(0, tenth - 9), min(100, tenth + 9) + 1)
    best = max(window, key=dice.__getitem__)
    assert find_threshold([scores], [reference]) == (best / 100, dice[best])


def test_no_map_of_scores():
    with pytest.raises(ValueError, match="no map"):
        find_threshold([], [])


def test_without_the_own_map():
    """Each map alone is best just below its lesion: at 0.1, 0.4 and 0.4.

    Of the other two, 0.1 and 0.4 differ only for the map whose lesion lies lower: it is lost above
    0.4, while the others only gain false voxels below it.
    """
    low = np.array([0.15] * 4 + [0.1] * 4)
    high = np.array([0.45] * 4 + [0.4] * 4)
    lesion = np.array([True] * 4 + [False] * 4)
    counts = [count_hundredths(image, lesion) for image in (low, high, high)]
    assert [choose_threshold([own])[0].low for own in counts] == [0.1, 0.4, 0.4]
    # all: above 0.1 (1 + 2 / 3 + 2 / 3) / 3, above 0.4 (0 + 1 + 1) / 3
    assert choose_threshold(counts) == (Threshold(0.1), pytest.approx(7 / 9))
    # without the first one, 0.4 gives 1; without another one, 0.1 gives 5 / 6 and 0.4 gives 1 / 2
    assert [own.low for own in choose_without_own(counts, "abc")] == [0.4, 0.1, 0.1]
    # if the last two are of one patient, none of them is left for the other one
    assert [own.low for own in choose_without_own(counts, "abb")] == [0.4, 0.1, 0.1]
    # if the first two are, the threshold of both is that of the third one
    assert [own.low for own in choose_without_own(counts, "aab")] == [0.4, 0.4, 0.1]


def test_a_single_patient_has_no_others():
    counts = [count_hundredths(np.array([0.5, 0.1]), np.array([True, False]))]
    assert choose_without_own(counts, ["a"]) == []
    assert choose_without_own(counts * 2, ["a", "a"]) == []
    assert choose_without_own([], []) == []


def test_both_ends_of_a_band():
    """The lesion lies from 0.31 to 0.5: a vessel above it, and healthy lung below it."""
    image = np.array([0.1] * 9 + [0.31, 0.4, 0.5] + [0.9] * 5)
    lesion = np.array([False] * 9 + [True] * 3 + [False] * 5)
    counts = [count_hundredths(image, lesion)]
    threshold, dice = choose_threshold(counts, band=True)
    assert (threshold, dice) == (Threshold(0.1, 0.5), 1.0)
    found = threshold.cut(image) > threshold.low
    assert np.array_equal(found, lesion)
    assert choose_threshold(counts)[1] == pytest.approx(2 * 3 / (3 + 8))


def test_a_band_is_the_best_of_all_pairs():
    rng = np.random.default_rng(1)
    maps = [rng.random(300).astype(np.float32) for _ in range(2)]
    lesions = [(image > 0.4) & (image < 0.7) & (rng.random(300) < 0.8) for image in maps]
    counts = [count_hundredths(*pair) for pair in zip(maps, lesions, strict=True)]
    threshold, dice = choose_threshold(counts, band=True)

    def mean_dice(low, high):
        found = [Threshold(low / 100, high / 100).cut(image) > low / 100 for image in maps]
        return np.mean([compute_overlap(*pair).dsc for pair in zip(found, lesions, strict=True)])

    every = [mean_dice(low, high) for low in range(101) for high in range(low + 1, 101)]
    assert dice == pytest.approx(max(every))
    assert mean_dice(round(100 * threshold.low), round(100 * threshold.high)) == pytest.approx(dice)
