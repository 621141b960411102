"""Training of the lung network: crops that fit their masks, a loss that falls, the same seed the same weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import max_pool2d

from normnet.config import LungsConfig, NetworkConfig
from normnet.network.unet import build_unet
from normnet.training.lungs import segmenter
from normnet.training.lungs.slices import volume_slices
from tests.phantoms import thorax_phantom

CONFIG = LungsConfig(pixel_mm=3.0, neighbours_mm=(6.0,))
SEVEN = LungsConfig(pixel_mm=3.0, neighbours_mm=(6.0, 20.0, 50.0))
TINY = NetworkConfig(spatial_dims=2, in_channels=3, channels=(8, 16), n_res_units=1)


@pytest.fixture(scope="module")
def slices():
    phantom = thorax_phantom((8, 64, 64), (16.0, 5.0, 5.0), lesions=False, vessels=False)
    return [
        item for item in volume_slices(phantom.scan, phantom.lung_mask, CONFIG) if not item.is_empty
    ]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(segmenter, "LUNG_NETWORK", TINY)
    monkeypatch.setattr(segmenter, "CROP", 64)


def run(slices, config=CONFIG, **options) -> tuple[dict[str, torch.Tensor], list[float]]:
    losses: list[float] = []
    settings = {
        "iterations": 3,
        "batch": 2,
        "on_step": lambda step, loss: losses.append(loss),
        **options,
    }
    return segmenter.train_lungs(slices, config, **settings), losses


def same(first, second) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_crops_and_masks_belong_together(slices, monkeypatch):
    """Dark inside the mask, bright just outside it, whatever turn, flip and zoom were drawn."""
    monkeypatch.setattr(segmenter, "CROP", 128)
    rng = torch.Generator().manual_seed(1)
    image, mask = segmenter.sample_batch(
        slices, 16, CONFIG, 0.0, segmenter.draw_weights(slices), rng
    )
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


def graded(rows: tuple[int, ...], step_mm: float = 10.0) -> segmenter.LungSlice:
    """A slice of a volume whose every slice is 60 HU brighter than the one below."""
    levels = -900 + 60 * np.arange(9, dtype=np.int16)[:, None, None]
    volume = np.broadcast_to(levels, (9, 64, 64))
    heights = tuple(step_mm * (row - rows[len(rows) // 2]) for row in rows)
    return segmenter.LungSlice(volume, np.ones(volume.shape, bool), rows, 3.0, heights)


@pytest.mark.parametrize(
    ("rows", "n_seen"), [((4,), 1), ((3, 4, 5), 3), ((0, 1, 3, 4, 5, 7, 8), 7)]
)
def test_any_number_of_slices_is_seen(rows, n_seen):
    """In their order, from below to above; the mask is the middle one's."""
    item = graded(rows)
    item.volume_mask[5:] = False
    config = LungsConfig(pixel_mm=3.0, neighbours_mm=tuple(range(1, n_seen // 2 + 1)))
    assert segmenter.lung_network(config).in_channels == n_seen
    image, mask = segmenter.sample_batch(
        [item], 8, config, 0.0, torch.ones(1), torch.Generator().manual_seed(3)
    )
    assert image.shape == (8, n_seen, 64, 64)
    assert mask.shape == (8, 1, 64, 64)
    assert mask.mean() > 0.4
    assert (image.mean((2, 3)).diff(dim=1) >= -0.005).all()
    item.volume_mask[4] = False
    assert item.is_empty
    assert not segmenter.sample_batch(
        [item], 8, config, 0.0, torch.ones(1), torch.Generator().manual_seed(3)
    )[1].any()


@pytest.mark.parametrize("prob_end", [0.0, 1.0])
def test_near_the_ends_of_a_scan_slices_repeat(monkeypatch, prob_end):
    """From none to all three of the neighbours are missing, at both ends alike; the middle slice never is."""
    monkeypatch.setattr(segmenter, "PROB_END", prob_end)
    item = graded((0, 1, 3, 4, 5, 7, 8))
    image, _ = segmenter.sample_batch(
        [item], 64, SEVEN, 0.0, torch.ones(1), torch.Generator().manual_seed(4)
    )
    means = image.mean((2, 3))
    rises = (
        means.diff(dim=1) > 0.25 * means.diff(dim=1).max(dim=1, keepdim=True).values
    )  # of 60 or 120 HU
    below, above = (~rises[:, :3]).sum(1), (~rises[:, 3:]).sum(1)
    for missing, half in ((below, rises[:, :3]), (above, rises[:, 3:].flip(1))):
        assert set(missing.tolist()) == ({0, 1, 2, 3} if prob_end else {0})
        assert torch.equal(half, torch.arange(3) >= missing[:, None])  # the outermost ones
    assert prob_end == 0 or len(set(zip(below.tolist(), above.tolist(), strict=True))) > 8


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
        ),
    ],
)
def test_crops_are_made_where_the_generator_is(slices, device):
    rng = torch.Generator(device).manual_seed(0)
    image, mask = segmenter.sample_batch(
        slices, 4, CONFIG, 1.0, segmenter.draw_weights(slices), rng
    )
    assert image.device.type == mask.device.type == device
    assert torch.isfinite(image).all()


def test_crops_differ_in_size_and_side(slices, monkeypatch):
    monkeypatch.setattr(segmenter, "CROP", 128)
    _, mask = segmenter.sample_batch(
        slices[:1], 16, CONFIG, 0.0, torch.ones(1), torch.Generator().manual_seed(2)
    )
    areas = mask.sum((1, 2, 3))
    assert areas.max() > 1.5 * areas.min()
    assert len({tuple(part.flatten().tolist()) for part in mask}) == 16


def test_slices_without_lung_are_drawn_seldom(slices):
    """Nine of ten slices are empty; they make the share of the draws that is set, or all where there is no lung."""
    empty = replace(slices[0], volume_mask=np.zeros_like(slices[0].volume_mask))
    weights = segmenter.draw_weights([empty] * 9 * len(slices) + slices)
    assert weights[: 9 * len(slices)].sum() == pytest.approx(segmenter.EMPTY_SHARE)
    assert weights.sum() == pytest.approx(1)
    assert weights[-1] > 10 * weights[0]
    for alike in (slices, [empty] * 3):
        assert len(set(segmenter.draw_weights(alike).tolist())) == 1


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


def test_a_network_of_seven_slices_is_trained():
    phantom = thorax_phantom((8, 64, 64), (16.0, 5.0, 5.0), lesions=False, vessels=False)
    state, losses = run(volume_slices(phantom.scan, phantom.lung_mask, SEVEN), SEVEN)
    assert np.isfinite(losses).all()
    network = build_unet(segmenter.lung_network(SEVEN))
    network.load_state_dict(state)
    assert network(torch.zeros(1, 7, 32, 32)).shape == (1, 1, 32, 32)


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
