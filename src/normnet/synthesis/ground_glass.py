"""Pale disease: fluid in the air that healthy lung has left, in even, mottled and clumped patches.

The paper's textures are bright by construction (Eq. 6). Ground glass is not: most of its voxels lie
below the bright threshold. Here a blob takes the share f of the way from the voxel's own HU to that
of fluid, so vessels stay visible in a pale blob and vanish in a dense one.
"""

from __future__ import annotations

import math

import torch

from normnet.config import GroundGlassConfig, Range, SynthesisConfig
from normnet.preparation.breath import FLUID_HU
from normnet.synthesis.generator import SyntheticSlab
from normnet.synthesis.shapes import Blob, sample_ellipsoid, sample_shapes, uniform
from normnet.synthesis.textures import gaussian_filter, sample_texture


def unit_noise(shape: tuple[int, ...], sigma_vox: float, rng: torch.Generator) -> torch.Tensor:
    """Gaussian noise smoothed over ``sigma_vox``, zero mean, unit standard deviation."""
    noise = gaussian_filter(
        torch.randn(shape, generator=rng, device=rng.device), round(sigma_vox, 1)
    )
    return (noise - noise.mean()) / noise.std().clamp(min=1e-6)


def log_uniform(limits: Range, rng: torch.Generator) -> float:
    """One draw, as likely between 1 and 2 as between 2 and 4."""
    return math.exp(uniform((math.log(limits[0]), math.log(limits[1])), rng))


def sample_fluid(
    shape_mask: torch.Tensor, config: GroundGlassConfig, rng: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw the fluid of one blob.

    Args:
        shape_mask: (d, h, w) bool.
        config: Densities and grain.
        rng: On the device of ``shape_mask``.

    Returns:
        Share of the air that is fluid, (d, h, w) float32 in [0, 1), and the same shape, bool, where
        the soft edge is above one half.
    """
    shape = tuple(shape_mask.shape)
    soft = gaussian_filter(shape_mask.float(), round(uniform(config.soft_vox, rng), 1))
    kind = uniform((0, 1), rng)
    clumped = config.prob_mottled <= kind < config.prob_mottled + config.prob_clumped
    density = log_uniform(config.density_clumped if clumped else config.density, rng)
    grain = 1 + uniform(config.grain, rng) * unit_noise(
        shape, uniform(config.sigma_fine_vox, rng), rng
    )
    grain = grain + uniform(config.grain, rng) * unit_noise(
        shape, uniform(config.sigma_coarse_vox, rng), rng
    )
    if kind < config.prob_mottled:
        spots = unit_noise(shape, uniform(config.sigma_mottled_vox, rng), rng)
        floor = uniform(config.mottled_floor, rng)
        grain = grain * (floor + torch.relu(spots) * uniform(config.mottled_gain, rng))
    elif clumped:
        clumps = unit_noise(shape, log_uniform(config.sigma_clumped_vox, rng), rng)
        clumps = clumps - uniform(config.clump_level, rng)
        clumps = torch.sigmoid(clumps / uniform(config.clump_edge, rng))
        grain = grain * (uniform(config.clump_floor, rng) + clumps)
    return (density * soft * grain).clamp(0, config.most_fluid), soft > 0.5


def insert_ground_glass(
    volume_hu: torch.Tensor,
    lung_mask: torch.Tensor,
    max_lung_vox: int,
    shapes: SynthesisConfig,
    config: GroundGlassConfig,
    rng: torch.Generator,
) -> SyntheticSlab:
    """Insert synthetic disease, dense and pale, into a healthy slab.

    Args:
        volume_hu: (D, H, W) float32.
        lung_mask: Same shape, bool.
        max_lung_vox: Lung voxels of the fullest slab of the training set.
        shapes: Counts and sizes of the blobs, and the paper's texture, which some of them carry.
        config: Everything else.
        rng: On the device of ``volume_hu``.

    Returns:
        New HU and the mask of the disease; the input is unchanged.
    """
    image, lesion_mask = volume_hu.clone(), torch.zeros_like(lung_mask)
    for blob in sample_shapes(lung_mask, max_lung_vox, shapes, rng):
        inside = blob.shape_mask & lung_mask[blob.box]
        if uniform((0, 1), rng) < config.prob_texture:
            here = image[blob.box]
            low, high = config.texture_hu
            texture = sample_texture(tuple(inside.shape), shapes, rng).scaled * (high - low) + low
            image[blob.box] = torch.where(inside, torch.maximum(here, texture), here)
            lesion_mask[blob.box] |= inside
        else:
            _pour(image, lesion_mask, Blob(blob.low, inside), config, rng)
    if uniform((0, 1), rng) < config.prob_subpleural:
        for sheet in sample_subpleural(lung_mask, shapes, config, rng):
            _pour(image, lesion_mask, sheet, config, rng)
    return SyntheticSlab(image, lesion_mask)


def sample_subpleural(
    lung_mask: torch.Tensor,
    shapes: SynthesisConfig,
    config: GroundGlassConfig,
    rng: torch.Generator,
) -> list[Blob]:
    """One or two sheets along the border of the lung, as disease often lies along the pleura.

    Args:
        lung_mask: (D, H, W) bool, the y axis to the patient's back.
        shapes: Deformation and rotation of the ellipsoids that cut the sheets out.
        config: Depth, size and place.
        rng: On the device of ``lung_mask``.

    Returns:
        Blobs inside the lung; none if the slab holds no lung.
    """
    depth = round(uniform(config.subpleural_depth_vox, rng), 1)
    # A plane blurred with a Gaussian is 0.84 at one sigma from it.
    rim = lung_mask & (gaussian_filter(lung_mask.float(), depth) < 0.84)
    voxels = rim.nonzero()
    if len(voxels) == 0:
        return []
    dependent = voxels[voxels[:, 1] >= voxels[:, 1].median()]
    sheets = []
    for _ in range(1 + int(uniform((0, 1), rng) < 0.4)):
        places = dependent if uniform((0, 1), rng) < config.prob_dependent else voxels
        pick = int(torch.randint(len(places), (), generator=rng, device=rng.device))
        blob = sample_ellipsoid(
            places[pick].tolist(), config.subpleural_axes_vox, lung_mask.shape, shapes, rng
        )
        sheets.append(Blob(blob.low, blob.shape_mask & rim[blob.box]))
    return sheets


def _pour(
    image: torch.Tensor,
    lesion_mask: torch.Tensor,
    blob: Blob,
    config: GroundGlassConfig,
    rng: torch.Generator,
) -> None:
    """Fill a blob inside the lung with fluid; ``image`` and ``lesion_mask`` change in place."""
    fluid, middle = sample_fluid(blob.shape_mask, config, rng)
    here = image[blob.box]
    image[blob.box] = here + fluid * (FLUID_HU - here).clamp(min=0) * blob.shape_mask
    lesion_mask[blob.box] |= middle & blob.shape_mask
