"""MONAI's residual U-Net, 2D for the lungs and 3D for NormNet."""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from normnet.config import NetworkConfig


def build_unet(config: NetworkConfig) -> nn.Module:
    """An untrained U-Net with one output logit per voxel.

    Every axis of its input must be a multiple of ``config.stride``. Source: Kerfoot et al. 2019,
    DOI 10.1007/978-3-030-12029-0_40, as in MONAI's spleen tutorial that the paper names.
    """
    _name_user()
    import torch
    from monai.networks.nets import UNet
    from torch import nn

    network = UNet(
        spatial_dims=config.spatial_dims,
        in_channels=config.in_channels,
        out_channels=1,
        channels=config.channels,
        strides=(2,) * (len(config.channels) - 1),
        num_res_units=config.n_res_units,
        norm=config.norm,
    )
    if config.rare_start:
        # MONAI normalises the last full-resolution map to unit variance; Adam then needs thousands
        # of steps to make it steep enough for a target of a few per cent of the voxels.
        last = network.model[-1]
        if config.n_res_units > 0:
            nn.init.constant_(last[0].adn.N.weight, config.start_gain)
            last = last[1].conv.unit0
        nn.init.constant_(last.conv.bias, config.start_logit)
    # This memory format is faster on CPUs.
    layout = torch.channels_last_3d if config.spatial_dims == 3 else torch.channels_last
    module: nn.Module = network.to(memory_format=layout)
    return module


def _name_user() -> None:
    """Give a name to a user who has none, as in a container; MONAI needs one to be imported."""
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):  # which of them depends on Python and the system
        os.environ["LOGNAME"] = "user"
