"""Synthetic pale disease: where it lies, how dense it is, what it leaves alone."""

from __future__ import annotations

import pytest
import torch

from normnet.config import GroundGlassConfig, SynthesisConfig
from normnet.synthesis.ground_glass import FLUID_HU, insert_ground_glass, sample_fluid, unit_noise

SHAPES = SynthesisConfig(axes_small_vox=(2, 4), axes_medium_vox=(4, 8), axes_large_vox=(8, 12))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lung_slab() -> tuple[torch.Tensor, torch.Tensor]:
    """Lung of -850 HU with a vessel of 50 HU in soft tissue of 40 HU, (24, 40, 40)."""
    lungs = torch.zeros((24, 40, 40), dtype=torch.bool)
    lungs[:, 4:36, 4:36] = True
    hu = torch.where(lungs, -850.0, 40.0)
    hu[:, 20, :] = 50.0
    return hu, lungs


def test_disease_lies_in_the_lung_and_only_adds():
    hu, lungs = lung_slab()
    before = hu.clone()
    for seed in range(8):
        image, disease = insert_ground_glass(
            hu, lungs, int(lungs.sum()), SHAPES, GroundGlassConfig(), rng(seed)
        )
        assert torch.equal(hu, before)
        assert disease.any()
        assert not (disease & ~lungs).any()
        assert torch.equal(image[~lungs], hu[~lungs])
        assert (image >= hu).all()
        assert image.max() <= 100


def test_pale_disease_is_below_the_bright_threshold_and_shows_its_vessels():
    """A share of 0.1 of the air is about -760 HU; fluid is as dense as a vessel."""
    config = GroundGlassConfig(
        prob_texture=0, density=(0.1, 0.1), grain=(0, 0), prob_mottled=0, prob_clumped=0
    )
    hu, lungs = lung_slab()
    image, disease = insert_ground_glass(hu, lungs, int(lungs.sum()), SHAPES, config, rng())
    pale = image[disease & (hu < 0)]
    assert pale.max() <= -850 + 0.1 * (FLUID_HU + 850) + 1e-3
    assert pale.mean() > -810
    assert torch.equal(image[hu == 50.0], hu[hu == 50.0])


@pytest.mark.parametrize("kind", ["even", "mottled", "clumped"])
def test_grain(kind):
    """Even haze varies little inside a blob, clumps leave much of it nearly clear."""
    shares = {"prob_mottled": float(kind == "mottled"), "prob_clumped": float(kind == "clumped")}
    config = GroundGlassConfig(
        density=(0.4, 0.4), density_clumped=(0.4, 0.4), grain=(0, 0), **shares
    )
    blob = torch.ones((24, 24, 24), dtype=torch.bool)
    draws = [sample_fluid(blob, config, rng(seed))[0] for seed in range(6)]
    assert all(fluid.min() >= 0 and fluid.max() < 1 for fluid in draws)
    spread = sum(fluid.std().item() for fluid in draws) / len(draws)
    assert (spread < 1e-3) if kind == "even" else (spread > 0.05)
    if kind == "clumped":
        assert min((fluid < 0.2).float().mean().item() for fluid in draws) > 0.1


def test_some_blobs_carry_the_papers_texture():
    hu, lungs = lung_slab()
    image, disease = insert_ground_glass(
        hu, lungs, int(lungs.sum()), SHAPES, GroundGlassConfig(prob_texture=1.0), rng(1)
    )
    assert (image[disease] > -500).float().mean() > 0.3
    assert image[disease].max() <= 100


def test_same_seed_same_disease_and_unit_noise():
    hu, lungs = lung_slab()
    first, second, other = (
        insert_ground_glass(hu, lungs, int(lungs.sum()), SHAPES, GroundGlassConfig(), rng(seed))
        for seed in (3, 3, 4)
    )
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.lesion_mask, second.lesion_mask)
    assert not torch.equal(first.image, other.image)
    noise = unit_noise((20, 20, 20), 1.5, rng())
    assert noise.mean().item() == pytest.approx(0, abs=1e-5)
    assert noise.std().item() == pytest.approx(1, abs=1e-5)


def test_subpleural_sheets_lie_along_the_border_and_mostly_in_the_dependent_half():
    hu, lungs = lung_slab()
    shapes = SHAPES.model_copy(update={"n_small": (0, 0), "n_medium": (0, 0), "prob_large": 0.0})
    config = GroundGlassConfig(
        prob_subpleural=1, subpleural_depth_vox=(3, 3), subpleural_axes_vox=(8, 12)
    )
    n_back, n_all = 0, 0
    for seed in range(12):
        _, disease = insert_ground_glass(hu, lungs, int(lungs.sum()), shapes, config, rng(seed))
        _, y, x = disease.nonzero().unbind(1)
        to_border = torch.stack([y - 4, 35 - y, x - 4, 35 - x]).min(0).values
        assert to_border.max() <= 5  # nothing in the middle of the lung, 16 voxels from the border
        n_back, n_all = n_back + int((y > 20).sum()), n_all + len(y)
    assert n_all > 500
    assert n_back > 0.55 * n_all


def test_no_lung_no_sheet():
    hu, lungs = lung_slab()
    config = GroundGlassConfig(prob_subpleural=1)
    image, disease = insert_ground_glass(hu, torch.zeros_like(lungs), 1, SHAPES, config, rng())
    assert torch.equal(image, hu)
    assert not disease.any()
