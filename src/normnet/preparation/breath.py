"""Depth of breath: lungs of every CT brought to the density of a deep inspiration.

A breath out raises the share of tissue in the air of the whole lung, and so does a scale of HU that is too bright. Both
are undone alike: HU becomes what mixed with that share of fluid gives the HU that was measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from normnet.config import PreparationConfig

if TYPE_CHECKING:
    import torch

FLUID_HU = 50.0
BRIGHT_HU = -500.0  # vessels, airways' walls and dense disease do not count
BLOCK_VOX = 4  # voxels are averaged over cubes of this edge, against noise
# the most that is taken for breath: what is denser still is disease all over, and is left as it is
DISEASE_TIMES = 2.0
LIGHTEST_PER_CENT = 10.0  # of the lung, what disease leaves free

Image = TypeVar("Image", "np.ndarray", "torch.Tensor")


def estimate_fluid(
    volume_hu: np.ndarray, lung_mask: np.ndarray, config: PreparationConfig
) -> float:
    """Share of the lightest lung's air that is more tissue (below 0: less) than in a deep inspiration.

    Args:
        volume_hu: (z, y, x) float32.
        lung_mask: Same shape, bool.
        config: ``inspired_hu``, and the limits of what is taken for breath and not for disease.

    Returns:
        0 where hardly any lung is lighter than ``BRIGHT_HU``, or the lightest is denser than any
        breath leaves it.
    """
    cut = tuple(slice(n // BLOCK_VOX * BLOCK_VOX) for n in volume_hu.shape)
    counted = (lung_mask & (volume_hu < BRIGHT_HU))[cut].astype(np.float32)
    share, total = (_block_means(image) for image in (counted, volume_hu[cut] * counted))
    most = share > 0.5
    if not most.any():
        return 0.0
    lightest_hu = float(np.percentile(total[most] / share[most], LIGHTEST_PER_CENT))
    fluid = (lightest_hu - config.inspired_hu) / (FLUID_HU - config.inspired_hu)
    low, high = config.breath_limits
    return 0.0 if fluid > DISEASE_TIMES * high else min(max(fluid, low), high)


def take_fluid(volume_hu: Image, fluid: float) -> Image:
    """HU without the share ``fluid`` of tissue in the air; an array or a tensor. Fluid itself keeps its HU."""
    return (volume_hu - fluid * FLUID_HU) / (1 - fluid)


def add_fluid(volume_hu: Image, fluid: float | torch.Tensor) -> Image:
    """The inverse of ``take_fluid``; a tensor of shares holds one for each voxel."""
    return volume_hu + fluid * (FLUID_HU - volume_hu)


def _block_means(image: np.ndarray) -> np.ndarray:
    z, y, x = (n // BLOCK_VOX for n in image.shape)
    return image.reshape(z, BLOCK_VOX, y, BLOCK_VOX, x, BLOCK_VOX).mean((1, 3, 5))
