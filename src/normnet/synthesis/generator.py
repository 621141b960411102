"""Synthetic lesions in healthy lung: shapes filled with textures, inserted by maximum (Eq. 9)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from normnet.config import SynthesisConfig
from normnet.synthesis.shapes import Blob, sample_shapes
from normnet.synthesis.textures import TextureSteps, sample_texture


class SyntheticLesion(NamedTuple):
    """One lesion with every step of Fig. 3."""

    blob: Blob  # G_j, which may reach out of the lung
    inside: torch.Tensor  # (d, h, w) bool, the part of it that lies in the lung
    texture: TextureSteps  # B_j and the steps to it, in the box of the blob


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
    """Draw synthetic lesions and insert them into a healthy slab.

    Args:
        thorax: (D, H, W) float32 in [0, 1], H of Eq. 1: the windowed lung, 0 outside.
        lung_mask: (D, H, W) bool.
        max_lung_vox: Lung voxels of the fullest slab of the training set (denominator of lambda).
        config: Every constant of Sec. III-C.
        rng: On the device of ``thorax``; equal states give equal slabs.

    Returns:
        New tensors; the input is unchanged.
    """
    return insert_lesions(thorax, sample_lesions(lung_mask, max_lung_vox, config, rng))


def sample_lesions(
    lung_mask: torch.Tensor, max_lung_vox: int, config: SynthesisConfig, rng: torch.Generator
) -> Iterator[SyntheticLesion]:
    """Draw the lesions of one slab, one after the other, each with its steps.

    They are made one by one because the steps of all lesions take much memory.

    Args:
        lung_mask: (D, H, W) bool.
        max_lung_vox: As in ``synthesize_lesions``.
        config: Every constant of Sec. III-C.
        rng: On the device of ``lung_mask``.
    """
    for blob in sample_shapes(lung_mask, max_lung_vox, config, rng):
        inside = blob.shape_mask & lung_mask[blob.box]
        yield SyntheticLesion(blob, inside, sample_texture(tuple(inside.shape), config, rng))


def insert_lesions(thorax: torch.Tensor, lesions: Iterable[SyntheticLesion]) -> SyntheticSlab:
    """Insert lesions by the voxel-wise maximum of the lung and their textures (Eq. 9).

    Args:
        thorax: (D, H, W) float32 in [0, 1].
        lesions: Drawn for the lungs of this slab.

    Returns:
        New tensors; the input is unchanged.
    """
    image = thorax.clone()
    lesion_mask = torch.zeros_like(thorax, dtype=torch.bool)
    for lesion in lesions:
        box = lesion.blob.box
        image[box] = torch.maximum(image[box], lesion.texture.scaled * lesion.inside)
        lesion_mask[box] |= lesion.inside
    return SyntheticSlab(image, lesion_mask)


def target_normal(thorax: torch.Tensor, lesion_mask: torch.Tensor, tau: float) -> torch.Tensor:
    """GT of Eq. 1: bright in the healthy lung and not covered by a synthetic lesion.

    Args:
        thorax: (D, H, W) float32 in [0, 1], the healthy lung.
        lesion_mask: Same shape, bool.
        tau: Bright threshold.

    Returns:
        Same shape, bool.
    """
    return (thorax >= tau) & ~lesion_mask
