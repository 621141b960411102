"""The lesion networks: what looks like disease in the lungs, dense or pale, on a coarse grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from normnet.config import Config
from normnet.inference.precision import autocast
from normnet.preparation.prepare import Prepared

if TYPE_CHECKING:
    import torch


def predict_lesions(
    prepared: Prepared, networks: list[torch.nn.Module], config: Config, device: str = "cpu"
) -> np.ndarray:
    """Mean probability of lesion over the members; the lungs go through each member at once.

    Args:
        prepared: The thorax on any grid. Its voxels are pooled to about the size of the voxels
            that the networks were trained on.
        networks: Members in evaluation mode.
        config: The settings of the lesion networks (window, grid, stride).
        device: Torch device.

    Returns:
        (z, y, x) float32 in [0, 1] on the prepared grid, 0 outside the lungs.
    """
    import torch

    from normnet.preparation.coarse import pool_lungs, unpool
    from normnet.preparation.window import scale_hu

    grid = config.preparation
    factors = tuple(
        max(1, round(grid.pool_vox * trained / own))
        for trained, own in zip(grid.spacing_mm, prepared.spacing_mm, strict=True)
    )
    stride = config.network.stride
    lung_mask = torch.from_numpy(prepared.lung_mask).to(device)
    with torch.inference_mode(), autocast(device):
        hu, inside = pool_lungs(torch.from_numpy(prepared.volume_hu).to(device), lung_mask, factors)
        thorax = scale_hu(hu, config.window) * inside
        pads = [pad for n in reversed(thorax.shape) for pad in (0, -n % stride)]
        image = torch.nn.functional.pad(thorax, pads)[None, None].contiguous(
            memory_format=torch.channels_last_3d
        )
        prob = torch.stack(
            [torch.sigmoid(network.to(device)(image).float()) for network in networks]
        ).mean(0)
        prob = prob[0, 0][tuple(slice(n) for n in thorax.shape)]  # (d, h, w)
        return (unpool(prob, factors, prepared.lung_mask.shape) * lung_mask).cpu().numpy()
