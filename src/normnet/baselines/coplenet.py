"""COPLE-Net: a 2D U-Net for pneumonia lesions, and its loss for noisy masks.

Source: Wang et al. 2020, IEEE TMI, doi 10.1109/TMI.2020.3000314. The paper's second part, a teacher
that averages the weights, is not here.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d

WIDTHS = (32, 64, 128, 256, 512)
DROPOUT = (0.0, 0.0, 0.3, 0.4, 0.5)
DILATIONS = (1, 2, 4, 6)
STRIDE = 16
GAMMA, EPSILON = 1.5, 1e-5  # of the loss


class Excite(nn.Module):
    """Squeeze and excitation with half the channels inside; its input is added."""

    def __init__(self, n: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(n, n // 2, 1),
            nn.LeakyReLU(),
            nn.Conv2d(n // 2, n, 1),
            nn.ReLU(),
        )

    def forward(self, features: Tensor) -> Tensor:
        """The same shape."""
        weighted: Tensor = self.layers(features) * features
        return weighted + features


class COPLENet(nn.Module):
    """Slices (B, 1, y, x) in [0, 1], sides of whole 16 pixels, to logits of lesion, same shape."""

    def __init__(self) -> None:
        super().__init__()
        levels = {str(n): widths for n, widths in enumerate(pairwise(WIDTHS), 1)}
        upwards = dict(zip("1234", reversed(levels.values()), strict=True))
        self.first = _double(1, WIDTHS[0], DROPOUT[0])
        self.down = nn.ModuleDict(
            {n: _double(2 * fine, coarse, DROPOUT[int(n)]) for n, (fine, coarse) in levels.items()}
        )
        self.bridge = nn.ModuleDict(
            {str(n): _single(width, width // 2) for n, width in enumerate(WIDTHS[:-1])}
        )
        self.narrow = nn.ModuleDict(
            {n: nn.Conv2d(coarse, fine // 2, 1) for n, (fine, coarse) in upwards.items()}
        )
        self.up = nn.ModuleDict(
            {n: _double(fine, fine, DROPOUT[4 - int(n)]) for n, (fine, _) in upwards.items()}
        )
        deepest = WIDTHS[-1]
        self.pyramid = nn.ModuleDict(
            {
                str(n): nn.Conv2d(
                    deepest,
                    deepest // 4,
                    1 if dilation == 1 else 3,
                    padding=0 if dilation == 1 else dilation,
                    dilation=dilation,
                )
                for n, dilation in enumerate(DILATIONS, 1)
            }
        )
        self.mix = _single(deepest, deepest)
        self.last = nn.Conv2d(WIDTHS[0], 2, 3, padding=1)  # background, lesion

    def forward(self, slices: Tensor) -> Tensor:
        """Logits of lesion against background."""
        features = self.first(slices)
        bridged = [self.bridge["0"](features)]
        for n, block in self.down.items():
            pooled = torch.cat([max_pool2d(features, 2), avg_pool2d(features, 2)], 1)
            features = block(pooled) + pooled
            if n in self.bridge:
                bridged.append(self.bridge[n](features))
        features = self.mix(torch.cat([conv(features) for conv in self.pyramid.values()], 1))
        for n, block in self.up.items():
            raised = interpolate(
                self.narrow[n](features), scale_factor=2, mode="bilinear", align_corners=True
            )
            joined = torch.cat([bridged.pop(), raised], 1)
            features = block(joined) + joined
        classes: Tensor = self.last(features)
        return classes[:, 1:] - classes[:, :1]


def compute_loss(network: nn.Module, slices: Tensor, lesions: Tensor) -> Tensor:
    """The noise-robust Dice loss over the batch; with an exponent of 2 it is the Dice loss.

    It is the mean of the losses of background and lesion, as in the authors' code.

    Args:
        network: A COPLE-Net.
        slices: (B, 1, y, x).
        lesions: The same shape, 0 or 1.
    """
    logits = network(slices).float()
    of_lesion = _noise_robust_dice(logits.sigmoid(), lesions)
    of_background = _noise_robust_dice((-logits).sigmoid(), 1 - lesions)
    return (of_lesion + of_background) / 2


def _noise_robust_dice(probability: Tensor, target: Tensor) -> Tensor:
    wrong = (probability - target).abs() ** GAMMA
    size = (probability**2).sum() + (target**2).sum() + EPSILON
    loss: Tensor = wrong.sum() / size
    return loss


def _single(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(n_in, n_out, 1), nn.BatchNorm2d(n_out), nn.LeakyReLU())


def _double(n_in: int, n_out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, padding=1),
        nn.BatchNorm2d(n_out),
        nn.LeakyReLU(),
        nn.Dropout(dropout),
        nn.Conv2d(n_out, n_out, 3, padding=1),
        nn.BatchNorm2d(n_out),
        nn.LeakyReLU(),
        Excite(n_out),
    )
