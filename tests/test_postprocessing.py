"""Eq. 10 on examples small enough to count by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from normnet.config import PostprocessingConfig
from normnet.postprocessing import LesionSteps, dilate, mean_filter, parenchyma_density
from normnet.postprocessing import postprocess as postprocess_hu

TAU = 1 / 3
SMALL = PostprocessingConfig(k_d=3, k_f=3, t_d=0.2, t_f=0.15, dilation_vox=0)
NO_VOTES = np.zeros((9, 9, 9), bool)


def postprocess(thorax, lung_mask, normal_mask, tau, config) -> LesionSteps:
    """HU follow from the windowed thorax."""
    return postprocess_hu(thorax, thorax * 900 - 800, lung_mask, normal_mask, tau, config)


@pytest.fixture
def cube() -> tuple[np.ndarray, np.ndarray]:
    """Lung of 0.1 everywhere (9, 9, 9) with 27 voxels of 0.6 in the middle."""
    thorax = np.full((9, 9, 9), 0.1, np.float32)
    thorax[3:6, 3:6, 3:6] = 0.6
    return thorax, np.ones((9, 9, 9), bool)


def offsets_where(rule) -> np.ndarray:
    """(9, 9, 9) mask of the voxels whose sorted absolute offsets from the middle fulfil the rule."""
    mask = np.zeros((9, 9, 9), bool)
    for z, y, x in product(range(-4, 5), repeat=3):
        mask[4 + z, 4 + y, 4 + x] = rule(sorted(map(abs, (z, y, x)), reverse=True))
    return mask


def overlap(offsets: list[int]) -> int:
    """Voxels that a 3-cube at these offsets shares with the middle one."""
    return int(np.prod([max(0, 3 - d) for d in offsets]))


def test_steps_of_fig_4(cube):
    """Seeds: overlap / 27 > 0.2, six voxels or more. Cap: 0.1 + 0.5 * overlap / 27 > 0.15, three or more."""
    thorax, lung_mask = cube
    steps = postprocess(thorax, lung_mask, NO_VOTES, TAU, SMALL)
    np.testing.assert_array_equal(steps.anomaly, thorax == np.float32(0.6))
    seeds = offsets_where(lambda d: d <= [2, 1, 0] or d == [1, 1, 1])
    assert seeds.sum() == 27 + 6 + 24
    np.testing.assert_array_equal(steps.seeds, seeds)
    np.testing.assert_array_equal(steps.remainder, thorax)
    cap = offsets_where(lambda d: overlap(d) >= 3)
    assert cap.sum() == 27 + 6 + 24 + 24 + 12
    np.testing.assert_array_equal(steps.cap, cap)
    np.testing.assert_array_equal(steps.lesions, seeds)


def test_growth_is_capped(cube):
    """Every voxel of the cap is next to a seed, so one step grows to it and no step beyond."""
    thorax, lung_mask = cube
    for steps_vox in (1, 4):
        config = SMALL.model_copy(update={"dilation_vox": steps_vox})
        assert postprocess(thorax, lung_mask, NO_VOTES, TAU, config).lesions.sum() == 93


def test_voted_normal_is_gone_from_both_images(cube):
    thorax, lung_mask = cube
    steps = postprocess(thorax, lung_mask, thorax > 0.5, TAU, SMALL)
    assert not steps.anomaly.any()
    assert steps.remainder.max() == np.float32(0.1)
    assert not steps.lesions.any()


def test_dark_voxels_are_no_seeds(cube):
    """Just below the threshold: no anomaly, though bright enough for the cap."""
    thorax, lung_mask = cube
    thorax[thorax > 0.5] = TAU - 1e-4
    steps = postprocess(thorax, lung_mask, NO_VOTES, TAU, SMALL)
    assert not steps.anomaly.any()
    assert steps.cap.any()
    assert not steps.lesions.any()
    thorax[thorax > 0.3] = np.float32(TAU) + 1e-6
    assert postprocess(thorax, lung_mask, NO_VOTES, TAU, SMALL).anomaly.sum() == 27


def test_lesions_stay_in_the_lung(cube):
    thorax, lung_mask = cube
    lung_mask[:, :, 5:] = False
    config = SMALL.model_copy(update={"dilation_vox": 3})
    steps = postprocess(thorax * lung_mask, lung_mask, NO_VOTES, TAU, config)
    assert steps.lesions.any()
    assert not (steps.lesions & ~lung_mask).any()


@pytest.mark.parametrize(("dimensions", "reach"), [(2, (1, 3, 3)), (3, (3, 3, 3))])
def test_mean_filter_in_two_and_three_dimensions(dimensions, reach):
    image = np.zeros((5, 5, 5), np.float32)
    image[2, 2, 2] = 1
    config = PostprocessingConfig(dimensions=dimensions)
    mean = mean_filter(image, 3, np.ones_like(image, bool), config)
    assert tuple(np.ptp(np.argwhere(mean > 1e-6), axis=0) + 1) == reach
    assert mean[2, 2, 2] == pytest.approx(1 / np.prod(reach))
    assert mean.sum() == pytest.approx(1)


def test_zeros_count_beyond_the_lung_unless_normalised():
    """All lung voxels are 0.6 and half of the cube around a border voxel is outside: 9 + 9 of 27 voxels."""
    lung_mask = np.zeros((5, 5, 8), bool)
    lung_mask[:, :, :4] = True
    image = np.where(lung_mask, np.float32(0.6), np.float32(0))
    plain = mean_filter(image, 3, lung_mask, PostprocessingConfig())
    assert plain[2, 2, 3] == pytest.approx(0.6 * 18 / 27)
    assert plain[2, 2, 0] == pytest.approx(0.6 * 18 / 27)  # nor does the array go on beyond its border
    normalised = mean_filter(image, 3, lung_mask, PostprocessingConfig(normalised=True))
    assert normalised[lung_mask] == pytest.approx(0.6)


def test_dilation_goes_over_faces():
    mask = np.zeros((7, 7, 7), bool)
    mask[3, 3, 3] = True
    assert dilate(mask, 0).sum() == 1
    assert dilate(mask, 1).sum() == 7
    assert dilate(mask, 2).sum() == 25


def test_nothing_there():
    empty = np.zeros((4, 4, 4), bool)
    steps = postprocess(np.zeros((4, 4, 4), np.float32), empty, empty, TAU, PostprocessingConfig())
    assert not steps.lesions.any()


# --- growth by density ---

GROWING = SMALL.model_copy(update={"grow_vox": 3, "grow_sigma_vox": 0.7, "grow_hu": -750.0})


def chest(halo_hu: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thorax, HU and lung (21, 21, 21): air of -870, a bright core 5 wide in a halo 13 wide."""
    hu = np.full((21, 21, 21), -870, np.float32)
    hu[4:17, 4:17, 4:17] = halo_hu
    hu[8:13, 8:13, 8:13] = -300
    return ((hu + 800) / 900).clip(0, 1), hu, np.ones(hu.shape, bool)


def test_lesions_grow_into_pale_tissue_step_by_step():
    """The halo lies far below the bright threshold; two steps more reach two voxels farther, and never the air."""
    thorax, hu, lung_mask = chest(-680)
    none = np.zeros(hu.shape, bool)
    short, far = (
        postprocess_hu(thorax, hu, lung_mask, none, TAU, GROWING.model_copy(update={"grow_vox": n})) for n in (1, 3)
    )
    assert np.array_equal(short.core, far.core)
    assert not (short.core & (hu == -680))[:6].any()
    assert short.core.sum() < short.lesions.sum() < far.lesions.sum()
    assert not (far.lesions & (hu == -870)).any()
    whole = postprocess_hu(thorax, hu, lung_mask, none, TAU, GROWING.model_copy(update={"grow_vox": 20})).lesions
    assert np.array_equal(whole | far.core, whole)
    assert whole[hu == -680].mean() > 0.8


def test_no_growth_into_healthy_parenchyma_nor_where_it_is_off():
    none = np.zeros((21, 21, 21), bool)
    for halo, config in ((-870, GROWING), (-680, SMALL)):
        thorax, hu, lung_mask = chest(halo)
        steps = postprocess_hu(thorax, hu, lung_mask, none, TAU, config)
        beyond = steps.lesions & ~steps.core
        assert steps.core.any()
        assert beyond.sum() < 0.2 * steps.core.sum()


def test_without_a_core_nothing_grows():
    thorax, hu, lung_mask = chest(-680)
    assert not postprocess_hu(thorax, hu, lung_mask, thorax >= TAU, TAU, GROWING).lesions.any()


def test_density_leaves_out_vessels_and_the_border_of_the_lung():
    """Voted normal and outermost voxels do not count, and nothing outside the lungs does."""
    hu = np.full((9, 9, 15), -850, np.float32)
    hu[:, 4, :] = 40  # a vessel
    lung_mask = np.zeros(hu.shape, bool)
    lung_mask[:, :, 2:13] = True
    hu[:, :, :3] = hu[:, :, 12:] = 200  # wall, and the rim of the mask on it
    density = parenchyma_density(hu, lung_mask, lung_mask & (hu > 0) & (np.arange(15) % 14 > 2), 1.0)
    assert density[3:6, 1:8, 4:11] == pytest.approx(-850, abs=0.1)


# --- the lesion networks' word ---


def test_lesion_networks_add_what_is_sure_and_take_what_is_impossible(cube):
    """The vote's lesion lies in the middle; they deny its upper half and are sure of one voxel elsewhere."""
    thorax, lung_mask = cube
    plain = postprocess(thorax, lung_mask, NO_VOTES, TAU, SMALL)
    prob = np.full(thorax.shape, 0.7, np.float32)
    prob[5:] = 0.4
    prob[0, 0, 0] = 0.95
    lung_mask[8, 8, 8] = False
    prob[8, 8, 8] = 0.95
    asked = postprocess_hu(thorax, thorax * 900 - 800, lung_mask, NO_VOTES, TAU, SMALL, prob)
    np.testing.assert_array_equal(asked.core, plain.core)
    expected = plain.core & (prob > 0.6)
    expected[0, 0, 0] = True
    np.testing.assert_array_equal(asked.lesions, expected)


def test_growth_stays_where_a_lesion_is_possible():
    thorax, hu, lung_mask = chest(-680)
    prob = np.full(hu.shape, 0.7, np.float32)
    prob[:, :10] = 0.0
    none = np.zeros(hu.shape, bool)
    free = postprocess_hu(thorax, hu, lung_mask, none, TAU, GROWING).lesions
    held = postprocess_hu(thorax, hu, lung_mask, none, TAU, GROWING, prob).lesions
    assert free[:, :10].any()
    assert not held[:, :10].any()
    assert (held & ~free).sum() == 0 < held.sum()


@pytest.mark.parametrize("rim_vox", [1, 2])
def test_the_rim_of_the_lungs_is_never_lesion(cube, rim_vox):
    """In each slice alone: the first and the last slice of the lungs keep theirs."""
    thorax, lung_mask = cube
    lung_mask = lung_mask.copy()
    lung_mask[:, 0] = False
    prob_lesion = np.ones((9, 9, 9), np.float32)
    config = SMALL.model_copy(update={"rim_vox": rim_vox})
    steps = postprocess_hu(thorax, thorax * 900 - 800, lung_mask, NO_VOTES, TAU, config, prob_lesion)
    expected = np.zeros((9, 9, 9), bool)
    expected[:, 1 + rim_vox : 9 - rim_vox, rim_vox : 9 - rim_vox] = True
    np.testing.assert_array_equal(steps.lesions, expected)
    assert steps.core[lung_mask].any()
