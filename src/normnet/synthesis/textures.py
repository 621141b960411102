"""Lesion-like textures: salt noise of varying density, filtered, scaled and clipped (Sec. III-C2, Eqs. 2-8)."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

from normnet.config import SynthesisConfig
from normnet.synthesis.shapes import uniform


class TextureSteps(NamedTuple):
    """Every intermediate image of Fig. 3, each (d, h, w) float32."""

    noise: torch.Tensor  # a_1
    prob_map: torch.Tensor  # a, Eq. 8
    salt_noise: torch.Tensor  # b_1, Eq. 2
    filtered: torch.Tensor  # b_2, Eq. 3
    scaled: torch.Tensor  # B, Eq. 5


@lru_cache(maxsize=256)
def _gaussian_matrix(n: int, sigma_vox: float, device: str) -> torch.Tensor:
    """(n, n) matrix that filters a line of n voxels with a Gaussian, borders mirrored, cut at 4 sigma."""
    radius = int(4 * sigma_vox + 0.5)
    offsets = torch.arange(-radius, radius + 1, device=device)
    kernel = torch.exp(-0.5 * (offsets / sigma_vox) ** 2)
    source = (torch.arange(n, device=device)[:, None] + offsets) % (2 * n)
    source = torch.where(source < n, source, 2 * n - 1 - source)
    matrix = torch.zeros((n, n), device=device)
    return matrix.scatter_add_(1, source, (kernel / kernel.sum()).expand(n, -1))


def gaussian_filter(image: torch.Tensor, sigma_vox: float) -> torch.Tensor:
    """Gaussian filter with mirrored borders; the same result as ``scipy.ndimage.gaussian_filter``.

    One matrix product an axis: boxes are small, and it runs alike on CPU and GPU.

    Args:
        image: (d, h, w) float32.
        sigma_vox: Standard deviation.
    """
    device = str(image.device)
    z, y, x = (_gaussian_matrix(n, sigma_vox, device) for n in image.shape)
    image = (z @ image.flatten(1)).view(image.shape)
    return y @ (image @ x.T)


def sample_texture(
    shape: tuple[int, ...], config: SynthesisConfig, rng: torch.Generator
) -> TextureSteps:
    """The texture of one blob's patch.

    Args:
        shape: (d, h, w) of the patch, the blob's bounding box.
        config: Ranges of Eqs. 4 to 8.
        rng: Its device is where the texture is made.
    """
    low, high = sorted((uniform(config.a_limits, rng), uniform(config.a_limits, rng)))
    while high - low < config.a_gap:
        low, high = sorted((uniform(config.a_limits, rng), uniform(config.a_limits, rng)))
    noise = torch.rand(shape, generator=rng, device=rng.device)
    a_2 = gaussian_filter(noise, round(uniform(config.sigma_a_vox, rng), 2))
    spread = (a_2.max() - a_2.min()).clamp(min=1e-12)
    prob_map = (high - low) * (a_2 - a_2.min()) / spread + low

    salt_noise = (torch.rand(shape, generator=rng, device=rng.device) < prob_map).float()
    fine = uniform((0, 1), rng) < config.prob_fine
    sigma_b = uniform(config.sigma_b_fine_vox if fine else config.sigma_b_coarse_vox, rng)
    filtered = gaussian_filter(salt_noise, round(sigma_b, 2))

    beta = uniform(config.mu0, rng) / mean_above(filtered, config.mean_above)
    return TextureSteps(noise, prob_map, salt_noise, filtered, (beta * filtered).clamp(0, 1))


def mean_above(image: torch.Tensor, threshold: float) -> torch.Tensor:
    """Mean of the voxels above the threshold (Eq. 6).

    Where fewer than 1 % pass, that mean would be noise or nothing; then it is the mean of the
    brightest 5 %.
    """
    passing = image > threshold
    if int(passing.sum()) * 100 >= image.numel():
        return image[passing].mean()
    brightest = max(1, image.numel() // 20)
    return image.flatten().topk(brightest).values.mean().clamp(min=1e-6)
