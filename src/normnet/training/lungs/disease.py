"""Synthetic disease for training the lung segmenter: dense tissue put into certain lung, the mask unchanged.

No lesion label is involved. A network that sees opacities of every size inside masks drawn on healthy people
learns the lungs from the chest around them instead of from their air.
"""

from __future__ import annotations

import torch
from torch.nn.functional import interpolate, max_pool2d

N_ELLIPSES = 6
PROB_LARGE = 0.3  # half a lung or all of it, of a sick stack
PROB_TILTED = 0.5  # of those, by a plane that runs up or down, too
PROB_LAYER = 0.25  # along the border, of a sick stack
PROB_AIR = 0.4  # in the bronchi of a consolidation
DEEPEST_PX = 6  # of a layer, counted from the lungs' border: a thicker one is an effusion


def smooth_noise(shape: tuple[int, ...], cell: int, rng: torch.Generator) -> torch.Tensor:
    """(B, S, H, W) noise of zero mean and about unit range, smooth over ``cell`` pixels, independent between slices."""
    n, slices, height, width = shape
    coarse = torch.randn(
        (n, slices, height // cell + 2, width // cell + 2), generator=rng, device=rng.device
    )
    return interpolate(coarse, size=(height, width), mode="bilinear", align_corners=True)


def _uniform(shape: tuple[int, ...], low: float, high: float, rng: torch.Generator) -> torch.Tensor:
    return low + (high - low) * torch.rand(shape, generator=rng, device=rng.device)


def add_disease(
    image_hu: torch.Tensor,
    lung_mask: torch.Tensor,
    height_px: torch.Tensor,
    share: float,
    rng: torch.Generator,
) -> torch.Tensor:
    """Ellipsoids of ground glass or consolidation, now and then half a lung or all of it, or a thin layer.

    Args:
        image_hu: (B, S, H, W) float32, axial slices at about 1.5 mm with their neighbours, rows
            from front to back.
        lung_mask: Same shape, bool.
        height_px: (B, S), how far above the middle slice each slice lies, in pixels.
        share: Part of the stacks that get disease.
        rng: On the device of the others.

    Returns:
        New (B, S, H, W) float32; voxels outside the lungs are unchanged.
    """
    n, _, height, width = image_hu.shape
    plane = (n, 1, height, width)  # noise that all slices of a stack share
    inside = lung_mask.float()
    middle = inside[:, inside.shape[1] // 2]
    border = middle * max_pool2d(1 - middle[:, None], 7, stride=1, padding=3)[:, 0]
    flat_inside, flat_border = middle.flatten(1), border.flatten(1)
    weight = 0.3 * flat_inside / (flat_inside.sum(1, keepdim=True) + 1)
    weight = weight + 0.7 * flat_border / (flat_border.sum(1, keepdim=True) + 1) + 1e-12
    centres = torch.multinomial(weight, N_ELLIPSES, replacement=True, generator=rng)
    rows = torch.arange(height, dtype=torch.float32, device=rng.device)[:, None]
    columns = torch.arange(width, dtype=torch.float32, device=rng.device)[None, :]
    each = (n, 1, 1, 1)

    sick = _uniform(each, 0, 1, rng) < share
    n_here = torch.randint(1, N_ELLIPSES + 1, (n,), generator=rng, device=rng.device).view(each)
    result = image_hu.clone()
    for k in range(N_ELLIPSES):
        axes = torch.exp(
            _uniform((3, *each), 1.1, 4.0, rng)
        )  # 3 to 55 pixels, small ones more often
        angle = _uniform(each, 0, torch.pi, rng)
        dy = rows - torch.div(centres[:, k], width, rounding_mode="floor").view(each)
        dx = columns - (centres[:, k] % width).view(each)
        dz = height_px[:, :, None, None] + axes[2] * _uniform(each, -0.7, 0.7, rng)
        along = (dx * torch.cos(angle) + dy * torch.sin(angle)) / axes[0]
        across = (dy * torch.cos(angle) - dx * torch.sin(angle)) / axes[1]
        radius = torch.sqrt(along**2 + across**2 + (dz / axes[2]) ** 2) * (
            1 + 0.25 * smooth_noise(plane, 12, rng)
        )
        softness = _uniform(each, 0.03, 0.25, rng)
        alpha = torch.sigmoid((1 - radius) / softness)
        result = _blend(result, alpha * (sick & (k < n_here)).float() * inside, rng)

    large = sick & (_uniform(each, 0, 1, rng) < PROB_LARGE)
    turn = torch.where(
        _uniform(each, 0, 1, rng) < 0.5, 0.0, _uniform(each, 0, 2 * torch.pi, rng)
    )  # 0: dependent
    beyond = (rows / height - 0.5) * torch.cos(turn) + (columns / width - 0.5) * torch.sin(turn)
    tilt = torch.where(
        _uniform(each, 0, 1, rng) < PROB_TILTED, _uniform(each, -0.5, 1, rng) * torch.pi / 2, 0.0
    )
    beyond = beyond * torch.cos(tilt) - height_px[:, :, None, None] / height * torch.sin(
        tilt
    )  # above 0: solid bases
    half = torch.sigmoid(
        (beyond - _uniform(each, -0.15, 0.25, rng)) * 30 + 2 * smooth_noise(plane, 24, rng)
    )
    everywhere = torch.sigmoid(2 * smooth_noise(plane, 32, rng) + 1)
    alpha = torch.where(_uniform(each, 0, 1, rng) < 0.75, half, everywhere)
    result = _blend(result, alpha * large.float() * inside, rng)

    layered = sick & (_uniform(each, 0, 1, rng) < PROB_LAYER)
    reach = _uniform(each, 1, DEEPEST_PX, rng) * (
        0.3 + smooth_noise(plane, 32, rng)
    )  # below 0: no layer there
    alpha = torch.sigmoid((reach - _depth(inside)) / 0.4)
    return _blend(result, alpha * layered.float() * inside, rng)


def _depth(inside: torch.Tensor) -> torch.Tensor:
    """Pixels from the lungs' border, 0 outside and ``DEEPEST_PX`` at most."""
    depth = inside.clone()
    eroded = inside
    for _ in range(DEEPEST_PX - 1):
        eroded = 1 - max_pool2d(1 - eroded, 3, stride=1, padding=1)
        depth += eroded
    return depth


def _blend(image_hu: torch.Tensor, alpha: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Ground glass keeps the vessels (maximum), consolidation hides them."""
    each = (image_hu.shape[0], 1, 1, 1)
    dense = _uniform(each, 0, 1, rng) < 0.45
    level = torch.where(dense, _uniform(each, -150, 80, rng), _uniform(each, -700, -250, rng))
    spread = torch.where(dense, _uniform(each, 5, 60, rng), _uniform(each, 20, 130, rng))
    fine = smooth_noise(tuple(image_hu.shape), 2, rng)
    coarse = smooth_noise((image_hu.shape[0], 1, *image_hu.shape[2:]), 10, rng)
    texture = level + spread * torch.where(_uniform(each, 0, 1, rng) < 0.5, fine, coarse)
    airy = dense & (_uniform(each, 0, 1, rng) < PROB_AIR)
    bronchi = airy & (smooth_noise(tuple(image_hu.shape), 3, rng) > _uniform(each, 0.8, 1.4, rng))
    texture = torch.where(bronchi, _uniform(each, -900, -300, rng), texture)
    texture = torch.where(dense, texture, torch.maximum(texture, image_hu))
    return image_hu + alpha * (texture - image_hu)
