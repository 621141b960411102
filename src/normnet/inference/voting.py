"""Overlapping slabs through every member, and the vote (Sec. III-A, IV-B3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from normnet.config import InferenceConfig
from normnet.filters import bounding_box
from normnet.inference.precision import autocast

if TYPE_CHECKING:
    import torch

MARGIN_VOX = 2  # around the lungs, where interpolation takes part of a probability from


@dataclass(frozen=True)
class Votes:
    """What the ensemble says about every voxel of the prepared grid.

    Attributes:
        n_normal: (z, y, x) uint8, number of members that call the voxel normal.
        prob_normal: Same shape, float16, mean probability of normal over the members.
        n_members: Number of members that voted.
    """

    n_normal: np.ndarray
    prob_normal: np.ndarray
    n_members: int

    def normal_mask(self, config: InferenceConfig) -> np.ndarray:
        """Voxels that count as normal, (z, y, x) bool.

        Args:
            config: ``rule`` says whether the members vote (the paper) or their mean probability
                decides.
        """
        if config.rule == "mean":
            return self.prob_normal.astype(np.float32) > config.prob_normal
        return self.n_normal >= config.votes_needed(self.n_members)


def slab_windows(depth: int, slab: int) -> list[tuple[slice, slice]]:
    """Windows of ``slab`` slices, half a slab apart, along z.

    Args:
        depth: Number of slices of the volume.
        slab: Number of slices that a window sees.

    Returns:
        Two slices per window: what it sees (the last window may reach beyond the volume), and the
        part for which its result is used. That part is its middle half, and more at the two ends
        of the volume; together these parts cover the volume exactly once.
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
    """Run every member over the thorax, slab by slab, so that one slab limits the memory.

    Nothing is computed beyond the box of the lungs in the slices that a slab is used for.

    Args:
        thorax: (z, y, x) float32 in [0, 1], 0 outside the lungs.
        networks: Members in evaluation mode.
        stride: Axes are padded with zeros to a multiple of this.
        config: Slab size and probability threshold.
        device: Torch device.
        on_slab: Called with (number of finished slabs, number of all slabs).
    """
    import torch

    depth, height, width = thorax.shape
    n_normal = np.zeros(thorax.shape, np.uint8)
    prob_normal = np.zeros(thorax.shape, np.float16)
    networks = [network.to(device) for network in networks]
    windows = slab_windows(depth, config.slab_vox)
    with torch.inference_mode(), autocast(device):
        for done, (seen, used) in enumerate(windows):
            lungs = thorax[used] > 0
            if lungs.any():
                _, rows, columns = bounding_box(lungs, MARGIN_VOX)
                missing = max(0, seen.stop - depth)
                thick = (0, missing + -config.slab_vox % stride)
                pads = (0, -width % stride, 0, -height % stride, *thick)
                slab = torch.nn.functional.pad(torch.from_numpy(thorax[seen]), pads)[None, None]
                slab = slab.to(device, memory_format=torch.channels_last_3d)  # (1, 1, D, H, W)
                part = (slice(used.start - seen.start, used.stop - seen.start), rows, columns)
                logits = [_ask(network, slab, part) for network in networks]
                probs = torch.sigmoid(torch.stack(logits).float())  # (members, D, H, W)
                votes = (probs > config.prob_normal).sum(0, dtype=torch.uint8)
                n_normal[used, rows, columns] = votes.cpu().numpy()
                prob_normal[used, rows, columns] = probs.mean(0).half().cpu().numpy()
            on_slab(done + 1, len(windows))
    return Votes(n_normal, prob_normal, len(networks))


def _ask(
    network: torch.nn.Module, slab: torch.Tensor, box: tuple[slice, slice, slice]
) -> torch.Tensor:
    """Logits of one member in a box of a slab; the shipped kind computes no others."""
    from normnet.network.lean import LeanUNet

    if isinstance(network, LeanUNet):
        part: torch.Tensor = network(slab, box)[0, 0]
        return part
    whole: torch.Tensor = network(slab)[0, 0]
    return whole[box]
