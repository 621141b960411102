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
        return self.n_normal >= config.votes_needed(self.n_members)


def slab_windows(depth: int, slab: int) -> list[tuple[slice, slice]]:
    """Windows of ``slab`` slices, half a slab apart, along z.

    Returns:
        For each window the slices it sees (the last may reach beyond the volume) and the slices
        whose result is taken from it: its middle half, at the ends of the volume more. They cover
        the volume once.
    """
    step, edge = max(1, slab // 2), slab // 4
    firsts = [0, *range(step, max(step, depth - slab + edge + step), step)]
    cuts = [0, *(first + edge for first in firsts[1:]), depth]
    return [
        (slice(first, first + slab), slice(a, b))
        for first, a, b in zip(firsts, cuts[:-1], cuts[1:], strict=True)
    ]


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
    networks = [network.to(device) for network in networks]
    windows = slab_windows(depth, config.slab_vox)
    with torch.inference_mode(), torch.autocast(torch.device(device).type, torch.bfloat16):
        for done, (seen, keep) in enumerate(windows):
            missing = max(0, seen.stop - depth)
            pads = (0, -width % stride, 0, -height % stride, 0, missing + -config.slab_vox % stride)
            slab = torch.nn.functional.pad(torch.from_numpy(thorax[seen]), pads)[None, None]
            slab = slab.to(device, memory_format=torch.channels_last_3d)  # (1, 1, D, H, W)
            inner = slice(keep.start - seen.start, keep.stop - seen.start)
            logits = [network(slab)[0, 0, inner, :height, :width] for network in networks]
            probs = torch.sigmoid(torch.stack(logits).float())  # (members, D, H, W)
            n_normal[keep] = (probs > config.prob_normal).sum(0).to(torch.uint8).cpu().numpy()
            prob_normal[keep] = probs.mean(0).half().cpu().numpy()
            on_slab(done + 1, len(windows))
    return Votes(n_normal, prob_normal, len(networks))
