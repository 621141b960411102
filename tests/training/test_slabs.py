"""Training pairs: where slabs lie, what varies in them, and Eq. 1."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from normnet.config import Config, SynthesisConfig, TrainingConfig
from normnet.errors import InputError
from normnet.preparation.cache import LOWEST_HU, STEP_HU, NormalCase
from normnet.training.slabs import SlabSampler, thick_slices

SYNTHESIS = SynthesisConfig(axes_medium_vox=(4, 8), axes_large_vox=(8, 12))
TAU = 1 / 3


def config_with(**training) -> Config:
    return Config(
        synthesis=SYNTHESIS, training=TrainingConfig(**({"slab_vox": (8, 32, 32)} | training))
    )


def make_case(shape=(20, 32, 32), seed=0, usable=None, name="normal") -> NormalCase:
    """Two lungs with random bright spots and an erroneous edge, tissue around them."""
    rng = np.random.default_rng(seed)
    z, y, x = (np.linspace(-1, 1, n) for n in shape)
    z, y, x = np.meshgrid(z, y, x, indexing="ij")
    lung_mask = (
        sum(((z / 0.9) ** 2 + (y / 0.8) ** 2 + ((x - c) / 0.4) ** 2 <= 1) for c in (-0.5, 0.5)) > 0
    )
    hu = np.where(lung_mask, np.where(rng.random(shape) < 0.1, 0, -850), 40)
    codes = np.rint((hu - LOWEST_HU) / STEP_HU).astype(np.uint8)
    edge_mask = lung_mask & (y < -0.7)
    return NormalCase(
        name, codes, lung_mask, edge_mask, np.ones(shape[0], bool) if usable is None else usable
    )


def pairs_of(sampler: SlabSampler, n: int = 6):
    return [sampler.sample(torch.Generator().manual_seed(seed)) for seed in range(n)]


def test_target_is_eq_1():
    """Outside G the image is the healthy thorax: bright there means target, inside G nothing is."""
    for image, target, lung_mask, lesion_mask in pairs_of(
        SlabSampler([make_case()], config_with())
    ):
        assert image.shape == (8, 32, 32)
        assert image.dtype == torch.float32
        assert lesion_mask.any()
        assert torch.equal(target[~lesion_mask], (image >= TAU)[~lesion_mask])
        assert target.any()
        assert not target[lesion_mask].any()
        assert (image[~lung_mask] == 0).all()
        assert not (lesion_mask & ~lung_mask).any()
        assert image.min() >= 0
        assert image.max() <= 1


def test_erroneous_edges_are_no_lung():
    case = make_case()
    sampler = SlabSampler([case], config_with(slab_vox=(20, 32, 32)))
    assert torch.equal(
        sampler.sample(torch.Generator().manual_seed(0)).lung_mask,
        torch.from_numpy(case.lung_mask & ~case.edge_mask),
    )


def test_only_usable_slices():
    usable = np.ones(20, bool)
    usable[[3, 15]] = False  # 4 ... 14 are usable: 4 places for 8 slices
    sampler = SlabSampler([make_case(usable=usable)], config_with())
    assert [start for _, start in sampler.places] == [4, 5, 6, 7]


def test_slabs_without_lung_are_left_out():
    case = make_case()
    case.lung_mask[:11] = False
    sampler = SlabSampler([case], config_with())
    assert min(start for _, start in sampler.places) == 4


def test_fullest_slab_of_the_set():
    cases = [make_case(seed=1), make_case(shape=(12, 32, 32), seed=2)]
    sampler = SlabSampler(cases, config_with())
    fullest = max(
        int(case.lung_mask[s : s + 8].sum())
        for case in cases
        for s in range(case.codes.shape[0] - 7)
    )
    assert sampler.max_lung_vox == fullest
    assert len(sampler.places) == 13 + 5


def test_no_slab_at_all():
    with pytest.raises(InputError, match=r"NN-TRN-001.*8 usable slices"):
        SlabSampler([make_case(shape=(7, 32, 32))], config_with())


def test_small_crops_hold_lung():
    sampler = SlabSampler([make_case(shape=(20, 64, 64))], config_with(slab_vox=(8, 16, 16)))
    for pair in pairs_of(sampler, 12):
        assert pair.image.shape == (8, 16, 16)
        assert pair.lung_mask.any()


def test_small_planes_are_padded():
    case = make_case(shape=(8, 20, 24))
    pair = SlabSampler([case], config_with()).sample(torch.Generator().manual_seed(0))
    lungs = torch.zeros((8, 32, 32), dtype=torch.bool)
    lungs[:, 6:26, 4:28] = torch.from_numpy(case.lung_mask & ~case.edge_mask)
    assert torch.equal(pair.lung_mask, lungs)
    assert (pair.image[~lungs] == 0).all()


def test_flips_mirror_the_slab():
    case = make_case(shape=(8, 32, 32), seed=4)
    lungs = torch.from_numpy(case.lung_mask & ~case.edge_mask)
    sampler = SlabSampler([case], config_with(flip=True))
    mirrored = {bool(torch.equal(pair.lung_mask, lungs)) for pair in pairs_of(sampler, 12)}
    assert mirrored == {True, False}
    for pair in pairs_of(sampler, 12):
        assert any(
            torch.equal(pair.lung_mask.flip(axes), lungs) for axes in ([], [1])
        )  # symmetric in z and x


@pytest.mark.parametrize("change", [{"prob_thick": 1.0}, {"prob_noise": 1.0}])
def test_variations_change_the_image_and_keep_eq_1(change):
    plain = pairs_of(SlabSampler([make_case()], config_with()), 1)[0]
    for image, target, lung_mask, lesion_mask in pairs_of(
        SlabSampler([make_case()], config_with(**change))
    ):
        assert torch.isfinite(image).all()
        assert image.min() >= 0
        assert image.max() <= 1
        assert not torch.equal(image, plain.image)
        assert (image[~lung_mask] == 0).all()
        assert not target[lesion_mask].any()
        if (
            "prob_thick" not in change
        ):  # there, lesions at the border of G are averaged with what lies beside them
            assert torch.equal(target[~lesion_mask], (image >= TAU)[~lesion_mask])


def test_equal_seeds_equal_pairs():
    config = config_with(flip=True, prob_thick=0.5, prob_noise=0.5)
    first, again = (pairs_of(SlabSampler([make_case()], config)) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(first[0].image, first[1].image)


def test_thick_slices_by_hand():
    """Means of two slices, then linear between their centres."""
    volume = torch.tensor([0.0, 0.0, 1.0, 1.0])[:, None, None].expand(4, 2, 3).contiguous()
    assert thick_slices(volume, 2)[:, 1, 2].tolist() == pytest.approx([0, 0.25, 0.75, 1])


@pytest.mark.parametrize(("depth", "factor"), [(32, 2), (32, 5), (9, 6), (4, 6)])
def test_thick_slices_keep_shape_and_constants(depth, factor):
    volume = torch.rand((depth, 3, 4), generator=torch.Generator().manual_seed(0))
    thick = thick_slices(volume, factor)
    assert thick.shape == volume.shape
    assert thick.var() < volume.var()
    assert thick.min() >= volume.min()
    assert thick.max() <= volume.max()
    torch.testing.assert_close(
        thick_slices(torch.full((depth, 3, 4), 0.3), factor), torch.full((depth, 3, 4), 0.3)
    )
    one_column = torch.zeros((depth, 3, 4))
    one_column[:, 1, 2] = volume[:, 1, 2]
    assert (thick_slices(one_column, factor).sum(0) > 0).sum() == 1  # columns never mix
