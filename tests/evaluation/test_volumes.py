"""Agreement of volumes by hand; areas of slices in any orientation."""

import math

import numpy as np
import pytest

from normnet.errors import GeometryError
from normnet.evaluation.volumes import compute_agreement, compute_slice_areas
from normnet.scan import Geometry
from tests.evaluation.masks import box


def test_agreement_by_hand():
    """Differences 1, 3, -1: mean 1, standard deviation 2."""
    assert compute_agreement([11, 23, 4], [10, 20, 5]) == pytest.approx(
        (3, 1, 2, 1 - 3.92, 1 + 3.92)
    )


def test_agreement_of_few_cases():
    np.testing.assert_equal(tuple(compute_agreement([], [])), (0, *[math.nan] * 4))
    np.testing.assert_equal(tuple(compute_agreement([0.0], [2.5])), (1, -2.5, *[math.nan] * 3))


def test_slice_areas_by_hand():
    geometry = Geometry((5.0, 2.0, 1.5), (-100.0, 7.0, 9.0))
    prediction = box((4, 3, 3), 1, slice(2), slice(2))
    reference = box((4, 3, 3), slice(1, 3), 0, 0)
    areas = compute_slice_areas(prediction, reference, geometry)
    assert areas.position_mm.tolist() == [-100, -95, -90, -85]
    assert areas.prediction_mm2.tolist() == [0, 12, 0, 0]
    assert areas.reference_mm2.tolist() == [0, 3, 3, 0]
    volume_ml = areas.prediction_mm2.sum() * 5 / 1000
    assert volume_ml == pytest.approx(prediction.sum() * geometry.voxel_ml)


def test_slices_run_along_the_patient_not_the_array():
    """Array axes x, z (downwards), y of the patient."""
    geometry = Geometry((1.5, 5.0, 2.0), (50.0, 0.0, 0.0), ((0, -1.0, 0), (0, 0, 1.0), (1.0, 0, 0)))
    prediction = box((3, 4, 3), slice(2), 1, slice(2))
    areas = compute_slice_areas(prediction, np.zeros_like(prediction), geometry)
    assert areas.position_mm.tolist() == [50, 45, 40, 35]
    assert areas.prediction_mm2.tolist() == [0, 12, 0, 0]
    assert areas.reference_mm2.tolist() == [0, 0, 0, 0]


def test_shapes_must_agree():
    with pytest.raises(GeometryError, match="NN-GEO-030"):
        compute_slice_areas(np.zeros((2, 2, 2), bool), np.zeros((2, 2, 3), bool), Geometry())
