"""Insertion by maximum (Eq. 9) and the target (Eq. 1)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from normnet.config import SynthesisConfig
from normnet.synthesis.generator import (
    insert_lesions,
    sample_lesions,
    synthesize_lesions,
    target_normal,
)
from normnet.synthesis.shapes import sample_shapes
from normnet.synthesis.textures import sample_texture

CONFIG = SynthesisConfig(axes_medium_vox=(6, 16), axes_large_vox=(16, 30))


def rng_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def slab() -> tuple[torch.Tensor, torch.Tensor]:
    """A (24, 96, 96) thorax of two lungs, and their mask."""
    z, y, x = torch.meshgrid(
        torch.arange(24) - 12, torch.arange(96) - 48, torch.arange(96) - 48, indexing="ij"
    )
    lung_mask = (
        sum(((z / 40) ** 2 + (y / 40) ** 2 + ((x - c) / 18) ** 2 <= 1) for c in (-24, 24)) > 0
    )
    thorax = torch.rand(lung_mask.shape, generator=rng_of(9)) ** 3 * lung_mask
    return thorax, lung_mask


def test_maximum_rule(slab):
    thorax, lung_mask = slab
    n_lung = int(lung_mask.sum())
    made = synthesize_lesions(thorax, lung_mask, n_lung, CONFIG, rng_of(2))
    rng = rng_of(2)
    expected, covered = thorax.numpy().copy(), np.zeros(lung_mask.shape, bool)
    for blob in sample_shapes(lung_mask, n_lung, CONFIG, rng):
        texture = sample_texture(tuple(blob.shape_mask.shape), CONFIG, rng).scaled.numpy()
        voxels = np.argwhere(blob.shape_mask.numpy())
        places = voxels + blob.low
        inside = lung_mask.numpy()[tuple(places.T)]
        voxels, places = tuple(voxels[inside].T), tuple(places[inside].T)
        expected[places] = np.maximum(expected[places], texture[voxels])
        covered[places] = True
    np.testing.assert_array_equal(made.image.numpy(), expected)
    np.testing.assert_array_equal(made.lesion_mask.numpy(), covered)


def test_only_lesions_inside_the_lung_change(slab):
    thorax, lung_mask = slab
    before = thorax.clone()
    for seed in range(3):
        image, lesion_mask = synthesize_lesions(
            thorax, lung_mask, int(lung_mask.sum()), CONFIG, rng_of(seed)
        )
        assert lesion_mask.any()
        assert not (lesion_mask & ~lung_mask).any()
        assert torch.equal(image[~lesion_mask], thorax[~lesion_mask])
        assert (image >= thorax).all()
        assert image.max() <= 1
        assert (image > thorax)[lesion_mask].float().mean() > 0.5
    assert torch.equal(thorax, before)


def test_equal_seeds_equal_voxels(slab):
    thorax, lung_mask = slab
    first, again, other = (
        synthesize_lesions(thorax, lung_mask, 60000, CONFIG, rng_of(seed)) for seed in (7, 7, 8)
    )
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.lesion_mask, again.lesion_mask)
    assert not torch.equal(first.image, other.image)


def test_the_steps_are_those_of_the_slab(slab):
    """Lesions that are drawn first and inserted later give the same slab."""
    thorax, lung_mask = slab
    made = synthesize_lesions(thorax, lung_mask, 60000, CONFIG, rng_of(7))
    lesions = list(sample_lesions(lung_mask, 60000, CONFIG, rng_of(7)))
    assert len(lesions) > 1
    again = insert_lesions(thorax, lesions)
    assert torch.equal(made.image, again.image)
    assert torch.equal(made.lesion_mask, again.lesion_mask)
    for blob, inside, texture in lesions:
        assert torch.equal(inside, blob.shape_mask & lung_mask[blob.box])
        assert texture.noise.shape == texture.scaled.shape == inside.shape


def test_lambda_scales_the_lesions(slab):
    thorax, lung_mask = slab
    n_lung = int(lung_mask.sum())

    def covered(max_lung_vox: int) -> float:
        masks = (
            synthesize_lesions(thorax, lung_mask, max_lung_vox, CONFIG, rng_of(s)).lesion_mask
            for s in range(12)
        )
        return np.mean([mask.sum() / n_lung for mask in masks])

    assert 0.25 < covered(3 * n_lung) / covered(n_lung) < 0.65


def test_lung_without_voxels(slab):
    thorax, lung_mask = slab
    image, lesion_mask = synthesize_lesions(
        thorax, torch.zeros_like(lung_mask), 1000, CONFIG, rng_of(0)
    )
    assert torch.equal(image, thorax)
    assert image is not thorax
    assert not lesion_mask.any()


def test_target_is_eq_1():
    thorax = torch.tensor([0.2, 1 / 3, 0.9, 0.9])
    lesion_mask = torch.tensor([False, False, False, True])
    assert target_normal(thorax, lesion_mask, 1 / 3).tolist() == [False, True, True, False]
