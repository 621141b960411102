"""Overlap of two masks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from normnet.errors import GeometryError


@dataclass(frozen=True)
class Overlap:
    """Overlap of a prediction with a reference mask.

    The results of empty masks are fixed; NaN where a ratio is not defined:

    ==========  =========  ===  =========  ===========
    prediction  reference  dsc  precision  sensitivity
    ==========  =========  ===  =========  ===========
    empty       empty      1    1          1
    empty       some       0    NaN        0
    some        empty      0    0          NaN
    ==========  =========  ===  =========  ===========

    Attributes:
        dsc: Dice similarity coefficient, 0 to 1.
        precision: Share of the prediction that is in the reference.
        sensitivity: Share of the reference that is in the prediction.
        n_true: Number of voxels in both (true positives).
        n_false: Number of voxels in the prediction alone (false positives).
        n_missed: Number of voxels in the reference alone (false negatives).
    """

    dsc: float
    precision: float
    sensitivity: float
    n_true: int
    n_false: int
    n_missed: int


def compute_overlap(prediction: np.ndarray, reference: np.ndarray) -> Overlap:
    """Dice, precision and sensitivity of two masks on one grid.

    Args:
        prediction: bool, any shape.
        reference: bool, the same shape.

    Raises:
        GeometryError: If the shapes differ; names both.
    """
    check_shapes(prediction, reference)
    n_true = int(np.count_nonzero(prediction & reference))
    n_false = int(np.count_nonzero(prediction)) - n_true
    n_missed = int(np.count_nonzero(reference)) - n_true
    if n_true + n_false + n_missed == 0:
        return Overlap(1.0, 1.0, 1.0, 0, 0, 0)
    return Overlap(
        2 * n_true / (2 * n_true + n_false + n_missed),
        compute_share(n_true, n_true + n_false),
        compute_share(n_true, n_true + n_missed),
        n_true,
        n_false,
        n_missed,
    )


def check_shapes(first: np.ndarray, second: np.ndarray) -> None:
    """Raise ``GeometryError`` unless both have one shape."""
    if first.shape != second.shape:
        raise GeometryError(
            "NN-GEO-030", f"shapes {first.shape} and {second.shape} differ", "", "use one grid"
        )


def compute_share(part: int, whole: int) -> float:
    """``part / whole``; NaN if the whole is 0."""
    return part / whole if whole else math.nan
