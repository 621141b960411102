"""Training pairs of the lesion networks, and a training on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from normnet.config import Config, GroundGlassConfig, NetworkConfig, SynthesisConfig, TrainingConfig, load_config
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


def test_unusable_slices_are_passed_over():
    usable = np.ones(48, bool)
    usable[20] = False
    half = make_case(shape=(48, 64, 64), usable=usable)
    sampler = LesionSampler([half], config_with(slab_vox=(8, 24, 32)))
    assert len(sampler.places) == (10 - 8 + 1) + (13 - 8 + 1)
    with pytest.raises(InputError, match="no 32 usable slices"):
        LesionSampler([half], config_with())


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
    assert manifest["config"]["training"]["target"] == "disease"


def test_the_shipped_settings_are_for_lesions():
    config = load_config("lesions")
    assert config.training.target == "disease"
    assert load_config().training.target == "normal"
    assert all(size % config.network.stride == 0 for size in config.training.slab_vox)
