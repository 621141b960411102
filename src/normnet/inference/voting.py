"""Overlapping slabs through every member, and the vote (Sec. III-A, IV-B3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from normnet.config import InferenceConfig

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Votes:
    """What the ensemble says of every voxel of the prepared grid.

    Attributes:
        n_normal: (z, y, x) uint8, members that call it normal.
        prob_normal: (z, y, x) float16, mean probability of normal.
        n_members: Size of the ensemble.
    """

    n_normal: np.ndarray
    prob_normal: np.ndarray
    n_members: int

    def normal_mask(self, config: InferenceConfig) -> np.ndarray:
        """Voxels that enough members call normal, bool."""
        needed = config.min_votes if config.min_votes is not None else self.n_members // 2 + 1
        return self.n_normal >= needed


def slab_starts(depth: int, kept: int, halo: int) -> list[tuple[int, slice]]:
    """Windows of ``kept + 2 * halo`` slices that cover the volume.

    Returns:
        For each window its first slice (the last window is moved inward) and the slices to keep from it.
    """
    window = kept + 2 * halo
    if depth <= window:
        return [(0, slice(0, depth))]
    starts = [*range(0, depth - window, kept), depth - window]
    seams = [0, *(first + halo for first in starts[1:]), depth]
    return [(first, slice(a, b)) for first, a, b in zip(starts, seams[:-1], seams[1:], strict=True)]


def predict_normal(
    thorax: np.ndarray,
    networks: list[torch.nn.Module],
    stride: int,
    config: InferenceConfig,
    device: str = "cpu",
    on_slab: Callable[[int, int], None] = lambda done, total: None,
) -> Votes:
    """Run every member over the thorax; memory is bounded by one slab.

    Args:
        thorax: (z, y, x) float32 in [0, 1], 0 outside the lungs.
        networks: Members in evaluation mode.
        stride: Axes are padded with zeros to a multiple of this.
        config: Slab size and probability threshold.
        device: Torch device.
        on_slab: Called with (slabs done, slabs in all).
    """
    import torch

    depth, height, width = thorax.shape
    n_normal = np.zeros(thorax.shape, np.uint8)
    prob_normal = np.zeros(thorax.shape, np.float16)
    networks = [network.to(device, memory_format=torch.channels_last_3d) for network in networks]
    windows = slab_starts(depth, config.slab_vox, config.halo_vox)
    length = min(depth, config.slab_vox + 2 * config.halo_vox)
    pads = (0, -width % stride, 0, -height % stride, 0, -length % stride)
    with torch.inference_mode(), torch.autocast(torch.device(device).type, torch.bfloat16):
        for done, (first, keep) in enumerate(windows):
            slab = torch.from_numpy(thorax[first : first + length])
            slab = torch.nn.functional.pad(slab, pads)[None, None].to(device, memory_format=torch.channels_last_3d)
            inner = slice(keep.start - first, keep.stop - first)
            probs = [torch.sigmoid(network(slab)[0, 0, inner, :height, :width].float()) for network in networks]
            n_normal[keep] = sum((prob > config.prob_normal).to(torch.uint8) for prob in probs).cpu().numpy()
            prob_normal[keep] = (sum(probs) / len(probs)).half().cpu().numpy()
            on_slab(done + 1, len(windows))
    return Votes(n_normal, prob_normal, len(networks))
