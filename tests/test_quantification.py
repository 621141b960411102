"""Millilitres counted by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from normnet.quantification import (
    LOBES,
    ZONES,
    Found,
    add_lobes,
    measure,
    measure_range,
    quantify,
    zones_of_planes,
)


def test_both_sides():
    labels = np.zeros((10, 10, 10), np.uint8)
    labels[:, :, 1:4] = 1  # 300 voxels
    labels[:, :, 6:8] = 2  # 200 voxels
    lesions = np.zeros(labels.shape, bool)
    lesions[0, :, 2] = True  # 10 right
    lesions[0:4, :, 6] = True  # 40 left
    found = quantify(lesions, labels, voxel_ml=0.5)
    assert found["right"] == {
        "lung_ml": 150.0,
        "lesion_ml": 5.0,
        "lesion_percent": pytest.approx(3.333),
    }
    assert found["left"] == {"lung_ml": 100.0, "lesion_ml": 20.0, "lesion_percent": 20.0}
    assert found["both"] == {"lung_ml": 250.0, "lesion_ml": 25.0, "lesion_percent": 10.0}


def test_one_lung_only():
    labels = np.ones((2, 2, 2), np.uint8)
    found = quantify(np.zeros(labels.shape, bool), labels, 1.0)
    assert found["left"] == {"lung_ml": 0.0, "lesion_ml": 0.0, "lesion_percent": None}
    assert (
        found["both"] == found["right"] == {"lung_ml": 8.0, "lesion_ml": 0.0, "lesion_percent": 0.0}
    )


def test_lesions_outside_the_lungs_do_not_count():
    labels = np.zeros((2, 2, 2), np.uint8)
    labels[0] = 1
    found = quantify(np.ones(labels.shape, bool), labels, 0.25)
    assert found["both"] == {"lung_ml": 1.0, "lesion_ml": 1.0, "lesion_percent": 100.0}


def test_values_are_plain_numbers():
    """They go to JSON as they are."""
    found = quantify(np.ones((1, 1, 1), bool), np.ones((1, 1, 1), np.uint8), 0.1)
    assert {type(value) for row in found.values() for value in row.values()} <= {float, type(None)}


# --- zones, densities, lesions, scores ---


def lungs_and_ball(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], radius_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """Two ellipsoids, and a ball in the right one, 30 mm above its centre."""
    axes = [(np.arange(n) - (n - 1) / 2) * d for n, d in zip(shape, spacing_mm, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    labels = np.zeros(shape, np.uint8)
    for label, middle in ((1, -65), (2, 65)):
        inside = (z / 90) ** 2 + (y / 70) ** 2 + ((x - middle) / 50) ** 2 <= 1
        labels[inside] = label
    ball = (z - 30) ** 2 + y**2 + (x + 65) ** 2 <= radius_mm**2
    return labels, ball


@pytest.mark.parametrize(
    ("shape", "spacing_mm"),
    [((130, 110, 150), (1.5, 1.5, 1.6)), ((200, 160, 170), (1.0, 1.0, 1.5)),
     ((48, 210, 310), (4.0, 0.8, 0.8))],
)  # fmt: skip
def test_known_millilitres_are_measured_within_one_per_cent(shape, spacing_mm):
    """Against the volumes of the shapes, not of their voxels."""
    labels, ball = lungs_and_ball(shape, spacing_mm, 25.0)
    volumes = quantify(ball, labels, float(np.prod(spacing_mm)) / 1000)
    ball_ml, lung_ml = 4 / 3 * np.pi * 25**3 / 1000, 4 / 3 * np.pi * 90 * 70 * 50 / 1000
    assert volumes["right"]["lesion_ml"] == pytest.approx(ball_ml, rel=0.01)
    assert volumes["right"]["lung_ml"] == pytest.approx(lung_ml, rel=0.01)
    assert volumes["both"]["lung_ml"] == pytest.approx(2 * lung_ml, rel=0.01)
    found = measure(found_of(ball, labels, spacing_mm))
    (lesion,) = found["lesions"]["largest"]
    assert lesion["ml"] == pytest.approx(ball_ml, rel=0.01)
    assert lesion["diameter_mm"] == pytest.approx(50, abs=max(spacing_mm))
    # the ball is centred at the border of the middle and the upper third
    halves = [found["zones"][f"right_{third}"]["lesion_ml"] for third in ("upper", "middle")]
    assert halves == pytest.approx([ball_ml / 2] * 2, rel=0.13 if spacing_mm[0] > 2 else 0.05)
    assert sum(row["lesion_ml"] for row in found["zones"].values()) == pytest.approx(
        volumes["both"]["lesion_ml"], abs=0.01
    )


def found_of(
    lesion_mask: np.ndarray,
    labels: np.ndarray,
    spacing_mm: tuple[float, ...] = (1.0, 1.0, 1.0),
    hu: np.ndarray | int = -850,
    **changes: object,
) -> Found:
    volume_hu = np.broadcast_to(np.asarray(hu, np.int16), labels.shape)
    nothing = np.zeros(labels.shape, np.uint8)
    found = Found(volume_hu, lesion_mask, labels, nothing, nothing > 0, 5, spacing_mm)
    return found._replace(**changes)


def test_zones_are_thirds_of_each_lung():
    """The left lung is shorter and lies higher."""
    labels = np.zeros((12, 2, 4), np.uint8)
    labels[0:9, :, :2], labels[6:12, :, 2:] = 1, 2
    zones = zones_of_planes(labels)
    assert zones[:9, 1].tolist() == [3, 3, 3, 2, 2, 2, 1, 1, 1]
    assert zones[6:, 2].tolist() == [6, 6, 5, 5, 4, 4]
    assert not zones[:, 0].any()
    rows = measure(found_of(labels > 5, labels))["zones"]
    assert list(rows) == list(ZONES)
    assert [rows[zone]["lung_ml"] for zone in ZONES] == [0.01] * 6
    turned = zones_of_planes(np.zeros((3, 2, 2), np.uint8))
    assert not turned.any()


def test_bands_hold_their_lower_limit():
    hu = np.array([-1150, -951, -950, -751, -750, -301, -300, 49, 50, 1500]).reshape(10, 1, 1)
    labels = np.ones((10, 1, 1), np.uint8)
    lesions = hu >= -750
    found = measure(found_of(lesions, labels, (10.0, 10.0, 10.0), hu))
    bands = found["hu_bands"]
    assert [row["lung_ml"] for row in bands.values()] == [2.0] * 5
    assert [row["lesion_ml"] for row in bands.values()] == [0, 0, 2, 2, 2]
    assert [row["lung_percent"] for row in bands.values()] == [20.0] * 5
    assert (bands["hyperinflated"]["low_hu"], bands["above"]["high_hu"]) == (None, None)
    assert found["ground_glass_percent"] == found["consolidation_percent"] == 33.333
    assert found["mean_lung_density_hu"] == pytest.approx(hu.mean(), abs=0.05)
    assert found["mean_lesion_density_hu"] == pytest.approx(hu[lesions].mean(), abs=0.05)
    histogram = found["lung_density_histogram"]
    expected, edges = np.histogram(hu, np.arange(-1050, 175, 25))
    assert histogram["edges_hu"] == edges.tolist()
    assert histogram["lung_ml"] == expected.tolist()
    assert sum(histogram["lesion_ml"]) == 5  # all but 1500


def test_hu_with_decimals_are_rounded():
    labels = np.ones((1, 1, 2), np.uint8)
    hu = np.array([-750.4, -750.6], np.float32).reshape(1, 1, 2)
    bands = measure(found_of(labels > 5, labels, volume_hu=hu))["hu_bands"]
    assert bands["normal"]["lung_percent"] == bands["ground_glass"]["lung_percent"] == 50.0


def test_lesions_are_counted_from_a_tenth_of_a_millilitre_on():
    labels = np.ones((40, 40, 40), np.uint8)
    lesions = np.zeros(labels.shape, bool)
    lesions[2:4, 2:12, 2:7] = True  # 100 mm³
    lesions[10:12, 2:13, 2:6] = True  # 88 mm³
    lesions[20:30, 20:30, 20:30] = True
    lesions[30, 30, 30] = True  # touches it at a corner
    hu = np.where(lesions, -400, -850)
    hu[20:, :, :] += 100
    found = measure(found_of(lesions, labels, hu=hu))["lesions"]
    assert found["count"] == 2
    first, second = found["largest"]
    assert (first["label"], first["ml"], first["mean_hu"]) == (1, 1.001, -300.0)
    assert (second["label"], second["ml"], second["mean_hu"]) == (2, 0.1, -400.0)
    assert first["diameter_mm"] == pytest.approx(10 * 3**0.5, rel=0.01)
    assert second["diameter_mm"] == pytest.approx((1 + 81 + 16) ** 0.5, rel=0.01)
    assert (first["zone"], second["zone"]) == ("right_middle", "right_lower")


def test_at_most_ten_lesions_are_listed():
    lesions = np.zeros((60, 12, 12), bool)
    for n in range(12):
        lesions[5 * n : 5 * n + 4, :8, : 4 + n // 2] = True
    found = measure(found_of(lesions, np.ones(lesions.shape, np.uint8)))["lesions"]
    assert found["count"] == 12
    sizes = [row["ml"] for row in found["largest"]]
    assert len(sizes) == 10
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("percent", "zone", "lobe"),
    [(0, 0, 0), (0.01, 1, 1), (4.99, 1, 1), (5, 1, 2), (24.99, 1, 2), (25, 2, 2), (25.01, 2, 3),
     (49.99, 2, 3), (50, 3, 3), (50.01, 3, 4), (74.99, 3, 4), (75, 4, 4), (75.01, 4, 5),
     (100, 4, 5)],
)  # fmt: skip
def test_boundaries_of_the_scores(percent, zone, lobe):
    """Of the published tables."""
    n = round(percent * 100)
    lungs = np.ones((3, 1, 10000), np.uint8)
    lesions = np.zeros(lungs.shape, bool)
    lesions[2, :, :n] = True  # the upper third of the right lung
    found = measure(found_of(lesions, lungs))
    assert found["severity"]["zones_score"] == found["severity"]["zones"]["right_upper"] == zone
    lobes = np.zeros(lungs.shape, np.uint8)
    lobes[2] = 3
    severity = add_lobes(found, lesions, lobes, 0.001)["severity"]
    assert severity["zones_score"] == zone
    assert severity["lobes_score"] == severity["lobes"]["right_upper"] == lobe
    assert "lobes" not in found


def test_worst_scores():
    labels = np.ones((6, 5, 5), np.uint8)
    labels[:, :, 3:] = 2
    lobes = np.tile(np.arange(1, 6, dtype=np.uint8), (6, 5, 1))
    found = add_lobes(measure(found_of(labels > 0, labels)), labels > 0, lobes, 0.001)
    assert (found["severity"]["zones_score"], found["severity"]["lobes_score"]) == (24, 25)
    assert list(found["lobes"]) == list(LOBES)
    assert found["lobes"]["left_lower"] == {
        "lung_ml": 0.03, "lesion_ml": 0.03, "lesion_percent": 100.0
    }  # fmt: skip


def test_split_votes():
    """Of eight bright voxels three are split, one of them in the lesion, which has two."""
    labels = np.ones((1, 1, 10), np.uint8)
    votes = np.array([0, 5, 1, 4, 2, 5, 0, 5, 3, 0], np.uint8).reshape(1, 1, 10)
    bright = np.arange(10).reshape(1, 1, 10) < 8
    lesions = (votes == 2) | (np.arange(10) == 0)
    found = measure(found_of(lesions, labels, n_votes_normal=votes, bright=bright))
    assert found["split_votes_percent"] == 37.5
    assert found["split_votes_lesion_percent"] == 50.0


def test_nothing_to_measure():
    labels = np.zeros((4, 4, 4), np.uint8)
    found = measure(found_of(labels > 0, labels))
    assert found["mean_lung_density_hu"] is found["ground_glass_percent"] is None
    assert found["split_votes_percent"] is None
    assert found["lesions"] == {"count": 0, "min_ml": 0.1, "largest": []}
    assert found["severity"]["zones_score"] == 0
    assert json.loads(json.dumps(found)) == found


def test_ranges_of_zones_hold_the_volumes():
    """A zone whose lesion is known in both grids is scaled; an empty one counts its voxels."""
    labels, ball = lungs_and_ball((60, 50, 80), (3.0, 3.0, 3.0), 25.0)
    volumes, found = quantify(ball, labels, 0.027), measure(found_of(ball, labels, (3.0,) * 3))
    n_vox = np.array([[40, 20, 10], [30, 30, 20], [5, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]])
    told = measure_range(volumes, found, n_vox, (20.0, 90.0), 0.1)
    upper, middle = (found["zones"][f"right_{third}"]["lesion_ml"] for third in ("upper", "middle"))
    assert told["regions"]["right_upper"] == pytest.approx([upper / 2, 2 * upper], abs=1e-3)
    assert told["regions"]["right_middle"] == pytest.approx([middle * 2 / 3, middle], abs=1e-3)
    assert told["regions"]["right_lower"] == [0.0, 0.5]
    assert told["regions"]["left"] == [0.0, 0.0]
    assert told["lesion_ml"] == [20.0, 90.0]
    assert told["lesion_percent"] == pytest.approx(
        [100 * ml / volumes["both"]["lung_ml"] for ml in (20, 90)], abs=1e-3
    )
