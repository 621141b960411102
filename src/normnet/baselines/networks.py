"""The encoder and the decoder that all baselines share, and the few networks made of them.

The paper follows the set-up of Baur et al. 2021, DOI 10.1016/j.media.2020.101952.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from normnet.errors import ConfigError

N_LATENT = 128
N_SQUEEZED = 16  # channels before and after a dense bottleneck
N_WIDE = 128  # largest number of filters of a convolution; channels of a spatial bottleneck
FIRST_LOG_VARIANCE = -6.0  # before training; at 0 the noise hides the code, and black is learned
N_COMPONENTS, N_PLACE = 9, 1  # of the Gaussian mixture: c, w


class Latent(NamedTuple):
    """A Gaussian of the latent space, (B, 128) or (B, 128, h, w).

    ``log_variance`` is 0 if the network is not variational.
    """

    mean: Tensor
    log_variance: Tensor


def count_levels(size: int, bottom: int) -> int:
    """Number of halvings from ``size`` to ``bottom``.

    Raises:
        ConfigError: NN-BAS-002 if there is none, or no number of halvings leads to ``bottom``.
    """
    levels = (size // bottom).bit_length() - 1
    if levels < 1 or size != bottom << levels:
        raise ConfigError(
            "NN-BAS-002",
            f"slices of {size} pixels",
            "baselines",
            f"take {bottom} times a power of two",
        )
    return levels


def drop(features: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Dropout that is always active, as Monte-Carlo dropout has to be."""
    if share == 0:
        return features
    stay = torch.rand(features.shape, generator=rng, device=features.device) >= share
    return features * stay / (1 - share)


class Encoder(nn.Module):
    """(B, 1, size, size) to (B, n_channels, bottom, bottom).

    Level i is a 5 x 5 convolution of stride 2 with min(128, 32 * 2^i) filters.

    Args:
        size: Pixels per side.
        bottom: Pixels per side of the result.
        dropout: Share of the features that is dropped after every level.
        norm: Batch normalisation; a critic whose gradient is penalised image by image cannot have
            it.
    """

    def __init__(self, size: int, bottom: int = 8, dropout: float = 0.0, norm: bool = True):
        super().__init__()
        widths = [1, *(min(N_WIDE, 32 << level) for level in range(count_levels(size, bottom)))]
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(below, above, 5, stride=2, padding=2),
                nn.BatchNorm2d(above) if norm else nn.Identity(),
                nn.LeakyReLU(),
            )
            for below, above in pairwise(widths)
        )
        self.n_channels, self.dropout = widths[-1], dropout

    def forward(self, image: Tensor, rng: torch.Generator) -> Tensor:
        """Features of the images."""
        for level in self.levels:
            image = drop(level(image), self.dropout, rng)
        return image


class Decoder(nn.Module):
    """(B, 128, bottom, bottom) to (B, 1, size, size).

    It is the mirrored encoder: level i has max(32, 128 / 2^i) filters; a 1 x 1 convolution ends it.

    Args:
        size: Pixels per side of the result.
        bottom: Pixels per side of the features.
        dropout: Share of the features that is dropped after every level.
    """

    def __init__(self, size: int, bottom: int = 8, dropout: float = 0.0):
        super().__init__()
        widths = [
            N_WIDE,
            *(max(32, N_WIDE >> level) for level in range(count_levels(size, bottom))),
        ]
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(below, above, 5, stride=2, padding=2, output_padding=1),
                nn.BatchNorm2d(above),
                nn.LeakyReLU(),
            )
            for below, above in pairwise(widths)
        )
        self.last, self.dropout = nn.Conv2d(widths[-1], 1, 1), dropout

    def forward(self, features: Tensor, rng: torch.Generator) -> Tensor:
        """Images, not bounded."""
        for level in self.levels:
            features = drop(level(features), self.dropout, rng)
        images: Tensor = self.last(features)
        return images


class Inward(nn.Module):
    """From images to their Gaussians.

    The bottleneck has 16 channels and a dense layer; a spatial one is (B, 128, bottom, bottom).
    """

    def __init__(
        self, size: int, bottom: int, variational: bool, spatial: bool = False, dropout: float = 0.0
    ):
        super().__init__()
        self.encoder = Encoder(size, bottom, dropout)
        n_channels, n_dense = self.encoder.n_channels, N_SQUEEZED * bottom**2
        self.squeeze = (
            nn.Identity()
            if spatial
            else nn.Sequential(nn.Conv2d(n_channels, N_SQUEEZED, 1), nn.Flatten())
        )

        def head() -> nn.Module:
            return nn.Conv2d(n_channels, N_WIDE, 1) if spatial else nn.Linear(n_dense, N_LATENT)

        self.mean, self.log_variance = head(), head() if variational else None
        if self.log_variance is not None:
            # all variances are the same at first: a random start gives some of 1e7
            for weights in self.log_variance.parameters():
                nn.init.zeros_(weights)

    def forward(self, image: Tensor, rng: torch.Generator) -> Latent:
        """Mean and logarithm of the variance."""
        return self.heads(self.squeeze(self.encoder(image, rng)))

    def heads(self, squeezed: Tensor) -> Latent:
        """The Gaussian from the last features."""
        mean = self.mean(squeezed)
        if self.log_variance is None:
            return Latent(mean, torch.zeros_like(mean))
        return Latent(mean, FIRST_LOG_VARIANCE + self.log_variance(squeezed))


class Outward(nn.Module):
    """From points of the latent space to images."""

    def __init__(self, size: int, bottom: int, spatial: bool = False, dropout: float = 0.0):
        super().__init__()
        dense = (
            nn.Linear(N_LATENT, N_SQUEEZED * bottom**2),
            nn.Unflatten(1, (N_SQUEEZED, bottom, bottom)),
        )
        self.spread = (
            nn.Identity() if spatial else nn.Sequential(*dense, nn.Conv2d(N_SQUEEZED, N_WIDE, 1))
        )
        self.decoder = Decoder(size, bottom, dropout)

    def forward(self, latent: Tensor, rng: torch.Generator) -> Tensor:
        """(B, 1, size, size), not bounded."""
        images: Tensor = self.decoder(self.spread(latent), rng)
        return images


class Autoencoder(nn.Module):
    """``encode`` and ``decode``.

    Args:
        size: Pixels per side of the slices.
        variational: Whether the Gaussians have a variance that is learned.
        spatial: A bottleneck of 8 x 8 x 128 instead of 128 numbers.
        dropout: Share of the features that is dropped after every level, in use too.
    """

    def __init__(
        self, size: int, variational: bool = True, spatial: bool = False, dropout: float = 0.0
    ):
        super().__init__()
        self.encode = Inward(size, 8, variational, spatial, dropout)
        self.decode = Outward(size, 8, spatial, dropout)


class Mixture(nn.Module):
    """A variational autoencoder whose prior is a Gaussian mixture that depends on a number w.

    Source: Dilokthanakul et al. 2016, arXiv 1611.02648, as in You et al. 2019.
    """

    def __init__(self, size: int):
        super().__init__()
        self.encode = Inward(size, 8, variational=True)
        self.place = nn.Linear(N_SQUEEZED * 64, 2 * N_PLACE)
        self.prior = nn.Linear(N_PLACE, 2 * N_COMPONENTS * N_LATENT)
        self.decode = Outward(size, 8)

    def encode_both(self, image: Tensor, rng: torch.Generator) -> tuple[Latent, Latent]:
        """The Gaussians of z and of w."""
        squeezed = self.encode.squeeze(self.encode.encoder(image, rng))
        return self.encode.heads(squeezed), Latent(*self.place(squeezed).chunk(2, dim=1))

    def components(self, place: Tensor) -> Latent:
        """The mixture at w: (B, 9, 128) each."""
        return Latent(*self.prior(place).unflatten(1, (2, N_COMPONENTS, N_LATENT)).unbind(1))


class Critic(nn.Module):
    """How real an image looks, (B,), and the features that it is judged by."""

    def __init__(self, size: int, bottom: int):
        super().__init__()
        self.encoder = Encoder(size, bottom, norm=False)
        self.last = nn.Linear(self.encoder.n_channels * bottom**2, 1)

    def features(self, image: Tensor, rng: torch.Generator) -> Tensor:
        """(B, n), those before the last layer."""
        features: Tensor = self.encoder(image, rng).flatten(1)
        return features

    def forward(self, image: Tensor, rng: torch.Generator) -> Tensor:
        """(B,), higher for an image that looks more real."""
        real: Tensor = self.last(self.features(image, rng))[:, 0]
        return real


class FAnoGan(nn.Module):
    """Generator (``decode``), critic, and the encoder that is trained after them."""

    def __init__(self, size: int, bottom: int = 16):
        super().__init__()
        self.decode = Outward(size, bottom)
        self.critic = Critic(size, bottom)
        self.encode = Inward(size, bottom, variational=False)
