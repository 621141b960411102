"""Surface distances by hand, against MONAI, against distance transforms and against SimpleITK."""

import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from scipy.ndimage import distance_transform_edt

from normnet.errors import GeometryError
from normnet.evaluation.surfaces import compute_surface_scores, surface_distances_mm, surface_of
from tests.evaluation.masks import blobs, box

SPACING_MM = (2.5, 0.8, 0.7)
EMPTY = np.zeros((3, 4, 5), bool)
SOME = box((3, 4, 5), 1, 1, 1)


def test_surface_has_a_face_outside():
    solid = box((5, 5, 5), slice(0, 3), slice(1, 4), slice(1, 4))
    inner = box((5, 5, 5), 1, 2, 2)
    np.testing.assert_array_equal(surface_of(solid), solid & ~inner)
    solid[2, 1, 1] = False  # a corner: the centre touches it with no face
    assert not surface_of(solid)[1, 2, 2]


@pytest.mark.parametrize(("axis", "step_mm"), list(enumerate(SPACING_MM)))
def test_two_voxels_by_hand(axis, step_mm):
    other = np.roll(SOME, 1, axis)
    scores = compute_surface_scores(SOME, other, SPACING_MM, tolerance_mm=step_mm)
    assert scores == pytest.approx((1, step_mm, step_mm))  # the tolerance is inclusive
    assert (
        compute_surface_scores(SOME, other, SPACING_MM, tolerance_mm=step_mm - 0.01).surface_dice
        == 0
    )


def test_three_voxels_by_hand():
    """Prediction at 0 and 4 mm, reference at 0 mm: outward 0 and 4, inward 0."""
    prediction, reference = (box((1, 1, 5), 0, 0, on) for on in ([0, 4], [0]))
    scores = compute_surface_scores(prediction, reference, (1, 1, 1), tolerance_mm=1)
    assert scores.surface_dice == pytest.approx(2 / 3)
    assert scores.hd95_mm == pytest.approx(
        0.95 * 4
    )  # linear between the two distances; inward alone it is 0
    assert scores.mean_mm == pytest.approx(4 / 3)
    assert compute_surface_scores(reference, prediction, (1, 1, 1), tolerance_mm=1) == scores


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        (EMPTY, EMPTY, (1, 0, 0)),
        (EMPTY, SOME, (0, math.nan, math.nan)),
        (SOME, EMPTY, (0, math.nan, math.nan)),
        (SOME, SOME, (1, 0, 0)),
    ],
)
def test_empty_masks(prediction, reference, expected):
    np.testing.assert_equal(
        tuple(compute_surface_scores(prediction, reference, SPACING_MM)), expected
    )


def test_shapes_must_agree():
    with pytest.raises(GeometryError, match="NN-GEO-030"):
        compute_surface_scores(SOME, SOME[1:], SPACING_MM)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tolerance_mm", [0.75, 2.0])
def test_agrees_with_monai(seed, tolerance_mm):
    """Same surface, same percentile; its surfaces reach the edge of the array as ours do."""
    prediction, reference = blobs(seed), blobs(seed + 10, 0.1)
    ours = compute_surface_scores(prediction, reference, SPACING_MM, tolerance_mm)
    masks = [
        torch.from_numpy(mask)[None, None] for mask in (prediction, reference)
    ]  # (B, C, D, H, W)
    options = {"include_background": True, "spacing": SPACING_MM}
    theirs = (
        compute_surface_dice(*masks, [tolerance_mm], **options),
        compute_hausdorff_distance(*masks, percentile=95, **options),
        compute_average_surface_distance(*masks, symmetric=True, **options),
    )
    assert 0.05 < ours.surface_dice < 0.95
    assert ours == pytest.approx([value.item() for value in theirs], rel=1e-5)


def test_agrees_with_distance_transforms():
    masks = blobs(1), blobs(2)
    for ours, mask, other in zip(
        surface_distances_mm(*masks, SPACING_MM), masks, masks[::-1], strict=True
    ):
        to_other = distance_transform_edt(~surface_of(other), SPACING_MM)
        np.testing.assert_allclose(ours, to_other[surface_of(mask)], atol=1e-9)


def test_maximum_and_mean_agree_with_simpleitk_on_surfaces():
    """Its filters take all voxels of a mask, so they get surfaces; it averages both means."""
    masks = blobs(3), blobs(4)
    outward, inward = surface_distances_mm(*masks, SPACING_MM)
    images = [sitk.GetImageFromArray(surface_of(mask).astype(np.uint8)) for mask in masks]
    for image in images:
        image.SetSpacing(SPACING_MM[::-1])
    filtered = sitk.HausdorffDistanceImageFilter()
    filtered.Execute(*images)
    assert max(outward.max(), inward.max()) == pytest.approx(
        filtered.GetHausdorffDistance(), rel=1e-5
    )
    assert (outward.mean() + inward.mean()) / 2 == pytest.approx(
        filtered.GetAverageHausdorffDistance(), rel=1e-5
    )


def test_cropping_changes_nothing():
    masks = blobs(5), blobs(6)
    wide = [np.pad(mask, ((0, 3), (5, 0), (2, 2))) for mask in masks]
    assert compute_surface_scores(*wide, SPACING_MM) == pytest.approx(
        compute_surface_scores(*masks, SPACING_MM)
    )
