"""Lungs as masks: which components stay, which side they are on."""

from __future__ import annotations

import numpy as np
import pytest

from normnet.lungs.anatomy import doubt_cut, doubts, find_fat, jumping_share, left_out_share
from normnet.lungs.anatomy import keep_lungs as keep_lungs_of
from normnet.lungs.sides import split_left_right

SPACING_MM = (5.0, 5.0, 5.0)  # 0.125 ml a voxel


def boxes(*corners: tuple[slice, slice, slice], shape=(24, 40, 60)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for box in corners:
        mask[box] = True
    return mask


def keep_lungs(mask: np.ndarray, hu: float | np.ndarray = -850.0) -> np.ndarray:
    return keep_lungs_of(mask, np.broadcast_to(hu, mask.shape), SPACING_MM)


RIGHT = (slice(2, 22), slice(8, 32), slice(5, 25))
LEFT = (slice(2, 22), slice(8, 32), slice(35, 55))
MIDDLE = 29.5


def test_small_components_go():
    bowel = (slice(0, 4), slice(36, 40), slice(28, 32))  # 64 voxels, 8 ml
    np.testing.assert_array_equal(keep_lungs(boxes(RIGHT, LEFT, bowel)), boxes(RIGHT, LEFT))


def test_a_lung_cut_in_two_stays_whole():
    upper, lower = (slice(2, 15), *RIGHT[1:]), (slice(17, 22), *RIGHT[1:])
    mask = boxes(upper, lower, LEFT)
    np.testing.assert_array_equal(keep_lungs(mask), mask)


def test_a_share_of_the_largest_is_needed():
    """40 ml beside 1200 ml are too small, beside 600 ml they are not."""
    piece = (slice(0, 4), slice(0, 4), slice(28, 48))
    big = (slice(5, 24), slice(5, 40), slice(0, 16))
    assert not keep_lungs(boxes(piece, big))[piece].any()
    half = (slice(5, 14), slice(5, 40), slice(0, 16))
    assert keep_lungs(boxes(piece, half))[piece].all()


def test_air_beside_the_body_goes():
    """As large as a lung, but nothing else than air; a lung with emphysema stays."""
    wedge = (slice(2, 22), slice(36, 40), slice(5, 55))
    hu = np.where(boxes(wedge), -1005.0, np.where(boxes(LEFT), -940.0, -850.0))
    np.testing.assert_array_equal(keep_lungs(boxes(RIGHT, LEFT, wedge), hu), boxes(RIGHT, LEFT))
    assert not keep_lungs(boxes(wedge), hu).any()


def test_enclosed_holes_are_filled():
    mask = boxes(RIGHT, LEFT)
    mask[10, 15:20, 10:15] = False
    np.testing.assert_array_equal(keep_lungs(mask), boxes(RIGHT, LEFT))


def test_nothing_stays_nothing():
    assert not keep_lungs(np.zeros((4, 5, 6), bool)).any()


def test_right_is_one_left_is_two():
    """x runs to the patient's left."""
    labels = split_left_right(boxes(RIGHT, LEFT), MIDDLE)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels == 1, boxes(RIGHT))
    np.testing.assert_array_equal(labels == 2, boxes(LEFT))


def test_touching_lungs_are_told_apart():
    """A thin bridge at the anterior junction, off the middle of the image."""
    bridge = (slice(10, 14), slice(8, 11), slice(25, 35))
    mask = boxes(RIGHT, LEFT, bridge)
    labels = split_left_right(mask, MIDDLE)
    np.testing.assert_array_equal(labels > 0, mask)
    assert (labels[RIGHT] == 1).all()
    assert (labels[LEFT] == 2).all()
    assert {1, 2} == set(np.unique(labels[bridge]))


def test_unequal_lungs():
    """The left lung is small and the middle of the chest lies in the right one's half."""
    small = (slice(2, 10), slice(8, 20), slice(45, 55))
    labels = split_left_right(boxes(RIGHT, small), MIDDLE)
    np.testing.assert_array_equal(labels == 2, boxes(small))


def test_one_lump_is_cut_in_the_middle():
    lump = (slice(2, 22), slice(8, 32), slice(10, 50))
    labels = split_left_right(boxes(lump), MIDDLE)
    assert (labels[2:22, 8:32, 10:29] == 1).all()
    assert (labels[2:22, 8:32, 31:50] == 2).all()


@pytest.fixture
def chest() -> tuple[np.ndarray, np.ndarray]:
    """Two lungs of 3 mm voxels in tissue, and their labels."""
    lungs = boxes(
        (slice(2, 22), slice(5, 35), slice(5, 25)),
        (slice(2, 22), slice(5, 35), slice(45, 65)),
        shape=(24, 40, 70),
    )
    return np.where(lungs, -850, 40).astype(np.int16), split_left_right(lungs, 34.5)


def test_whole_lungs_raise_no_doubt(chest):
    volume_hu, labels = chest
    assert left_out_share(volume_hu, labels, (3.0, 3.0, 3.0)) == 0
    assert doubts(volume_hu, labels, (3.0, 3.0, 3.0)) == ()


def test_a_bay_of_dense_tissue_raises_doubt(chest):
    """A consolidation 4 x 5 voxels wide at the wall of the right lung, left out in every slice."""
    volume_hu, labels = chest
    bay = (slice(2, 22), slice(15, 20), slice(5, 9))
    labels[bay] = 0
    n_bay, n_lung = 20 * 5 * 4, int((labels > 0).sum())
    assert (
        left_out_share(volume_hu, labels, (3.0, 3.0, 3.0)) == 0
    )  # air in the bay is no consolidation
    volume_hu[bay] = 0
    share = left_out_share(volume_hu, labels, (3.0, 3.0, 3.0))
    assert 0.5 * n_bay / n_lung < share <= n_bay / n_lung
    volume_hu[2:22, 15:20, 5:17] = 0  # deeper
    labels[2:22, 15:20, 5:17] = 0
    assert "left out" in doubts(volume_hu, labels, (3.0, 3.0, 3.0))[0]


def test_a_small_side_raises_doubt(chest):
    volume_hu, labels = chest
    labels[:, 15:, 45:] = 0
    assert [text.split(" lung ")[0] for text in doubts(volume_hu, labels, (3.0, 3.0, 3.0))] == [
        "the left"
    ]
    swapped = np.where(labels > 0, 3 - labels, 0)
    assert doubts(volume_hu, swapped, (3.0, 3.0, 3.0))[0].startswith("the right lung")


def test_fat_is_no_lung_but_disease_is():
    """A block of -95 HU is fat; consolidation, ground glass and a steep edge are not."""
    rng = np.random.default_rng(0)
    hu = np.full((40, 60, 60), -850, np.float32)
    hu[5:20, 5:25, 5:25] = -95  # 15 x 20 x 20 voxels of 2 x 1.5 x 1.5 mm: 27 ml
    hu[5:20, 35:55, 5:25] = 40
    hu[5:20, 5:25, 35:55] = -500
    hu[25:35, 5:25, 5:55] = np.linspace(-850, 40, 20)[:, None]  # from lung to tissue within 30 mm
    hu += rng.normal(0, 20, hu.shape).astype(np.float32)
    lungs = np.ones(hu.shape, bool)
    fat = find_fat(hu, lungs, (2.0, 1.5, 1.5))
    truth = np.zeros(hu.shape, bool)
    truth[5:20, 5:25, 5:25] = True
    assert fat[truth].mean() > 0.8
    assert fat[:22][~truth[:22]].sum() < 0.1 * truth.sum()
    assert not fat[:22, 27:].any()
    assert not fat[:22, :, 27:].any()
    assert fat[22:].sum() * 4.5 / 1000 < 1.5
    lungs[:, :30] = False
    assert not find_fat(hu, lungs, (2.0, 1.5, 1.5)).any()


def test_little_fat_is_left_alone():
    hu = np.full((20, 30, 30), -850, np.float32)
    hu[8:11, 12:18, 12:18] = -95
    assert not find_fat(hu, np.ones(hu.shape, bool), (2.0, 1.5, 1.5)).any()


def test_aerated_consolidation_is_no_fat():
    """At the mean HU of fat, but with the texture of a lung that still holds air."""
    hu = np.full((20, 60, 60), -850, np.float32)
    hu[5:15, 10:50, 10:50] = -80 + np.random.default_rng(0).normal(0, 70, (10, 40, 40))
    assert not find_fat(hu, np.ones(hu.shape, bool), (6.0, 1.5, 1.5)).any()


def test_slices_that_disagree_with_both_beside_them():
    """A slice that lacks one of two lungs is half a slice of twenty; a lung may end."""
    labels = boxes(RIGHT).astype(np.uint8) + 2 * boxes(LEFT).astype(np.uint8)
    assert jumping_share(labels) == 0
    labels[10][labels[10] == 2] = 0
    assert jumping_share(labels) == pytest.approx(0.5 / 19.5)
    (warning,) = doubts(np.where(labels > 0, -850.0, 40.0), labels, SPACING_MM)[-1:]
    assert "slices of the lung mask disagree on 2.6 %" in warning
    labels[:10][labels[:10] == 2] = 0  # now the left lung begins above
    assert jumping_share(labels) == 0


@pytest.mark.parametrize(
    ("where", "named"),
    [
        (np.s_[:5, 8:32, 5:25], "at the bottom"),
        (np.s_[4:, 8:32, 5:25], "at the top"),
        (np.s_[4:20, :30, 5:25], "in front"),
        (np.s_[4:20, 20:, 5:25], "at the back"),
        (np.s_[4:20, 8:32, :25], "on the right"),
        (np.s_[4:20, 8:32, 25:], "on the left"),
        (np.s_[:, 8:32, 5:25], "at the bottom and at the top"),
    ],
)
def test_lungs_that_the_scan_cuts(where, named):
    labels = np.zeros((24, 40, 60), np.uint8)
    labels[where] = 1
    (warning,) = doubt_cut(labels, SPACING_MM)
    assert f"the scan cuts the lungs {named}:" in warning


def test_a_rim_at_the_border_is_no_cut():
    """9 cm2 in the lowest slice."""
    labels = boxes(RIGHT, LEFT).astype(np.uint8)
    assert doubt_cut(labels, SPACING_MM) == ()
    labels[0, 8:14, 5:11] = 1
    assert doubt_cut(labels, SPACING_MM) == ()
