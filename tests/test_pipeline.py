"""The way of the data on phantoms, with random weights and with the shipped ones."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from normnet import findings, pipeline
from normnet.config import (
    Config,
    NetworkConfig,
    PostprocessingConfig,
    PreparationConfig,
    WindowConfig,
)
from normnet.errors import ValueRangeError
from normnet.findings import Findings
from normnet.inference.precision import choose_precision
from normnet.inference.voting import Votes
from normnet.io.plausibility import doubt_scan, tissue_peaks
from normnet.lungs.given import check_lobes
from normnet.lungs.learned import Lungs
from normnet.models import Members, Model
from normnet.network.unet import build_unet
from normnet.pipeline import (
    Segmentation,
    describe_certainty,
    doubt_breath,
    doubt_density,
    segment,
)
from normnet.postprocessing import Boundary, LesionSteps
from normnet.preparation.breath import add_fluid
from normnet.preparation.prepare import prepare
from normnet.preparation.resample import resample_mask
from normnet.quantification import ZONES, quantify
from normnet.restoration import doubt_volumes, restore_anomaly, widen_lungs
from normnet.scan import Geometry, Scan
from tests.phantoms import Phantom, reorient, thorax_phantom

MOST_BYTES = 7.5  # per voxel, with all results
STAGES = ["lungs", "preparation", "inference", "postprocessing", "restoring"]


def sides_of(phantom: Phantom) -> np.ndarray:
    """The true lungs, 1 right, 2 left."""
    left = np.arange(phantom.scan.shape[2]) >= phantom.scan.shape[2] / 2
    return np.where(phantom.lung_mask, np.where(left, 2, 1), 0).astype(np.uint8)


def arrays_of(found: Segmentation) -> list[np.ndarray]:
    return [found.lesion_mask, found.lung_labels, found.prob_anomaly, found.n_votes_normal]


# --- random weights ---


@pytest.fixture(scope="module")
def tiny_model() -> Model:
    """Three members that do not agree."""
    network = NetworkConfig(channels=(4, 8), n_res_units=1)
    members = []
    for seed in range(3):
        torch.manual_seed(seed)
        member = build_unet(network)
        with torch.no_grad():  # steep enough to pass 0.95 here and there
            for weight in member.parameters():
                weight *= 4
        members.append(member.eval())
    config = Config(network=network, preparation=PreparationConfig(spacing_mm=(4.0, 3.0, 3.0)))
    torch.manual_seed(3)
    lesions = [build_unet(network).eval()]
    return Model(*(Members(networks, config, {}) for networks in (members, [], lesions)))


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return thorax_phantom((32, 72, 80), (5.0, 4.4, 4.0))


@pytest.fixture(scope="module")
def found(phantom, tiny_model) -> Segmentation:
    return segment(phantom.scan, tiny_model, lung_labels=sides_of(phantom))


def test_no_copy_of_a_scan_in_floats_is_made(tiny_model):
    """Beside the scan a few arrays of one byte per voxel are held, and no array of four."""
    shrink = 4
    small = thorax_phantom((40, 96, 96), (6.0, 3.6, 3.6), vessels=False)
    large = [
        array.repeat(shrink, 0).repeat(shrink, 1).repeat(shrink, 2)
        for array in (small.scan.volume_hu, sides_of(small))
    ]
    scan = Scan(large[0], Geometry((1.5, 0.9, 0.9)))
    segment(small.scan, tiny_model, lung_labels=sides_of(small))  # imports
    tracemalloc.start()
    found = segment(scan, tiny_model, lung_labels=large[1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.lesion_mask.shape == scan.shape
    assert peak / scan.volume_hu.size < MOST_BYTES


def test_shapes_types_and_ranges(phantom, found):
    lungs = sides_of(phantom) > 0
    assert all(array.shape == phantom.scan.shape for array in arrays_of(found))
    assert [array.dtype for array in arrays_of(found)] == [bool, np.uint8, np.float32, np.uint8]
    np.testing.assert_array_equal(found.lung_labels, sides_of(phantom))
    assert found.lesion_mask.any()
    assert not found.lesion_mask[~lungs].any()
    assert 0 <= found.prob_anomaly.min() < 0.5 < found.prob_anomaly.max() <= 1
    assert set(np.unique(found.n_votes_normal)) == {0, 1, 2, 3}
    for array in (found.prob_anomaly, found.n_votes_normal):
        assert not array[~lungs].any()
        assert (
            array[phantom.lesion_mask].mean() > 10 * array[lungs & ~phantom.lesion_mask].mean()
        )  # bright voxels only


def test_volumes_follow_from_the_masks(phantom, found):
    assert found.volumes == quantify(
        found.lesion_mask, found.lung_labels, phantom.scan.geometry.voxel_ml
    )
    assert found.precision == choose_precision()
    assert found.backend.startswith("torch ")
    assert found.backend.endswith(", cpu")
    assert found.volumes["both"]["lung_ml"] == pytest.approx(phantom.lung_ml, rel=0.02)
    assert found.volumes["right"]["lung_ml"] == pytest.approx(phantom.lung_ml / 2, rel=0.02)
    n_lesion = found.lesion_mask.sum()
    assert found.volumes["both"]["lesion_ml"] == pytest.approx(
        n_lesion * 5.0 * 4.4 * 4.0 / 1000, rel=1e-3
    )


def test_numbers_of_the_zones_and_the_quality(phantom, found):
    zones = found.quantification["zones"]
    for name in ("lung_ml", "lesion_ml"):
        total = sum(row[name] for row in zones.values())
        assert total == pytest.approx(found.volumes["both"][name], abs=0.05)
    assert 0 < found.quantification["split_votes_percent"] < 100
    assert found.uncertainty == {}
    assert found.quality["flags"] == ["thick_slices"]
    assert json.loads(json.dumps(found.quantification)) == found.quantification


def test_a_lobe_mask_gives_lobes(phantom, tiny_model, found):
    """Numbers of lungmask and of TotalSegmentator; a lobe on the wrong side is refused."""
    sides, upper = sides_of(phantom), np.arange(phantom.scan.shape[0])[:, None, None] >= 16
    lobes = np.select([sides == 2, sides == 1], [np.where(upper, 1, 2), np.where(upper, 3, 5)], 0)
    with_lobes = segment(phantom.scan, tiny_model, lung_labels=sides, lobe_labels=lobes)
    rows = with_lobes.quantification["lobes"]
    assert rows["right_middle"]["lung_ml"] == 0
    for name in ("lung_ml", "lesion_ml"):
        total = sum(row[name] for row in rows.values())
        assert total == pytest.approx(found.volumes["both"][name], abs=0.05)
    assert with_lobes.quantification["severity"]["lobes_score"] > 0
    numbers = np.where(lobes > 0, lobes + 9, 0)
    np.testing.assert_array_equal(check_lobes(numbers, phantom.scan, sides), lobes)
    for wrong, code in (
        (np.where(lobes == 1, 7, lobes), "NN-VAL-023"),
        (np.zeros_like(lobes), "NN-VAL-023"),
        (np.where(lobes > 0, 6 - lobes, 0), "NN-VAL-024"),
    ):
        with pytest.raises(ValueRangeError, match=code):
            check_lobes(wrong, phantom.scan, sides)


def test_stages_are_timed_and_told(phantom, tiny_model):
    told: list[tuple[str, int, int]] = []
    found = segment(
        phantom.scan,
        tiny_model,
        lung_labels=sides_of(phantom),
        on_progress=lambda *step: told.append(step),
    )
    assert list(found.seconds) == STAGES
    assert all(seconds >= 0 for seconds in found.seconds.values())
    assert list(dict.fromkeys(stage for stage, _, _ in told)) == STAGES
    slabs = [(done, total) for stage, done, total in told if stage == "inference"][:-1]
    assert slabs == [(n + 1, len(slabs)) for n in range(len(slabs))]


def test_settings_of_the_user_count(phantom, tiny_model, found):
    """With no vote needed everything is normal; with all of them less is than by the majority."""
    volumes = []
    for min_votes in (0, 3):
        inference = tiny_model.config.inference.model_copy(update={"min_votes": min_votes})
        config = tiny_model.config.model_copy(update={"inference": inference})
        volumes.append(
            segment(
                phantom.scan, tiny_model, config, lung_labels=sides_of(phantom)
            ).lesion_mask.sum()
        )
    assert 0 == volumes[0] < found.lesion_mask.sum() < volumes[1]


def with_lesion_networks(model: Model, **postprocessing) -> Config:
    """The model's settings, with its lesion networks."""
    told = model.config.postprocessing.model_copy(
        update={"lesion_networks": True, **postprocessing}
    )
    return model.config.model_copy(update={"postprocessing": told})


def test_lesion_networks_are_used_where_the_settings_say_so(phantom, tiny_model, found):
    """They mark all lung where all is a candidate, else none; the vote does not change."""
    masks = []
    for prob in (0.0, 1.0):
        config = with_lesion_networks(tiny_model, prob_lesion=prob, prob_possible=prob, step_hu=0.0)
        found_so = segment(phantom.scan, tiny_model, config, lung_labels=sides_of(phantom))
        np.testing.assert_array_equal(found_so.n_votes_normal, found.n_votes_normal)
        masks.append(found_so.lesion_mask)
    assert (
        masks[0][sides_of(phantom) > 0].mean()
        > 0.95
        > found.lesion_mask[sides_of(phantom) > 0].mean()
    )
    assert not masks[1].any()


def test_the_anomaly_map_is_both_kinds_of_networks_opinion(phantom):
    """Bright voxels: their mean. Others in the lungs: the lesion networks. Outside: nothing."""
    prepared = prepare(
        phantom.scan,
        sides_of(phantom),
        PreparationConfig(spacing_mm=(5.0, 4.4, 4.0)),
        WindowConfig(),
    )
    shape = prepared.thorax.shape
    prob_normal, prob_lesion = np.full(shape, 0.8, np.float16), np.full(shape, 0.6, np.float32)
    searched = prepared.cut(sides_of(phantom)) > 0
    bright = searched & (prepared.cut(phantom.scan.volume_hu) >= -500)
    votes = Votes(np.zeros(shape, np.uint8), prob_normal, 1)
    alone, both = (
        restore_anomaly(prepared, Findings(votes, None, prob, None), searched, bright)
        for prob in (None, prob_lesion)
    )
    np.testing.assert_allclose(alone, np.where(bright, 0.2, 0), atol=1e-3)
    np.testing.assert_allclose(both, np.select([bright, searched], [0.4, 0.6], 0), atol=1e-3)


def test_warnings_of_the_reader_and_about_the_lungs(phantom, tiny_model):
    labels = sides_of(phantom)
    labels[labels == 2] = 0
    scan = replace(phantom.scan, warnings=("slices were uneven",))
    warnings = segment(scan, tiny_model, lung_labels=labels).warnings
    assert warnings[0] == "slices were uneven"
    assert warnings[1].startswith("no left lung in view")
    assert len(warnings) == 2


def test_the_scan_stays_as_it_is(phantom, tiny_model):
    volume, labels = phantom.scan.volume_hu.copy(), sides_of(phantom)
    before = volume.copy(), labels.copy()
    volume.flags.writeable = labels.flags.writeable = False
    segment(replace(phantom.scan, volume_hu=volume), tiny_model, lung_labels=labels)
    np.testing.assert_array_equal(volume, before[0])
    np.testing.assert_array_equal(labels, before[1])


# --- depth of breath ---


def breathed_out(phantom: Phantom, share: float) -> Scan:
    """So much of the lungs' air is tissue."""
    hu = phantom.scan.volume_hu.astype(np.float32)
    hu = np.where(phantom.lung_mask, add_fluid(hu, share), hu)
    return replace(phantom.scan, volume_hu=np.rint(hu).astype(np.int16))


@pytest.mark.parametrize(
    ("fluid", "told"), [(-0.06, ""), (0.059, ""), (0.061, " 6 % "), (0.15, " 15 % ")]
)
def test_lungs_far_from_a_deep_inspiration_raise_doubt(phantom, fluid, told):
    prepared = prepare(
        phantom.scan,
        sides_of(phantom),
        PreparationConfig(spacing_mm=(5.0, 4.4, 4.0)),
        WindowConfig(),
    )
    warnings = doubt_breath(replace(prepared, fluid=fluid))
    assert len(warnings) == (told != "")
    assert all(told in line and "breath out" in line and "\n" not in line for line in warnings)


def test_a_scan_of_a_breath_out_is_told_of(phantom, tiny_model):
    """It comes after the doubts about the lungs, and only if the settings measure the breath."""
    scan = replace(breathed_out(phantom, 0.06), warnings=("slices were uneven",))
    labels = sides_of(phantom)
    labels[labels == 2] = 0
    breath = tiny_model.config.preparation.model_copy(update={"breath_limits": (-0.06, 0.15)})
    config = tiny_model.config.model_copy(update={"preparation": breath})
    found = segment(scan, tiny_model, config, lung_labels=labels)
    assert [line.split()[0] for line in found.warnings] == ["slices", "no", "the"]
    share = found.certainty["tissue_in_air"]
    assert f"{100 * share:.0f} % more tissue" in found.warnings[2]
    assert 1 - share == pytest.approx((1 - 0.06) * (1 - 55 / 955), abs=0.01)
    unknown = segment(scan, tiny_model, lung_labels=labels)
    assert len(unknown.warnings) == 2
    assert unknown.certainty["tissue_in_air"] == 0


# --- scale and place ---


def with_fat(phantom: Phantom, thickness_mm: float = 25.0) -> Scan:
    """A layer of fat under the skin, as every body has it."""
    _, ny, nx = phantom.scan.shape
    _, dy, dx = phantom.scan.geometry.spacing_mm
    y = (np.arange(ny)[:, None] - (ny - 1) / 2) * dy
    x = (np.arange(nx) - (nx - 1) / 2) * dx
    inner = (y / (105 - thickness_mm)) ** 2 + (x / (145 - thickness_mm)) ** 2 <= 1
    hu = phantom.scan.volume_hu
    fat = ~inner & (hu > -50) & (hu < 120) & (y < 70)
    return replace(phantom.scan, volume_hu=np.where(fat, hu - 143, hu).astype(np.int16))


@pytest.fixture(scope="module")
def fatty() -> Scan:
    return with_fat(thorax_phantom((40, 128, 128), (4.0, 2.5, 2.5), vessels=False))


def test_peaks_of_the_tissues(fatty):
    peaks = tissue_peaks(fatty)
    found = (peaks.air_hu, peaks.lung_hu, peaks.fat_hu, peaks.muscle_hu)
    np.testing.assert_allclose(found, (-1000, -850, -103, 40), atol=8)
    turned = tissue_peaks(reorient(fatty, (2, 0, 1), (True, False, True)))
    np.testing.assert_allclose(
        found, (turned.air_hu, turned.lung_hu, turned.fat_hu, turned.muscle_hu), atol=8
    )
    lungs_only = replace(fatty, volume_hu=np.full((8, 40, 40), -850, np.int16))
    assert tissue_peaks(lungs_only).muscle_hu is None


@pytest.mark.parametrize(
    ("offset_hu", "told"),
    [(0, ""), (10, ""), (-10, ""), (30, "too high"), (40, "too high"), (60, "too high"),
     (-30, "too low"), (-40, "too low"), (-60, "too low")],
)  # fmt: skip
@pytest.mark.parametrize("clip_hu", [-2000, -1024])
def test_an_offset_of_hu_raises_doubt(fatty, offset_hu, told, clip_hu):
    """Also where the file cannot store air below -1024 HU."""
    hu = np.maximum(fatty.volume_hu + np.int16(offset_hu), np.int16(clip_hu))
    found = doubt_scan(replace(fatty, volume_hu=hu))
    assert len(found) == (told != "")
    assert all(told in line and "HU are about" in line for line in found)


@pytest.mark.parametrize("part", [np.s_[:, 40:80, 40:90], np.s_[:, :, :50], np.s_[30:, 50:]])
def test_no_doubt_of_hu_without_fat_in_view(phantom, part):
    hu = np.ascontiguousarray(phantom.scan.volume_hu[part] + np.int16(15))
    assert doubt_scan(replace(phantom.scan, volume_hu=hu)) == ()


def test_fat_alone_is_no_offset(fatty):
    """Fat and muscle are bright, air is dark: the scale is stretched, not moved."""
    hu = np.where(fatty.volume_hu > -300, fatty.volume_hu + 40, fatty.volume_hu - 20)
    assert doubt_scan(replace(fatty, volume_hu=hu.astype(np.int16))) == ()


def test_air_below_vacuum_raises_doubt(fatty):
    hu = np.where(fatty.volume_hu < -900, fatty.volume_hu - 60, fatty.volume_hu)
    (warning,) = doubt_scan(replace(fatty, volume_hu=hu.astype(np.int16)))
    assert "air around the body" in warning


@pytest.mark.parametrize(
    ("direction", "origin_mm", "spacing_mm", "told"),
    [
        (np.diag([1.0, -1.0, -1.0]), (0, 0, 0), (1, 1, 1), True),
        (np.diag([1.0, -1.0, -1.0]), (0, 0, 5), (1, 1, 1), False),
        (np.diag([1.0, -1.0, -1.0]), (0, 0, 0), (1, 0.7, 0.7), False),
        (np.eye(3), (0, 0, 0), (1, 1, 1), False),  # DICOM of 1 mm
    ],
)
def test_an_affine_that_is_the_identity_raises_doubt(
    phantom, direction, origin_mm, spacing_mm, told
):
    geometry = Geometry(spacing_mm, origin_mm, tuple(map(tuple, direction)))
    found = doubt_scan(replace(phantom.scan, geometry=geometry))
    assert [line.split(",")[0] for line in found] == ["the affine is the identity"] * told


@pytest.mark.parametrize(("share", "told"), [(0.0, False), (0.1, False), (0.25, True)])
def test_a_dense_lung_without_a_measured_breath_raises_doubt(phantom, share, told):
    scan, labels = breathed_out(phantom, share), sides_of(phantom)
    assert len(doubt_density(scan, labels)) == told
    solid = np.where(scan.volume_hu > -300, labels, 0)
    assert len(doubt_density(scan, solid)) == 1  # no aerated lung at all


# --- certainty ---


def steps_of(n_lesion: int, boundary: Boundary | None) -> LesionSteps:
    lesions = np.arange(1000).reshape(10, 10, 10) < n_lesion
    return LesionSteps(*(lesions,) * 6, boundary)


@pytest.mark.parametrize(
    ("n_lesion", "lesion_ml", "range_ml"),
    [(20, 5.0, [2.5, 10.0]), (0, 0.0, [0.0064, 0.0256]), (20, 0.0, [0.0, 0.0])],
)
def test_millilitres_at_other_shares(phantom, n_lesion, lesion_ml, range_ml):
    """20 voxels are 5 ml, so 10 and 40 are 2.5 and 10 ml; else a voxel is 1 x 0.8 x 0.8 mm."""
    prepared = replace(
        prepare(
            phantom.scan,
            sides_of(phantom),
            PreparationConfig(spacing_mm=(5.0, 4.4, 4.0)),
            WindowConfig(),
        ),
        spacing_mm=(1.0, 0.8, 0.8),
        fluid=0.04321,
    )
    boundary = Boundary(-901.23, -499.98, -800.92, (-850.0, -750.0), (10, 40))
    edges = np.zeros(prepared.lung_mask.shape, np.uint8)
    steps = steps_of(n_lesion, boundary)._replace(edges=edges)
    uncertainty = doubt_volumes(
        prepared,
        Findings(None, None, None, steps),
        prepared.cut(sides_of(phantom)),
        {"both": {"lung_ml": 100.0, "lesion_ml": lesion_ml}},
        {"zones": {zone: {"lesion_ml": 0.0} for zone in ZONES}},
    )
    assert uncertainty["lesion_ml"] == pytest.approx(range_ml, abs=5e-4)
    assert uncertainty["lesion_percent"] == pytest.approx(range_ml, abs=5e-4)  # of 100 ml
    told = describe_certainty(prepared, steps, uncertainty, Config())
    densities = {
        "tissue_in_air": 0.0432,
        "healthy_hu": -901.2,
        "disease_hu": -500.0,
        "boundary_hu": -800.9,
    }
    assert told == densities | {
        "lesion_ml_range": uncertainty["lesion_ml"],
        "share_range": list(Config().postprocessing.share_range),
    }
    assert describe_certainty(prepared, steps, {}, Config()) == densities
    assert describe_certainty(prepared, steps_of(n_lesion, None), {}, Config()) == {
        "tissue_in_air": 0.0432
    }


def test_how_sure_the_volume_is(phantom, tiny_model, found, monkeypatch):
    """The volume lies in its range; where the range is one share, both ends are the volume."""
    assert found.certainty == {"tissue_in_air": 0.0}

    def denser(prepared, *_):
        return ((prepared.volume_hu + 800) / 500).clip(0, 1) * prepared.lung_mask

    monkeypatch.setattr(findings, "predict_lesions", denser)
    for shares in ((0.1, 0.6), (0.3, 0.3)):
        config = with_lesion_networks(
            tiny_model, prob_lesion=0.1, step_hu=0.0, share=0.3, share_range=shares
        )
        found_so = segment(phantom.scan, tiny_model, config, lung_labels=sides_of(phantom))
        told, lesion_ml = found_so.certainty, found_so.volumes["both"]["lesion_ml"]
        assert json.loads(json.dumps(told)) == told
        assert told["share_range"] == list(shares)
        assert -870 < told["healthy_hu"] < told["boundary_hu"] < told["disease_hu"] < 100
        low, high = told["lesion_ml_range"]
        zones, ranges = found_so.quantification["zones"], found_so.uncertainty["regions"]
        assert found_so.uncertainty["lesion_ml"] == [low, high]
        for zone, row in zones.items():
            assert ranges[zone][0] <= row["lesion_ml"] <= ranges[zone][1]
        for end, total in enumerate((low, high)):
            assert sum(ranges[zone][end] for zone in zones) == pytest.approx(total, rel=0.05)
        if shares == (0.1, 0.6):
            assert 0 < 1.1 * low < lesion_ml < 0.9 * high
        else:
            assert (low, high) == pytest.approx((lesion_ml, lesion_ml), abs=2e-3)


# --- the shipped weights ---

SHAPE, SPACING_MM = (64, 152, 160), (2.5, 2.1, 2.0)
# Right: ground glass of -500 HU; left: a consolidation. The mean filters of Eq. 10 reach 3 to 4
# voxels of 0.8 to 1 mm and the boundary takes in the half-filled voxels around, so a ball may come
# out 3.5 mm thicker or thinner.
LESIONS_MM, TOLERANCE_MM = {"right": 16.0, "left": 12.0}, 3.5


@pytest.fixture(scope="module")
def sick() -> Phantom:
    return thorax_phantom(SHAPE, SPACING_MM)


@pytest.fixture(scope="module")
def found_sick(sick, shipped_model) -> Segmentation:
    return segment(sick.scan, shipped_model)


@pytest.mark.parametrize("given", [True, False])
def test_lesions_of_known_millilitres_are_found(sick, found_sick, shipped_model, given):
    found = segment(sick.scan, shipped_model, lung_labels=sides_of(sick)) if given else found_sick
    stretch = float(
        np.prod(np.array(SHAPE) * SPACING_MM / (160, 320, 320))
    )  # of the phantom's volume by its field
    for side, radius_mm in LESIONS_MM.items():
        found_mm = (found.volumes[side]["lesion_ml"] * 1000 / stretch / (4 / 3 * np.pi)) ** (1 / 3)
        assert found_mm == pytest.approx(radius_mm, abs=TOLERANCE_MM)
    hit = (found.lesion_mask & sick.lesion_mask).sum()
    assert hit / sick.lesion_mask.sum() > 0.88
    assert hit / found.lesion_mask.sum() > 0.65
    assert found.warnings == ()


def test_anomaly_and_votes_tell_lesions_from_vessels(sick, found_sick):
    bright = (sick.scan.volume_hu >= -500) & (found_sick.lung_labels > 0)
    lesion, vessel = bright & sick.lesion_mask, bright & ~sick.lesion_mask
    assert found_sick.prob_anomaly[lesion].mean() > 0.8
    assert found_sick.prob_anomaly[vessel].mean() < 0.4
    assert found_sick.n_votes_normal[lesion].mean() < 0.2 * found_sick.n_votes_normal[vessel].mean()


def test_the_edge_is_drawn_between_this_lung_and_this_disease(found_sick):
    """The lungs of the phantom are brought from -850 to about -900, its lesions along with them."""
    told = found_sick.certainty
    assert told["tissue_in_air"] == pytest.approx(55 / 955, abs=0.01)
    assert told["healthy_hu"] == pytest.approx(-900, abs=15)
    assert told["disease_hu"] > -600
    assert told["healthy_hu"] + 20 < told["boundary_hu"] < told["disease_hu"] - 100
    low, high = told["lesion_ml_range"]
    assert low <= found_sick.volumes["both"]["lesion_ml"] <= high < 2 * low


def test_a_breath_out_has_the_same_lesions(sick, found_sick, shipped_model):
    found = segment(breathed_out(sick, 0.06), shipped_model, lung_labels=found_sick.lung_labels)
    assert [line for line in found.warnings if "breath out" in line] == list(found.warnings) != []
    both = (found.lesion_mask & found_sick.lesion_mask).sum()
    assert 2 * both / (found.lesion_mask.sum() + found_sick.lesion_mask.sum()) > 0.97
    for name in ("healthy_hu", "boundary_hu"):
        assert found.certainty[name] == pytest.approx(found_sick.certainty[name], abs=10)


def test_healthy_lungs_stay_clean(shipped_model):
    """Vessels, airways and the wall of a phantom without lesions are no lesions."""
    healthy = thorax_phantom(SHAPE, SPACING_MM, lesions=False)
    found = segment(healthy.scan, shipped_model)
    bright = (healthy.scan.volume_hu >= -500) & (found.lung_labels > 0)
    assert bright.sum() * healthy.scan.geometry.voxel_ml > 20
    assert found.volumes["both"]["lesion_percent"] < 0.2


def test_same_input_same_bytes(sick, found_sick, shipped_model):
    again = segment(replace(sick.scan, volume_hu=sick.scan.volume_hu.copy()), shipped_model)
    for first, second in zip(arrays_of(found_sick), arrays_of(again), strict=True):
        assert first.tobytes() == second.tobytes()
    assert again.volumes == found_sick.volumes


@pytest.mark.parametrize(
    ("order", "flips"), [((0, 1, 2), (True, False, True)), ((2, 0, 1), (False, True, False))]
)
def test_any_storage_gives_the_same_masks(sick, found_sick, shipped_model, order, flips):
    found = segment(reorient(sick.scan, order, flips), shipped_model)
    for expected, array in zip(arrays_of(found_sick), arrays_of(found), strict=True):
        stored = reorient(replace(sick.scan, volume_hu=expected), order, flips).volume_hu
        np.testing.assert_array_equal(array, stored)
    assert found.volumes == found_sick.volumes


# --- lungs beside a lesion ---


def test_lungs_are_wider_beside_a_lesion_alone():
    """A dense wall begins at x = 20: it could be lung to 26; the lesion ends at 20."""
    volume = np.full((24, 40, 40), -850, np.int16)
    volume[:, :, 20:] = 0
    volume[12, 16, 22] = -900  # a speck of air in the wall
    volume[10, :, 20:] = -900  # in this slice no wall, but a speck
    volume[10, 16, 22] = 0
    scan = Scan(volume, Geometry((1.0, 0.8, 0.8)), "wall")
    lungs, possible, lesion = (np.zeros(volume.shape, np.uint8) for _ in range(3))
    lungs[4:20, 8:32, 8:20] = 2
    possible[4:20, 8:32, 8:26] = 2
    lesion[8:16, 12:20, 16:20] = 1
    config = Config().model_copy(update={"postprocessing": PostprocessingConfig(lungs_vox=4)})
    prepared = prepare(scan, lungs, config.preparation, config.window)
    on_grid = resample_mask(prepared.cut(lesion), prepared.grid)
    hu, labels, could_be = (prepared.cut(array) for array in (volume, lungs, possible))
    steps = LesionSteps(*(on_grid,) * 6)
    wider = prepared.embed(widen_lungs(hu, labels, could_be, prepared, steps, config))
    np.testing.assert_array_equal(wider[lungs > 0], lungs[lungs > 0])
    assert wider[12, 16, 20:26].tolist() == [2, 2, 2, 2, 0, 0]
    assert wider[11, 16, 20:26].tolist() == [2, 2, 2, 2, 0, 0]
    assert not wider[10, :, 21:].any()
    assert wider[12, 26, 20] == 0  # no lesion beside it
    further = config.model_copy(update={"postprocessing": PostprocessingConfig(lungs_vox=9)})
    widest = prepared.embed(widen_lungs(hu, labels, could_be, prepared, steps, further))
    assert not widest[12, 16, 26:].any()


def test_lungs_are_wider_beside_what_the_lesion_networks_veto(
    phantom, tiny_model, found, monkeypatch
):
    """Half of the vote's lesion is cut off the lungs; nothing is marked, but it may be lung."""
    lungs, y = sides_of(phantom), np.arange(phantom.scan.shape[1])[:, None]
    lungs[found.lesion_mask & (y > np.median(np.nonzero(found.lesion_mask)[1]))] = 0
    monkeypatch.setattr(pipeline, "find_lungs", lambda *_: Lungs(lungs, sides_of(phantom)))
    config = with_lesion_networks(tiny_model, prob_lesion=1.0, prob_possible=1.0, lungs_vox=4)
    vetoed = segment(phantom.scan, tiny_model, config)
    assert not vetoed.lesion_mask.any()
    added = (vetoed.lung_labels > 0) & (lungs == 0)
    assert added.any()
    assert not vetoed.prob_anomaly[added].any()
