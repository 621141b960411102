"""Millilitres counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from normnet.quantification import quantify


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
