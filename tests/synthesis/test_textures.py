"""Textures against Eqs. 2 to 8."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from normnet.config import SynthesisConfig
from normnet.errors import ConfigError
from normnet.synthesis import textures
from normnet.synthesis.textures import gaussian_filter, mean_above, sample_texture

CONFIG = SynthesisConfig()


def rng_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def sigmas(monkeypatch) -> list[float]:
    """Records the sigma of every Gaussian filter; the filter itself is left out."""
    recorded: list[float] = []
    monkeypatch.setattr(
        textures, "gaussian_filter", lambda image, sigma: recorded.append(sigma) or image
    )
    return recorded


@pytest.mark.parametrize("sigma", [0.8, 2.0, 5.0, 15.0])
@pytest.mark.parametrize("shape", [(20, 31, 17), (3, 40, 5), (1, 1, 7)])
def test_gaussian_equals_scipy(sigma, shape):
    image = torch.rand(shape, generator=rng_of(1))
    expected = ndimage.gaussian_filter(image.numpy().astype(np.float64), sigma)
    np.testing.assert_allclose(gaussian_filter(image, sigma).numpy(), expected, atol=2e-6)


def test_probability_map_spans_its_limits():
    """Eq. 8: a_L, a_U ~ U[0, 0.3] given a gap above 0.15; the mean gap of that triangle is 0.2."""
    gaps, middles = [], []
    for seed in range(300):
        prob_map = sample_texture((4, 4, 4), CONFIG, rng_of(seed)).prob_map
        low, high = prob_map.min().item(), prob_map.max().item()
        assert low >= 0
        assert high <= 0.3 + 1e-6
        assert high - low > 0.15 - 1e-6
        gaps.append(high - low)
        middles.append((high + low) / 2)
    assert np.mean(gaps) == pytest.approx(0.2, abs=4 * 0.15 / math.sqrt(18 * 300))
    assert np.mean(middles) == pytest.approx(0.15, abs=0.01)


def test_sigma_a_is_uniform(sigmas):
    for seed in range(400):
        sample_texture((2, 2, 2), CONFIG, rng_of(seed))
    sigma_a = np.array(sigmas[0::2])
    assert sigma_a.min() >= 3
    assert sigma_a.max() <= 15
    assert sigma_a.mean() == pytest.approx(9, abs=4 * 12 / math.sqrt(12 * 400))


def test_sigma_b_is_the_mixture_of_eq_4(sigmas):
    n = 800
    for seed in range(n):
        sample_texture((2, 2, 2), CONFIG, rng_of(seed))
    sigma_b = np.array(sigmas[1::2])
    assert len(sigma_b) == n
    assert sigma_b.min() >= 0.8
    assert sigma_b.max() <= 5
    fine = sigma_b < 2
    assert fine.mean() == pytest.approx(0.7, abs=4 * math.sqrt(0.21 / n))
    assert sigma_b[fine].mean() == pytest.approx(1.4, abs=0.06)
    assert sigma_b[~fine].mean() == pytest.approx(3.5, abs=0.25)


def test_salt_noise_has_density_a():
    for seed in range(5):
        steps = sample_texture((24, 40, 40), CONFIG, rng_of(seed))
        a, b_1 = steps.prob_map.double(), steps.salt_noise.double()
        assert set(b_1.unique().tolist()) <= {0.0, 1.0}
        dense = a > a.median()
        for part in (dense, ~dense):
            expected, sigma = (
                a[part].mean(),
                (a[part] * (1 - a[part])).mean().div(part.sum()).sqrt(),
            )
            assert abs(b_1[part].mean() - expected) < 4 * sigma


def test_noise_is_uniform():
    noise = sample_texture((20, 20, 20), CONFIG, rng_of(0)).noise
    assert noise.min() >= 0
    assert noise.max() < 1
    assert noise.histc(10, 0, 1).div(noise.numel()).sub(0.1).abs().max() < 0.02


def test_scaling_brings_the_bright_mean_to_mu0():
    """Eq. 6: before clipping, the voxels of b_2 above 0.2 have the mean mu0."""
    n_checked, drawn = 0, []
    for seed in range(50):
        steps = sample_texture((12, 24, 24), CONFIG, rng_of(seed))
        passing = steps.filtered > 0.2
        if passing.float().mean() < 0.01:
            continue
        unclipped = (steps.scaled < 1) & (steps.scaled > 0.05)
        beta = (steps.scaled[unclipped] / steps.filtered[unclipped]).median()
        mu0 = (beta * steps.filtered[passing].mean()).item()
        assert 0.4 - 1e-4 <= mu0 <= 0.8 + 1e-4
        expected = (beta * steps.filtered).clamp(0, 1)
        torch.testing.assert_close(steps.scaled, expected, atol=1e-5, rtol=1e-4)
        drawn.append(mu0)
        n_checked += 1
    assert n_checked > 30
    assert np.mean(drawn) == pytest.approx(0.6, abs=4 * 0.4 / math.sqrt(12 * n_checked))


def test_fixed_mu0_is_met():
    steps = sample_texture(
        (16, 32, 32), CONFIG.model_copy(update={"mu0": (0.4, 0.4), "prob_fine": 1.0}), rng_of(3)
    )
    passing = steps.filtered > 0.2
    beta = 0.4 / steps.filtered[passing].mean()
    torch.testing.assert_close(steps.scaled, (beta * steps.filtered).clamp(0, 1))
    assert steps.scaled.max() <= 1


def test_mean_above():
    image = torch.tensor([0.1, 0.2, 0.3, 0.5])
    assert mean_above(image, 0.2).item() == pytest.approx(0.4)
    dark = torch.linspace(0, 0.1, 1000)  # nothing passes: the brightest 5 %
    assert mean_above(dark, 0.2).item() == pytest.approx(dark[-50:].mean().item())
    assert mean_above(torch.zeros(10), 0.2).item() > 0


def test_tiny_patches_stay_finite():
    for seed in range(50):
        for image in sample_texture((1, 1, 1 + seed % 3), CONFIG, rng_of(seed)):
            assert torch.isfinite(image).all()
            assert image.min() >= 0
            assert image.max() <= 1 + 1e-6


def test_equal_seeds_equal_textures():
    first, again, other = (sample_texture((5, 6, 7), CONFIG, rng_of(seed)) for seed in (4, 4, 5))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.scaled, other.scaled)


def test_another_texture_is_a_name_and_a_function(monkeypatch):
    def even(shape, config, rng):
        return textures.TextureSteps(*(torch.full(shape, 0.7),) * 5)

    monkeypatch.setitem(textures.TEXTURES, "even", even)
    steps = sample_texture((2, 3, 4), SynthesisConfig(texture="even"), rng_of(0))
    assert torch.equal(steps.scaled, torch.full((2, 3, 4), 0.7))
    with pytest.raises(ConfigError, match=r"NN-CFG-002: .*'synthesis.texture'.*salt noise"):
        sample_texture((2, 3, 4), SynthesisConfig(texture="wool"), rng_of(0))
