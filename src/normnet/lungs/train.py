"""`normnet train-lungs`: a 2D U-Net from CTs with lung masks, no lesion label."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import affine_grid, grid_sample, interpolate

from normnet.config import LungsConfig, NetworkConfig
from normnet.lungs.disease import add_disease, smooth_noise
from normnet.network.losses import dice_cross_entropy
from normnet.network.unet import build_unet
from normnet.preparation.window import scale_hu

LUNG_NETWORK = NetworkConfig(
    spatial_dims=2, in_channels=3, channels=(16, 32, 64, 128, 256), n_res_units=2, norm="batch"
)
CROP = 192
PROB_COPY = 0.05
EMPTY_SHARE = 0.15  # of the crops, from slices without lung


@dataclass(frozen=True)
class LungSlice:
    """One axial slice with its neighbours below and above, rows front to back, columns from right to left."""

    image_hu: np.ndarray  # (3, H, W) int16
    lung_mask: np.ndarray  # (3, H, W) bool; the middle one is to be learned
    pixel_mm: float
    apart_mm: float  # between neighbours; 0 for single slices, whose neighbours are copies


def draw_weights(slices: list[LungSlice]) -> torch.Tensor:
    """How often each slice is drawn: those without lung, most of a long CT, ``EMPTY_SHARE`` of the time."""
    empty = torch.tensor([not item.lung_mask[1].any() for item in slices])
    n_empty = int(empty.sum())
    if n_empty in (0, len(slices)):
        return torch.ones(len(slices))
    return torch.where(empty, EMPTY_SHARE / n_empty, (1 - EMPTY_SHARE) / (len(slices) - n_empty))


def sample_batch(
    slices: list[LungSlice], n: int, config: LungsConfig, sick_share: float, weights: torch.Tensor, rng: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random crops at about ``pixel_mm`` with geometry, disease, noise, blur and clipping varied.

    Args:
        slices: What to draw from.
        n: Crops.
        config: Grid and grey scale.
        sick_share: Part of the crops that get disease.
        weights: (len(slices),), see ``draw_weights``.
        rng: CPU generator.

    Returns:
        (B, 3, CROP, CROP) float32 in [0, 1] and (B, 1, CROP, CROP) of 0/1 lung.
    """
    images, masks, heights = [], [], []
    for index in torch.multinomial(weights, n, replacement=True, generator=rng).tolist():
        item = slices[index]
        image = torch.from_numpy(item.image_hu.astype(np.float32))[None] + 1024
        mask = torch.from_numpy(item.lung_mask.astype(np.float32))[None]
        draw = torch.rand(6, generator=rng)
        zoom = math.exp((draw[0].item() - 0.5) * 0.6) * config.pixel_mm / item.pixel_mm
        angle = (draw[1].item() - 0.5) * 0.6 + (math.pi if draw[2] < 0.04 else 0)
        flip = -1 if draw[3] < 0.5 else 1
        height, width = image.shape[2:]
        sy, sx = zoom * CROP / height, zoom * CROP / width
        shift_x, shift_y = ((draw[4:6] - 0.5) * 1.2 * (1 - torch.tensor([sx, sy]).clamp(max=0.8))).tolist()
        cos, sin = math.cos(angle), math.sin(angle)
        theta = torch.tensor(
            [[[flip * sx * cos, -sx * sin, shift_x * 2], [flip * sy * sin, sy * cos, shift_y * 2]]], dtype=torch.float32
        )
        grid = affine_grid(theta, [1, 3, CROP, CROP], align_corners=False)
        images.append(grid_sample(image, grid, align_corners=False)[0] - 1024)
        masks.append(grid_sample(mask, grid, align_corners=False)[0] > 0.5)
        heights.append(torch.tensor([-1.0, 0.0, 1.0]) * (item.apart_mm / (zoom * item.pixel_mm)))
    image_hu, lung_mask = torch.stack(images), torch.stack(masks)
    image_hu = add_disease(image_hu, lung_mask, torch.stack(heights), sick_share, rng)
    for neighbour in (0, 2):  # the first and the last slice of a scan have a copy beside them
        copied = torch.rand((n, 1, 1), generator=rng) < PROB_COPY
        image_hu[:, neighbour] = torch.where(copied, image_hu[:, 1], image_hu[:, neighbour])

    draw = torch.rand((n, 1, 1, 1, 6), generator=rng)
    soft = interpolate(image_hu, scale_factor=0.6, mode="bilinear", antialias=True)
    soft = interpolate(soft, size=image_hu.shape[2:], mode="bilinear")
    image_hu = torch.where(draw[..., 0] < 0.25, soft, image_hu)
    noise = torch.randn(image_hu.shape, generator=rng) * 0.6 + smooth_noise(tuple(image_hu.shape), 2, rng) * 0.6
    image_hu = image_hu + noise * draw[..., 1].square() * 70
    image_hu = image_hu * (0.94 + 0.12 * draw[..., 2]) + (draw[..., 3] - 0.5) * 60
    ceiling = torch.where(draw[..., 4] < 0.3, 100 + 500 * draw[..., 5], torch.tensor(600.0))
    return scale_hu(torch.minimum(image_hu, ceiling), config), lung_mask[:, 1:2].float()


def train_lungs(
    slices: list[LungSlice],
    config: LungsConfig,
    *,
    iterations: int = 3000,
    batch: int = 12,
    learning_rate: float = 1.5e-3,
    sick_share: float = 0.75,
    seed: int = 0,
    device: str = "cpu",
    start_from: dict[str, torch.Tensor] | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> dict[str, torch.Tensor]:
    """Train one lung network.

    Args:
        slices: What to learn from; slices without lung included.
        config: Grid and grey scale, the same at inference.
        iterations: Steps of ``batch`` crops.
        batch: Crops a step.
        learning_rate: Peak of AdamW, falling to zero along a cosine.
        sick_share: Part of the crops that get synthetic disease.
        seed: Weights, crops and disease follow from it.
        device: Torch device of the network; crops are made on the CPU.
        start_from: State dict to continue from.
        on_step: Called with (iteration, loss).

    Returns:
        State dict of the trained network.
    """
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    network = build_unet(LUNG_NETWORK).to(device)
    if start_from is not None:
        network.load_state_dict(start_from)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=1e-4)
    rise = 0.05 + 1e-9  # of exactly one step torch would divide by its length less one
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=iterations, pct_start=rise)
    weights = draw_weights(slices)
    network.train()
    for step in range(1, iterations + 1):
        image, target = sample_batch(slices, batch, config, sick_share, weights, rng)
        image = image.to(device, memory_format=torch.channels_last)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            logits = network(image)
        loss = dice_cross_entropy(logits, target.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        on_step(step, loss.item())
    return {key: value.detach().cpu() for key, value in network.state_dict().items()}
