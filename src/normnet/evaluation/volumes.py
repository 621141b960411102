"""Lesion volume in ml: agreement over cases (Bland and Altman), and area slice by slice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from normnet.evaluation.metrics import check_shapes
from normnet.scan import Geometry


class Agreement(NamedTuple):
    """Differences prediction - reference over cases.

    Source: Bland and Altman 1986, doi:10.1016/S0140-6736(86)90837-8.

    Attributes:
        n: Number of cases.
        bias: Mean difference; NaN without a case.
        sd: Standard deviation of the differences (n - 1), NaN with fewer than two cases.
        low, high: 95 % limits of agreement, bias ± 1.96 sd.
    """

    n: int
    bias: float
    sd: float
    low: float
    high: float


class SliceAreas(NamedTuple):
    """Area of two masks in each axial slice.

    Attributes:
        position_mm: (n,) world position of each slice along the patient, larger towards the head.
        prediction_mm2: (n,) area of the prediction.
        reference_mm2: (n,) area of the reference.
    """

    position_mm: np.ndarray
    prediction_mm2: np.ndarray
    reference_mm2: np.ndarray


def compute_agreement(prediction: Sequence[float], reference: Sequence[float]) -> Agreement:
    """Bias and limits of agreement of paired measurements, such as ml per case."""
    differences = np.asarray(prediction, float) - np.asarray(reference, float)
    n = len(differences)
    bias = float(differences.mean()) if n else math.nan
    sd = float(differences.std(ddof=1)) if n > 1 else math.nan
    return Agreement(n, bias, sd, bias - 1.96 * sd, bias + 1.96 * sd)


def compute_slice_areas(
    prediction: np.ndarray, reference: np.ndarray, geometry: Geometry
) -> SliceAreas:
    """Lesion area of each slice; slices lie across the axis closest to the patient's long axis.

    Args:
        prediction: (z, y, x) bool, in any orientation.
        reference: Same shape, bool.
        geometry: Of both.

    Returns:
        One value per slice, in the order of the array; 0 where a mask is empty.

    Raises:
        GeometryError: If the shapes differ; names both.
    """
    check_shapes(prediction, reference)
    along = int(np.argmax(np.abs(geometry.direction[0])))
    across = tuple(axis for axis in range(3) if axis != along)
    pixel_mm2 = math.prod(geometry.spacing_mm[axis] for axis in across)
    step_mm = geometry.direction[0][along] * geometry.spacing_mm[along]
    positions = geometry.origin_mm[0] + step_mm * np.arange(prediction.shape[along])
    return SliceAreas(
        positions,
        *(np.count_nonzero(mask, axis=across) * pixel_mm2 for mask in (prediction, reference)),
    )
