"""The lesion networks on a prepared thorax: their grid, their place, their limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from normnet.config import Config, NetworkConfig, PreparationConfig, WindowConfig
from normnet.inference.lesions import predict_lesions
from normnet.preparation.prepare import prepare
from tests.phantoms import thorax_phantom

CONFIG = Config(network=NetworkConfig(channels=(4, 8)))


class Bright(nn.Module):
    """Says lesion where its input is bright; remembers the shapes it saw."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.seen.append(tuple(image.shape[2:]))
        return (image.float() - 0.5) * 100


@pytest.mark.parametrize("spacing_mm", [(1.0, 0.8, 0.8), (4.0, 4.0, 4.0)])
def test_pooled_to_the_grid_of_the_training(spacing_mm):
    phantom = thorax_phantom((24, 48, 52), (8.0, 7.0, 6.0), vessels=False)
    prepared = prepare(
        phantom.scan,
        phantom.lung_mask.astype(np.uint8),
        PreparationConfig(spacing_mm=spacing_mm),
        WindowConfig(),
    )
    network = Bright()
    prob = predict_lesions(prepared, [network], CONFIG)
    factors = [2, 2, 2] if spacing_mm[0] == 1 else [1, 1, 1]
    assert network.seen == [
        tuple(-(-n // (2 * f)) * 2 for n, f in zip(prepared.thorax.shape, factors, strict=True))
    ]
    assert prob.shape == prepared.thorax.shape
    assert prob.dtype == np.float32
    assert not prob[~prepared.lung_mask].any()
    inside = prepared.lung_mask & (prepared.volume_hu > -200)
    assert prob[inside].mean() > 0.6
    assert prob[prepared.lung_mask & (prepared.volume_hu < -750)].mean() < 0.1


def test_members_are_averaged():
    phantom = thorax_phantom((24, 48, 52), (8.0, 7.0, 6.0), vessels=False)
    prepared = prepare(
        phantom.scan, phantom.lung_mask.astype(np.uint8), PreparationConfig(), WindowConfig()
    )
    never = nn.Sequential(Bright(), nn.Hardtanh(-100.0, -99.0))
    one, both = (
        predict_lesions(prepared, networks, CONFIG) for networks in ([Bright()], [Bright(), never])
    )
    np.testing.assert_allclose(both, one / 2, atol=0.01)
