"""All scores of a lesion mask: what each one means, how it is computed, shown and compared.

A new score is one entry in ``SCORES``. It then stands in the tables and the CSV of ``normnet
evaluate``, and ``scores = [...]`` of a table in ``configs/experiments`` can name it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from normnet.evaluation.bright import BrightCounts, BrightScores, pool_bright, score_bright
from normnet.evaluation.lesions import Detection, compute_detection
from normnet.evaluation.metrics import Overlap, check_shapes, compute_overlap
from normnet.evaluation.surfaces import TOLERANCE_MM, SurfaceScores, compute_surface_scores
from normnet.evaluation.tables import number
from normnet.filters import bounding_box
from normnet.quantification import MIN_LESION_ML
from normnet.scan import Geometry

# Tables of ``normnet evaluate`` and their titles.
TABLES = {
    "lesions": "Lesions, voxel by voxel",
    "surfaces": "Surfaces (tolerance {tolerance_mm:g} mm) and lesions of at least "
    "{min_lesion_ml:g} ml",
    "bright": "Bright voxels of the lungs, healthy is positive",
}


@dataclass(frozen=True)
class Comparison:
    """The lesions found in one case beside the reference: all that a score is computed from.

    Attributes:
        prediction_mask: (z, y, x) bool.
        reference_mask: Same shape, bool.
        geometry: Of both masks before they were cut; its spacing counts.
        bright: Bright voxels (Table II); None without the CT or the probabilities.
        tolerance_mm: Distance up to which surfaces agree.
        min_lesion_ml: Smaller lesions are not counted.
    """

    prediction_mask: np.ndarray
    reference_mask: np.ndarray
    geometry: Geometry
    bright: BrightCounts | None = None
    tolerance_mm: float = TOLERANCE_MM
    min_lesion_ml: float = MIN_LESION_ML

    @cached_property
    def masks(self) -> tuple[np.ndarray, np.ndarray]:
        """Both masks, cut to the box that holds them: no voxel outside it changes a score.

        Raises:
            GeometryError: If the shapes differ; names both.
        """
        check_shapes(self.prediction_mask, self.reference_mask)
        either = self.prediction_mask | self.reference_mask
        box = bounding_box(either, 0) if either.any() else (slice(0),) * 3
        return self.prediction_mask[box], self.reference_mask[box]

    @cached_property
    def overlap(self) -> Overlap:
        """Voxels in common."""
        return compute_overlap(*self.masks)

    @cached_property
    def surfaces(self) -> SurfaceScores:
        """Distances between the surfaces."""
        return compute_surface_scores(*self.masks, self.geometry.spacing_mm, self.tolerance_mm)

    @cached_property
    def detection(self) -> Detection:
        """Lesions one by one."""
        return compute_detection(*self.masks, self.geometry.voxel_ml, self.min_lesion_ml)

    @cached_property
    def volumes_ml(self) -> tuple[float, float]:
        """Volume of the prediction and of the reference."""
        prediction, reference = (float(mask.sum() * self.geometry.voxel_ml) for mask in self.masks)
        return prediction, reference

    @cached_property
    def bright_scores(self) -> BrightScores:
        """Scores of the bright voxels; NaN without them."""
        return score_bright(pool_bright([]) if self.bright is None else self.bright)


@dataclass(frozen=True)
class Score:
    """One score of a case.

    Attributes:
        name: Column of CSV files; what a table of ``configs/experiments`` calls it.
        label: Heading in tables for readers.
        meaning: What it is, in a few words.
        compute: Gives its value for a case; NaN if it is not defined there, and the case is then
            left out of means.
        table: Key of ``TABLES``: where ``normnet evaluate`` prints it; empty: in the CSV alone.
        unit: A share is a number from 0 to 1.
        decimals: Decimals in tables for readers.
        summary: What ``normnet evaluate`` prints below the cases.
        compared: ``normnet evaluate --against`` compares two methods by it.
    """

    name: str
    label: str
    meaning: str
    compute: Callable[[Comparison], float]
    table: str = ""
    unit: Literal["share", "count", "mm", "ml"] = "share"
    decimals: int = 3
    summary: Literal["mean ± sd", "mean", ""] = "mean ± sd"
    compared: bool = True

    @property
    def heading(self) -> str:
        """The label, with the unit if it is a length or a volume."""
        return f"{self.label} {self.unit}" if self.unit in ("mm", "ml") else self.label

    @property
    def mean_decimals(self) -> int:
        """Decimals of a mean over cases: that of counts has one."""
        return max(self.decimals, 1)


SCORES: dict[str, Score] = {
    score.name: score
    for score in (
        Score(
            "dsc",
            "DSC",
            "Dice similarity coefficient of the lesion voxels",
            lambda case: case.overlap.dsc,
            table="lesions",
        ),
        Score(
            "precision",
            "precision",
            "share of the predicted lesion voxels that are lesion",
            lambda case: case.overlap.precision,
            table="lesions",
        ),
        Score(
            "sensitivity",
            "sensitivity",
            "share of the lesion voxels that are predicted",
            lambda case: case.overlap.sensitivity,
            table="lesions",
        ),
        Score(
            "auc",
            "AUC",
            "bright voxels: area under the ROC curve, healthy is positive",
            lambda case: case.bright_scores.auc,
            table="bright",
        ),
        Score(
            "bright_precision",
            "precision",
            "bright voxels: share of those voted normal that are healthy",
            lambda case: case.bright_scores.precision,
            table="bright",
        ),
        Score(
            "bright_sensitivity",
            "sensitivity",
            "bright voxels: share of the healthy ones that are voted normal",
            lambda case: case.bright_scores.sensitivity,
            table="bright",
        ),
        Score(
            "bright_specificity",
            "specificity",
            "bright voxels: share of the lesion voxels that are not voted normal",
            lambda case: case.bright_scores.specificity,
            table="bright",
        ),
        Score(
            "surface_dice",
            "surface Dice",
            "share of both surfaces within the tolerance of the other surface",
            lambda case: case.surfaces.surface_dice,
            table="surfaces",
        ),
        Score(
            "hd95_mm",
            "HD95",
            "95th percentile of the distance between the surfaces",
            lambda case: case.surfaces.hd95_mm,
            table="surfaces",
            unit="mm",
            decimals=1,
        ),
        Score(
            "surface_mean_mm",
            "mean distance",
            "mean distance between the surfaces",
            lambda case: case.surfaces.mean_mm,
            table="surfaces",
            unit="mm",
            decimals=1,
        ),
        Score(
            "n_lesions",
            "lesions",
            "number of lesions in the reference",
            lambda case: case.detection.n_reference,
            table="surfaces",
            unit="count",
            decimals=0,
            summary="mean",
            compared=False,
        ),
        Score(
            "n_found",
            "found",
            "number of these lesions that the prediction touches",
            lambda case: case.detection.n_found,
            table="surfaces",
            unit="count",
            decimals=0,
            summary="mean",
            compared=False,
        ),
        Score(
            "n_false",
            "false",
            "number of predicted lesions that touch no reference lesion",
            lambda case: case.detection.n_false,
            table="surfaces",
            unit="count",
            decimals=0,
            summary="mean",
        ),
        Score(
            "lesion_sensitivity",
            "lesion sensitivity",
            "n_found / n_lesions",
            lambda case: case.detection.sensitivity,
        ),
        Score(
            "prediction_ml",
            "volume",
            "volume of the predicted lesions",
            lambda case: case.volumes_ml[0],
            table="lesions",
            unit="ml",
            decimals=1,
            summary="",
            compared=False,
        ),
        Score(
            "reference_ml",
            "reference",
            "volume of the lesions in the reference",
            lambda case: case.volumes_ml[1],
            table="lesions",
            unit="ml",
            decimals=1,
            summary="",
            compared=False,
        ),
        Score(
            "error_ml",
            "volume error",
            "prediction_ml - reference_ml; its mean over cases is the bias",
            lambda case: case.volumes_ml[0] - case.volumes_ml[1],
            unit="ml",
            decimals=1,
            compared=False,
        ),
        Score(
            "abs_error_ml",
            "absolute volume error",
            "error_ml without its sign",
            lambda case: abs(case.volumes_ml[0] - case.volumes_ml[1]),
            unit="ml",
            decimals=1,
        ),
    )
}


def scores_of(table: str) -> list[Score]:
    """The scores of one of ``TABLES``."""
    return [score for score in SCORES.values() if score.table == table]


def compute_scores(case: Comparison, scores: Iterable[Score]) -> dict[str, float]:
    """Values by name."""
    return {score.name: float(score.compute(case)) for score in scores}


def score_cells(case: Comparison, *names: str) -> list[str]:
    """Values of these scores as the cells of a table."""
    scores = [SCORES[name] for name in names]
    values = compute_scores(case, scores)
    return [number(values[score.name], score.decimals) for score in scores]
