"""Dice + cross-entropy, the paper's loss (Sec. III-A)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import binary_cross_entropy_with_logits


def dice_cross_entropy(
    logits: torch.Tensor,
    target: torch.Tensor,
    inside: torch.Tensor | None = None,
    total: Callable[[torch.Tensor], torch.Tensor] = lambda part: part,
) -> torch.Tensor:
    """Soft Dice loss over the whole batch plus the mean binary cross-entropy.

    Args:
        logits: (B, 1, ...) raw output.
        target: Same shape, 0 or 1.
        inside: Same shape, bool; where given, only these voxels count.
        total: Sum over all processes of what each sums up over its part of the batch.

    Returns:
        A scalar; 0 is perfect, and where no voxel counts.
    """
    logits, target = logits.float(), target.float()
    if inside is not None:
        logits, target = logits[inside], target[inside]
    prob = torch.sigmoid(logits)
    # The mean over all voxels is that of each part, weighted by the part's share of the voxels.
    n = logits.new_tensor(float(logits.numel()))
    entropy = binary_cross_entropy_with_logits(logits, target) if len(logits) else logits.sum()
    parts = [(prob * target).sum(), prob.sum(), target.sum(), entropy * (n / total(n).clamp(min=1))]
    overlap, n_prob, n_target, entropy = total(torch.stack(parts)).unbind()
    return 1 - (2 * overlap + 1) / (n_prob + n_target + 1) + entropy
