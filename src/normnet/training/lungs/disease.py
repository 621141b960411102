"""Synthetic disease for training the lung segmenter: dense tissue inside the lungs, same mask.

No lesion label is involved. A network that sees opacities of every size inside masks drawn on
healthy people learns the lungs from the chest around them instead of from their air.
"""

from __future__ import annotations

import torch
from torch.nn.functional import interpolate, max_pool2d

from normnet.config import LungsTrainingConfig, Range


def smooth_noise(shape: tuple[int, ...], cell: int, rng: torch.Generator) -> torch.Tensor:
    """(B, S, H, W) noise, smooth over ``cell`` pixels, independent between slices.

    Its mean is zero and its range about one.
    """
    n, slices, height, width = shape
    coarse = torch.randn(
        (n, slices, height // cell + 2, width // cell + 2), generator=rng, device=rng.device
    )
    return interpolate(coarse, size=(height, width), mode="bilinear", align_corners=True)


def _uniform(shape: tuple[int, ...], limits: Range, rng: torch.Generator) -> torch.Tensor:
    low, high = limits
    return low + (high - low) * torch.rand(shape, generator=rng, device=rng.device)


def _happens(shape: tuple[int, ...], prob: float, rng: torch.Generator) -> torch.Tensor:
    return torch.rand(shape, generator=rng, device=rng.device) < prob


def add_disease(
    image_hu: torch.Tensor,
    lung_mask: torch.Tensor,
    height_px: torch.Tensor,
    config: LungsTrainingConfig,
    rng: torch.Generator,
) -> torch.Tensor:
    """Add ellipsoids of ground glass or consolidation, large opacities and thin layers.

    Args:
        image_hu: (B, S, H, W) float32, axial slices at about 1.5 mm with their neighbours, rows
            from front to back.
        lung_mask: Same shape, bool.
        height_px: (B, S), how far above the middle slice each slice lies, in pixels.
        config: How many stacks get disease, and of which kinds.
        rng: On the device of the others.

    Returns:
        New (B, S, H, W) float32; voxels outside the lungs are unchanged.
    """
    inside = lung_mask.float()
    centres = _draw_centres(inside[:, inside.shape[1] // 2], config, rng)
    sick = _happens((len(inside), 1, 1, 1), config.sick_share, rng)
    result = _add_ellipsoids(image_hu, inside, height_px, centres, sick, config, rng)
    result = _add_large(result, inside, height_px, sick, config, rng)
    return _add_layer(result, inside, sick, config, rng)


def _draw_centres(
    middle: torch.Tensor, config: LungsTrainingConfig, rng: torch.Generator
) -> torch.Tensor:
    """(B, n_ellipses) pixels of the middle slices (B, H, W), most near the lungs' border."""
    width = 2 * config.border_px + 1
    outside = max_pool2d(1 - middle[:, None], width, stride=1, padding=config.border_px)[:, 0]
    flat_inside, flat_border = middle.flatten(1), (middle * outside).flatten(1)
    weight = (1 - config.border_share) * flat_inside / (flat_inside.sum(1, keepdim=True) + 1)
    weight = weight + config.border_share * flat_border / (flat_border.sum(1, keepdim=True) + 1)
    weight = weight + 1e-12  # where there is no lung
    return torch.multinomial(weight, config.n_ellipses, replacement=True, generator=rng)


def _add_ellipsoids(
    image_hu: torch.Tensor,
    inside: torch.Tensor,
    height_px: torch.Tensor,
    centres: torch.Tensor,
    sick: torch.Tensor,
    config: LungsTrainingConfig,
    rng: torch.Generator,
) -> torch.Tensor:
    n, _, height, width = image_hu.shape
    each = (n, 1, 1, 1)
    rows = torch.arange(height, dtype=torch.float32, device=rng.device)[:, None]
    columns = torch.arange(width, dtype=torch.float32, device=rng.device)[None, :]
    n_here = torch.randint(1, config.n_ellipses + 1, (n,), generator=rng, device=rng.device)
    result = image_hu.clone()
    for k in range(config.n_ellipses):
        axes = torch.exp(_uniform((3, *each), config.log_axes_px, rng))
        angle = _uniform(each, (0, torch.pi), rng)
        dy = rows - torch.div(centres[:, k], width, rounding_mode="floor").view(each)
        dx = columns - (centres[:, k] % width).view(each)
        dz = height_px[:, :, None, None] + axes[2] * _uniform(each, config.height_share, rng)
        along = (dx * torch.cos(angle) + dy * torch.sin(angle)) / axes[0]
        across = (dy * torch.cos(angle) - dx * torch.sin(angle)) / axes[1]
        ripple = smooth_noise((n, 1, height, width), config.ripple_px, rng)  # same in all slices
        radius = torch.sqrt(along**2 + across**2 + (dz / axes[2]) ** 2)
        radius = radius * (1 + config.ripple * ripple)
        softness = _uniform(each, config.softness, rng)
        alpha = torch.sigmoid((1 - radius) / softness)
        here = (sick & (k < n_here.view(each))).float()
        result = _blend(result, alpha * here * inside, config, rng)
    return result


def _add_large(
    image_hu: torch.Tensor,
    inside: torch.Tensor,
    height_px: torch.Tensor,
    sick: torch.Tensor,
    config: LungsTrainingConfig,
    rng: torch.Generator,
) -> torch.Tensor:
    """Opacities that end at a plane across the lungs, or are everywhere."""
    n, _, height, width = image_hu.shape
    each, plane = (n, 1, 1, 1), (n, 1, height, width)  # noise that all slices of a stack share
    rows = torch.arange(height, dtype=torch.float32, device=rng.device)[:, None]
    columns = torch.arange(width, dtype=torch.float32, device=rng.device)[None, :]
    large = sick & _happens(each, config.prob_large, rng)
    dependent = _happens(each, config.prob_dependent, rng)
    turn = torch.where(dependent, 0.0, _uniform(each, (0, 2 * torch.pi), rng))
    beyond = (rows / height - 0.5) * torch.cos(turn) + (columns / width - 0.5) * torch.sin(turn)
    tilted = _happens(each, config.prob_tilted, rng)
    tilt = torch.where(tilted, _uniform(each, config.tilt, rng) * torch.pi / 2, 0.0)
    beyond = beyond * torch.cos(tilt) - height_px[:, :, None, None] / height * torch.sin(tilt)
    beyond = beyond - _uniform(each, config.plane_at, rng)
    ripple = smooth_noise(plane, config.plane_ripple_px, rng)
    half = torch.sigmoid(beyond * config.plane_steepness + config.plane_ripple * ripple)
    ripple = smooth_noise(plane, config.everywhere_px, rng)
    everywhere = torch.sigmoid(config.everywhere_ripple * ripple + config.everywhere_level)
    alpha = torch.where(_happens(each, config.prob_half, rng), half, everywhere)
    return _blend(image_hu, alpha * large.float() * inside, config, rng)


def _add_layer(
    image_hu: torch.Tensor,
    inside: torch.Tensor,
    sick: torch.Tensor,
    config: LungsTrainingConfig,
    rng: torch.Generator,
) -> torch.Tensor:
    """A layer along parts of the lungs' border."""
    n, _, height, width = image_hu.shape
    layered = sick & _happens((n, 1, 1, 1), config.prob_layer, rng)
    reach = _uniform((n, 1, 1, 1), (1, config.deepest_px), rng)
    ripple = smooth_noise((n, 1, height, width), config.layer_px, rng)
    reach = reach * (config.layer_level + ripple)  # below 0: no layer there
    alpha = torch.sigmoid((reach - _depth(inside, config.deepest_px)) / config.layer_edge_px)
    return _blend(image_hu, alpha * layered.float() * inside, config, rng)


def _depth(inside: torch.Tensor, deepest_px: int) -> torch.Tensor:
    """Pixels from the lungs' border: 0 outside, ``deepest_px`` at most."""
    depth = inside.clone()
    eroded = inside
    for _ in range(deepest_px - 1):
        eroded = 1 - max_pool2d(1 - eroded, 3, stride=1, padding=1)
        depth += eroded
    return depth


def _blend(
    image_hu: torch.Tensor, alpha: torch.Tensor, config: LungsTrainingConfig, rng: torch.Generator
) -> torch.Tensor:
    """Ground glass keeps the vessels (maximum), consolidation hides them."""
    shape = tuple(image_hu.shape)
    each = (shape[0], 1, 1, 1)
    dense = _happens(each, config.prob_dense, rng)
    level, spread = (
        torch.where(dense, _uniform(each, if_dense, rng), _uniform(each, if_pale, rng))
        for if_dense, if_pale in (
            (config.dense_hu, config.pale_hu),
            (config.dense_spread_hu, config.pale_spread_hu),
        )
    )
    fine = smooth_noise(shape, config.fine_px, rng)
    coarse = smooth_noise((shape[0], 1, *shape[2:]), config.coarse_px, rng)
    texture = level + spread * torch.where(_happens(each, config.prob_fine, rng), fine, coarse)
    airy = dense & _happens(each, config.prob_air, rng)
    holes = smooth_noise(shape, config.bronchi_px, rng) > _uniform(each, config.bronchi_level, rng)
    texture = torch.where(airy & holes, _uniform(each, config.air_hu, rng), texture)
    texture = torch.where(dense, texture, torch.maximum(texture, image_hu))
    return image_hu + alpha * (texture - image_hu)
