"""Synthetic disease: inside the lungs alone, denser, and the same from the same generator."""

from __future__ import annotations

import pytest
import torch

from normnet.config import LungsTrainingConfig
from normnet.training.lungs import disease
from normnet.training.lungs.disease import add_disease as add_disease_at
from normnet.training.lungs.disease import smooth_noise

LARGE = {"n_ellipses": 1, "prob_layer": 0.0, "prob_large": 1.0}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def add_disease(image, mask, share, generator, apart_px: float = 4.0, **settings) -> torch.Tensor:
    heights = apart_px * torch.tensor([-1.0, 0.0, 1.0]).expand(len(image), 3)
    config = LungsTrainingConfig(sick_share=share, **settings)
    return add_disease_at(image, mask, heights, config, generator)


@pytest.fixture(scope="module")
def chests() -> tuple[torch.Tensor, torch.Tensor]:
    """Forty stacks of three slices with two lungs and a vessel in each: HU and mask."""
    mask = torch.zeros(40, 3, 96, 112, dtype=torch.bool)
    mask[..., 20:80, 14:50] = mask[..., 20:80, 62:98] = True
    image = torch.where(mask, -850.0, 40.0) + 15 * torch.randn(mask.shape, generator=rng(9))
    image[..., 48:52, 20:44] = image[..., 48:52, 70:94] = 60.0
    return image, mask


def test_outside_the_lungs_nothing_changes(chests):
    image, mask = chests
    before = image.clone()
    sick = add_disease(image, mask, 1.0, rng())
    assert sick.shape == image.shape
    assert sick.dtype == torch.float32
    assert torch.equal(image, before)
    assert torch.equal(sick[~mask], image[~mask])
    assert torch.isfinite(sick).all()


def test_sick_lungs_are_denser(chests):
    image, mask = chests
    sick = add_disease(image, mask, 1.0, rng())
    n_lung = mask.sum((1, 2, 3))
    gain = ((sick - image) * mask).sum((1, 2, 3)) / n_lung
    assert (gain > 0).all()
    assert (gain > 100).sum() > 10
    consolidated = ((sick > -200) & (image < -500)).sum((1, 2, 3)) / n_lung
    assert consolidated.max() > 0.4
    assert sick[mask].max() < 600


def test_share_of_the_slices(chests):
    image, mask = chests
    assert torch.equal(add_disease(image, mask, 0.0, rng()), image)
    changed = (add_disease(image, mask, 0.5, rng()) != image).flatten(1).any(dim=1).sum()
    assert 10 < changed < 30


def test_ground_glass_keeps_vessels_and_consolidation_hides_them(chests):
    """Column by column of a horizontal vessel, beside what lies just above it."""
    image, mask = chests
    sick = add_disease(image, mask, 1.0, rng())
    columns = torch.cat([torch.arange(20, 44), torch.arange(70, 94)])
    vessel, above = sick[:, 1, 48:52, columns].mean(1), sick[:, 1, 43:47, columns].mean(1)
    glass, solid = (above > -650) & (above < -400), above > -100
    assert glass.sum() > 100
    assert solid.sum() > 50
    assert vessel[glass].median() > 55
    assert vessel[solid].median() < 45  # of 60


def test_large_opacities_take_a_whole_lung_and_keep_its_bronchi(chests):
    """With one ellipse and no layer, some stacks have one solid lung; it has holes of air."""
    image, mask = chests
    sick = add_disease(image, mask, 1.0, rng(), **LARGE)
    solid = (sick > -200) & mask
    right, left = (
        solid[..., part].sum((1, 2, 3)) / mask[..., part].sum((1, 2, 3))
        for part in (slice(56), slice(56, 112))
    )
    assert ((right > 0.6) & (left < 0.2) | (left > 0.6) & (right < 0.2)).any()
    assert ((right > 0.3) & (left > 0.3)).any()
    airy = add_disease(image, mask, 1.0, rng(), **LARGE, prob_air=1.0)
    where_solid = solid & (image < -500)
    assert (airy < -250)[where_solid].float().mean() > 0.01
    airless = add_disease(image, mask, 1.0, rng(), **LARGE, prob_air=0.0)
    assert (airless < -250)[where_solid].float().mean() < 0.001


@pytest.mark.parametrize("tilted", [0.0, 1.0])
def test_large_opacities_may_end_at_a_height(tilted):
    """Seven slices over 120 pixels: solid bases, more seldom solid tops; upright planes: none."""
    mask = torch.zeros(60, 7, 96, 112, dtype=torch.bool)
    mask[..., 20:80, 14:98] = True
    clean = torch.where(mask, -850.0, 40.0)
    heights = torch.linspace(-60, 60, 7).expand(60, 7)
    config = LungsTrainingConfig(sick_share=1.0, **LARGE, prob_tilted=tilted)
    sick = add_disease_at(clean, mask, heights, config, rng(2))
    taken = ((sick - clean).abs() > 60).sum((2, 3)) / mask.sum((2, 3))
    base, middle, top = taken[:, 0], taken[:, 3], taken[:, 6]
    solid_base, solid_top = (base > 0.9) & (top < 0.5), (top > 0.9) & (base < 0.5)
    if tilted:
        assert solid_base.sum() > 2 * solid_top.sum() > 0
        assert (
            (base > 0.9) & (middle > 0.2) & (middle < 0.8)
        ).any()  # the plane runs through the stack
    else:
        assert not (solid_base | solid_top).any()


def test_disease_goes_on_in_the_neighbours(chests):
    """Alike at the same height, less so the farther the neighbours lie."""
    mask = chests[1]
    clean = torch.where(mask, -850.0, 40.0)
    shares = []
    for apart in (0.0, 4.0, 40.0):
        hit = (add_disease(clean, mask, 1.0, rng(), apart) - clean).abs() > 60
        shares.append(((hit[:, 0] & hit[:, 1]).sum() / hit[:, 1].sum()).item())
    assert shares[0] > 0.93
    assert shares[0] > shares[1] > shares[2]


def test_same_generator_same_bytes(chests):
    image, mask = chests
    first, second, other = (add_disease(image, mask, 0.7, rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_no_lung_at_all(chests):
    image, mask = chests
    assert torch.equal(add_disease(image, torch.zeros_like(mask), 1.0, rng()), image)


def test_smooth_noise_is_smooth_and_centred():
    fine, coarse = (smooth_noise((16, 1, 96, 80), cell, rng())[:, 0] for cell in (2, 16))
    assert fine.shape == coarse.shape == (16, 96, 80)
    assert abs(fine.mean()) < 0.05
    assert abs(coarse.mean()) < 0.2
    steps = [noise.diff(dim=2).std() / noise.std() for noise in (fine, coarse)]
    assert steps[1] < 0.3 * steps[0]


def test_depth_counts_pixels_from_the_border(chests):
    _, mask = chests
    depth = disease._depth(mask.float(), 6)[0, 1]
    assert (depth[~mask[0, 1]] == 0).all()
    assert depth[20:27, 30].tolist() == [1, 2, 3, 4, 5, 6, 6]
    assert depth[40, 14:20].tolist() == [1, 2, 3, 4, 5, 6]


def test_layers_lie_along_the_border(chests):
    """Here and there, not all around, and no thicker than an effusion would be."""
    image, mask = chests
    sick = {}
    for prob in (0.0, 1.0):
        parts = [add_disease(image, mask, 1.0, rng(seed), prob_layer=prob) for seed in range(3)]
        sick[prob] = torch.cat(parts)
    changed = (sick[1.0] - sick[0.0]).abs() > 100
    mask = mask.repeat(3, 1, 1, 1)
    depth = disease._depth(mask.float(), 6)
    assert 0.02 < changed[mask].float().mean() < 0.25
    assert changed[depth == 1].float().mean() < 0.8
    assert changed[depth == 1].sum() > changed[depth == 3].sum() > 0
    assert not changed[depth == 6].any() or changed[depth == 6].float().mean() < 0.05
