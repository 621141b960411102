"""From the vote to the lesion mask: Eq. 10 (Sec. III-D), the lesion networks' word on it, growth by density."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from normnet.config import PostprocessingConfig

AIR_HU = np.float32(-1000)


class LesionSteps(NamedTuple):
    """The images of Fig. 4, each (z, y, x) on the prepared grid."""

    anomaly: np.ndarray  # (d) bool: lung, bright, not voted normal
    seeds: np.ndarray  # (e) bool: its mean over k_d exceeds t_d
    remainder: np.ndarray  # (f) float32: windowed lung less what was voted normal
    cap: np.ndarray  # (g) bool: its mean over k_f exceeds t_f
    core: np.ndarray  # I_final, Eq. 10
    lesions: np.ndarray  # with what the lesion networks add and take, grown, without the rim; else equal


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


def dilate(mask: np.ndarray, radius_vox: int, within: np.ndarray | None = None) -> np.ndarray:
    """Binary dilation by ``radius_vox`` steps to the six face neighbours, new voxels inside ``within`` only."""
    from scipy.ndimage import binary_dilation

    return binary_dilation(mask, iterations=radius_vox, mask=within) if radius_vox > 0 else mask


def inner(lung_mask: np.ndarray, rim_vox: int) -> np.ndarray:
    """The lungs without the ``rim_vox`` outermost layers of voxels in each slice."""
    from scipy.ndimage import binary_erosion, generate_binary_structure

    return binary_erosion(lung_mask, generate_binary_structure(2, 1)[None], iterations=rim_vox)


def parenchyma_density(
    volume_hu: np.ndarray, lung_mask: np.ndarray, left_out: np.ndarray, sigma_vox: float
) -> np.ndarray:
    """Smoothed HU of what remains of the lungs once normal bright tissue and what is known as lesion are taken out.

    A normalised Gaussian: only voxels of the lungs count, without their outermost layer and ``left_out``.

    Args:
        volume_hu: (z, y, x) float32.
        lung_mask: Same shape, bool.
        left_out: Same shape, bool, voted normal or lesion already: neither may bleed into its surroundings.
        sigma_vox: Standard deviation, cut at three of them.

    Returns:
        Float32 HU; meaningless outside the lungs.
    """
    from scipy.ndimage import binary_erosion, gaussian_filter

    counted = binary_erosion(lung_mask) & ~left_out
    weight = gaussian_filter(counted.astype(np.float32), sigma_vox, truncate=3)
    total = gaussian_filter(np.where(counted, volume_hu - AIR_HU, np.float32(0)), sigma_vox, truncate=3)
    return total / np.maximum(weight, 0.01) + AIR_HU


def postprocess(
    thorax: np.ndarray,
    volume_hu: np.ndarray,
    lung_mask: np.ndarray,
    normal_mask: np.ndarray,
    tau: float,
    config: PostprocessingConfig,
    prob_lesion: np.ndarray | None = None,
) -> LesionSteps:
    """Eq. 10 with all its intermediate images, then what the window does not call bright.

    Pale ground glass lies below the bright threshold. The lesion networks add what they are sure of and take away
    what they call impossible. Around all that, parenchyma denser than ``grow_hu``, vessels, airways and the lesions
    themselves left out, belongs to it where it is possible: up to ``grow_vox`` steps. The outermost layers of the
    lungs are never lesion.

    Args:
        thorax: (z, y, x) float32 in [0, 1], 0 outside the lungs.
        volume_hu: Same shape, float32.
        lung_mask: Same shape, bool.
        normal_mask: Same shape, bool, the ensemble's vote.
        tau: Bright threshold.
        config: Kernel sizes, thresholds, growth, rim.
        prob_lesion: Same shape, float32; None: Eq. 10 and the growth alone.
    """
    anomaly = lung_mask & (thorax >= tau) & ~normal_mask
    seeds = mean_filter(anomaly.astype(np.float32), config.k_d, lung_mask, config) > config.t_d
    remainder = np.where(normal_mask, np.float32(0), thorax)
    cap = (mean_filter(remainder, config.k_f, lung_mask, config) > config.t_f) & lung_mask
    core = dilate(seeds, config.dilation_vox) & cap
    lesions, possible = core, lung_mask
    if prob_lesion is not None:
        possible = lung_mask & (prob_lesion > config.prob_possible)
        lesions = (core | (prob_lesion > config.prob_sure)) & possible
    if config.grow_vox > 0 and lesions.any():
        density_hu = parenchyma_density(volume_hu, lung_mask, normal_mask | lesions, config.grow_sigma_vox)
        lesions = dilate(lesions, config.grow_vox, within=(density_hu > config.grow_hu) & possible)
    if config.rim_vox > 0:
        lesions = lesions & inner(lung_mask, config.rim_vox)
    return LesionSteps(anomaly, seeds, remainder, cap, core, lesions)
