"""Labels of a given lung mask: by their place, by their HU, never by their number alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from normnet.errors import GeometryError, ValueRangeError
from normnet.filters import dilate
from normnet.lungs.given import sort_lungs
from normnet.lungs.learned import doubt_lungs
from normnet.lungs.organs import LOBES, ORGANS
from normnet.scan import Scan
from tests.phantoms import AIR_HU, Phantom, reorient, thorax_phantom

STORAGES = [
    ((0, 1, 2), (False, False, False)),
    ((0, 1, 2), (False, False, True)),
    ((0, 1, 2), (True, True, True)),
    ((2, 0, 1), (False, True, True)),
]


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return thorax_phantom((40, 96, 96), (4.0, 3.3, 3.3), vessels=False)


@pytest.fixture(scope="module")
def sides(phantom) -> np.ndarray:
    left = np.arange(phantom.scan.shape[2]) >= phantom.scan.shape[2] / 2
    return np.where(phantom.lung_mask, np.where(left, 2, 1), 0).astype(np.uint8)


@pytest.fixture(scope="module")
def lobes(sides) -> np.ndarray:
    """1 right upper, 2 right middle, 3 right lower, 4 left upper, 5 left lower."""
    z = np.arange(len(sides))[:, None, None]
    right = np.select([z > 24, z > 16], [1, 2], 3)
    return np.where(sides == 1, right, np.where(sides == 2, np.where(z > 20, 4, 5), 0))


def renamed(labels: np.ndarray, names: dict[int, int]) -> np.ndarray:
    table = np.zeros(256, np.uint8)
    table[list(names)] = list(names.values())
    return table[labels]


def organs_of(phantom: Phantom) -> dict[int, np.ndarray]:
    """Some organs of the phantom by their numbers in TotalSegmentator."""
    hu, lungs = phantom.scan.volume_hu, phantom.lung_mask
    z, y, x = np.indices(hu.shape)
    return {
        51: (hu > -50) & (hu < 150) & ~lungs & (abs(x - 48) < 6) & (y < 45) & (y > 25),  # heart
        31: (hu > 250) & (z < 20),  # vertebra L1
        16: (hu < AIR_HU + 60) & (abs(x - 48) < 4) & (abs(y - 45) < 4) & ~lungs,  # trachea
    }


def test_right_and_left_stay_as_they_are(phantom, sides):
    found, warnings = sort_lungs(sides, phantom.scan)
    np.testing.assert_array_equal(found, sides)
    assert found.dtype == np.uint8
    assert warnings == ()


@pytest.mark.parametrize(("order", "flips"), STORAGES)
def test_swapped_labels_are_corrected(phantom, sides, order, flips):
    stored = reorient(phantom.scan, order, flips)
    mask, expected = (
        reorient(replace(phantom.scan, volume_hu=array), order, flips).volume_hu
        for array in (renamed(sides, {1: 2, 2: 1}), sides)
    )
    found, warnings = sort_lungs(mask, stored)
    np.testing.assert_array_equal(found, expected)
    assert len(warnings) == 1
    assert "label 1 of the lung mask lies on the left of the patient" in warnings[0]


@pytest.mark.parametrize("value", [True, 1, 2, 7, 255])
@pytest.mark.parametrize(("order", "flips"), STORAGES[1:3])
def test_one_value_is_split(phantom, sides, value, order, flips):
    mask, expected = (
        reorient(replace(phantom.scan, volume_hu=array), order, flips).volume_hu
        for array in ((sides > 0) * np.array(value), sides)
    )
    found, warnings = sort_lungs(mask, reorient(phantom.scan, order, flips))
    np.testing.assert_array_equal(found, expected)
    assert warnings == ()


def test_lungs_that_touch_in_a_mirrored_scan(phantom, sides):
    """To part them they are eroded, as they lie in the file."""
    touching = (sides > 0) | dilate(sides > 0, 6, within=organs_of(phantom)[51])
    middle = sides.shape[2] // 2
    touching[18:22, 40:44, middle - 16 : middle + 16] = True
    stored = reorient(phantom.scan, (0, 1, 2), (False, False, True))
    found, _ = sort_lungs(touching[:, :, ::-1].copy(), stored)
    expected, _ = sort_lungs(touching, phantom.scan)
    assert set(np.unique(expected)) == {0, 1, 2}
    assert (found[:, :, ::-1] == expected).mean() > 0.999


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("kind", ["plane", "box"])
def test_a_thin_mask_and_one_that_fills_its_box(axis, kind):
    """At fine spacing, between the voxels that are looked at first."""
    phantom = thorax_phantom((60, 96, 96), (1.2, 2.5, 2.5), vessels=False)
    mask = np.zeros(phantom.scan.shape, np.uint8)
    middle = [int(np.median(at)) for at in np.nonzero(phantom.lung_mask)]
    at = [slice(n - 6, n + 6) for n in middle]
    if kind == "plane":
        at[axis] = slice(middle[axis] | 1, (middle[axis] | 1) + 1)
    mask[tuple(at)] = 1
    mask &= phantom.lung_mask
    try:
        found, _ = sort_lungs(mask, phantom.scan)
    except ValueRangeError:
        return
    assert (found > 0).sum() == mask.sum()
    doubt_lungs(phantom.scan, found)


@pytest.mark.parametrize("side", [1, 2])
@pytest.mark.parametrize("value", [1, 2, 9])
def test_a_mask_of_one_lung(phantom, sides, side, value):
    found, warnings = sort_lungs(np.where(sides == side, value, 0), phantom.scan)
    np.testing.assert_array_equal(found, np.where(sides == side, side, 0))
    assert warnings == ()  # doubt_sides says that a lung is missing


LOBE_NAMES = {
    "TotalSegmentator 2": {1: 12, 2: 13, 3: 14, 4: 10, 5: 11},
    "TotalSegmentator 1": {1: 15, 2: 16, 3: 17, 4: 13, 5: 14},
    "lungmask": {1: 3, 2: 4, 3: 5, 4: 1, 5: 2},
    "right first": {1: 1, 2: 2, 3: 3, 4: 4, 5: 5},
    "left lung of lungmask": {1: 0, 2: 0, 3: 0, 4: 1, 5: 2},
}


@pytest.mark.parametrize("names", LOBE_NAMES.values(), ids=LOBE_NAMES)
def test_lobes(phantom, sides, lobes, names):
    mask = renamed(lobes, names)
    found, warnings = sort_lungs(mask, phantom.scan)
    np.testing.assert_array_equal(found, np.where(mask > 0, sides, 0))
    assert warnings == ()


def test_lobes_whose_names_contradict_their_place(phantom, sides, lobes):
    found, warnings = sort_lungs(renamed(lobes, {1: 10, 3: 11, 4: 12, 5: 14}), phantom.scan)
    np.testing.assert_array_equal(found[found > 0], sides[found > 0])
    assert "label 10 (left upper lobe in TotalSegmentator) lies on the right" in warnings[0]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([51], "label 51 (heart in TotalSegmentator) of the lung mask is not lung"),
        ([31, 51], "labels 31 (vertebra L1 in TotalSegmentator), 51 (heart"),
        ([16], "label 16 (trachea in TotalSegmentator)"),
        ([16, 31, 51], "labels 16 (trachea"),
    ],
)
def test_other_organs_are_left_out_by_name(phantom, sides, lobes, values, told):
    mask = renamed(lobes, LOBE_NAMES["TotalSegmentator 2"])
    for value in values:
        assert organs_of(phantom)[value].any()
        mask[organs_of(phantom)[value]] = value
    found, (warning,) = sort_lungs(mask, phantom.scan)
    np.testing.assert_array_equal(found, sides)
    assert told in warning
    assert "left out" in warning


def test_many_organs_are_counted(phantom, sides):
    mask = sides.copy()
    mask[:8, 40:50, 44:52] = np.arange(100, 108)[:, None, None]
    _, (warning,) = sort_lungs(mask, phantom.scan)
    assert "and 3 more of the lung mask are not lung" in warning


@pytest.mark.parametrize("value", [3, 4, 200])
def test_heart_and_trachea_by_any_number(phantom, sides, value):
    """Of a program that nobody knows: by HU and place."""
    for organ in (51, 16):
        mask = sides.copy()
        mask[organs_of(phantom)[organ]] = value
        found, (warning,) = sort_lungs(mask, phantom.scan)
        np.testing.assert_array_equal(found, sides)
        assert f"label {value}" in warning


@pytest.mark.parametrize("right_is", [1, 2])
def test_disease_is_lung(phantom, sides, right_is):
    """Two lungs and ground glass in them, as COVID-19 data sets label them."""
    scan, glass = with_glass(phantom, sides)
    mask = renamed(sides, {1: right_is, 2: 3 - right_is})
    mask[glass] = 3
    found, warnings = sort_lungs(mask, scan)
    np.testing.assert_array_equal(found, sides)
    assert len(warnings) == (right_is == 2)
    found, warnings = sort_lungs(np.where(glass, 2, sides > 0), scan)
    np.testing.assert_array_equal(found, sides)
    assert warnings == ()


def with_glass(phantom: Phantom, sides: np.ndarray) -> tuple[Scan, np.ndarray]:
    glass = (sides > 0) & (np.arange(96)[:, None] > 55)
    hu = np.where(glass, -450, phantom.scan.volume_hu).astype(np.int16)
    return replace(phantom.scan, volume_hu=hu), glass


@pytest.mark.parametrize(("organ", "value"), [(51, 51), (31, 31), (51, 1)])
def test_a_mask_of_another_organ_is_refused(phantom, organ, value):
    mask = np.where(organs_of(phantom)[organ], value, 0)
    with pytest.raises(ValueRangeError, match="NN-VAL-022") as caught:
        sort_lungs(mask, phantom.scan)
    assert f"label {value}" in str(caught.value)
    assert ("in TotalSegmentator" in str(caught.value)) == (value > 5)


def test_a_mask_of_the_body_raises_doubt(phantom):
    _, (warning,) = sort_lungs(phantom.scan.volume_hu > -950, phantom.scan)
    assert "it may hold more than lung" in warning


@pytest.mark.parametrize(
    ("value", "code"),
    [(-1.0, "NN-VAL-009"), (0.5, "NN-VAL-009"), (300.0, "NN-VAL-009"), (np.nan, "NN-VAL-005")],
)
def test_values_that_are_no_labels(phantom, value, code):
    with pytest.raises(ValueRangeError, match=code):
        sort_lungs(np.where(phantom.lung_mask, value, 0), phantom.scan)


def test_an_empty_mask_and_another_grid(phantom):
    with pytest.raises(ValueRangeError, match="NN-VAL-021"):
        sort_lungs(np.zeros(phantom.scan.shape, bool), phantom.scan)
    with pytest.raises(GeometryError, match="NN-GEO-031"):
        sort_lungs(np.ones((4, 4, 4), bool), phantom.scan)


def test_the_table_of_organs():
    assert (len(ORGANS), ORGANS[25], ORGANS[50], ORGANS[52]) == (
        117,
        "sacrum",
        "vertebra C1",
        "aorta",
    )
    assert (ORGANS[92], ORGANS[104], ORGANS[115]) == ("left rib 1", "right rib 1", "right rib 12")
    assert ["left" in ORGANS[value] for value in LOBES] == [True, True, False, False, False]
