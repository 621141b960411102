"""From the vote to the lesion mask: Eq. 10 (Sec. III-D), and a boundary from the patient's own lung."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from normnet.config import PostprocessingConfig

AIR_HU = np.float32(-1000)
HEALTHY_PROB, DISEASE_PROB = 0.05, 0.5  # below and above: where the density of the two is taken
FEWEST_VOX = 20  # to take a density from
FEWEST_HEALTHY = (
    0.05  # of the disease's voxels; less than this is what the networks missed, not healthy lung
)


class Boundary(NamedTuple):
    """Where a reader sees an edge in this patient, HU of smoothed parenchyma."""

    healthy_hu: float
    disease_hu: float
    lesion_hu: float  # lesions are denser
    n_vox_range: tuple[
        int, int
    ]  # voxels of the lesions at the larger and the smaller of ``share_range``


class LesionSteps(NamedTuple):
    """The images of Fig. 4, each (z, y, x) on the prepared grid."""

    anomaly: np.ndarray  # (d) bool: lung, bright, not voted normal
    seeds: np.ndarray  # (e) bool: its mean over k_d exceeds t_d
    remainder: np.ndarray  # (f) float32: windowed lung less what was voted normal
    cap: np.ndarray  # (g) bool: its mean over k_f exceeds t_f
    core: np.ndarray  # I_final, Eq. 10
    # with the lesion networks: what could be lesion within the boundary, without the rim; else
    # equal
    lesions: np.ndarray
    boundary: Boundary | None = None  # None without the lesion networks


def mean_filter(
    image: np.ndarray, size: int, lung_mask: np.ndarray, config: PostprocessingConfig
) -> np.ndarray:
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
        mean /= np.maximum(
            uniform_filter(lung_mask.astype(np.float32), sizes, mode="constant"), 1e-3
        )
    return mean


def dilate(mask: np.ndarray, radius_vox: int, within: np.ndarray | None = None) -> np.ndarray:
    """Binary dilation by ``radius_vox`` steps to the six face neighbours, new voxels inside ``within`` only."""
    from scipy.ndimage import binary_dilation

    return binary_dilation(mask, iterations=radius_vox, mask=within) if radius_vox > 0 else mask


def inner(lung_mask: np.ndarray, rim_vox: int) -> np.ndarray:
    """The lungs without the ``rim_vox`` outermost layers of voxels in each slice; 0: as they are."""
    from scipy.ndimage import binary_erosion, generate_binary_structure

    if rim_vox <= 0:
        return lung_mask
    return binary_erosion(lung_mask, generate_binary_structure(2, 1)[None], iterations=rim_vox)


def parenchyma_density(
    volume_hu: np.ndarray, lung_mask: np.ndarray, left_out: np.ndarray, sigma_vox: float
) -> np.ndarray:
    """Smoothed HU of what remains of the lungs once normal bright tissue is taken out.

    A normalised Gaussian: only voxels of the lungs count, without their outermost layer and
        ``left_out``.

    Args:
        volume_hu: (z, y, x) float32.
        lung_mask: Same shape, bool.
        left_out: Same shape, bool, voted normal: vessels and airways.
        sigma_vox: Standard deviation, cut at three of them.

    Returns:
        Float32 HU; meaningless outside the lungs.
    """
    from scipy.ndimage import binary_erosion, gaussian_filter

    counted = binary_erosion(lung_mask) & ~left_out
    weight = gaussian_filter(counted.astype(np.float32), sigma_vox, truncate=3)
    total = gaussian_filter(
        np.where(counted, volume_hu - AIR_HU, np.float32(0)), sigma_vox, truncate=3
    )
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

    With the lesion networks, what they or Eq. 10 call lesion is a candidate. A reader draws the
    edge where density is some way between this patient's healthy lung and this patient's disease,
    so candidates count where they are denser than the healthy lung by ``step_hu`` and ``share`` of
    that way. The outermost layers of the lungs are never lesion.

    Args:
        thorax: (z, y, x) float32 in [0, 1], 0 outside the lungs.
        volume_hu: Same shape, float32.
        lung_mask: Same shape, bool.
        normal_mask: Same shape, bool, the ensemble's vote.
        tau: Bright threshold.
        config: Kernel sizes, thresholds, boundary, rim.
        prob_lesion: Same shape, float32; None: Eq. 10 and the rim alone.
    """
    anomaly = lung_mask & (thorax >= tau) & ~normal_mask
    seeds = mean_filter(anomaly.astype(np.float32), config.k_d, lung_mask, config) > config.t_d
    remainder = np.where(normal_mask, np.float32(0), thorax)
    cap = (mean_filter(remainder, config.k_f, lung_mask, config) > config.t_f) & lung_mask
    core = dilate(seeds, config.dilation_vox) & cap
    if prob_lesion is None:
        return LesionSteps(
            anomaly, seeds, remainder, cap, core, core & inner(lung_mask, config.rim_vox)
        )
    density_hu = parenchyma_density(volume_hu, lung_mask, normal_mask, config.density_sigma_vox)
    lesions, boundary = bound_lesions(density_hu, core, prob_lesion, lung_mask, normal_mask, config)
    return LesionSteps(anomaly, seeds, remainder, cap, core, lesions, boundary)


def bound_lesions(
    density_hu: np.ndarray,
    core: np.ndarray,
    prob_lesion: np.ndarray,
    lung_mask: np.ndarray,
    normal_mask: np.ndarray,
    config: PostprocessingConfig,
) -> tuple[np.ndarray, Boundary]:
    """Candidates that are denser than this patient's boundary.

    Args:
        density_hu: (z, y, x), see ``parenchyma_density``.
        core: Same shape, bool, Eq. 10.
        prob_lesion: Same shape, float32, of the lesion networks.
        lung_mask: Same shape, bool.
        normal_mask: Same shape, bool, the vote.
        config: Candidates, boundary, rim.

    Returns:
        Bool, the lesions; and where their edge was drawn.
    """
    candidates = (prob_lesion > config.prob_lesion) | (core & (prob_lesion > config.prob_possible))
    candidates &= inner(lung_mask, config.rim_vox)
    inside = inner(lung_mask, 1)
    healthy = inside & (prob_lesion < HEALTHY_PROB) & ~core & ~normal_mask
    disease = inside & (prob_lesion > DISEASE_PROB)
    boundary = find_boundary(
        density_hu[healthy], density_hu[disease], density_hu[candidates], config
    )
    return candidates & (density_hu > boundary.lesion_hu), boundary


def find_boundary(
    healthy_hu: np.ndarray,
    disease_hu: np.ndarray,
    candidates_hu: np.ndarray,
    config: PostprocessingConfig,
) -> Boundary:
    """The density from which on a candidate is a lesion.

    Args:
        healthy_hu: Densities where the lesion networks see nothing; may be empty.
        disease_hu: Densities of what is more likely lesion than not; may be empty.
        candidates_hu: Densities of all candidates.
        config: Step, share, percentile, least contrast.
    """
    told = len(healthy_hu) >= max(FEWEST_VOX, FEWEST_HEALTHY * len(disease_hu))
    healthy = (
        float(np.median(healthy_hu)) if told else float(AIR_HU)
    )  # hardly any is left: all candidates count
    disease = healthy + config.least_contrast_hu
    if len(disease_hu) >= FEWEST_VOX:
        disease = max(disease, float(np.percentile(disease_hu, config.disease_percentile)))
    shares = (config.share_range[0], config.share, config.share_range[1])
    low, lesion, high = (healthy + config.step_hu + share * (disease - healthy) for share in shares)
    return Boundary(
        healthy,
        disease,
        lesion,
        (int((candidates_hu > high).sum()), int((candidates_hu > low).sum())),
    )
