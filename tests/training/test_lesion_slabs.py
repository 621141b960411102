"""Training pairs of the lesion networks, and a training on them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

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
from normnet.preparation.cache import STEP_HU
from normnet.preparation.prepare import LOWEST_HU
from normnet.training import lesion_slabs
from normnet.training.ensemble import train_ensemble
from normnet.training.lesion_slabs import LesionSampler
from tests.training.test_slabs import make_case

SHAPES = SynthesisConfig(axes_small_vox=(1.5, 3), axes_medium_vox=(3, 6), axes_large_vox=(6, 10))
CASE = make_case(shape=(48, 64, 64))


def config_with(**training) -> Config:
    values = {
        "target": "disease",
        "slab_vox": (16, 24, 32),
        "flip": True,
        "prob_thick": 0.5,
        "prob_noise": 0.5,
    }
    return Config(synthesis=SHAPES, training=TrainingConfig(**(values | training)))


def test_pairs_are_whole():
    """Coarse slabs, zero outside the lungs, target inside them; now and then without disease."""
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


def test_the_back_is_at_the_back_where_slabs_are_mirrored(monkeypatch):
    """Disease is put in before, since it may lie in the dependent half."""
    seen = []
    real = lesion_slabs.insert_ground_glass

    def spy(hu, lungs, *rest):
        seen.append(lungs.clone())
        return real(hu, lungs, *rest)

    monkeypatch.setattr(lesion_slabs, "insert_ground_glass", spy)
    for flip in (False, True):
        sampler = LesionSampler([CASE], config_with(flip=flip))
        for seed in range(6):
            sampler.sample(torch.Generator().manual_seed(seed))
    half = len(seen) // 2
    assert half > 2
    for one, other in zip(seen[:half], seen[half:], strict=True):
        assert torch.equal(one, other)


def test_thick_slices_with_a_part_of_an_excluded_one_are_not_learned_from():
    sampler = LesionSampler([CASE], config_with(prob_thick=1.0, thick_mm=(6.0, 6.0)))
    hu = torch.full((24, 8, 8), -900.0)
    lungs, usable = torch.ones((2, 24, 8, 8), dtype=torch.bool)
    usable[12] = False
    *_, usable, _ = sampler._vary_scanner(
        hu, lungs, usable, torch.zeros_like(lungs), torch.Generator().manual_seed(0)
    )
    left_out = (~usable).all(dim=(1, 2)).nonzero().flatten().tolist()
    assert 12 in left_out and len(left_out) > 2


def test_without_disease_nothing_is_asked_for():
    config = config_with().model_copy(update={"ground_glass": GroundGlassConfig(prob_empty=1.0)})
    sampler = LesionSampler([CASE], config)
    assert not any(
        sampler.sample(torch.Generator().manual_seed(seed)).target.any() for seed in range(5)
    )


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
    values = {
        "zoom": (1.0, 1.0),
        "prob_breath": 0.0,
        "prob_gradient": 0.0,
        "prob_regional": 0.0,
        "prob_slices": 0.0,
    }
    config = config_with(slab_vox=(24, 32, 32), flip=False, prob_thick=0.0, prob_noise=0.0)
    return LesionSampler(
        [CASE], config.model_copy(update={"variation": VariationConfig(**(values | variation))})
    )


def deformed(
    sampler: LesionSampler, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """HU, lungs and what may be learned from."""
    return sampler._deform_and_crop(sampler.cases[0][0], torch.Generator().manual_seed(seed))


def test_undeformed_is_as_it_was():
    sampler = varied()
    place = sampler.cases[0][0]
    new_hu, new_lungs, usable = deformed(sampler)
    torch.testing.assert_close(new_hu, place.hu.float(), atol=0.1, rtol=0)
    assert torch.equal(new_lungs, place.lungs)
    assert usable.all()


def test_turned_by_half_a_turn():
    sampler = varied(rotate_deg=(180.0, 180.0))
    place = sampler.cases[0][0]
    new_hu, new_lungs, _ = deformed(sampler)
    torch.testing.assert_close(
        new_hu[:, 1:-1, 1:-1], place.hu.float().flip(1, 2)[:, 1:-1, 1:-1], atol=0.5, rtol=0
    )
    assert torch.equal(new_lungs[:, 1:-1, 1:-1], place.lungs.flip(1, 2)[:, 1:-1, 1:-1])


def test_larger_patients_have_more_lung_and_bent_ones_other_lungs():
    n_lung = [int(deformed(varied(zoom=(zoom, zoom)))[1].sum()) for zoom in (0.8, 1.0, 1.2)]
    assert n_lung[0] < 0.7 * n_lung[1]
    assert n_lung[1] < n_lung[2]
    straight, bent = (deformed(varied(elastic_vox=(bend, bend)))[1] for bend in (0.0, 1.5))
    assert 0.02 < (straight ^ bent).sum() / straight.sum() < 0.8


def test_beyond_the_ct_there_is_no_lung():
    sampler = varied(zoom=(0.5, 0.5))
    sampler.cases = [
        [place._replace(lungs=torch.ones_like(place.lungs)) for place in sampler.cases[0]]
    ]
    _, lungs, _ = deformed(sampler)
    assert 0.5**3 * 0.9 < lungs.float().mean() < 0.5**3 * 1.6


def test_kernels_smooth_and_sharpen_the_lungs_alone():
    spread = {}
    for kernel in (-0.5, 0.0, 1.0):
        sampler = varied(prob_kernel=1.0, kernel=(kernel, kernel), kernel_sigma_vox=(0.8, 0.8))
        place = sampler.cases[0][0]
        hu, lungs = place.hu.float(), place.lungs
        rng = torch.Generator().manual_seed(0)
        new, *_ = sampler._vary_scanner(hu, lungs, lungs, lungs, rng)
        spread[kernel] = new[lungs].std().item()
        assert torch.equal(new[~lungs], hu[~lungs])
    assert spread[1.0] < 0.8 * spread[0.0] < 0.9 * spread[-0.5]


# --- what is healthy all the same ---


def vary(hu: torch.Tensor, lungs: torch.Tensor, seed: int = 0, **variation) -> torch.Tensor:
    """HU of a sampler that does nothing else; what it is given stays as it is."""
    sampler = varied(**{"scale": (1.0, 1.0), **variation})
    before = hu.clone(), lungs.clone()
    new = sampler._vary_lungs(hu, lungs, torch.Generator().manual_seed(seed))
    assert torch.equal(hu, before[0])
    assert torch.equal(lungs, before[1])
    return new


@pytest.mark.parametrize(("power", "middle"), [(1.0, 0.5), (2.0, 0.25), (4.0, 0.0625)])
@pytest.mark.parametrize("prone", [False, True])
def test_density_grows_from_nothing_at_the_front(power, middle, prone):
    """To a fifth of the air at the back: 0.8 x -850 + 0.2 x 50 = -670.

    A larger power leaves more of the lung unchanged.
    """
    hu, lungs = torch.full((6, 9, 8), -850.0), torch.ones(6, 9, 8, dtype=torch.bool)
    settings = {"gradient": (0.2, 0.2), "gradient_power": (power, power)}
    new = vary(hu, lungs, prob_gradient=1.0, prob_anterior=float(prone), **settings)
    rows = new[3, :, 4].flip(0) if prone else new[3, :, 4]
    assert torch.equal(new, new[3, :, 4][None, :, None].expand_as(new))
    assert rows[0] == -850
    assert rows[4].item() == pytest.approx(-850 + middle * 180, abs=0.01)
    assert rows[8].item() == pytest.approx(-670, abs=0.01)
    assert (rows.diff() >= 0).all()


def test_most_patients_lie_on_their_back():
    hu, lungs = torch.full((4, 9, 4), -850.0), torch.ones(4, 9, 4, dtype=torch.bool)
    backs = [
        vary(hu, lungs, seed, prob_gradient=1.0, gradient=(0.2, 0.2))[0, 8, 0] > -700
        for seed in range(60)
    ]
    assert 36 < sum(backs) < 60


def test_a_breath_fills_all_of_the_air_alike():
    hu, lungs = torch.full((4, 9, 4), -850.0), torch.ones(4, 9, 4, dtype=torch.bool)
    hu[:, :3] = 50
    new = vary(hu, lungs, prob_breath=1.0, breath=(0.1, 0.1))
    assert new[:, :3].unique().tolist() == pytest.approx([50])
    assert new[:, 3:].unique().tolist() == pytest.approx([-760])


# --- motion ---

MEDIAL, LATERAL, BASE = (
    (35, 58),
    (10, 85),
    10,
)  # last voxels of the lungs along x, first one along z


def chest() -> tuple[torch.Tensor, torch.Tensor]:
    """HU and lungs (40, 48, 96): two boxes above a diaphragm, 22 voxels of heart between them."""
    lungs = torch.zeros(40, 48, 96, dtype=torch.bool)
    for left, right in ((LATERAL[0], MEDIAL[0]), (MEDIAL[1], LATERAL[1])):
        lungs[BASE:38, 6:42, left : right + 1] = True
    return torch.where(lungs, -850.0, 40.0), lungs


def near_what_moves() -> np.ndarray:
    """Distance of each voxel from lung within four voxels of the diaphragm or of the heart."""
    moves = np.zeros((40, 48, 96), bool)
    moves[BASE : BASE + 4, 6:42, 10:36] = moves[BASE : BASE + 4, 6:42, 58:86] = True
    moves[BASE:38, 6:42, 32:36] = moves[BASE:38, 6:42, 58:62] = True
    return distance_transform_edt(~moves)


def moved(seed: int, hu: torch.Tensor, lungs: torch.Tensor, **motion) -> torch.Tensor:
    """By how much HU change, with a region of two voxels."""
    values = {
        "prob_motion": 1.0,
        "motion_sigma_vox": (2.0, 2.0),
        "motion_share": (0.5, 0.5),
        **motion,
    }
    return vary(hu, lungs, seed, **values) - hu


def test_motion_changes_what_lies_at_the_diaphragm_and_the_heart():
    """HU of noise show all that is mixed.

    With 0.5 exp(-r^2 / 8) of at most 1300 HU nothing is left at nine voxels.
    """
    _, lungs = chest()
    hu = 100 * torch.randn(lungs.shape, generator=torch.Generator().manual_seed(9)) - 500
    distance, places = near_what_moves(), []
    for seed in range(40):
        change = moved(seed, hu, lungs).abs().numpy()
        assert change.max() > 30
        assert distance[change > 1].max() < 9
        z, _, x = np.average(np.argwhere(change > 1), axis=0)
        places.append("base" if z < BASE + 6 else "heart")
        assert z < BASE + 6 or 28 < x < 66
    assert 8 < places.count("base") < 35


def test_motion_leaves_ghosts_of_edges():
    """Even tissue and even lung stay; an edge moves by three voxels at most, half of it is seen."""
    hu, lungs = chest()
    from_edge = np.minimum(distance_transform_edt(lungs), distance_transform_edt(~lungs))
    largest = 0.0
    for seed in range(20):
        change = (
            moved(seed, hu, lungs, motion_vox=(3.0, 3.0), motion_sigma_vox=(8.0, 8.0)).abs().numpy()
        )
        assert not change[from_edge > 4.5].any()
        largest = max(largest, change.max())
    assert 0.4 * 890 < largest <= 0.5 * 890


def test_motion_lasts_for_a_part_of_the_time():
    hu, lungs = chest()
    half, whole = (moved(3, hu, lungs, motion_share=(share, share)) for share in (0.3, 0.6))
    assert half.abs().max() > 100
    torch.testing.assert_close(2 * half, whole, atol=0.01, rtol=0)
    assert not moved(3, hu, lungs, motion_share=(0.0, 0.0)).any()
    assert not moved(3, hu, lungs, prob_motion=0.0).any()


def test_motion_without_a_border_is_none():
    """No lung; and lung all over the slab."""
    hu = torch.randn(12, 12, 12, generator=torch.Generator().manual_seed(0))
    for lungs in (torch.zeros(12, 12, 12), torch.ones(12, 12, 12)):
        assert all(moved(seed, hu, lungs > 0).abs().max() < 1e-3 for seed in range(5))


def test_the_lungs_stay_where_they_are():
    """In the pairs, too: what is learned from is the lungs of the CT."""
    still, moving = (varied(prob_motion=prob) for prob in (0.0, 1.0))
    for seed in range(4):
        first, second = (
            sampler.sample(torch.Generator().manual_seed(seed)) for sampler in (still, moving)
        )
        assert torch.equal(first.lung_mask, still.cases[0][0].lungs)
        assert torch.equal(second.lung_mask, first.lung_mask)
        assert not torch.equal(first.image, second.image)


# --- what is drawn ---


def even_case(
    shape, lung_hu: float, usable: np.ndarray | None = None, unusable_hu: float | None = None
):
    """A case of one density, in and around the lungs; unusable slices may have another."""
    case = make_case(shape=shape, usable=usable)
    hu = np.full(shape, lung_hu)
    if unusable_hu is not None:
        hu[~case.usable] = unusable_hu
    return replace(case, codes=np.rint((hu - LOWEST_HU) / STEP_HU).astype(np.uint8))


def healthy_sampler(cases, slab_vox, **variation) -> LesionSampler:
    """Nothing but the deformation."""
    config = config_with(slab_vox=slab_vox, prob_thick=0.0, prob_noise=0.0)
    values = {
        "prob_breath": 0.0,
        "prob_gradient": 0.0,
        "prob_regional": 0.0,
        "prob_slices": 0.0,
        "scale": (1.0, 1.0),
    }
    update = {
        "variation": VariationConfig(**(values | variation)),
        "ground_glass": GroundGlassConfig(prob_empty=1.0),
    }
    return LesionSampler(cases, config.model_copy(update=update))


def test_every_case_is_drawn_as_often():
    """One slab of the dense case, 17 of the other."""
    sampler = healthy_sampler(
        [even_case((48, 64, 64), -850), even_case((16, 64, 64), -500)], (8, 16, 16)
    )
    assert [len(places) for places in sampler.cases] == [17, 1]
    pairs = [sampler.sample(torch.Generator().manual_seed(seed)) for seed in range(100)]
    dense = [bool(pair.image[pair.lung_mask].mean() > 0.2) for pair in pairs]
    assert 35 < sum(dense) < 65


def test_slabs_with_enough_to_learn_from():
    """24 coarse slices, of which the upper half is usable: from 8 on half of a slab of 8 is."""
    usable = np.arange(48) >= 24
    half = make_case(shape=(48, 64, 64), usable=usable)
    sampler = LesionSampler([half], config_with(slab_vox=(8, 24, 32)))
    assert [int(place.usable.sum()) for place in sampler.cases[0]] == [4, 5, 6, 7, 8, 8, 8, 8, 8]
    whole = make_case(shape=(48, 64, 64))
    assert sampler.max_lung_vox == int(
        LesionSampler([whole], config_with(slab_vox=(8, 24, 32))).max_lung_vox
    )


def test_slabs_without_lung_to_learn_from_are_left_out():
    """Lung in the two lowest coarse slices, one usable: slabs from 0 and 1 on, or from 0."""
    case = make_case(shape=(48, 64, 64))
    case.lung_mask[4:] = False
    case.lung_mask[:4, 20:40, 10:30] = True
    for unusable, n_slabs in ((slice(0, 0), 2), (slice(0, 2), 2), (slice(2, 4), 1)):
        case.usable[:] = True
        case.usable[unusable] = False
        assert len(LesionSampler([case], config_with(slab_vox=(8, 24, 32))).cases[0]) == n_slabs
    case.usable[:4] = False
    with pytest.raises(InputError, match="no 16 usable slices"):
        LesionSampler([case], config_with(slab_vox=(8, 24, 32)))


def test_cases_without_a_slab_are_left_out():
    none = make_case(shape=(48, 64, 64), usable=np.zeros(48, bool))
    assert len(LesionSampler([none, CASE, none], config_with()).cases) == 1
    with pytest.raises(InputError, match="no 32 usable slices"):
        LesionSampler([none], config_with())


def test_unusable_slices_are_seen_but_not_learned_from():
    """The same pair as with all slices usable, but for where it is learned from."""
    usable = np.ones(48, bool)
    usable[20:24] = False
    config = varied().config
    some, every = (
        LesionSampler([make_case(shape=(48, 64, 64), usable=u)], config).sample(
            torch.Generator().manual_seed(2)
        )
        for u in (usable, None)
    )
    assert torch.equal(some.image, every.image)
    assert torch.equal(some.target, every.target)
    expected = every.lung_mask.clone()
    expected[10:12] = False
    assert every.lung_mask[10:12].any()
    assert torch.equal(some.lung_mask, expected)
    assert some.image[10:12].any()


def test_unusable_slices_are_never_in_the_lungs():
    """Deformed and mirrored: voxels with more than half from such slices (-300 HU) do not count."""
    usable = np.ones(48, bool)
    usable[[*range(14, 20), *range(30, 32)]] = False
    case = even_case((48, 64, 64), -852, usable, -300)
    bent = {"rotate_deg": (-15.0, 15.0), "elastic_vox": (0.0, 3.0)}
    sampler = healthy_sampler([case], (16, 24, 32), **bent)
    assert len(sampler.cases[0]) == 9
    bright = 0
    for seed in range(30):
        image, _, lungs, _ = sampler.sample(torch.Generator().manual_seed(seed))
        low, high = sampler.config.window.low_hu, sampler.config.window.high_hu
        assert lungs.any()
        assert image[lungs].max() < ((-852 - 300) / 2 - low) / (high - low) + 0.01
        bright += bool((image[~lungs] > (-400 - low) / (high - low)).any())
    assert bright > 15  # they are seen


def test_a_ct_of_two_slices_is_one_on_the_coarse_grid():
    thin = make_case(shape=(6, 64, 64))
    thin = replace(
        thin, codes=thin.codes[2:4], lung_mask=thin.lung_mask[2:4], usable=thin.usable[2:4]
    )
    sampler = LesionSampler([thin], config_with())
    assert [[len(place.hu) for place in places] for places in sampler.cases] == [[1]]
    assert any(
        sampler.sample(torch.Generator().manual_seed(seed)).lung_mask.any() for seed in range(5)
    )


def test_same_state_same_pair():
    sampler = LesionSampler([CASE], config_with())
    first, second, other = (
        sampler.sample(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
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
