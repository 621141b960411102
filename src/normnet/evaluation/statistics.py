"""From few cases to many: bootstrap intervals of a mean, paired tests of two methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

N_RESAMPLES = 10_000


class Interval(NamedTuple):
    """A 95 % interval; NaN if there are too few values."""

    low: float
    high: float


class Paired(NamedTuple):
    """One score of two methods on the same cases.

    Attributes:
        n: Number of cases with a value from both.
        first, second: Mean of each method over them.
        difference: First - second.
        interval: 95 % bootstrap interval of that difference; NaN with fewer than two cases.
        p_wilcoxon: Two-sided signed-rank test; cases without a difference are left out, as Wilcoxon
            did. 1 if no case differs, NaN without a case. With n cases it cannot be below
            2 / 2**n: 0.125 for four, 0.03 for six.
    """

    n: int
    first: float
    second: float
    difference: float
    interval: Interval
    p_wilcoxon: float


def bootstrap_mean(
    values: Sequence[float], seed: int = 0, n_resamples: int = N_RESAMPLES
) -> Interval:
    """95 % percentile bootstrap interval of the mean over cases.

    With few cases percentile intervals are too narrow: the real uncertainty is larger.

    Args:
        values: One per case; NaN is left out.
        seed: The same seed gives the same interval.
        n_resamples: Number of times that the cases are drawn with replacement.

    Returns:
        NaN with fewer than two values.
    """
    known = np.asarray(values, float)
    known = known[~np.isnan(known)]
    if len(known) < 2:
        return Interval(math.nan, math.nan)
    rng = np.random.default_rng(seed)
    means = known[rng.integers(len(known), size=(n_resamples, len(known)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(low), float(high))


def compare_paired(
    first: Sequence[float], second: Sequence[float], seed: int = 0, n_resamples: int = N_RESAMPLES
) -> Paired:
    """Compare two methods case by case.

    Args:
        first: One value per case.
        second: The same cases in the same order; a case with NaN in either is left out.
        seed: Of the bootstrap; it draws cases, so pairs stay together.
        n_resamples: Of the bootstrap.

    Raises:
        ValueError: If the lengths differ.
    """
    pairs = np.array(list(zip(first, second, strict=True)), float).reshape(-1, 2)
    pairs = pairs[~np.isnan(pairs).any(axis=1)]
    n = len(pairs)
    means = pairs.mean(axis=0) if n else np.full(2, math.nan)
    differences = pairs[:, 0] - pairs[:, 1]
    interval = bootstrap_mean(differences.tolist(), seed, n_resamples)
    return Paired(
        n,
        float(means[0]),
        float(means[1]),
        float(means[0] - means[1]),
        interval,
        _p_wilcoxon(differences),
    )


def _p_wilcoxon(differences: np.ndarray) -> float:
    from scipy.stats import wilcoxon

    if not len(differences):
        return math.nan
    return float(wilcoxon(differences, zero_method="wilcox").pvalue) if differences.any() else 1.0
