"""From the vote to the lesion mask: Eq. 10 (Sec. III-D), and the patient's own boundary."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from normnet.config import PostprocessingConfig
from normnet.filters import box_mean, dilate, erode, gaussian

AIR_HU = np.float32(-1000)
# Probabilities of the lesion networks below and above which the density of healthy lung and of
# disease is measured.
HEALTHY_PROB, DISEASE_PROB = 0.05, 0.5
FEWEST_VOX = 20  # a density is measured from at least so many voxels
# Share of the disease's voxels; fewer healthy voxels are missed disease, not healthy lung.
FEWEST_HEALTHY = 0.05


class Boundary(NamedTuple):
    """The density from which on this patient's lung counts as lesion; HU of smoothed parenchyma.

    Attributes:
        healthy_hu: Density of the healthy lung.
        disease_hu: Density of the disease.
        lesion_hu: Lesions are denser than this.
        range_hu: The same at the smaller and at the larger of ``share_range``.
        n_vox_range: Voxels of the lesions at the larger and at the smaller of ``share_range``.
    """

    healthy_hu: float
    disease_hu: float
    lesion_hu: float
    range_hu: tuple[float, float]
    n_vox_range: tuple[int, int]


class LesionSteps(NamedTuple):
    """The images of Fig. 4, each (z, y, x) on the prepared grid.

    Attributes:
        anomaly: (d) bool, bright lung that is not voted normal.
        seeds: (e) bool, where the mean of (d) over ``k_d`` exceeds ``t_d``.
        remainder: (f) float32, the windowed lung without what is voted normal.
        cap: (g) bool, where the mean of (f) over ``k_f`` exceeds ``t_f``.
        core: bool, I_final of Eq. 10.
        lesions: bool. With the lesion networks: the candidates that are denser than the boundary,
            without the rim of the lungs; else ``core`` without the rim.
        boundary: None without the lesion networks.
        edges: uint8, the sum of 1 inside the wider edge (at the smaller share of ``share_range``),
            2 inside that of ``lesions`` and 4 inside the narrower one. None without the lesion
            networks.
    """

    anomaly: np.ndarray
    seeds: np.ndarray
    remainder: np.ndarray
    cap: np.ndarray
    core: np.ndarray
    lesions: np.ndarray
    boundary: Boundary | None = None
    edges: np.ndarray | None = None


def mean_filter(
    image: np.ndarray,
    size: int,
    lung_mask: np.ndarray,
    config: PostprocessingConfig,
    device: str = "cpu",
) -> np.ndarray:
    """Mean over a cube (or a square in each slice), zeros outside the volume.

    Args:
        image: (z, y, x) float32, 0 outside the lungs.
        size: Edge in voxels.
        lung_mask: Same shape, bool; only its voxels count if ``config.normalised``.
        config: ``dimensions`` and ``normalised``.
        device: Torch device.

    Returns:
        Same shape, float32.
    """
    sizes = (size if config.dimensions == 3 else 1, size, size)
    mean = box_mean(image, sizes, device)
    if config.normalised:
        mean /= np.maximum(box_mean(lung_mask.astype(np.float32), sizes, device), 1e-3)
    return mean


def without_rim(lung_mask: np.ndarray, rim_vox: int, device: str = "cpu") -> np.ndarray:
    """The lungs without their ``rim_vox`` outermost layers of voxels in each slice.

    Args:
        lung_mask: (z, y, x) bool.
        rim_vox: Number of layers; 0 returns the mask unchanged.
        device: Torch device.
    """
    return erode(lung_mask, rim_vox, in_slice=True, device=device)


def parenchyma_density(
    volume_hu: np.ndarray,
    lung_mask: np.ndarray,
    left_out: np.ndarray,
    sigma_vox: float,
    device: str = "cpu",
) -> np.ndarray:
    """Smoothed HU of the lungs without their normal bright tissue.

    The filter is a normalised Gaussian: only voxels of the lungs count, without their outermost
    layer and without ``left_out``.

    Args:
        volume_hu: (z, y, x) float32.
        lung_mask: Same shape, bool.
        left_out: Same shape, bool, what is voted normal: vessels and airways.
        sigma_vox: Standard deviation of the Gaussian, which is cut at three of them.
        device: Torch device.

    Returns:
        Float32 HU; meaningless outside the lungs.
    """
    counted = (erode(lung_mask, device=device) & ~left_out).astype(np.float32)
    total = gaussian((volume_hu - AIR_HU) * counted, sigma_vox, 3, device)
    weight = gaussian(counted, sigma_vox, 3, device)
    total /= np.maximum(weight, np.float32(0.01), out=weight)
    total += AIR_HU
    return total


def postprocess(
    thorax: np.ndarray,
    volume_hu: np.ndarray,
    lung_mask: np.ndarray,
    normal_mask: np.ndarray,
    tau: float,
    config: PostprocessingConfig,
    prob_lesion: np.ndarray | None = None,
    device: str = "cpu",
) -> LesionSteps:
    """Eq. 10 with all its intermediate images; with the lesion networks also pale disease.

    With the lesion networks, a voxel that they or Eq. 10 call lesion is a candidate. It is a lesion
    if it is denser than this patient's boundary, see ``find_boundary``. The outermost layers of the
    lungs are never lesion.

    Args:
        thorax: (z, y, x) float32 in [0, 1], 0 outside the lungs.
        volume_hu: Same shape, float32.
        lung_mask: Same shape, bool.
        normal_mask: Same shape, bool, what the ensemble calls normal.
        tau: Bright threshold of ``thorax``.
        config: Kernel sizes, thresholds, boundary and rim.
        prob_lesion: Same shape, float32, of the lesion networks; None: only Eq. 10 and the rim.
        device: Torch device of the filters.
    """
    anomaly = lung_mask & (thorax >= tau) & ~normal_mask
    share = mean_filter(anomaly.astype(np.float32), config.k_d, lung_mask, config, device)
    seeds = share > config.t_d
    remainder = thorax * ~normal_mask
    cap = mean_filter(remainder, config.k_f, lung_mask, config, device) > config.t_f
    cap &= lung_mask
    core = dilate(seeds, config.dilation_vox, device=device) & cap
    if prob_lesion is None:
        lesions = core & without_rim(lung_mask, config.rim_vox, device)
        return LesionSteps(anomaly, seeds, remainder, cap, core, lesions)
    density_hu = parenchyma_density(
        volume_hu, lung_mask, normal_mask, config.density_sigma_vox, device
    )
    edges, boundary = bound_lesions(
        density_hu, core, prob_lesion, lung_mask, normal_mask, config, device
    )
    lesions = (edges & 2) > 0
    return LesionSteps(anomaly, seeds, remainder, cap, core, lesions, boundary, edges)


def bound_lesions(
    density_hu: np.ndarray,
    core: np.ndarray,
    prob_lesion: np.ndarray,
    lung_mask: np.ndarray,
    normal_mask: np.ndarray,
    config: PostprocessingConfig,
    device: str = "cpu",
) -> tuple[np.ndarray, Boundary]:
    """The candidates that are denser than this patient's boundary.

    Args:
        density_hu: (z, y, x), see ``parenchyma_density``.
        core: Same shape, bool, Eq. 10.
        prob_lesion: Same shape, float32, of the lesion networks.
        lung_mask: Same shape, bool.
        normal_mask: Same shape, bool, what the ensemble calls normal.
        config: Candidates, boundary and rim.
        device: Torch device of the filters.

    Returns:
        ``edges`` of ``LesionSteps``, same shape, uint8; and the boundary.
    """
    inside = without_rim(lung_mask, 1, device)
    candidates = (prob_lesion > config.prob_lesion) | (core & (prob_lesion > config.prob_possible))
    candidates &= without_rim(inside, config.rim_vox - 1, device) if config.rim_vox else lung_mask
    healthy = inside & (prob_lesion < HEALTHY_PROB) & ~core & ~normal_mask
    disease = inside & (prob_lesion > DISEASE_PROB)
    boundary = find_boundary(
        density_hu[healthy], density_hu[disease], density_hu[candidates], config
    )
    edges = np.zeros(candidates.shape, np.uint8)
    dense_hu = density_hu[candidates]
    wide_hu, narrow_hu = boundary.range_hu
    edges[candidates] = sum(
        (dense_hu > edge_hu) * np.uint8(bit)
        for bit, edge_hu in ((1, wide_hu), (2, boundary.lesion_hu), (4, narrow_hu))
    )
    return edges, boundary


def find_boundary(
    healthy_hu: np.ndarray,
    disease_hu: np.ndarray,
    candidates_hu: np.ndarray,
    config: PostprocessingConfig,
) -> Boundary:
    """The density from which on a candidate counts as lesion.

    It lies above the density of the healthy lung by ``step_hu`` and by ``share`` of the difference
    between disease and healthy lung. Where hardly any healthy lung is left, that of air stands in
    for it, so that all candidates count.

    Args:
        healthy_hu: Densities of the voxels where the lesion networks see nothing; may be empty.
        disease_hu: Densities of the voxels that are more likely lesion than not; may be empty.
        candidates_hu: Densities of all candidates.
        config: Step, share, percentile and least contrast.
    """
    enough = len(healthy_hu) >= max(FEWEST_VOX, FEWEST_HEALTHY * len(disease_hu))
    healthy = float(np.median(healthy_hu)) if enough else float(AIR_HU)
    disease = healthy + config.least_contrast_hu
    if len(disease_hu) >= FEWEST_VOX:
        disease = max(disease, float(np.percentile(disease_hu, config.disease_percentile)))
    shares = (config.share_range[0], config.share, config.share_range[1])
    low, lesion, high = (healthy + config.step_hu + share * (disease - healthy) for share in shares)
    n_vox_range = int((candidates_hu > high).sum()), int((candidates_hu > low).sum())
    return Boundary(healthy, disease, lesion, (low, high), n_vox_range)
