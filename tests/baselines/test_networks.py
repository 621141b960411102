"""Shapes as published, and what cannot be built is refused."""

import pytest
import torch

from normnet.baselines.networks import (
    FIRST_LOG_VARIANCE,
    Autoencoder,
    Decoder,
    Encoder,
    FAnoGan,
    Mixture,
    count_levels,
    drop,
)
from normnet.errors import ConfigError


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def widths(network):
    return [level[0].out_channels for level in network.levels]


def test_filters():
    assert widths(Encoder(512)) == [32, 64, 128, 128, 128, 128]
    assert widths(Decoder(512)) == [128, 64, 32, 32, 32, 32]
    assert all(
        level[0].kernel_size == (5, 5) and level[0].stride == (2, 2) for level in Encoder(64).levels
    )


@pytest.mark.parametrize(("spatial", "shape"), [(False, (2, 128)), (True, (2, 128, 8, 8))])
def test_bottleneck(spatial, shape, rng):
    network = Autoencoder(32, spatial=spatial)
    images = torch.rand((2, 1, 32, 32), generator=rng)
    latent = network.encode(images, rng)
    assert latent.mean.shape == latent.log_variance.shape == shape
    assert (latent.log_variance == FIRST_LOG_VARIANCE).all()  # of an untrained network
    assert network.decode(latent.mean, rng).shape == images.shape


def test_nothing_is_random_in_an_autoencoder(rng):
    latent = Autoencoder(32, variational=False).encode(
        torch.rand((2, 1, 32, 32), generator=rng), rng
    )
    assert not latent.log_variance.any()


def test_mixture(rng):
    network = Mixture(32)
    latent, place = network.encode_both(torch.rand((2, 1, 32, 32), generator=rng), rng)
    assert place.mean.shape == (2, 1)
    components = network.components(place.mean)
    assert components.mean.shape == components.log_variance.shape == (2, 9, 128)
    assert latent.mean.shape == (2, 128)


def test_anogan(rng):
    """Down to 16 x 16, and a critic that does not mix the images of a batch."""
    network = FAnoGan(64)
    assert len(network.critic.encoder.levels) == len(network.decode.decoder.levels) == 2
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in network.critic.modules())
    images = torch.rand((3, 1, 64, 64), generator=rng)
    assert network.critic(images, rng).shape == (3,)
    assert torch.allclose(
        network.critic(images, rng)[:1], network.critic(images[:1], rng), atol=1e-5
    )


def test_drop(rng):
    assert drop(torch.ones(4), 0, rng).equal(torch.ones(4))
    dropped = drop(torch.ones(100_000), 0.2, rng)
    assert set(dropped.unique().tolist()) == {0.0, 1.25}
    assert float(dropped.mean()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("size", [8, 12, 4, 48 + 1])
def test_sizes(size):
    assert count_levels(64, 8) == 3
    with pytest.raises(ConfigError, match="NN-BAS-002"):
        count_levels(size, 8)
