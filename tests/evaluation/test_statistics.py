"""Intervals and paired tests: exact small cases, and scipy's own bootstrap."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from normnet.evaluation.statistics import bootstrap_mean, compare_paired

SCORES = [0.61, 0.72, 0.55, 0.80, 0.43, 0.66, 0.70, 0.58]
OTHERS = [0.58, 0.65, 0.57, 0.71, 0.40, 0.55, 0.66, 0.57]


def test_interval_of_two_cases_is_exact():
    """Of 0 and 1 the resampled mean is 0, 1/2 or 1 with 1/4, 1/2, 1/4, so both ends are reached."""
    assert bootstrap_mean([0.0, 1.0]) == (0, 1)
    assert bootstrap_mean([0.3, 0.3, 0.3]) == pytest.approx((0.3, 0.3))


def test_interval_agrees_with_scipy():
    ours = bootstrap_mean(SCORES)
    theirs = stats.bootstrap(
        (SCORES,), np.mean, method="percentile", n_resamples=10_000, rng=3
    ).confidence_interval
    assert ours == pytest.approx(theirs, abs=0.004)
    assert ours.low < np.mean(SCORES) < ours.high


def test_interval_follows_from_the_seed():
    first, again, other = (bootstrap_mean(SCORES, seed, n_resamples=50) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("values", [[], [0.5], [0.5, math.nan]])
def test_too_few_values(values):
    assert all(math.isnan(end) for end in bootstrap_mean(values))


def _p_by_enumeration(differences) -> float:
    """Two-sided signed-rank test over all signs; no ties, no zeros."""
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    sums = [
        sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign)
        for signs in _signs(len(ranks))
    ]
    observed = ranks[np.asarray(differences) > 0].sum()
    tails = np.mean(np.asarray(sums) <= observed), np.mean(np.asarray(sums) >= observed)
    return min(1.0, 2 * min(tails))


def _signs(n):
    return itertools.product((False, True), repeat=n)


def test_wilcoxon_by_enumeration():
    first, second = [0.5, 0.61, 0.72, 0.4, 0.93], [0.49, 0.58, 0.65, 0.42, 0.82]
    paired = compare_paired(first, second)
    assert paired.p_wilcoxon == pytest.approx(_p_by_enumeration(np.subtract(first, second)))
    assert paired.difference == pytest.approx(0.04)
    assert (paired.first, paired.second) == pytest.approx((0.632, 0.592))


def test_always_better_reaches_the_smallest_p():
    first = [1.0, 2.1, 3.3, 4.6]
    assert compare_paired(first, [0.0] * 4).p_wilcoxon == pytest.approx(2 / 2**4)


def test_bootstrap_keeps_the_pairs():
    """Cases differ a lot, the methods always by 0.01: the interval is narrow."""
    first = [0.1, 0.5, 0.9, 0.3]
    paired = compare_paired(first, [value - 0.01 for value in first])
    assert paired.interval == pytest.approx((0.01, 0.01))
    ours = compare_paired(SCORES, OTHERS).interval
    resampled = stats.bootstrap(
        (SCORES, OTHERS),
        lambda a, b: np.mean(a) - np.mean(b),
        paired=True,
        method="percentile",
        vectorized=False,
        rng=5,
    )
    assert ours == pytest.approx(resampled.confidence_interval, abs=0.004)


def test_cases_without_a_value_in_both_are_left_out():
    paired = compare_paired([0.5, math.nan, 0.7], [0.4, 0.9, math.nan])
    assert (paired.n, paired.first, paired.second) == (1, 0.5, 0.4)
    assert math.isnan(paired.interval.low)
    assert paired.p_wilcoxon == 1


def test_equal_and_absent_cases():
    same = compare_paired(SCORES, SCORES)
    assert (same.difference, same.interval, same.p_wilcoxon) == (0, (0, 0), 1)
    none = compare_paired([], [])
    assert none.n == 0
    assert math.isnan(none.p_wilcoxon)
    assert math.isnan(none.difference)
    with pytest.raises(ValueError, match="shorter"):
        compare_paired([1.0, 2.0], [1.0])
