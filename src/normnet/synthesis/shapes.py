"""Lesion-like shapes: deformed and rotated ellipsoids, merged where they touch (Sec. III-C1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn.functional import interpolate, max_pool3d

from normnet.config import Range, SynthesisConfig


@dataclass(frozen=True)
class Blob:
    """A shape in its bounding box.

    Attributes:
        low: First voxel (z, y, x) of the box in the slab.
        shape_mask: (d, h, w) bool.
    """

    low: tuple[int, ...]
    shape_mask: torch.Tensor

    @property
    def box(self) -> tuple[slice, ...]:
        """Where the mask lies in the slab."""
        return tuple(slice(a, a + n) for a, n in zip(self.low, self.shape_mask.shape, strict=True))


def uniform(limits: Range, rng: torch.Generator) -> float:
    """One draw of U[low, high]."""
    return (
        limits[0]
        + (limits[1] - limits[0]) * torch.rand((), generator=rng, device=rng.device).item()
    )


def sample_count(limits: Range, factor: float, rng: torch.Generator) -> int:
    """One draw of F[low * factor, high * factor], with bounds rounded to whole numbers."""
    low, high = (round(limit * factor) for limit in limits)
    return low + int(torch.randint(high - low + 1, (), generator=rng, device=rng.device))


def sample_centres(lung_mask: torch.Tensor, n: int, rng: torch.Generator) -> list[list[int]]:
    """``n`` random lung voxels (z, y, x), with replacement."""
    limits = torch.tensor(lung_mask.shape, device=rng.device)
    draws = (torch.rand((256 + 64 * n, 3), generator=rng, device=rng.device) * limits).long()
    hits = draws[lung_mask[draws[:, 0], draws[:, 1], draws[:, 2]]]
    if len(hits) < n:  # hardly any lung in the slab
        voxels = lung_mask.nonzero()
        hits = voxels[torch.randint(len(voxels), (n,), generator=rng, device=rng.device)]
    return hits[:n].tolist()


def smooth_displacement(shape: torch.Size, n_points: int, rng: torch.Generator) -> torch.Tensor:
    """(3, d, h, w) displacements: Gaussian at ``n_points`` control points per axis, else linear."""
    control = torch.randn((1, 3, *(n_points,) * 3), generator=rng, device=rng.device)
    return interpolate(control, size=shape, mode="trilinear", align_corners=True)[0]


def sample_ellipsoid(
    centre: list[int],
    axes_vox: Range,
    slab: torch.Size,
    config: SynthesisConfig,
    rng: torch.Generator,
) -> Blob:
    """One ellipsoid with random semi-axes, elastic deformation and rotation, clipped by the slab.

    Args:
        centre: Voxel (z, y, x) of the slab.
        axes_vox: Range of the three semi-axes.
        slab: Shape of the slab.
        config: Deformation and rotation.
        rng: The mask is made on its device.
    """
    device = rng.device
    axes = axes_vox[0] + (axes_vox[1] - axes_vox[0]) * torch.rand(3, generator=rng, device=device)
    strength = uniform(config.elastic, rng) * axes.mean().item()
    reach = math.ceil(axes.max().item() + 2 * strength)
    low = [max(0, c - reach) for c in centre]
    high = [min(n, c + reach + 1) for c, n in zip(centre, slab, strict=True)]
    offsets = [
        torch.arange(a, b, device=device, dtype=torch.float32) - c
        for a, b, c in zip(low, high, centre, strict=True)
    ]
    points = torch.stack(torch.meshgrid(*offsets, indexing="ij"))  # (3, d, h, w)
    if strength > 0:
        points = points + strength * smooth_displacement(
            points.shape[1:], config.elastic_cells, rng
        )
    if config.rotate:
        rotation, _ = torch.linalg.qr(torch.randn((3, 3), generator=rng, device=device))
        points = torch.einsum("ij,jdhw->idhw", rotation, points)
    shape_mask = ((points / axes[:, None, None, None]) ** 2).sum(0) <= 1
    return Blob(tuple(low), shape_mask)


def touching(first: Blob, second: Blob) -> bool:
    """Whether two blobs overlap or are 26-neighbours."""
    low = [max(a, b) - 1 for a, b in zip(first.low, second.low, strict=True)]
    ends = [
        [a + n for a, n in zip(blob.low, blob.shape_mask.shape, strict=True)]
        for blob in (first, second)
    ]
    high = [min(a, b) + 1 for a, b in zip(*ends, strict=True)]
    if any(b - a < 1 for a, b in zip(low, high, strict=True)):
        return False

    def part(blob: Blob) -> torch.Tensor:
        window = torch.zeros(
            [b - a for a, b in zip(low, high, strict=True)], device=blob.shape_mask.device
        )
        inner = [
            (max(a, c), min(b, c + n))
            for a, b, c, n in zip(low, high, blob.low, blob.shape_mask.shape, strict=True)
        ]
        target = tuple(slice(p - a, q - a) for (p, q), a in zip(inner, low, strict=True))
        source = tuple(slice(p - c, q - c) for (p, q), c in zip(inner, blob.low, strict=True))
        window[target] = blob.shape_mask[source].float()
        return window

    grown = max_pool3d(part(first)[None, None], 3, stride=1, padding=1)[0, 0]
    return bool((grown * part(second)).any())


def merge(blobs: list[Blob]) -> list[Blob]:
    """Join blobs that touch, directly or through others, into non-adjacent ones."""
    group = list(range(len(blobs)))
    for i in range(len(blobs)):
        for j in range(i):
            if group[i] != group[j] and touching(blobs[i], blobs[j]):
                old, new = max(group[i], group[j]), min(group[i], group[j])
                group = [new if g == old else g for g in group]
    merged = []
    for g in sorted(set(group)):
        parts = [blob for blob, h in zip(blobs, group, strict=True) if h == g]
        low = [min(blob.low[k] for blob in parts) for k in range(3)]
        high = [max(blob.low[k] + blob.shape_mask.shape[k] for blob in parts) for k in range(3)]
        union = torch.zeros(
            [b - a for a, b in zip(low, high, strict=True)],
            dtype=torch.bool,
            device=parts[0].shape_mask.device,
        )
        for blob in parts:
            box = tuple(
                slice(a - b, a - b + n)
                for a, b, n in zip(blob.low, low, blob.shape_mask.shape, strict=True)
            )
            union[box] |= blob.shape_mask
        merged.append(Blob(tuple(low), union))
    return merged


def sample_shapes(
    lung_mask: torch.Tensor, max_lung_vox: int, config: SynthesisConfig, rng: torch.Generator
) -> list[Blob]:
    """All blobs G_j of one slab.

    Args:
        lung_mask: (D, H, W) bool on the device of ``rng``.
        max_lung_vox: Lung voxels of the fullest slab of the training set; lambda is the number of
            lung voxels over this.
        config: Counts and sizes.
        rng: Random state.

    Returns:
        Blobs that do not touch each other, possibly none; their masks may reach out of the lung.
    """
    n_lung = int(lung_mask.sum())
    if n_lung == 0:
        return []
    lam = n_lung / max_lung_vox
    kinds = [config.axes_small_vox] * sample_count(config.n_small, lam, rng)
    kinds += [config.axes_medium_vox] * sample_count(config.n_medium, lam, rng)
    if uniform((0, 1), rng) < config.prob_large * lam:
        kinds.append(config.axes_large_vox)
    centres = sample_centres(lung_mask, len(kinds), rng)
    blobs = [
        sample_ellipsoid(centre, axes, lung_mask.shape, config, rng)
        for centre, axes in zip(centres, kinds, strict=True)
    ]
    return merge(blobs)
