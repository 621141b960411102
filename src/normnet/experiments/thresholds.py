"""The threshold of a map of scores: the paper's search, and the same without the scored patient.

The paper searches greedily for two decimals, for every method and data set (Sec. IV-C). The search
looks at the references of the CTs that it is then scored on, so its result is *in-sample*. Beside
it, the threshold for a CT can be chosen on the other patients of the set alone
(*leave-one-patient-out*).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from normnet.experiments.bench import Subject
from normnet.preparation.resample import resample_mask

HUNDREDTHS = np.arange(101) / 100
IN_SAMPLE, LEFT_OUT = "in-sample", "leave-one-patient-out"
CHOICES = (IN_SAMPLE, LEFT_OUT)
# voxels of the lesions and of the rest, (102,) each, by the number of hundredths that they exceed
Counts = tuple[np.ndarray, np.ndarray]


class Threshold(NamedTuple):
    """A voxel belongs to a lesion if its score is above ``low`` and not above ``high``."""

    low: float
    high: float = math.inf

    def cut(self, score_map: np.ndarray) -> np.ndarray:
        """The map with 0 in place of what is above ``high``."""
        if math.isinf(self.high):
            return score_map
        return np.where(score_map <= self.high, score_map, score_map.dtype.type(0))


def choose_threshold(counts: Sequence[Counts], band: bool = False) -> tuple[Threshold, float]:
    """The threshold with the best mean DSC.

    The search is greedy, as that of the paper's baselines (Sec. IV-C): the best first decimal, then
    the best of the hundredths around it.

    Args:
        counts: Of every map.
        band: Search both ends of a band, among all pairs of 0.00, 0.01 … 1.00, not greedily.

    Returns:
        The threshold, the lowest of equals, and that mean, 0 to 1.

    Raises:
        ValueError: If there is no map.
    """
    if not counts:
        raise ValueError("no map of scores")
    return _choose([_dice(own, band) for own in counts], band)


def choose_without_own(
    counts: Sequence[Counts], patients: Sequence[str], band: bool = False
) -> list[Threshold]:
    """For every map the threshold with the best mean DSC on the maps of all other patients.

    Args:
        counts: Of every map.
        patients: Of every map.
        band: As for ``choose_threshold``.

    Returns:
        One for each map; none at all if there is only one patient.
    """
    if len(set(patients)) < 2:
        return []
    dice = list(zip(patients, (_dice(own, band) for own in counts), strict=True))
    return [_choose([dsc for patient, dsc in dice if patient != own], band)[0] for own in patients]


def count_hundredths(score_map: np.ndarray, reference: np.ndarray) -> Counts:
    """Count the voxels of a map between all thresholds of two decimals.

    Args:
        score_map: Any shape, float.
        reference: The same shape, bool.

    Returns:
        Voxels of the reference and voxels of the rest, each (102,) int64 by how many of 0.00, 0.01
        … 1.00 they exceed.
    """
    positive = score_map > 0  # most voxels are outside the lungs
    level = np.searchsorted(HUNDREDTHS.astype(score_map.dtype), score_map[positive], side="left")
    is_lesion = reference[positive]
    n_lesion = int(np.count_nonzero(reference))
    counts = []
    for part, total in (
        (level[is_lesion], n_lesion),
        (level[~is_lesion], reference.size - n_lesion),
    ):
        counts.append(np.bincount(part, minlength=len(HUNDREDTHS) + 1))
        counts[-1][0] = total - part.size
    return counts[0], counts[1]


def dice_above(lesion: np.ndarray, rest: np.ndarray, n_reference: int) -> np.ndarray:
    """DSC of the voxels that exceed at least n thresholds, n from 1; 1 if both masks are empty."""
    return _dice_of(_count_above(lesion), _count_above(rest), n_reference)


def reference_on_grid(subject: Subject) -> np.ndarray:
    """(z, y, x) bool: the reference on the prepared grid, within the lungs' box."""
    prepared = subject.prepared
    return resample_mask(prepared.cut(subject.reference), prepared.grid)


def _dice(counts: Counts, band: bool) -> np.ndarray:
    """DSC of one map by the number of the threshold; for a band by those of its two ends."""
    lesion, rest = counts
    n_reference = int(lesion.sum())
    if not band:
        return dice_above(lesion, rest, n_reference)
    n_true, n_false = (
        above[:, None] - above[None] for above in (_count_above(lesion), _count_above(rest))
    )
    dice = _dice_of(n_true, n_false, n_reference)
    ends = np.arange(len(dice))
    dice[ends[:, None] >= ends] = -1  # no band
    return dice


def _choose(per_map: Sequence[np.ndarray], band: bool) -> tuple[Threshold, float]:
    dice = np.mean(per_map, axis=0)
    if band:
        low, high = np.unravel_index(int(dice.argmax()), dice.shape)
        return Threshold(int(low) / 100, int(high) / 100), float(dice[low, high])
    tenth = max(range(0, 100, 10), key=dice.__getitem__)
    best = max(range(max(0, tenth - 9), min(100, tenth + 9) + 1), key=dice.__getitem__)
    return Threshold(best / 100), float(dice[best])


def _count_above(part: np.ndarray) -> np.ndarray:
    above: np.ndarray = np.cumsum(part[::-1])[::-1][1:]
    return above


def _dice_of(n_true: np.ndarray, n_false: np.ndarray, n_reference: int) -> np.ndarray:
    whole = n_true + n_false + n_reference
    return np.where(whole > 0, 2 * n_true / np.maximum(whole, 1), 1.0)
