"""Eq. 10 on examples small enough to count by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from normnet.config import PostprocessingConfig
from normnet.postprocessing import (
    LesionSteps,
    dilate,
    find_boundary,
    mean_filter,
    parenchyma_density,
)
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
    """(9, 9, 9) mask of voxels whose sorted absolute offsets from the middle fit the rule."""
    mask = np.zeros((9, 9, 9), bool)
    for z, y, x in product(range(-4, 5), repeat=3):
        mask[4 + z, 4 + y, 4 + x] = rule(sorted(map(abs, (z, y, x)), reverse=True))
    return mask


def overlap(offsets: list[int]) -> int:
    """Voxels that a 3-cube at these offsets shares with the middle one."""
    return int(np.prod([max(0, 3 - d) for d in offsets]))


def test_steps_of_fig_4(cube):
    """Seeds need six voxels: overlap / 27 > 0.2. The cap needs three: 0.1 + n / 54 > 0.15."""
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
    """All lung is 0.6, and of the cube around a border voxel 18 of 27 voxels are inside."""
    lung_mask = np.zeros((5, 5, 8), bool)
    lung_mask[:, :, :4] = True
    image = np.where(lung_mask, np.float32(0.6), np.float32(0))
    plain = mean_filter(image, 3, lung_mask, PostprocessingConfig())
    assert plain[2, 2, 3] == pytest.approx(0.6 * 18 / 27)
    assert plain[2, 2, 0] == pytest.approx(
        0.6 * 18 / 27
    )  # nor does the array go on beyond its border
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


# --- density ---


def test_density_leaves_out_vessels_and_the_border_of_the_lung():
    """Voted normal and outermost voxels do not count, and nothing outside the lungs does."""
    hu = np.full((9, 9, 15), -850, np.float32)
    hu[:, 4, :] = 40  # a vessel
    lung_mask = np.zeros(hu.shape, bool)
    lung_mask[:, :, 2:13] = True
    hu[:, :, :3] = hu[:, :, 12:] = 200  # wall, and the rim of the mask on it
    density = parenchyma_density(
        hu, lung_mask, lung_mask & (hu > 0) & (np.arange(15) % 14 > 2), 1.0
    )
    assert density[3:6, 1:8, 4:11] == pytest.approx(-850, abs=0.1)


# --- the boundary between this patient's lung and this patient's disease ---

PATCHES_HU = {"healthy": -900, "hazy": -850, "pale": -780, "disease": -500}
BOUNDED = SMALL.model_copy(
    update={
        "prob_lesion": 0.2,
        "prob_possible": 0.02,
        "step_hu": 0.0,
        "share": 0.25,
        "share_range": (0.15, 0.35),
        "disease_percentile": 90.0,
        "least_contrast_hu": 150.0,
        "density_sigma_vox": 0.5,
    }
)


def patient(**changes_hu: float) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Four patches of even density one after the other along x.

    Returns:
        HU (12, 12, 64), where each patch lies without its border with the next, and what the lesion
        networks say: nothing, 0.3, 0.3 and 0.9.
    """
    patches = PATCHES_HU | changes_hu
    hu, inside = np.empty((12, 12, 64), np.float32), {}
    for n, (name, patch_hu) in enumerate(patches.items()):
        hu[..., 16 * n : 16 * (n + 1)] = patch_hu
        inside[name] = np.zeros(hu.shape, bool)
        inside[name][1:-1, 1:-1, 16 * n + 2 : 16 * n + 14] = True
    prob = np.repeat(np.float32([0, 0.3, 0.3, 0.9]), 16) * np.ones(hu.shape, np.float32)
    return hu, inside, prob


def bounded(
    hu: np.ndarray, prob: np.ndarray, thorax: np.ndarray | None = None, **settings
) -> LesionSteps:
    """Nothing is voted normal; without a thorax Eq. 10 finds nothing."""
    lung_mask, none = np.ones(hu.shape, bool), np.zeros(hu.shape, bool)
    thorax = np.zeros(hu.shape, np.float32) if thorax is None else thorax
    return postprocess_hu(
        thorax, hu, lung_mask, none, TAU, BOUNDED.model_copy(update=settings), prob
    )


def marked(steps: LesionSteps, inside: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: float(steps.lesions[part].mean()) for name, part in inside.items()}


def test_the_boundary_lies_a_quarter_of_the_way_to_the_disease():
    """-900 + 0.25 x 400 = -800: the pale candidates are denser, the hazy ones are not."""
    hu, inside, prob = patient()
    steps = bounded(hu, prob)
    assert steps.boundary[:3] == pytest.approx((-900, -500, -800), abs=0.5)
    assert marked(steps, inside) == {"healthy": 0, "hazy": 0, "pale": 1, "disease": 1}


@pytest.mark.parametrize(
    ("share", "boundary_hu", "pale"), [(0.1, -860, 1), (0.25, -800, 1), (0.35, -760, 0)]
)
def test_the_share_says_where(share, boundary_hu, pale):
    hu, inside, prob = patient()
    steps = bounded(hu, prob, share=share)
    assert steps.boundary.lesion_hu == pytest.approx(boundary_hu, abs=0.5)
    assert marked(steps, inside) == {"healthy": 0, "hazy": share < 0.12, "pale": pale, "disease": 1}


@pytest.mark.parametrize(
    ("step_hu", "boundary_hu", "hazy"), [(20, -860, 1), (60, -820, 0), (130, -750, 0)]
)
def test_a_step_above_the_healthy_lung(step_hu, boundary_hu, hazy):
    """And a twentieth of the 400 HU to the disease; the range of shares begins there, too."""
    hu, inside, prob = patient()
    steps = bounded(hu, prob, step_hu=step_hu, share=0.05, share_range=(0.05, 0.05))
    assert steps.boundary[:3] == pytest.approx((-900, -500, boundary_hu), abs=0.5)
    assert marked(steps, inside) == {
        "healthy": 0,
        "hazy": hazy,
        "pale": boundary_hu < -780,
        "disease": 1,
    }
    assert steps.boundary.n_vox_range == (steps.lesions.sum(),) * 2


def test_the_same_haze_is_lesion_beside_paler_disease():
    """-900 + 0.25 x 160 = -860."""
    hu, inside, prob = patient(disease=-740)
    steps = bounded(hu, prob)
    assert steps.boundary.lesion_hu == pytest.approx(-860, abs=0.5)
    assert marked(steps, inside) == {"healthy": 0, "hazy": 1, "pale": 1, "disease": 1}


@pytest.mark.parametrize(("least", "boundary_hu"), [(100, -875), (150, -862.5), (400, -800)])
def test_least_contrast(least, boundary_hu):
    """Disease 50 HU above the lung counts as if it were so much above it."""
    hu, _, prob = patient(hazy=-900, pale=-900, disease=-850)
    steps = bounded(hu, prob, least_contrast_hu=least)
    assert steps.boundary[:3] == pytest.approx((-900, -900 + least, boundary_hu), abs=0.5)
    assert steps.lesions.any() == (boundary_hu < -850)


def test_dense_is_not_enough():
    """Denser than the boundary, but nobody says lesion; then what is said of the pale alone."""
    hu, inside, prob = patient()
    assert not bounded(hu, prob, prob_lesion=0.95).lesions.any()
    assert not bounded(hu, np.zeros_like(prob)).lesions.any()
    prob[inside["pale"]] = 0.1
    assert marked(bounded(hu, prob), inside) == {"healthy": 0, "hazy": 0, "pale": 0, "disease": 1}


def test_the_disease_is_as_dense_as_its_densest_tenth():
    """Three quarters of it are at -700, one quarter at -500."""
    hu, _, prob = patient()
    hu[:9, :, 48:] = -700
    for percentile, disease_hu in ((50, -700), (90, -500)):
        boundary = bounded(hu, prob, disease_percentile=percentile).boundary
        assert boundary.disease_hu == pytest.approx(disease_hu, abs=0.5)


def test_a_constant_on_everything_moves_the_boundary_by_it():
    hu, _, prob = patient()
    hu += np.random.default_rng(0).normal(0, 40, hu.shape).astype(np.float32)
    before, after = bounded(hu, prob), bounded(hu + 37, prob)
    assert np.subtract(after.boundary[:3], before.boundary[:3]) == pytest.approx([37] * 3, abs=0.01)
    assert after.boundary.n_vox_range == before.boundary.n_vox_range
    np.testing.assert_array_equal(after.lesions, before.lesions)
    assert 0 < before.lesions.mean() < 0.6


def test_voxels_at_both_ends_of_the_range_of_shares():
    """At 0.35 the boundary is -760, at 0.05 it is -880: the disease alone, or all candidates."""
    hu, inside, prob = patient()
    boundary = bounded(hu, prob, share_range=(0.05, 0.35)).boundary
    fewest, most = boundary.n_vox_range
    assert fewest == bounded(hu, prob, share=0.35).lesions.sum()
    assert most == bounded(hu, prob, share=0.05).lesions.sum()
    assert inside["disease"].sum() <= fewest < bounded(hu, prob).lesions.sum() < most
    assert most == pytest.approx(3 * 16 * 144, rel=0.03)
    assert (
        bounded(hu, prob, share_range=(0.25, 0.25)).boundary.n_vox_range
        == (bounded(hu, prob).lesions.sum(),) * 2
    )


@pytest.mark.parametrize(("possible", "kept"), [(0.02, True), (0.06, False)])
def test_what_eq_10_finds_counts_where_it_is_possible(possible, kept):
    """The networks give it 0.05, too little for a candidate of their own."""
    hu, inside, prob = patient()
    prob[inside["pale"]] = 0.05
    thorax = np.where(inside["pale"], np.float32(0.5), np.float32(0))
    steps = bounded(hu, prob, thorax, prob_possible=possible)
    assert steps.core[inside["pale"]].mean() > 0.9
    assert steps.lesions[inside["pale"]].mean() == (
        steps.core[inside["pale"]].mean() if kept else 0
    )
    assert marked(steps, inside)["disease"] == 1
    thorax = np.where(inside["hazy"], np.float32(0.5), np.float32(0))
    prob[inside["hazy"]] = 0.05
    assert not bounded(hu, prob, thorax).lesions[inside["hazy"]].any()  # below the boundary


@pytest.mark.parametrize("wide", [False, True])
def test_vessels_tell_nothing_of_the_lung(wide):
    """Thin ones would raise the median; in the middle of a wide one no lung is near."""
    hu, inside, prob = patient()
    vessels = np.zeros(hu.shape, bool)
    if wide:
        vessels[..., :11] = True
    else:
        vessels[:, ::3, :16] = vessels[:, 1::9, :16] = True  # half of it
    hu[vessels] = 0
    lung_mask, zero = np.ones(hu.shape, bool), np.zeros(hu.shape, np.float32)
    steps = postprocess_hu(zero, hu, lung_mask, vessels, TAU, BOUNDED, prob)
    assert steps.boundary[:3] == pytest.approx((-900, -500, -800), abs=0.5)
    assert marked(steps, inside) == {"healthy": 0, "hazy": 0, "pale": 1, "disease": 1}


def test_what_eq_10_finds_is_not_healthy():
    """Ten of sixteen layers are dense; the networks see nothing there, Eq. 10 does."""
    hu, _, prob = patient()
    hu[..., :10] = -400
    thorax = np.where(np.arange(64) < 10, np.float32(0.5), np.float32(0)) * np.ones(
        hu.shape, np.float32
    )
    assert bounded(hu, prob, thorax).boundary.healthy_hu == pytest.approx(-900, abs=0.5)
    assert bounded(hu, prob).boundary.healthy_hu == pytest.approx(-400, abs=0.5)


def test_too_few_voxels_to_take_a_density_from():
    """Nothing healthy: air stands in for it. Nothing sure: the least contrast does."""
    hu, _, prob = patient()
    assert bounded(hu, np.ones_like(prob)).boundary.healthy_hu == -1000
    unsure = bounded(hu, np.minimum(prob, 0.3)).boundary
    assert unsure[:3] == pytest.approx((-900, -750, -862.5), abs=0.5)
    empty = find_boundary(*(np.zeros(0, np.float32),) * 3, BOUNDED)
    assert (*empty[:3], empty.n_vox_range) == (-1000, -850, -962.5, (0, 0))


@pytest.mark.parametrize(
    ("n_healthy", "healthy_hu"), [(19, -1000), (20, -900), (49, -1000), (50, -900)]
)
def test_scraps_beside_much_disease_are_no_healthy_lung(n_healthy, healthy_hu):
    """Twenty voxels at least, and a twentieth of the disease's: 400 or 1000."""
    disease = np.full(400 if n_healthy <= 20 else 1000, -500, np.float32)
    found = find_boundary(np.full(n_healthy, -900, np.float32), disease, disease, BOUNDED)
    assert found.healthy_hu == healthy_hu
    assert found.lesion_hu == pytest.approx(healthy_hu + 0.25 * (-500 - healthy_hu))


def test_no_lung_at_all():
    hu, _, prob = patient()
    none = np.zeros(hu.shape, bool)
    steps = postprocess_hu(np.zeros_like(hu), hu, none, none, TAU, BOUNDED, prob * 0)
    assert not steps.lesions.any()
    assert steps.boundary.n_vox_range == (0, 0)


def test_without_the_lesion_networks_it_is_eq_10(cube):
    thorax, lung_mask = cube
    steps = postprocess(thorax, lung_mask, NO_VOTES, TAU, SMALL)
    assert steps.boundary is None
    assert steps.core.any()
    np.testing.assert_array_equal(steps.lesions, steps.core)
    rimmed = postprocess(thorax, lung_mask, NO_VOTES, TAU, SMALL.model_copy(update={"rim_vox": 3}))
    np.testing.assert_array_equal(rimmed.core, steps.core)
    expected = steps.core.copy()
    expected[:, [0, 1, 2, -3, -2, -1]] = expected[:, :, [0, 1, 2, -3, -2, -1]] = False
    np.testing.assert_array_equal(rimmed.lesions, expected)
    assert 0 < expected.sum() < steps.core.sum()


@pytest.mark.parametrize("rim_vox", [0, 1, 2])
def test_the_rim_of_the_lungs_is_never_lesion(rim_vox):
    """In each slice alone: the first and the last slice of the lungs keep theirs."""
    hu = np.full((9, 30, 30), -400, np.float32)
    hu[:, :15] = -900
    prob = (hu > -500).astype(np.float32)
    lung_mask, none = np.ones(hu.shape, bool), np.zeros(hu.shape, bool)
    lung_mask[:, -1] = False
    config = BOUNDED.model_copy(update={"rim_vox": rim_vox, "density_sigma_vox": 1.0})
    steps = postprocess_hu(np.zeros_like(hu), hu, lung_mask, none, TAU, config, prob)
    expected = np.zeros(hu.shape, bool)
    expected[:, 15 : 29 - rim_vox, rim_vox : 30 - rim_vox] = True
    np.testing.assert_array_equal(steps.lesions, expected)
    assert steps.boundary.n_vox_range == (expected.sum(),) * 2
