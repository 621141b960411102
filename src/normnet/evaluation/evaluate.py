"""Score a folder of results against reference masks: a row a case, summaries over the cases, two folders compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from normnet.datasets.reading import read_lesions, read_scan
from normnet.errors import InputError
from normnet.evaluation.bright import (
    BRIGHT_HU,
    BrightCounts,
    count_bright,
    pool_bright,
    score_bright,
)
from normnet.evaluation.lesions import MIN_LESION_ML, Detection, compute_detection
from normnet.evaluation.metrics import Overlap, compute_overlap
from normnet.evaluation.pairing import Reference, find_predictions, find_references, pair_names
from normnet.evaluation.statistics import Interval, Paired, bootstrap_mean, compare_paired
from normnet.evaluation.surfaces import TOLERANCE_MM, SurfaceScores, compute_surface_scores
from normnet.evaluation.volumes import Agreement, SliceAreas, compute_agreement, compute_slice_areas
from normnet.io.masks import read_labels
from normnet.io.read import read_stored
from normnet.io.values import labels_of
from normnet.preparation.prepare import bounding_box
from normnet.results.schema import read_result
from normnet.scan import Scan


@dataclass(frozen=True)
class Row:
    """Scores of one case.

    Attributes:
        case_id: Of the reference.
        overlap: Of the lesion masks.
        surfaces: Distances between them.
        detection: Lesions found and invented.
        prediction_ml, reference_ml: Volumes of the lesions.
        areas: Slice by slice.
        bright: Bright voxels (Table II); None without the CT or the anomaly map.
        counted: False for a case left out of the means.
    """

    case_id: str
    overlap: Overlap
    surfaces: SurfaceScores
    detection: Detection
    prediction_ml: float
    reference_ml: float
    areas: SliceAreas
    bright: BrightCounts | None = None
    counted: bool = True

    def value(self, column: str) -> float:
        """A score by the name of its column, NaN where there is none."""
        return float(COLUMNS[column](self))


def _bright(column: str) -> Callable[[Row], float]:
    return lambda row: _bright_scores(row.bright)[column] if row.bright else math.nan


def _bright_scores(counts: BrightCounts) -> dict[str, float]:
    scores, auc = score_bright(counts)
    return {
        "auc": auc,
        "bright_precision": scores.precision,
        "bright_sensitivity": scores.sensitivity,
        "bright_specificity": scores.specificity,
    }


BRIGHT_COLUMNS = ("auc", "bright_precision", "bright_sensitivity", "bright_specificity")
COLUMNS: dict[str, Callable[[Row], float]] = {
    "dsc": lambda row: row.overlap.dsc,
    "precision": lambda row: row.overlap.precision,
    "sensitivity": lambda row: row.overlap.sensitivity,
    **{column: _bright(column) for column in BRIGHT_COLUMNS},
    "surface_dice": lambda row: row.surfaces.surface_dice,
    "hd95_mm": lambda row: row.surfaces.hd95_mm,
    "surface_mean_mm": lambda row: row.surfaces.mean_mm,
    "n_lesions": lambda row: row.detection.n_reference,
    "n_found": lambda row: row.detection.n_found,
    "n_false": lambda row: row.detection.n_false,
    "lesion_sensitivity": lambda row: row.detection.sensitivity,
    "prediction_ml": lambda row: row.prediction_ml,
    "reference_ml": lambda row: row.reference_ml,
    "error_ml": lambda row: row.prediction_ml - row.reference_ml,
    "abs_error_ml": lambda row: abs(row.prediction_ml - row.reference_ml),
}
COMPARED = tuple(
    c
    for c in COLUMNS
    if c not in ("n_lesions", "n_found", "prediction_ml", "reference_ml", "error_ml")
)


@dataclass(frozen=True)
class Evaluation:
    """All rows, and what found no partner.

    Attributes:
        rows: In the order of the references.
        unmatched: Names of predictions without reference and of references without prediction.
    """

    rows: tuple[Row, ...]
    unmatched: tuple[str, ...]

    def values(self, column: str) -> np.ndarray:
        """The values of a column over the counted cases that have one, float64."""
        values = np.array([row.value(column) for row in self.rows if row.counted], float)
        return values[~np.isnan(values)]

    def mean_sd(self, column: str) -> tuple[float, float]:
        """Mean and sample standard deviation (n - 1) over the counted cases that have a value."""
        values = self.values(column)
        mean = float(values.mean()) if len(values) else math.nan
        return mean, float(values.std(ddof=1)) if len(values) > 1 else math.nan

    def interval(self, column: str) -> Interval:
        """95 % bootstrap interval of that mean."""
        return bootstrap_mean(self.values(column).tolist())

    def pooled(self) -> dict[str, float]:
        """``BRIGHT_COLUMNS`` over the voxels of all counted cases together, empty without any."""
        counts = [row.bright for row in self.rows if row.counted and row.bright]
        return _bright_scores(pool_bright(counts)) if counts else {}

    def agreement(self) -> Agreement:
        """Of the lesion volumes in ml."""
        return compute_agreement(
            self.values("prediction_ml").tolist(), self.values("reference_ml").tolist()
        )


def evaluate_folder(
    predictions: Path,
    references: Path,
    leave_out: Collection[str] = (),
    *,
    tolerance_mm: float = TOLERANCE_MM,
    min_lesion_ml: float = MIN_LESION_ML,
) -> Evaluation:
    """Pair results with reference masks by name and score them.

    Args:
        predictions: Holds ``<case>/lesions.nii.gz`` as ``normnet segment`` writes, or
            ``<case>….nii.gz`` masks.
        references: Holds ``<case>…lesion….nii.gz``, or a public data set in its own layout, or a
            CSV list of cases (see ``normnet.datasets.manifest``); with these two the CTs are known,
            and the bright voxels are scored too.
        leave_out: Cases that are scored but left out of the means.
        tolerance_mm: Of surface Dice.
        min_lesion_ml: Smaller lesions are not counted.

    Raises:
        InputError: If a folder is missing or nothing pairs.
        GeometryError: If a pair lies on different grids.
    """
    masks = find_predictions(predictions)
    wanted = find_references(references)
    pairs = pair_names(list(masks), [reference.case_id for reference in wanted])
    if not pairs:
        raise InputError(
            "NN-EVA-003",
            f"none of {len(masks)} results has a reference mask",
            references.name,
            "name both after the case",
        )
    by_id = {reference.case_id: reference for reference in wanted}
    partner = {case_id: name for name, case_id in pairs.items()}
    unknown = sorted(set(leave_out) - set(partner) - set(masks))
    if unknown:
        raise InputError(
            "NN-EVA-004", f"no case '{unknown[0]}' to leave out", predictions.name, "check the name"
        )
    rows = []
    for case_id, reference in by_id.items():
        if case_id in partner:
            counted = not {case_id, partner[case_id]} & set(leave_out)
            rows.append(
                _score(masks[partner[case_id]], reference, counted, tolerance_mm, min_lesion_ml)
            )
    unmatched = [f"result {name}" for name in masks if name not in pairs]
    unmatched += [f"reference {case_id}" for case_id in by_id if case_id not in partner]
    return Evaluation(tuple(rows), tuple(unmatched))


def compare(evaluation: Evaluation, other: Evaluation) -> dict[str, Paired]:
    """Two folders of results scored against the same references, case by case.

    Args:
        evaluation: Its counted cases are the ones compared.
        other: Of another method; its own ``counted`` is not looked at.

    Returns:
        ``COMPARED`` columns that at least one case has in both; difference = evaluation - other.

    Raises:
        InputError: NN-EVA-005 if they share no case.
    """
    others = {row.case_id: row for row in other.rows}
    pairs = [
        (row, others[row.case_id])
        for row in evaluation.rows
        if row.counted and row.case_id in others
    ]
    if not pairs:
        raise InputError(
            "NN-EVA-005", "the two folders share no case", "", "score the same cases in both"
        )
    compared = {
        column: compare_paired(
            [row.value(column) for row, _ in pairs], [row.value(column) for _, row in pairs]
        )
        for column in COMPARED
    }
    return {column: paired for column, paired in compared.items() if paired.n}


def _score(
    prediction: Path, reference: Reference, counted: bool, tolerance_mm: float, min_lesion_ml: float
) -> Row:
    stored = read_stored(prediction)
    like = Scan(labels_of(stored, prediction.name), stored.geometry, reference.case_id)
    found, wanted = like.volume_hu > 0, read_lesions(reference.case, like)
    if wanted is None:
        raise InputError(
            "NN-EVA-006", "no lesion mask", reference.case_id, "check the list of cases"
        )
    either = found | wanted
    box = (
        bounding_box(either, 0) if either.any() else (slice(0),) * 3
    )  # nothing outside it changes a score
    cut, ml = (found[box], wanted[box]), stored.geometry.voxel_ml
    return Row(
        reference.case_id,
        compute_overlap(*cut),
        compute_surface_scores(*cut, stored.geometry.spacing_mm, tolerance_mm),
        compute_detection(*cut, ml, min_lesion_ml),
        float(cut[0].sum() * ml),
        float(cut[1].sum() * ml),
        compute_slice_areas(found, wanted, stored.geometry),
        _count_bright(prediction, reference, wanted),
        counted,
    )


def _count_bright(
    prediction: Path, reference: Reference, lesion_mask: np.ndarray
) -> BrightCounts | None:
    """From the CT and the maps beside the lesion mask; the map's 256 steps are its resolution."""
    folder = prediction.parent
    maps = folder / "anomaly.nii.gz", folder / "lungs.nii.gz"
    if (
        not reference.with_ct
        or prediction.name != "lesions.nii.gz"
        or not all(path.is_file() for path in maps)
    ):
        return None
    scan = read_scan(reference.case)
    if scan.shape != lesion_mask.shape:
        return None
    bright = (scan.volume_hu >= BRIGHT_HU) & (read_labels(maps[1], scan) > 0)
    codes = (255 - read_stored(maps[0]).voxels.astype(np.int16)).astype(np.uint8)
    return count_bright(codes, lesion_mask, bright, _normal_mask(folder))


def _normal_mask(folder: Path) -> np.ndarray | None:
    """What enough members voted normal; None where the folder does not hold the votes and how many are enough."""
    model = (read_result(folder) or {}).get("model")
    min_votes = model.get("min_votes") if isinstance(model, dict) else None
    votes = folder / "votes.nii.gz"
    return (
        read_stored(votes).voxels >= min_votes
        if isinstance(min_votes, int) and votes.is_file()
        else None
    )
