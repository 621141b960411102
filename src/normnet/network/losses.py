"""Dice + cross-entropy, the paper's loss (Sec. III-A)."""

from __future__ import annotations

import torch
from torch.nn.functional import binary_cross_entropy_with_logits


def dice_cross_entropy(
    logits: torch.Tensor, target: torch.Tensor, inside: torch.Tensor | None = None
) -> torch.Tensor:
    """Soft Dice loss over the whole batch plus the mean binary cross-entropy.

    Args:
        logits: (B, 1, ...) raw output.
        target: Same shape, 0 or 1.
        inside: Same shape, bool; where given, only these voxels count.

    Returns:
        A scalar; 0 is perfect.
    """
    logits, target = logits.float(), target.float()
    if inside is not None:
        logits, target = logits[inside], target[inside]
    prob = torch.sigmoid(logits)
    overlap = (prob * target).sum()
    dice = 1 - (2 * overlap + 1) / (prob.sum() + target.sum() + 1)
    return dice + binary_cross_entropy_with_logits(logits, target)
