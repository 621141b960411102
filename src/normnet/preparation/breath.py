"""Depth of breath: the lungs of every CT are brought to the density of a deep inspiration.

A breath out raises the share of tissue in the air of the whole lung, and so does a scale of HU that
is too bright. Both are undone in the same way: the new HU, mixed with that share of fluid, gives
the HU that was measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from normnet.config import PreparationConfig

if TYPE_CHECKING:
    import torch

FLUID_HU = 50.0
BRIGHT_HU = -500.0  # brighter voxels do not count: vessels, walls of airways, dense disease
BLOCK_VOX = 4  # voxels are averaged over cubes of this edge, against noise
# Lungs that exceed the upper limit of breath by more than this factor are diseased all over; they
# are not changed.
DISEASE_TIMES = 2.0
LIGHTEST_PER_CENT = 10.0  # of the lung, which disease leaves free

Image = TypeVar("Image", "np.ndarray", "torch.Tensor")


def estimate_fluid(
    volume_hu: np.ndarray, lung_mask: np.ndarray, config: PreparationConfig
) -> float:
    """Share of tissue in the air of the lightest lung, beyond that in a deep inspiration.

    Args:
        volume_hu: (z, y, x) float32.
        lung_mask: Same shape, bool.
        config: ``inspired_hu``, and ``breath_limits`` between which it is breath, not disease.

    Returns:
        The share, below 0 for a still deeper inspiration; 0 if hardly any lung is lighter than
        ``BRIGHT_HU``, or if the lightest lung is denser than after any breath.
    """
    if min(volume_hu.shape) < BLOCK_VOX:
        return 0.0
    import torch
    from torch.nn.functional import avg_pool3d

    with torch.inference_mode():
        hu = torch.from_numpy(volume_hu)[None, None]
        counted = torch.from_numpy(lung_mask)[None, None] & (hu < BRIGHT_HU)
        share, total = (avg_pool3d(image, BLOCK_VOX) for image in (counted.float(), hu * counted))
        mostly = share > 0.5
        light_hu = (total[mostly] / share[mostly]).numpy()
    if not len(light_hu):
        return 0.0
    lightest_hu = float(np.percentile(light_hu, LIGHTEST_PER_CENT))
    fluid = (lightest_hu - config.inspired_hu) / (FLUID_HU - config.inspired_hu)
    low, high = config.breath_limits
    return 0.0 if fluid > DISEASE_TIMES * high else min(max(fluid, low), high)


def take_fluid(volume_hu: Image, fluid: float) -> Image:
    """HU of an array or a tensor without the share ``fluid`` of tissue; fluid keeps its HU."""
    aerated = volume_hu - fluid * FLUID_HU
    aerated /= 1 - fluid  # a volume less to allocate
    return aerated


def add_fluid(volume_hu: Image, fluid: float | torch.Tensor) -> Image:
    """The inverse of ``take_fluid``; ``fluid`` may be a tensor with one share per voxel."""
    return volume_hu + fluid * (FLUID_HU - volume_hu)
