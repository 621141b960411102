"""`normnet train-lungs`: a 2D U-Net from CTs with lung masks, no lesion label."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import affine_grid, grid_sample, interpolate

from normnet.config import LungsConfig, NetworkConfig
from normnet.network.losses import dice_cross_entropy
from normnet.network.unet import build_unet
from normnet.preparation.window import scale_hu
from normnet.training.lungs.disease import add_disease, smooth_noise

LUNG_NETWORK = NetworkConfig(
    spatial_dims=2, in_channels=3, channels=(16, 32, 64, 128, 256), n_res_units=2, norm="batch"
)
CROP = 192
PROB_END = 0.15  # of the crops, at either end of the stack
EMPTY_SHARE = 0.2  # of the crops, from slices without lung


@dataclass(frozen=True)
class LungSlice:
    """One axial slice with its neighbours below and above, rows front to back, columns from right to left.

    Attributes:
        volume_hu: (Z, H, W) int16, shared by all slices of a CT.
        volume_mask: Same shape, bool.
        rows: The slices of the volume that are seen, from below to above; the middle one is to be
            learned.
        pixel_mm: Of the rows and columns.
        heights_mm: How far above the middle slice each of them lies; 0 for copies.
    """

    volume_hu: np.ndarray
    volume_mask: np.ndarray
    rows: tuple[int, ...]
    pixel_mm: float
    heights_mm: tuple[float, ...]

    @property
    def image_hu(self) -> np.ndarray:
        """(S, H, W) int16."""
        return self.volume_hu[list(self.rows)]

    @property
    def lung_mask(self) -> np.ndarray:
        """(S, H, W) bool."""
        return self.volume_mask[list(self.rows)]

    @property
    def is_empty(self) -> bool:
        """Whether the middle slice holds no lung."""
        return not self.volume_mask[self.rows[len(self.rows) // 2]].any()


def lung_network(config: LungsConfig) -> NetworkConfig:
    """Shape of the network that sees a slice and its neighbours."""
    return LUNG_NETWORK.model_copy(update={"in_channels": config.n_seen})


def draw_weights(slices: list[LungSlice]) -> torch.Tensor:
    """How often each slice is drawn: those without lung, most of a long CT, ``EMPTY_SHARE`` of the time."""
    empty = torch.tensor([item.is_empty for item in slices])
    n_empty = int(empty.sum())
    if n_empty in (0, len(slices)):
        return torch.ones(len(slices))
    return torch.where(empty, EMPTY_SHARE / n_empty, (1 - EMPTY_SHARE) / (len(slices) - n_empty))


def sample_batch(
    slices: list[LungSlice],
    n: int,
    config: LungsConfig,
    sick_share: float,
    weights: torch.Tensor,
    rng: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random crops at about ``pixel_mm`` with geometry, disease, noise, blur and clipping varied.

    Args:
        slices: What to draw from.
        n: Crops.
        config: Grid and grey scale.
        sick_share: Part of the crops that get disease.
        weights: (len(slices),), see ``draw_weights``.
        rng: Its device is where crops are made.

    Returns:
        (B, S, CROP, CROP) float32 in [0, 1] and (B, 1, CROP, CROP) of 0/1 lung.
    """
    device = rng.device
    images, masks, heights = [], [], []
    drawn = torch.multinomial(weights.to(device), n, replacement=True, generator=rng).tolist()
    for index, draw in zip(
        drawn, torch.rand((n, 6), generator=rng, device=device).tolist(), strict=True
    ):
        item = slices[index]
        image = torch.from_numpy(item.image_hu).to(device).float()[None] + 1024
        mask = torch.from_numpy(item.lung_mask).to(device).float()[None]
        zoom = math.exp((draw[0] - 0.5) * 0.6) * config.pixel_mm / item.pixel_mm
        angle = (draw[1] - 0.5) * 0.6 + (math.pi if draw[2] < 0.04 else 0)
        flip = -1 if draw[3] < 0.5 else 1
        n_seen, height, width = image.shape[1:]
        sy, sx = zoom * CROP / height, zoom * CROP / width
        shift_x, shift_y = (
            (d - 0.5) * 1.2 * (1 - min(s, 0.8)) for d, s in zip(draw[4:], (sx, sy), strict=True)
        )
        cos, sin = math.cos(angle), math.sin(angle)
        theta = torch.tensor(
            [[[flip * sx * cos, -sx * sin, shift_x * 2], [flip * sy * sin, sy * cos, shift_y * 2]]],
            device=device,
        )
        grid = affine_grid(theta, [1, n_seen, CROP, CROP], align_corners=False)
        images.append(grid_sample(image, grid, align_corners=False)[0] - 1024)
        masks.append(grid_sample(mask, grid, align_corners=False)[0] > 0.5)
        heights.append(
            torch.tensor(item.heights_mm, dtype=torch.float32, device=device)
            / (zoom * item.pixel_mm)
        )
    image_hu, lung_mask = torch.stack(images), torch.stack(masks)
    middle = n_seen // 2
    image_hu = add_disease(image_hu, lung_mask, torch.stack(heights), sick_share, rng)
    # near the ends of a scan the outermost slice stands in for those beyond it
    ends = torch.where(torch.rand((n, 2), generator=rng, device=device) < PROB_END, 1, 0)
    ends = ends * torch.randint(
        0, middle + 1, (n, 2), generator=rng, device=device
    )  # neighbours that are missing
    seen = torch.arange(n_seen, device=device).expand(n, -1)
    seen = seen.clamp(ends[:, :1], n_seen - 1 - ends[:, 1:])
    image_hu = image_hu.gather(1, seen[:, :, None, None].expand_as(image_hu))

    draw = torch.rand((n, 1, 1, 1, 6), generator=rng, device=device)
    soft = interpolate(image_hu, scale_factor=0.6, mode="bilinear", antialias=True)
    soft = interpolate(soft, size=image_hu.shape[2:], mode="bilinear")
    image_hu = torch.where(draw[..., 0] < 0.25, soft, image_hu)
    noise = torch.randn(image_hu.shape, generator=rng, device=device) * 0.6
    noise = noise + smooth_noise(tuple(image_hu.shape), 2, rng) * 0.6
    image_hu = image_hu + noise * draw[..., 1].square() * 70
    image_hu = image_hu * (0.94 + 0.12 * draw[..., 2]) + (draw[..., 3] - 0.5) * 60
    ceiling = torch.where(draw[..., 4] < 0.3, 100 + 500 * draw[..., 5], 600.0)
    return scale_hu(torch.minimum(image_hu, ceiling), config), lung_mask[
        :, middle : middle + 1
    ].float()


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
        device: Torch device of the network and of the crops.
        start_from: State dict to continue from.
        on_step: Called with (iteration, loss).

    Returns:
        State dict of the trained network.
    """
    torch.manual_seed(seed)
    rng = torch.Generator(device).manual_seed(seed)
    network = build_unet(lung_network(config)).to(device)
    if start_from is not None:
        network.load_state_dict(start_from)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=1e-4)
    rise = 0.05 + 1e-9  # of exactly one step torch would divide by its length less one
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=iterations, pct_start=rise
    )
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
