"""The coarse grid of the lesion networks: means over blocks of the prepared grid."""

from __future__ import annotations

import torch
from torch.nn.functional import avg_pool3d, interpolate

Factors = tuple[int, ...]  # z, y, x


def pool_lungs(
    volume_hu: torch.Tensor, lung_mask: torch.Tensor, factors: Factors
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean HU over blocks of voxels; in a block that is mostly lung, over its lung voxels only.

    Args:
        volume_hu: (D, H, W) float32.
        lung_mask: Same shape, bool.
        factors: Size of a block along each axis; axes are rounded up, so that the last blocks may
            be smaller.

    Returns:
        (ceil(D / factor), ...) float32 HU; and the same shape, bool, where more than half of the
        block is lung.
    """
    inside, hu = lung_mask.float()[None, None], volume_hu[None, None]
    share = avg_pool3d(inside, factors, ceil_mode=True)
    lung_hu = avg_pool3d(hu * inside, factors, ceil_mode=True) / share.clamp(min=1e-3)
    mostly_lung = share > 0.5
    pooled_hu = torch.where(mostly_lung, lung_hu, avg_pool3d(hu, factors, ceil_mode=True))
    return pooled_hu[0, 0], mostly_lung[0, 0]


def unpool(coarse: torch.Tensor, factors: Factors, shape: tuple[int, ...]) -> torch.Tensor:
    """Bring an image of blocks back to the prepared grid by linear interpolation.

    Args:
        coarse: (d, h, w) float32.
        factors: As in ``pool_lungs``.
        shape: (D, H, W) of the prepared grid.
    """
    size = [n * factor for n, factor in zip(coarse.shape, factors, strict=True)]
    fine = interpolate(coarse[None, None], size=size, mode="trilinear", align_corners=False)[0, 0]
    return fine[tuple(slice(n) for n in shape)]
