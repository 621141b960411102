"""`normnet train-lungs`: a 2D U-Net from CTs with lung masks, no lesion label."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import affine_grid, grid_sample, interpolate

from normnet.config import LungsConfig, LungsTrainingConfig, NetworkConfig
from normnet.network.losses import dice_cross_entropy
from normnet.network.unet import build_unet
from normnet.preparation.prepare import LOWEST_HU
from normnet.preparation.window import scale_hu
from normnet.training.checkpoints import Checkpoint, load_newest, save_checkpoint, take_checkpoint
from normnet.training.divergence import check_loss
from normnet.training.lungs.disease import add_disease, smooth_noise


@dataclass(frozen=True)
class LungSlice:
    """One axial slice with its neighbours below and above.

    Rows run from front to back, columns from right to left.

    Attributes:
        volume_hu: (Z, H, W) int16, shared by all slices of a CT.
        volume_mask: Same shape, bool.
        rows: The slices of the volume that are seen, from below to above; the network learns the
            mask of the middle one.
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


def lung_network(lungs: LungsConfig, training: LungsTrainingConfig) -> NetworkConfig:
    """Shape of the network that sees a slice and its neighbours."""
    return NetworkConfig(
        spatial_dims=2,
        in_channels=lungs.n_seen,
        channels=training.channels,
        n_res_units=training.n_res_units,
    )


def draw_weights(slices: list[LungSlice], training: LungsTrainingConfig) -> torch.Tensor:
    """How often each slice is drawn; those without lung, all together, ``empty_share``."""
    empty = torch.tensor([item.is_empty for item in slices])
    n_empty = int(empty.sum())
    if n_empty in (0, len(slices)):
        return torch.ones(len(slices))
    share = training.empty_share
    return torch.where(empty, share / n_empty, (1 - share) / (len(slices) - n_empty))


def sample_batch(
    slices: list[LungSlice],
    lungs: LungsConfig,
    training: LungsTrainingConfig,
    weights: torch.Tensor,
    rng: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random crops at about ``pixel_mm`` with geometry, disease, noise, blur and clipping varied.

    Args:
        slices: What to draw from.
        lungs: Grid and grey scale.
        training: How many crops, their size in pixels (P), and what is varied.
        weights: (len(slices),), see ``draw_weights``.
        rng: The crops are made on its device.

    Returns:
        (B, S, P, P) float32 in [0, 1] and (B, 1, P, P) of 0/1 lung.
    """
    device, n = rng.device, training.batch
    drawn = torch.multinomial(weights.to(device), n, replacement=True, generator=rng).tolist()
    draws = torch.rand((n, 6), generator=rng, device=device).tolist()
    crops = [
        _crop(slices[index], draw, lungs, training, device)
        for index, draw in zip(drawn, draws, strict=True)
    ]
    image_hu, lung_mask, height_px = (torch.stack(parts) for parts in zip(*crops, strict=True))
    image_hu = add_disease(image_hu, lung_mask, height_px, training, rng)
    image_hu = _lose_ends(image_hu, training, rng)
    image_hu = _vary_scanner(image_hu, training, rng)
    middle = lung_mask.shape[1] // 2
    return scale_hu(image_hu, lungs), lung_mask[:, middle : middle + 1].float()


def _crop(
    item: LungSlice,
    draw: list[float],
    lungs: LungsConfig,
    training: LungsTrainingConfig,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A slice zoomed, turned, mirrored and shifted as six numbers in [0, 1) say.

    Returns:
        (S, P, P) HU, its mask, and (S,) how far above the middle slice each lies, in pixels.
    """
    size = training.crop_px
    image = torch.from_numpy(item.image_hu).to(device).float()[None] - LOWEST_HU
    mask = torch.from_numpy(item.lung_mask).to(device).float()[None]
    n_seen, height, width = image.shape[1:]
    zoom = math.exp((draw[0] - 0.5) * training.zoom_width) * lungs.pixel_mm / item.pixel_mm
    angle = (draw[1] - 0.5) * training.rotate_width_rad
    angle += math.pi if draw[2] < training.prob_upside_down else 0
    flip = -1 if draw[3] < training.prob_flip else 1
    sy, sx = zoom * size / height, zoom * size / width
    shift_x, shift_y = (
        (d - 0.5) * training.shift_width * (1 - min(s, training.shift_crop_share))
        for d, s in zip(draw[4:], (sx, sy), strict=True)
    )
    cos, sin = math.cos(angle), math.sin(angle)
    theta = torch.tensor(
        [[[flip * sx * cos, -sx * sin, shift_x * 2], [flip * sy * sin, sy * cos, shift_y * 2]]],
        device=device,
    )
    grid = affine_grid(theta, [1, n_seen, size, size], align_corners=False)
    heights_mm = torch.tensor(item.heights_mm, dtype=torch.float32, device=device)
    return (
        grid_sample(image, grid, align_corners=False)[0] + LOWEST_HU,
        grid_sample(mask, grid, align_corners=False)[0] > 0.5,
        heights_mm / (zoom * item.pixel_mm),
    )


def _lose_ends(
    image_hu: torch.Tensor, training: LungsTrainingConfig, rng: torch.Generator
) -> torch.Tensor:
    """As near the ends of a scan, where the outermost slice stands in for those beyond it."""
    n, n_seen = image_hu.shape[:2]
    device = rng.device
    lost = torch.rand((n, 2), generator=rng, device=device) < training.prob_end
    ends = torch.where(lost, 1, 0)
    ends = ends * torch.randint(0, n_seen // 2 + 1, (n, 2), generator=rng, device=device)
    seen = torch.arange(n_seen, device=device).expand(n, -1)
    seen = seen.clamp(ends[:, :1], n_seen - 1 - ends[:, 1:])
    return image_hu.gather(1, seen[:, :, None, None].expand_as(image_hu))


def _vary_scanner(
    image_hu: torch.Tensor, training: LungsTrainingConfig, rng: torch.Generator
) -> torch.Tensor:
    """Blur, noise, another scale of the HU, and bright tissue that is clipped."""
    shape = tuple(image_hu.shape)
    draw = torch.rand((shape[0], 1, 1, 1, 6), generator=rng, device=rng.device)
    soft = interpolate(image_hu, scale_factor=training.soft_scale, mode="bilinear", antialias=True)
    soft = interpolate(soft, size=shape[2:], mode="bilinear")
    image_hu = torch.where(draw[..., 0] < training.prob_soft, soft, image_hu)
    noise = torch.randn(shape, generator=rng, device=rng.device) * training.noise
    noise = noise + smooth_noise(shape, training.noise_px, rng) * training.noise
    image_hu = image_hu + noise * draw[..., 1].square() * training.noise_hu
    scale = training.scale_from + training.scale_width * draw[..., 2]
    image_hu = image_hu * scale + (draw[..., 3] - 0.5) * training.shift_width_hu
    clipped = training.clip_hu + training.clip_width_hu * draw[..., 5]
    highest = training.clip_hu + training.clip_width_hu
    ceiling = torch.where(draw[..., 4] < training.prob_clip, clipped, highest)
    return torch.minimum(image_hu, ceiling)


def train_lungs(
    slices: list[LungSlice],
    lungs: LungsConfig,
    training: LungsTrainingConfig,
    *,
    device: str = "cpu",
    start_from: dict[str, torch.Tensor] | None = None,
    checkpoints: Path | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    stop: Callable[[], bool] = lambda: False,
) -> Checkpoint:
    """Train one lung network.

    A checkpoint holds the state of the random generator, so a run that was stopped goes on as if it
    had not been.

    Args:
        slices: What to learn from; slices without lung included.
        lungs: Grid and grey scale, the same at inference.
        training: Everything else.
        device: Torch device of the network and of the crops.
        start_from: State dict to start from.
        checkpoints: Folder to resume from and save to.
        on_step: Called with (iteration, loss).
        stop: Called after every iteration; True saves a checkpoint and returns early.

    Returns:
        The state after the last iteration done.

    Raises:
        ModelError: NN-TRN-020 if the training diverges; the checkpoints from before stay.
        OutputError: If a checkpoint cannot be written; NN-OUT-013 if it is of another training.
    """
    torch.manual_seed(training.seed)
    rng = torch.Generator(device).manual_seed(training.seed)
    network = build_unet(lung_network(lungs, training)).to(device)
    if start_from is not None:
        network.load_state_dict(start_from)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    rise = training.rise_share + 1e-9  # of exactly one step torch would divide by its length less 1
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.learning_rate, total_steps=training.iterations, pct_start=rise
    )
    done, losses = 0, []
    resumed = load_newest(checkpoints) if checkpoints else None
    if resumed is not None:
        resumed.restore(network, optimizer, rng=rng)
        done, losses = resumed.step, list(resumed.losses)
        schedule.load_state_dict({"last_epoch": done - 1, "_step_count": done + 1})
        schedule.step()
    weights = draw_weights(slices, training)
    network.train()
    for step in range(done + 1, training.iterations + 1):
        image, target = sample_batch(slices, lungs, training, weights, rng)
        image = image.to(device, memory_format=torch.channels_last)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            logits = network(image)
        loss = dice_cross_entropy(logits, target.to(device))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), training.clip_norm)
        optimizer.step()
        schedule.step()
        losses.append(round(loss.item(), 6))
        check_loss(losses[-1], step)
        on_step(step, losses[-1])
        stopping = stop()
        due = stopping or step % training.checkpoint_every == 0 or step == training.iterations
        if checkpoints and due:
            save_checkpoint(checkpoints, take_checkpoint(network, optimizer, losses, rng=rng))
        if stopping:
            break
    return take_checkpoint(network, optimizer, losses, rng=rng)
