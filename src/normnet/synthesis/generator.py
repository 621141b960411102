"""Synthetic lesions in healthy lung: shapes filled with textures, inserted by voxel-wise maximum (Eq. 9)."""

from __future__ import annotations

from typing import NamedTuple

import torch

from normnet.config import SynthesisConfig
from normnet.synthesis.shapes import sample_shapes
from normnet.synthesis.textures import sample_texture


class SyntheticSlab(NamedTuple):
    """A slab with synthetic lesions."""

    image: torch.Tensor  # A, (D, H, W) float32 in [0, 1]
    lesion_mask: torch.Tensor  # G, (D, H, W) bool, inside the lung


def synthesize_lesions(
    thorax: torch.Tensor,
    lung_mask: torch.Tensor,
    max_lung_vox: int,
    config: SynthesisConfig,
    rng: torch.Generator,
) -> SyntheticSlab:
    """Insert synthetic lesions into a healthy slab.

    Args:
        thorax: (D, H, W) float32 in [0, 1], H of Eq. 1: the windowed lung, 0 outside.
        lung_mask: (D, H, W) bool.
        max_lung_vox: Lung voxels of the fullest slab of the training set (denominator of lambda).
        config: Every constant of Sec. III-C.
        rng: On the device of ``thorax``; equal states give equal slabs.

    Returns:
        New tensors; the input is unchanged.
    """
    image = thorax.clone()
    lesion_mask = torch.zeros_like(lung_mask)
    for blob in sample_shapes(lung_mask, max_lung_vox, config, rng):
        inside = blob.shape_mask & lung_mask[blob.box]
        texture = sample_texture(tuple(inside.shape), config, rng).scaled
        image[blob.box] = torch.maximum(image[blob.box], texture * inside)
        lesion_mask[blob.box] |= inside
    return SyntheticSlab(image, lesion_mask)


def target_normal(thorax: torch.Tensor, lesion_mask: torch.Tensor, tau: float) -> torch.Tensor:
    """GT of Eq. 1: bright in the healthy lung and not covered by a synthetic lesion; bool."""
    return (thorax >= tau) & ~lesion_mask
