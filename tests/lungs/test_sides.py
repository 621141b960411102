"""Right and left by the place in the body, also where one lung is in view or missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from normnet.lungs.sides import doubt_sides, find_middle, split_left_right
from tests.phantoms import BONE_HU, TISSUE_HU, Phantom, thorax_phantom

SPACING_MM = (2.5, 2.5, 2.5)
MIDDLE = 63.5
Box = tuple[slice, slice, slice]


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return thorax_phantom(vessels=False)


def labels_of(lungs: np.ndarray, middle: float = MIDDLE) -> np.ndarray:
    """The truth: 1 right of the middle, 2 left of it."""
    return np.where(lungs, np.where(np.arange(lungs.shape[2]) < middle, 1, 2), 0)


def placed(volume_hu: np.ndarray, lungs: np.ndarray) -> tuple[np.ndarray, str]:
    middle = find_middle(volume_hu, lungs, SPACING_MM)
    return split_left_right(lungs, middle.column), middle.by


def without_bone(volume_hu: np.ndarray) -> np.ndarray:
    return np.where(volume_hu > 150, TISSUE_HU, volume_hu)


@pytest.mark.parametrize("mirrored", [False, True], ids=["right", "left"])
@pytest.mark.parametrize(
    ("columns", "bone", "by"),
    [
        (slice(0, 128), True, "spine"),
        (slice(0, 64), True, "spine"),  # half of the spine
        (slice(0, 52), True, "body"),
        (slice(12, 66), True, "spine"),
        (slice(12, 50), True, "border"),  # of the body, nothing but what is inside
        (slice(0, 128), False, "body"),
        (slice(0, 60), False, "body"),
    ],
)
def test_one_lung_in_view_stays_one_lung(phantom, columns, bone, by, mirrored):
    """Whatever of the body is in view; the other lung is solid where it is in view."""
    lungs = labels_of(phantom.lung_mask) == 1
    hu = np.where(phantom.lung_mask & ~lungs, TISSUE_HU, phantom.scan.volume_hu)
    hu = (hu if bone else without_bone(hu))[:, :, columns]
    lungs = lungs[:, :, columns]
    if mirrored:
        hu, lungs = hu[:, :, ::-1], lungs[:, :, ::-1]
    found, seen = placed(hu, lungs)
    np.testing.assert_array_equal(found, np.where(lungs, 2 if mirrored else 1, 0))
    assert seen == by
    (warning,) = doubt_sides(hu, found, SPACING_MM)
    assert warning.startswith("no right lung" if mirrored else "no left lung")
    assert "guess" not in warning


@pytest.mark.parametrize("z", [slice(0, 20), slice(6, 14), slice(44, 64)])
def test_bases_and_apices(phantom, z):
    """Most of the scan is belly or neck, and the upper half of it shows no spine."""
    lungs = phantom.lung_mask & (np.arange(64)[:, None, None] < 14 if z.start < 40 else True)
    hu = np.where(phantom.lung_mask & ~lungs, TISSUE_HU, phantom.scan.volume_hu)[z].copy()
    lungs = lungs[z]
    half = hu[len(hu) * 3 // 4 :]
    half[half > 150] = TISSUE_HU
    for kept in (lungs, lungs & (labels_of(lungs) == 1), lungs & (labels_of(lungs) == 2)):
        np.testing.assert_array_equal(placed(hu, kept)[0], labels_of(kept))


@pytest.mark.parametrize("reach_mm", [10.0, 30.0, 45.0])
@pytest.mark.parametrize("side", [1, 2])
def test_the_lung_that_is_left_crosses_the_middle_in_front(phantom, side, reach_mm):
    """One lung was taken out: the other one pushes the heart aside."""
    y, x = (np.arange(128)[:, None] - MIDDLE) * 2.5, (np.arange(128) - MIDDLE) * 2.5
    outwards = x if side == 2 else -x
    lungs = labels_of(phantom.lung_mask) == side
    across = (np.abs(y + 30) < 30) & (outwards > -reach_mm) & (outwards < 66)
    lungs[16:48] |= across
    hu = np.where(lungs, -850, np.where(phantom.lung_mask, TISSUE_HU, phantom.scan.volume_hu))
    assert (lungs & (labels_of(lungs) != side)).any()
    found, seen = placed(hu, lungs)
    assert seen == "spine"
    np.testing.assert_array_equal(found, np.where(lungs, side, 0))


def test_a_spine_off_the_middle_of_the_image(phantom):
    """The image shows one lung and a strip of the other."""
    part = np.s_[:, :, 20:80]
    lungs = phantom.lung_mask[part]
    found, seen = placed(phantom.scan.volume_hu[part], lungs)
    assert seen == "spine"
    np.testing.assert_array_equal(found, labels_of(lungs, MIDDLE - 20))


def test_a_rim_of_the_other_lung_is_that_lung(phantom):
    lungs = phantom.lung_mask & (labels_of(phantom.lung_mask) == 1)
    lungs[30:34, 60:66, 75:80] = True
    found, _ = placed(phantom.scan.volume_hu, lungs)
    np.testing.assert_array_equal(found, labels_of(lungs))
    (warning,) = doubt_sides(phantom.scan.volume_hu, found, SPACING_MM)
    assert warning.startswith("no left lung in view")


def test_nothing_but_lung_in_view_is_a_guess(phantom):
    part = np.s_[:, 40:80, 20:50]
    lungs = phantom.lung_mask[part].copy()
    lungs[..., [0, -1]] = False
    middle = find_middle(without_bone(phantom.scan.volume_hu[part]), lungs, SPACING_MM)
    assert middle == (14.5, "guess", False)
    (warning,) = doubt_sides(
        without_bone(phantom.scan.volume_hu[part]), lungs.astype(np.uint8), SPACING_MM
    )
    assert "a guess, since neither spine nor body outline is in view" in warning


def test_both_lungs_in_a_full_body_raise_no_doubt(phantom):
    labels = labels_of(phantom.lung_mask)
    assert doubt_sides(phantom.scan.volume_hu, labels, SPACING_MM) == ()


def test_a_patient_who_lies_on_the_belly(phantom):
    """The table is in front; the spine stays at the back, for y runs to the back of the patient."""
    hu = phantom.scan.volume_hu.copy()
    hu[:, 108:], hu[:, 5:9] = -1000, 100
    labels = labels_of(phantom.lung_mask)
    np.testing.assert_array_equal(placed(hu, phantom.lung_mask)[0], labels)
    assert doubt_sides(hu, labels, SPACING_MM) == ()


@pytest.mark.parametrize("flips", [(1,), (1, 2), (0, 1)])
def test_a_spine_in_front_raises_doubt(phantom, flips):
    """The header says that front is back."""
    hu, labels = (np.flip(array, flips) for array in
                  (phantom.scan.volume_hu, labels_of(phantom.lung_mask)))  # fmt: skip
    (warning,) = doubt_sides(hu, labels, SPACING_MM)
    assert "the spine lies in front of the lungs" in warning


@pytest.mark.parametrize(
    ("heart_mm", "told"), [((45.0, 35.0), True), ((40.0, 40.0), True), ((10.0, 40.0), False)]
)
def test_a_heart_on_the_right_raises_doubt(phantom, heart_mm, told):
    """A mirrored image; a heart in the middle, or on the left, is none."""
    off_mm, radius_mm = heart_mm
    z, y, x = ((np.arange(n) - (n - 1) / 2) * 2.5 for n in phantom.scan.shape)
    for sign in (-1, 1):
        heart = (z[:, None, None] + 35) ** 2 + (y[:, None] + 20) ** 2 + (
            x - sign * off_mm
        ) ** 2 < radius_mm**2
        hu = np.where(heart, TISSUE_HU, phantom.scan.volume_hu)
        found = doubt_sides(hu, labels_of(phantom.lung_mask & ~heart), SPACING_MM)
        assert len(found) == (told and sign < 0)
        assert all("may be mirrored" in line for line in found)


def test_a_right_lung_that_shrank_is_not_mirrored(phantom):
    """A collapse of half the right lung draws the heart to the right."""
    labels = labels_of(phantom.lung_mask)
    labels[:, :, 36:64][labels[:, :, 36:64] == 1] = 0
    hu = np.where(phantom.lung_mask & (labels == 0), TISSUE_HU, phantom.scan.volume_hu)
    assert doubt_sides(hu, labels, SPACING_MM) == ()


def test_a_bright_heart_is_no_spine(phantom):
    """Contrast medium: the heart is brighter and larger than the spine, but it lies in front."""
    hu = phantom.scan.volume_hu.copy()
    hu[:, 30:60, 55:95] = BONE_HU
    middle = find_middle(hu, phantom.lung_mask, SPACING_MM)
    assert middle.by == "spine"
    assert middle.column == pytest.approx(MIDDLE, abs=6)


@pytest.mark.parametrize("spacing_mm", [(8.0, 0.8, 0.8), (1.0, 1.5, 1.5), (5.0, 4.0, 3.0)])
def test_any_voxels(spacing_mm):
    shape = tuple(round(mm / own) for mm, own in zip((160, 320, 320), spacing_mm, strict=True))
    phantom = thorax_phantom(shape, spacing_mm, vessels=False)
    lungs = phantom.lung_mask
    for name, cut in (("right", slice(shape[2] // 2)), ("left", slice(shape[2] // 2, None))):
        middle = find_middle(phantom.scan.volume_hu[..., cut], lungs[..., cut], spacing_mm)
        found = split_left_right(lungs[..., cut], middle.column)
        assert set(np.unique(found)) == {0, 1 if name == "right" else 2}


def test_the_scan_is_not_changed(phantom):
    scan = replace(phantom.scan, volume_hu=phantom.scan.volume_hu.copy())
    scan.volume_hu.flags.writeable = False
    find_middle(scan.volume_hu, phantom.lung_mask, SPACING_MM)


def test_a_mask_that_fills_its_array():
    """It has no background to look at."""
    found = split_left_right(np.ones((6, 6, 20), bool), 30.0)
    assert (found == 1).all()
