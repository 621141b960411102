"""MONAI's residual U-Net, 2D for the lungs and 3D for NormNet."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from normnet.config import NetworkConfig


def build_unet(config: NetworkConfig) -> nn.Module:
    """An untrained U-Net with one input channel and one output logit a voxel.

    Source: Kerfoot et al. 2019, DOI 10.1007/978-3-030-12029-0_40, as in MONAI's spleen tutorial that the
    paper names. Every axis of its input must be a multiple of ``config.stride``.
    """
    from monai.networks.nets import UNet

    return UNet(
        spatial_dims=config.spatial_dims,
        in_channels=1,
        out_channels=1,
        channels=config.channels,
        strides=(2,) * (len(config.channels) - 1),
        num_res_units=config.n_res_units,
        norm=config.norm,
    )
