"""MONAI's residual U-Net, 2D for the lungs and 3D for NormNet."""

from __future__ import annotations

import getpass
import os
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from normnet.config import NetworkConfig


def count_weights(config: NetworkConfig) -> int:
    """Number of weights in the kernels of ``build_unet(config)``, without building it.

    Biases and normalisation are left out, so it is a little less than all parameters.
    """
    cube, channels, units = 3**config.spatial_dims, config.channels, config.n_res_units

    def down(n_in: int, n_out: int, stride: int) -> int:
        if units == 0:
            return cube * n_in * n_out
        skip = cube if stride > 1 else int(n_in != n_out)  # the kernel beside a residual unit
        return n_in * n_out * (cube + skip) + cube * n_out**2 * (units - 1)

    total = down(channels[-2], channels[-1], 1)  # the bottom
    for level, n in enumerate(channels[:-1]):
        above = channels[level - 1] if level else None
        n_below = channels[-1] if level == len(channels) - 2 else n
        n_out = above or 1
        total += down(above or config.in_channels, n, 2)
        total += cube * (n + n_below) * n_out + (cube * n_out**2 if units else 0)  # up
    return total


def build_unet(config: NetworkConfig) -> nn.Module:
    """An untrained U-Net with one output logit per voxel.

    Every axis of its input must be a multiple of ``config.stride``. Source: Kerfoot et al. 2019,
    DOI 10.1007/978-3-030-12029-0_40, as in MONAI's spleen tutorial that the paper names.
    """
    _name_user()
    import torch
    from torch import nn

    with warnings.catch_warnings():  # of the libraries that MONAI imports
        warnings.simplefilter("ignore")
        from monai.networks.nets import UNet

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
