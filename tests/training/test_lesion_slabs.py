"""Training pairs of the lesion networks, and a training on them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from normnet.config import (
    Config,
    GroundGlassConfig,
    NetworkConfig,
    SynthesisConfig,
    TrainingConfig,
    VariationConfig,
    load_config,
)
from normnet.errors import InputError
from normnet.network.weights import read_manifest
from normnet.training.ensemble import train_ensemble
from normnet.training.lesion_slabs import LesionSampler
from tests.training.test_slabs import make_case

SHAPES = SynthesisConfig(axes_small_vox=(1.5, 3), axes_medium_vox=(3, 6), axes_large_vox=(6, 10))
CASE = make_case(shape=(48, 64, 64))


def config_with(**training) -> Config:
    values = {"target": "disease", "slab_vox": (16, 24, 32), "flip": True, "prob_thick": 0.5, "prob_noise": 0.5}
    return Config(synthesis=SHAPES, training=TrainingConfig(**(values | training)))


def test_pairs_are_whole():
    """Coarse slabs, zero outside the lungs, the target inside them; now and then without disease."""
    sampler = LesionSampler([CASE], config_with())
    pairs = [sampler.sample(torch.Generator().manual_seed(seed)) for seed in range(30)]
    for image, target, lungs, disease in pairs:
        assert image.shape == target.shape == lungs.shape == (16, 24, 32)
        assert image.dtype == torch.float32
        assert 0 <= image.min() <= image.max() <= 1
        assert (image[~lungs] == 0).all()
        assert not (target & ~lungs).any()
        assert torch.equal(target, disease)
        assert lungs.any()
    sick = sum(bool(pair.target.any()) for pair in pairs)
    assert 0.6 * len(pairs) < sick < len(pairs)


def test_without_disease_nothing_is_asked_for():
    config = config_with().model_copy(update={"ground_glass": GroundGlassConfig(prob_empty=1.0)})
    sampler = LesionSampler([CASE], config)
    assert not any(sampler.sample(torch.Generator().manual_seed(seed)).target.any() for seed in range(5))


def test_disease_is_denser_than_the_lung_around_it():
    """Averaged over many pairs; the difference is what the network learns from."""
    sampler = LesionSampler([CASE], config_with(prob_thick=0.0))
    differences = []
    for seed in range(10):
        image, target, lungs, _ = sampler.sample(torch.Generator().manual_seed(seed))
        if target.any():
            differences.append((image[target].mean() - image[lungs & ~target].mean()).item())
    assert np.mean(differences) > 0.1


def varied(**variation) -> LesionSampler:
    """A sampler with slabs as large as its case on the coarse grid."""
    values = {"zoom": (1.0, 1.0), "prob_breath": 0.0, "prob_gradient": 0.0, "prob_regional": 0.0, "prob_slices": 0.0}
    config = config_with(slab_vox=(24, 32, 32), flip=False, prob_thick=0.0, prob_noise=0.0)
    return LesionSampler([CASE], config.model_copy(update={"variation": VariationConfig(**(values | variation))}))


def deformed(sampler: LesionSampler, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    hu, lungs = sampler.places[0]
    return sampler._deform_and_crop(hu.float(), lungs, torch.Generator().manual_seed(seed))


def test_undeformed_is_as_it_was():
    sampler = varied()
    hu, lungs = sampler.places[0]
    new_hu, new_lungs = deformed(sampler)
    torch.testing.assert_close(new_hu, hu.float(), atol=0.1, rtol=0)
    assert torch.equal(new_lungs, lungs)


def test_turned_by_half_a_turn():
    sampler = varied(rotate_deg=(180.0, 180.0))
    hu, lungs = sampler.places[0]
    new_hu, new_lungs = deformed(sampler)
    torch.testing.assert_close(new_hu[:, 1:-1, 1:-1], hu.float().flip(1, 2)[:, 1:-1, 1:-1], atol=0.5, rtol=0)
    assert torch.equal(new_lungs[:, 1:-1, 1:-1], lungs.flip(1, 2)[:, 1:-1, 1:-1])


def test_larger_patients_have_more_lung_and_bent_ones_other_lungs():
    n_lung = [int(deformed(varied(zoom=(zoom, zoom)))[1].sum()) for zoom in (0.8, 1.0, 1.2)]
    assert n_lung[0] < 0.7 * n_lung[1]
    assert n_lung[1] < n_lung[2]
    straight, bent = (deformed(varied(elastic_vox=(bend, bend)))[1] for bend in (0.0, 1.5))
    assert 0.02 < (straight ^ bent).sum() / straight.sum() < 0.8


def test_beyond_the_ct_there_is_no_lung():
    sampler = varied(zoom=(0.5, 0.5))
    sampler.places = [(hu, torch.ones_like(lungs)) for hu, lungs in sampler.places]
    _, lungs = deformed(sampler)
    assert 0.5**3 * 0.9 < lungs.float().mean() < 0.5**3 * 1.6


def test_kernels_smooth_and_sharpen_the_lungs_alone():
    spread = {}
    for kernel in (-0.5, 0.0, 1.0):
        sampler = varied(prob_kernel=1.0, kernel=(kernel, kernel), kernel_sigma_vox=(0.8, 0.8))
        hu, lungs = (part.float() for part in sampler.places[0])
        lungs = lungs > 0
        new, _, _ = sampler._vary_scanner(hu, lungs, lungs, torch.Generator().manual_seed(0))
        spread[kernel] = new[lungs].std().item()
        assert torch.equal(new[~lungs], hu[~lungs])
    assert spread[1.0] < 0.8 * spread[0.0] < 0.9 * spread[-0.5]


def test_unusable_slices_are_passed_over():
    usable = np.ones(48, bool)
    usable[20] = False
    half = make_case(shape=(48, 64, 64), usable=usable)
    sampler = LesionSampler([half], config_with(slab_vox=(8, 24, 32)))
    assert len(sampler.places) == (10 - 8 + 1) + (13 - 8 + 1)
    with pytest.raises(InputError, match="no 32 usable slices"):
        LesionSampler([half], config_with())


def test_a_ct_of_two_slices_is_one_on_the_coarse_grid():
    thin = make_case(shape=(6, 64, 64))
    thin = replace(thin, codes=thin.codes[2:4], lung_mask=thin.lung_mask[2:4], usable=thin.usable[2:4])
    sampler = LesionSampler([thin], config_with())
    assert [len(hu) for hu, _ in sampler.places] == [1]
    assert any(sampler.sample(torch.Generator().manual_seed(seed)).lung_mask.any() for seed in range(5))


def test_same_state_same_pair():
    sampler = LesionSampler([CASE], config_with())
    first, second, other = (sampler.sample(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first.image, other.image)


def test_training_writes_a_lesion_model(tmp_path):
    config = config_with(iterations=3, batch=2, members=1).model_copy(
        update={"network": NetworkConfig(channels=(4, 8), n_res_units=0, rare_start=True)}
    )
    assert train_ensemble([CASE], config, tmp_path / "lesions")
    manifest = read_manifest(tmp_path / "lesions", "lesions")
    assert manifest["training"]["cases"] == ["normal"]
    assert manifest["provenance"]["training"]["target"] == "disease"


def test_the_shipped_settings_are_for_lesions():
    config = load_config("lesions")
    assert config.training.target == "disease"
    assert load_config().training.target == "normal"
    assert all(size % config.network.stride == 0 for size in config.training.slab_vox)
