"""Lesion-wise detection by hand, and against components of scipy and SimpleITK."""

import math

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import label

from normnet.errors import GeometryError
from normnet.evaluation.lesions import compute_detection
from tests.evaluation.masks import blobs

SHAPE = (3, 3, 12)


def _at(*voxels) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    for voxel in voxels:
        mask[voxel] = True
    return mask


def test_found_missed_and_invented_by_hand():
    reference = _at((0, 0, 0), (0, 0, 1), (0, 0, 5), (0, 0, 6))
    prediction = _at((0, 0, 1), (2, 2, 8), (2, 2, 10))
    detection = compute_detection(prediction, reference, 1.0, min_lesion_ml=0)
    assert detection == (2, 1, 2)
    assert detection.sensitivity == 0.5


def test_corners_connect():
    assert compute_detection(_at(), _at((0, 0, 0), (1, 1, 1)), 1.0, 0).n_reference == 1
    assert compute_detection(_at((0, 0, 0), (1, 1, 1)), _at(), 1.0, 0).n_false == 1
    assert compute_detection(_at(), _at((0, 0, 0), (0, 0, 2)), 1.0, 0).n_reference == 2


def test_touching_is_not_overlap():
    assert compute_detection(_at((0, 0, 1)), _at((0, 0, 0)), 1.0, 0) == (1, 0, 1)


def test_minimum_size():
    """Voxels of 0.1 ml: one voxel is 0.1 ml, two are 0.2, three 0.3; the limit itself counts."""
    reference = _at((0, 0, 0), (0, 0, 4), (0, 0, 5), (0, 0, 8), (0, 0, 9), (0, 0, 10))
    prediction = _at((2, 2, 0), (2, 2, 4), (2, 2, 5), (2, 2, 6))
    for min_lesion_ml, n_lesions, n_false in (
        (0, 3, 2),
        (0.1, 3, 2),
        (0.2, 2, 1),
        (0.3, 1, 1),
        (0.31, 0, 0),
    ):
        assert compute_detection(prediction, reference, 0.1, min_lesion_ml) == (
            n_lesions,
            0,
            n_false,
        )


def test_a_crumb_finds_a_lesion_and_excuses_one():
    large, crumb = _at((0, 0, 0), (0, 0, 1), (0, 0, 2)), _at((0, 0, 1))
    assert compute_detection(crumb, large, 1.0, min_lesion_ml=2) == (1, 1, 0)
    assert compute_detection(large, crumb, 1.0, min_lesion_ml=2) == (0, 0, 0)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected", "sensitivity"),
    [
        (_at(), _at(), (0, 0, 0), math.nan),
        (_at(), _at((0, 0, 0)), (1, 0, 0), 0),
        (_at((0, 0, 0)), _at(), (0, 0, 1), math.nan),
    ],
)
def test_empty_masks(prediction, reference, expected, sensitivity):
    detection = compute_detection(prediction, reference, 1.0)
    assert detection == expected
    np.testing.assert_equal(detection.sensitivity, sensitivity)


def test_shapes_must_agree():
    with pytest.raises(GeometryError, match="NN-GEO-030"):
        compute_detection(_at(), _at()[1:], 1.0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("min_vox", [0, 12])
def test_agrees_with_scipy_and_simpleitk(seed, min_vox):
    prediction, reference = blobs(seed, 0.06), blobs(seed + 20, 0.06)

    def components(mask):
        labels, n = label(mask, np.ones((3, 3, 3)))
        return [
            voxels for voxels in (labels == i for i in range(1, n + 1)) if voxels.sum() >= min_vox
        ]

    found = [bool((lesion & prediction).any()) for lesion in components(reference)]
    false = [not (lesion & reference).any() for lesion in components(prediction)]
    detection = compute_detection(prediction, reference, 0.01, min_vox * 0.01)
    assert detection == (len(found), sum(found), sum(false))
    assert 0 < detection.n_found < detection.n_reference

    labels = sitk.ConnectedComponent(sitk.GetImageFromArray(reference.astype(np.uint8)), True)
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.Execute(labels)
    sizes = [shapes.GetNumberOfPixels(number) for number in shapes.GetLabels()]
    assert detection.n_reference == sum(size >= min_vox for size in sizes)
