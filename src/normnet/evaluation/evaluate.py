"""Score a folder of results against reference masks, summarise it, compare it with another one."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from normnet.datasets.reading import read_lesions, read_scan
from normnet.errors import GeometryError, InputError
from normnet.evaluation.bright import BRIGHT_HU, BrightCounts, count_bright, pool_bright
from normnet.evaluation.pairing import Reference, find_predictions, find_references, pair_names
from normnet.evaluation.scores import SCORES, Comparison, compute_scores, scores_of
from normnet.evaluation.statistics import Interval, Paired, bootstrap_mean, compare_paired
from normnet.evaluation.surfaces import TOLERANCE_MM
from normnet.evaluation.volumes import Agreement, SliceAreas, compute_agreement, compute_slice_areas
from normnet.io.masks import read_codes, read_labels
from normnet.io.read import read_stored
from normnet.io.values import labels_of
from normnet.quantification import MIN_LESION_ML
from normnet.results.schema import read_result
from normnet.scan import Geometry, Scan


@dataclass(frozen=True)
class Row:
    """Scores of one case.

    Attributes:
        case_id: Of the reference.
        values: Value of every score by name; NaN where it is not defined.
        areas: Lesion area slice by slice.
        bright: Bright voxels (Table II); None without the CT or the anomaly map.
        counted: False for a case that is left out of the summaries.
    """

    case_id: str
    values: dict[str, float]
    areas: SliceAreas
    bright: BrightCounts | None = None
    counted: bool = True


@dataclass(frozen=True)
class Evaluation:
    """Scores of all cases, and the masks that found no partner.

    Attributes:
        rows: In the order of the references.
        unmatched: Names of predictions without a reference and of references without a prediction.
    """

    rows: tuple[Row, ...]
    unmatched: tuple[str, ...]

    def values(self, name: str) -> np.ndarray:
        """(n,) float64: a score of the counted cases for which it is defined."""
        values = np.array([row.values[name] for row in self.rows if row.counted], float)
        known: np.ndarray = values[~np.isnan(values)]
        return known

    def mean_sd(self, name: str) -> tuple[float, float]:
        """Mean and sample standard deviation (n - 1) of ``values``; NaN with too few of them."""
        values = self.values(name)
        mean = float(values.mean()) if len(values) else math.nan
        return mean, float(values.std(ddof=1)) if len(values) > 1 else math.nan

    def interval(self, name: str) -> Interval:
        """95 % bootstrap interval of that mean."""
        return bootstrap_mean(self.values(name).tolist())

    def pooled(self) -> dict[str, float]:
        """Scores of the bright voxels of all counted cases together; empty without any."""
        counts = [row.bright for row in self.rows if row.counted and row.bright is not None]
        if not counts:
            return {}
        no_mask = np.zeros((1, 1, 1), bool)
        together = Comparison(no_mask, no_mask, Geometry((1.0, 1.0, 1.0)), pool_bright(counts))
        return compute_scores(together, scores_of("bright"))

    def agreement(self) -> Agreement:
        """Agreement of the lesion volumes in ml."""
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
        leave_out: Cases that are scored but left out of the summaries.
        tolerance_mm: Distance up to which surfaces agree.
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
    """Compare two folders of results, scored against the same references, case by case.

    Args:
        evaluation: Its counted cases are the ones compared.
        other: Of another method; ``counted`` of its rows has no effect.

    Returns:
        By name, every compared score that is defined for at least one case in both folders;
        difference = evaluation - other.

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
        name: compare_paired(
            [row.values[name] for row, _ in pairs], [row.values[name] for _, row in pairs]
        )
        for name, score in SCORES.items()
        if score.compared
    }
    return {name: paired for name, paired in compared.items() if paired.n}


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
    bright = _count_bright(prediction, reference)
    case = Comparison(found, wanted, stored.geometry, bright, tolerance_mm, min_lesion_ml)
    values = compute_scores(case, SCORES.values())
    areas = compute_slice_areas(found, wanted, stored.geometry)
    return Row(reference.case_id, values, areas, bright, counted)


def _count_bright(prediction: Path, reference: Reference) -> BrightCounts | None:
    """Count from the CT and the maps beside the lesion mask; the map has 256 steps.

    All is brought to the grid of the CT, which may be stored in another orientation than the maps;
    None where they lie on another grid.
    """
    folder = prediction.parent
    maps = folder / "anomaly.nii.gz", folder / "lungs.nii.gz"
    if (
        not reference.with_ct
        or prediction.name != "lesions.nii.gz"
        or not all(path.is_file() for path in maps)
    ):
        return None
    scan = read_scan(reference.case)
    lesion_mask = read_lesions(reference.case, scan)
    assert lesion_mask is not None  # it was read for the other scores
    try:
        bright = (scan.volume_hu >= BRIGHT_HU) & (read_labels(maps[1], scan) > 0)
        codes = np.uint8(255) - read_codes(maps[0], scan)
        normal_mask = _normal_mask(folder, scan)
    except GeometryError:
        return None
    return count_bright(codes, lesion_mask, bright, normal_mask)


def _normal_mask(folder: Path, scan: Scan) -> np.ndarray | None:
    """Voxels that enough members voted normal; None where the folder does not tell this."""
    model = (read_result(folder) or {}).get("model")
    min_votes = model.get("min_votes") if isinstance(model, dict) else None
    votes = folder / "votes.nii.gz"
    if not isinstance(min_votes, int) or not votes.is_file():
        return None
    normal_mask: np.ndarray = read_codes(votes, scan) >= min_votes
    return normal_mask
