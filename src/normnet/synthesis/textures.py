"""Lesion-like textures (Sec. III-C2); another texture is one more function and its name here."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch

from normnet.config import SynthesisConfig
from normnet.errors import ConfigError
from normnet.synthesis.shapes import uniform


class TextureSteps(NamedTuple):
    """Every intermediate image of Fig. 3, each (d, h, w) float32; only ``scaled`` is inserted."""

    noise: torch.Tensor  # a_1
    prob_map: torch.Tensor  # a, Eq. 8
    salt_noise: torch.Tensor  # b_1, Eq. 2
    filtered: torch.Tensor  # b_2, Eq. 3
    scaled: torch.Tensor  # B, Eq. 5


@lru_cache(maxsize=256)
def _gaussian_matrix(n: int, sigma_vox: float, device: str) -> torch.Tensor:
    """(n, n) matrix that filters n voxels in a line with a Gaussian, cut at four sigma.

    Beyond the ends the line is mirrored.
    """
    radius = int(4 * sigma_vox + 0.5)
    offsets = torch.arange(-radius, radius + 1, device=device)
    kernel = torch.exp(-0.5 * (offsets / sigma_vox) ** 2)
    source = (torch.arange(n, device=device)[:, None] + offsets) % (2 * n)
    source = torch.where(source < n, source, 2 * n - 1 - source)
    matrix = torch.zeros((n, n), device=device)
    return matrix.scatter_add_(1, source, (kernel / kernel.sum()).expand(n, -1))


def gaussian_filter(image: torch.Tensor, sigma_vox: float) -> torch.Tensor:
    """Gaussian filter with mirrored borders; the same result as ``scipy.ndimage.gaussian_filter``.

    It is one matrix product per axis: boxes are small, and CPU and GPU give the same.

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
    """The texture of one blob, of the kind that ``config.texture`` names.

    Args:
        shape: (d, h, w) of the blob's bounding box.
        config: The kind and its settings.
        rng: The texture is made on its device.

    Raises:
        ConfigError: NN-CFG-002 if there is no texture of that name.
    """
    if config.texture not in TEXTURES:
        found = f"wrong value of 'synthesis.texture': '{config.texture}'"
        raise ConfigError("NN-CFG-002", found, "config", f"choose from {', '.join(TEXTURES)}")
    return TEXTURES[config.texture](shape, config, rng)


def sample_salt_noise(
    shape: tuple[int, ...], config: SynthesisConfig, rng: torch.Generator
) -> TextureSteps:
    """The paper's texture: salt noise of varying density, filtered, scaled and clipped (Eqs. 2-8).

    Args:
        shape: (d, h, w) of the blob's bounding box.
        config: Ranges of Eqs. 4 to 8.
        rng: The texture is made on its device.
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

    Where less than 1 % of the voxels are above it, that mean would be noise or undefined; then it
    is the mean of the brightest 5 %.
    """
    above = image > threshold
    if int(above.sum()) * 100 >= image.numel():
        return image[above].mean()
    brightest = max(1, image.numel() // 20)
    return image.flatten().topk(brightest).values.mean().clamp(min=1e-6)


# Names for ``synthesis.texture`` in the settings.
TEXTURES: dict[str, Callable[[tuple[int, ...], SynthesisConfig, torch.Generator], TextureSteps]] = {
    "salt noise": sample_salt_noise
}
