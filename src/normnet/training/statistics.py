"""Batch normalisation over a batch that lies in several processes.

torch's own ``SyncBatchNorm`` knows GPUs only.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from normnet.training.group import Group


class SharedBatchNorm(nn.Module):
    """Normalises by mean and variance of the whole batch; for training only.

    It has the parameters and the buffers of the module that it takes the place of, under their
    names.

    Args:
        norm: Batch normalisation of one process.
        group: The processes.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def __init__(self, norm: _BatchNorm, group: Group):
        super().__init__()
        self.group, self.eps, self.momentum = group, norm.eps, float(norm.momentum or 0)
        for name, parameter in norm.named_parameters():
            self.register_parameter(name, parameter)
        for name, buffer in norm.named_buffers():
            self.register_buffer(name, buffer)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise each channel and move the running statistics.

        Args:
            images: (B, C, ...) share of this process.
        """
        values = images.float()
        axes = [axis for axis in range(images.dim()) if axis != 1]
        shape = [1, -1, *[1] * (images.dim() - 2)]
        n_here = values.new_tensor([values.numel() / values.shape[1]])
        sums = self.group.total(torch.cat([values.sum(axes), n_here]))
        mean, n = sums[:-1] / sums[-1], sums[-1].detach()
        centred = values - mean.view(shape)
        variance = self.group.total(centred.square().sum(axes)) / n
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(images.dtype)


def share_statistics(network: nn.Module, group: Group) -> None:
    """Let every batch normalisation of a network see the batch of all processes.

    Args:
        network: Changed in place, where there are several processes.
        group: The processes.
    """
    if group.size == 1:
        return
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(module, name, SharedBatchNorm(child, group))
