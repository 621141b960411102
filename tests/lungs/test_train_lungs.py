"""Training of the lung network: crops that fit their masks, a loss that falls, the same seed the same weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import max_pool2d

from normnet.config import LungsConfig, NetworkConfig
from normnet.lungs import train
from normnet.lungs.slices import volume_slices
from normnet.network.unet import build_unet
from tests.phantoms import thorax_phantom

CONFIG = LungsConfig(pixel_mm=3.0)
TINY = NetworkConfig(spatial_dims=2, in_channels=3, channels=(8, 16), n_res_units=1)


@pytest.fixture(scope="module")
def slices():
    phantom = thorax_phantom((8, 64, 64), (16.0, 5.0, 5.0), lesions=False, vessels=False)
    return [item for item in volume_slices(phantom.scan, phantom.lung_mask, CONFIG) if item.lung_mask[1].any()]


@pytest.fixture(autouse=True)
def small_and_alone(monkeypatch):
    monkeypatch.setattr(train, "LUNG_NETWORK", TINY)
    monkeypatch.setattr(train, "CROP", 64)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(slices, **options) -> tuple[dict[str, torch.Tensor], list[float]]:
    losses: list[float] = []
    settings = {"iterations": 3, "batch": 2, "on_step": lambda step, loss: losses.append(loss), **options}
    return train.train_lungs(slices, CONFIG, **settings), losses


def same(first, second) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_crops_and_masks_belong_together(slices, monkeypatch):
    """Dark inside the mask, bright just outside it, whatever turn, flip and zoom were drawn."""
    monkeypatch.setattr(train, "CROP", 128)
    rng = torch.Generator().manual_seed(1)
    image, mask = train.sample_batch(slices, 16, CONFIG, 0.0, train.draw_weights(slices), rng)
    assert image.shape == (16, 3, 128, 128)
    assert mask.shape == (16, 1, 128, 128)
    assert image.dtype == mask.dtype == torch.float32
    assert 0 <= image.min() <= image.max() <= 1
    assert set(mask.unique().tolist()) == {0, 1}
    core = 1 - max_pool2d(1 - mask, 5, stride=1, padding=2)
    rim = max_pool2d(mask, 9, stride=1, padding=4) - max_pool2d(mask, 5, stride=1, padding=2)
    lung = (-850 + 1024) / 1624
    seen = [n for n in range(16) if core[n].sum() > 200]
    assert len(seen) > 8
    for n in seen:
        assert image[n, 1:2][core[n] > 0].mean() == pytest.approx(lung, abs=0.08)
        assert image[n, 1:2][rim[n] > 0].median() > 0.4


def test_crops_differ_in_size_and_side(slices, monkeypatch):
    monkeypatch.setattr(train, "CROP", 128)
    _, mask = train.sample_batch(slices[:1], 16, CONFIG, 0.0, torch.ones(1), torch.Generator().manual_seed(2))
    areas = mask.sum((1, 2, 3))
    assert areas.max() > 1.5 * areas.min()
    assert len({tuple(part.flatten().tolist()) for part in mask}) == 16


def test_slices_without_lung_are_drawn_seldom(slices):
    """Nine of ten slices are empty; they make the share of the draws that is set, or all where there is no lung."""
    empty = replace(slices[0], lung_mask=np.zeros_like(slices[0].lung_mask))
    weights = train.draw_weights([empty] * 9 * len(slices) + slices)
    assert weights[: 9 * len(slices)].sum() == pytest.approx(train.EMPTY_SHARE)
    assert weights.sum() == pytest.approx(1)
    assert weights[-1] > 10 * weights[0]
    for alike in (slices, [empty] * 3):
        assert len(set(train.draw_weights(alike).tolist())) == 1


def test_the_loss_falls(slices):
    _, losses = run(slices, iterations=40, batch=4, learning_rate=2e-2, sick_share=0.3)
    assert len(losses) == 40
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])


def test_same_seed_same_weights(slices):
    first, losses = run(slices, seed=5)
    second, again = run(slices, seed=5)
    other, _ = run(slices, seed=6)
    assert losses == again
    assert same(first, second)
    assert not same(first, other)
    assert first.keys() == build_unet(TINY).state_dict().keys()


def test_going_on_from_other_weights(slices):
    """A vanishing learning rate leaves the weights where they came from, and not where the seed would put them."""
    start, _ = run(slices, seed=5)
    kept, _ = run(slices, seed=6, iterations=1, learning_rate=1e-12, start_from=start)
    fresh, _ = run(slices, seed=6, iterations=1, learning_rate=1e-12)
    weights = [name for name in start if name.endswith("weight")]
    assert weights
    for name in weights:
        torch.testing.assert_close(kept[name], start[name], atol=1e-6, rtol=0)
    assert any((fresh[name] - start[name]).abs().max() > 1e-2 for name in weights)


@pytest.mark.parametrize("iterations", [1, 2, 20])
def test_any_number_of_iterations(slices, iterations):
    _, losses = run(slices, iterations=iterations, batch=1)
    assert len(losses) == iterations
    assert np.isfinite(losses).all()
