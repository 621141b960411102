"""Methods without a network: a threshold of the HU, plain, of a band, and after a mean filter.

Each gives a map of scores on the prepared grid; its threshold is searched as for the networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from normnet.config import Config
from normnet.postprocessing import mean_filter
from normnet.preparation.prepare import Prepared

LOW_HU, HIGH_HU = -1000.0, 0.0  # so a hundredth is 10 HU


@dataclass(frozen=True)
class SimpleMethod:
    """A method that learns nothing.

    Attributes:
        name: On the command line and in tables of experiments.
        label: In tables.
        score: From a prepared CT and the settings to a map, (z, y, x) float32, 0 outside the lungs;
            0 to 1 are the HU of ``ends_hu``.
        ends_hu: From the settings to the HU of the scores 0 and 1.
        band: Lesions lie between two thresholds instead of above one.
    """

    name: str
    label: str
    score: Callable[[Prepared, Config], np.ndarray]
    ends_hu: Callable[[Config], tuple[float, float]]
    band: bool = False

    def to_hu(self, score: float, config: Config) -> float:
        """The HU of a score."""
        low, high = self.ends_hu(config)
        return low + score * (high - low)


def score_hu(prepared: Prepared, config: Config) -> np.ndarray:
    """HU inside the lungs, -1000 as 0 and 0 HU as 1; larger ones exceed 1."""
    scaled = (prepared.volume_hu - np.float32(LOW_HU)) / np.float32(HIGH_HU - LOW_HU)
    score: np.ndarray = np.where(prepared.lung_mask, scaled.clip(0), 0).astype(np.float32)
    return score


def score_mean_hu(prepared: Prepared, config: Config) -> np.ndarray:
    """Mean of the windowed HU over the cube of Eq. 10's cap (edge ``k_f``), inside the lungs."""
    mean = mean_filter(
        prepared.thorax, config.postprocessing.k_f, prepared.lung_mask, config.postprocessing
    )
    score: np.ndarray = np.where(prepared.lung_mask, mean, 0).astype(np.float32)
    return score


def _plain_ends(config: Config) -> tuple[float, float]:
    return LOW_HU, HIGH_HU


def _window_ends(config: Config) -> tuple[float, float]:
    return config.window.low_hu, config.window.high_hu


SIMPLE_METHODS = {
    method.name: method
    for method in (
        SimpleMethod("hu-threshold", "HU threshold", score_hu, _plain_ends),
        SimpleMethod("hu-band", "HU band", score_hu, _plain_ends, band=True),
        SimpleMethod("mean-hu", "mean-filtered HU threshold", score_mean_hu, _window_ends),
    )
}
