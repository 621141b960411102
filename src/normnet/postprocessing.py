"""From the vote to the lesion mask: mean filters, thresholds, capped growth (Sec. III-D, Eq. 10)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from normnet.config import PostprocessingConfig


class LesionSteps(NamedTuple):
    """The images of Fig. 4, each (z, y, x) on the prepared grid."""

    anomaly: np.ndarray  # (d) bool: lung, bright, not voted normal
    seeds: np.ndarray  # (e) bool: its mean over k_d exceeds t_d
    remainder: np.ndarray  # (f) float32: windowed lung less what was voted normal
    cap: np.ndarray  # (g) bool: its mean over k_f exceeds t_f
    lesions: np.ndarray  # I_final, Eq. 10


def mean_filter(image: np.ndarray, size: int, lung_mask: np.ndarray, config: PostprocessingConfig) -> np.ndarray:
    """Mean over a cube (or a square in each slice), zeros outside the volume.

    Args:
        image: (z, y, x) float32, 0 outside the lungs.
        size: Edge in voxels.
        lung_mask: Same shape, bool; the only voxels that count if ``config.normalised``.
        config: 2D or 3D, plain or normalised.
    """
    from scipy.ndimage import uniform_filter

    sizes = (size if config.dimensions == 3 else 1, size, size)
    mean = uniform_filter(image, sizes, mode="constant")
    if config.normalised:
        mean /= np.maximum(uniform_filter(lung_mask.astype(np.float32), sizes, mode="constant"), 1e-3)
    return mean


def dilate(mask: np.ndarray, radius_vox: int) -> np.ndarray:
    """Binary dilation by ``radius_vox`` steps to the six face neighbours."""
    from scipy.ndimage import binary_dilation

    return binary_dilation(mask, iterations=radius_vox) if radius_vox > 0 else mask


def postprocess(
    thorax: np.ndarray, lung_mask: np.ndarray, normal_mask: np.ndarray, tau: float, config: PostprocessingConfig
) -> LesionSteps:
    """Eq. 10 with all its intermediate images.

    Args:
        thorax: (z, y, x) float32 in [0, 1], 0 outside the lungs.
        lung_mask: Same shape, bool.
        normal_mask: Same shape, bool, the ensemble's vote.
        tau: Bright threshold.
        config: Kernel sizes, thresholds, growth.
    """
    anomaly = lung_mask & (thorax >= tau) & ~normal_mask
    seeds = mean_filter(anomaly.astype(np.float32), config.k_d, lung_mask, config) > config.t_d
    remainder = np.where(normal_mask, np.float32(0), thorax)
    cap = (mean_filter(remainder, config.k_f, lung_mask, config) > config.t_f) & lung_mask
    lesions = dilate(seeds, config.dilation_vox) & cap
    return LesionSteps(anomaly, seeds, remainder, cap, lesions)
