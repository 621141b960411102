"""Training of the lung network: crops fit their masks, the loss falls, runs can be repeated."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import max_pool2d

from normnet.config import LungsConfig, LungsTrainingConfig
from normnet.network.unet import build_unet
from normnet.training.checkpoints import load_newest
from normnet.training.lungs import segmenter
from normnet.training.lungs.slices import volume_slices
from tests.phantoms import thorax_phantom

CONFIG = LungsConfig(pixel_mm=3.0, neighbours_mm=(6.0,))
SEVEN = LungsConfig(pixel_mm=3.0, neighbours_mm=(6.0, 20.0, 50.0))
TINY = LungsTrainingConfig(
    channels=(8, 16), n_res_units=1, crop_px=64, iterations=3, batch=2, checkpoint_every=2
)


@pytest.fixture(scope="module")
def slices():
    phantom = thorax_phantom((8, 64, 64), (16.0, 5.0, 5.0), lesions=False, vessels=False)
    return [
        item for item in volume_slices(phantom.scan, phantom.lung_mask, CONFIG) if not item.is_empty
    ]


def tiny(**settings) -> LungsTrainingConfig:
    return TINY.model_copy(update=settings)


def healthy_batch(slices, n, config, weights, generator, **settings):
    training = tiny(batch=n, sick_share=0.0, **settings)
    return segmenter.sample_batch(slices, config, training, weights, generator)


def run(
    slices, config=CONFIG, start_from=None, **settings
) -> tuple[dict[str, torch.Tensor], list[float]]:
    losses: list[float] = []
    state = segmenter.train_lungs(
        slices,
        config,
        tiny(**settings),
        start_from=start_from,
        on_step=lambda step, loss: losses.append(loss),
    )
    assert state.losses == losses
    return state.weights, losses


def same(first, second) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_crops_and_masks_belong_together(slices):
    """Dark inside the mask, bright just outside it, whatever turn, flip and zoom were drawn."""
    rng = torch.Generator().manual_seed(1)
    weights = segmenter.draw_weights(slices, TINY)
    image, mask = healthy_batch(slices, 16, CONFIG, weights, rng, crop_px=128)
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
    assert segmenter.lung_network(config, TINY).in_channels == n_seen
    rng = torch.Generator().manual_seed(3)
    image, mask = healthy_batch([item], 8, config, torch.ones(1), rng)
    assert image.shape == (8, n_seen, 64, 64)
    assert mask.shape == (8, 1, 64, 64)
    assert mask.mean() > 0.4
    assert (image.mean((2, 3)).diff(dim=1) >= -0.005).all()
    item.volume_mask[4] = False
    assert item.is_empty
    rng = torch.Generator().manual_seed(3)
    assert not healthy_batch([item], 8, config, torch.ones(1), rng)[1].any()


@pytest.mark.parametrize("prob_end", [0.0, 1.0])
def test_near_the_ends_of_a_scan_slices_repeat(prob_end):
    """None to three neighbours are missing, at both ends alike; the middle slice never is."""
    item = graded((0, 1, 3, 4, 5, 7, 8))
    rng = torch.Generator().manual_seed(4)
    image, _ = healthy_batch([item], 64, SEVEN, torch.ones(1), rng, prob_end=prob_end)
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
    weights = segmenter.draw_weights(slices, TINY)
    training = tiny(batch=4, sick_share=1.0)
    image, mask = segmenter.sample_batch(slices, CONFIG, training, weights, rng)
    assert image.device.type == mask.device.type == device
    assert torch.isfinite(image).all()


def test_crops_differ_in_size_and_side(slices):
    rng = torch.Generator().manual_seed(2)
    _, mask = healthy_batch(slices[:1], 16, CONFIG, torch.ones(1), rng, crop_px=128)
    areas = mask.sum((1, 2, 3))
    assert areas.max() > 1.5 * areas.min()
    assert len({tuple(part.flatten().tolist()) for part in mask}) == 16


def test_slices_without_lung_are_drawn_seldom(slices):
    """Nine of ten slices are empty; they make the share of the draws that is set.

    Where no slice has lung, all are drawn alike.
    """
    empty = replace(slices[0], volume_mask=np.zeros_like(slices[0].volume_mask))
    weights = segmenter.draw_weights([empty] * 9 * len(slices) + slices, TINY)
    assert weights[: 9 * len(slices)].sum() == pytest.approx(TINY.empty_share)
    assert weights.sum() == pytest.approx(1)
    assert weights[-1] > 10 * weights[0]
    for alike in (slices, [empty] * 3):
        assert len(set(segmenter.draw_weights(alike, TINY).tolist())) == 1


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
    assert first.keys() == build_unet(segmenter.lung_network(CONFIG, TINY)).state_dict().keys()


def test_a_network_of_seven_slices_is_trained():
    phantom = thorax_phantom((8, 64, 64), (16.0, 5.0, 5.0), lesions=False, vessels=False)
    state, losses = run(volume_slices(phantom.scan, phantom.lung_mask, SEVEN), SEVEN)
    assert np.isfinite(losses).all()
    network = build_unet(segmenter.lung_network(SEVEN, TINY))
    network.load_state_dict(state)
    assert network(torch.zeros(1, 7, 32, 32)).shape == (1, 1, 32, 32)


def test_going_on_from_other_weights(slices):
    """With a learning rate of almost 0 the weights stay what they were, whatever the seed."""
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


def train(slices, folder=None, stop_after=None, **settings):
    seen: list[int] = []
    return segmenter.train_lungs(
        slices,
        CONFIG,
        tiny(iterations=6, seed=5, **settings),
        checkpoints=folder,
        on_step=lambda step, loss: seen.append(step),
        stop=lambda: len(seen) == stop_after,
    )


@pytest.mark.parametrize("stop_after", [1, 3, 5, 6])
def test_resumed_equals_uninterrupted(slices, tmp_path, stop_after):
    """Weights, moments, losses and the generator; the learning rate goes on where it was."""
    whole = train(slices)
    early = train(slices, tmp_path, stop_after)
    assert early.step == load_newest(tmp_path).step == stop_after
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed = train(slices, tmp_path)
    assert resumed.step == 6
    assert resumed.losses == whole.losses
    assert same(resumed.weights, whole.weights)
    assert all(same(part, whole.optimizer[index]) for index, part in resumed.optimizer.items())
    assert same(resumed.generator, whole.generator)


def test_a_killed_training_goes_on_from_its_last_checkpoint(slices, tmp_path):
    """Killed in the fifth iteration: the checkpoint of the fourth is there."""

    def die(step: int, loss: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segmenter.train_lungs(
            slices, CONFIG, tiny(iterations=6, seed=5), checkpoints=tmp_path, on_step=die
        )
    assert load_newest(tmp_path).step == 4
    assert same(train(slices, tmp_path).weights, train(slices).weights)
