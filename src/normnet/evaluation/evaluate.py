"""Score a folder of results against reference masks: a row a case, mean and standard deviation over the cases."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from normnet.datasets.manifest import read_manifest
from normnet.errors import InputError
from normnet.evaluation.metrics import Overlap, compute_bright_auc, compute_overlap
from normnet.io.atomic import replacing
from normnet.io.images import read_stored
from normnet.io.masks import read_labels, read_mask
from normnet.io.read import IMAGE_SUFFIXES, case_id_of, read_ct
from normnet.io.values import labels_of
from normnet.scan import Scan

BRIGHT_HU = -500.0
COLUMNS = ("dsc", "precision", "sensitivity", "auc")


@dataclass(frozen=True)
class Reference:
    """A reference mask and, where a list of cases names it, its CT."""

    case_id: str
    mask: Path
    image: Path | None = None


@dataclass(frozen=True)
class Row:
    """Scores of one case.

    Attributes:
        case_id: Of the reference.
        overlap: Of the lesion masks.
        auc: Of bright voxels (Table II); None without the CT or the anomaly map.
        prediction_ml, reference_ml: Volumes of the lesions.
        counted: False for a case left out of the means.
    """

    case_id: str
    overlap: Overlap
    auc: float | None
    prediction_ml: float
    reference_ml: float
    counted: bool = True

    def value(self, column: str) -> float:
        """A score by the name of its column, NaN where there is none."""
        value = self.auc if column == "auc" else getattr(self.overlap, column)
        return math.nan if value is None else float(value)


@dataclass(frozen=True)
class Evaluation:
    """All rows, and what found no partner.

    Attributes:
        rows: In the order of the references.
        unmatched: Names of predictions without reference and of references without prediction.
    """

    rows: tuple[Row, ...]
    unmatched: tuple[str, ...]

    def mean_sd(self, column: str) -> tuple[float, float]:
        """Mean and sample standard deviation (n - 1) over the counted cases that have a value."""
        values = np.array([row.value(column) for row in self.rows if row.counted])
        values = values[~np.isnan(values)]
        mean = float(values.mean()) if len(values) else math.nan
        return mean, float(values.std(ddof=1)) if len(values) > 1 else math.nan


def evaluate_folder(predictions: Path, references: Path, leave_out: Collection[str] = ()) -> Evaluation:
    """Pair results with reference masks by name and score them.

    Args:
        predictions: Holds ``<case>/lesions.nii.gz`` as ``normnet segment`` writes, or ``<case>….nii.gz`` masks.
        references: Holds ``<case>…lesion….nii.gz``, or a CSV list of cases (see ``normnet.datasets.manifest``); with
            the list the CTs are known, and the AUC of bright voxels is computed too.
        leave_out: Cases that are scored but left out of the means.

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
        raise InputError("NN-EVA-004", f"no case '{unknown[0]}' to leave out", predictions.name, "check the name")
    rows = []
    for case_id, reference in by_id.items():
        if case_id in partner:
            counted = not {case_id, partner[case_id]} & set(leave_out)
            rows.append(_score(masks[partner[case_id]], reference, counted))
    unmatched = [f"result {name}" for name in masks if name not in pairs]
    unmatched += [f"reference {case_id}" for case_id in by_id if case_id not in partner]
    return Evaluation(tuple(rows), tuple(unmatched))


def find_predictions(folder: Path) -> dict[str, Path]:
    """Lesion masks of a folder by name."""
    _check_folder(folder)
    found = {path.parent.name: path for path in sorted(folder.glob("*/lesions.nii.gz"))}
    if not found and (folder / "lesions.nii.gz").is_file():
        found = {folder.resolve().name: folder / "lesions.nii.gz"}
    return found or {case_id_of(path): path for path in _images(folder)}


def find_references(source: Path) -> list[Reference]:
    """Reference masks of a folder or of a CSV list of cases."""
    if source.is_file():
        cases = read_manifest(source)
        return [Reference(case.case_id, case.lesion_mask, case.image) for case in cases if case.lesion_mask is not None]
    _check_folder(source)
    images = _images(source)
    named = [path for path in images if "lesion" in path.name.lower() and "lung" not in path.name.lower()]
    return [Reference(_before_lesion(path), path) for path in named or images]


def pair_names(predictions: list[str], references: list[str]) -> dict[str, str]:
    """For each prediction the reference of the same name, or the longest that it starts with (or that starts with it).

    ``case_1_ct`` belongs to ``case_1`` but not to ``case``, if both are there, and ``case_10`` not to ``case_1``.
    """
    pairs: dict[str, str] = {}
    for name in sorted(predictions, key=lambda name: (name not in references, name)):
        free = [reference for reference in references if reference not in pairs.values()]
        close = [reference for reference in free if _starts(name, reference) or _starts(reference, name)]
        if name in free:
            pairs[name] = name
        elif close:
            pairs[name] = max(close, key=len)
    return pairs


def to_csv(evaluation: Evaluation) -> str:
    """All rows as CSV, then the means and standard deviations."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", *COLUMNS, "prediction_ml", "reference_ml", "in_mean"])
    for row in evaluation.rows:
        cells = [_number(row.value(column)) for column in COLUMNS]
        volumes = [f"{row.prediction_ml:.3f}", f"{row.reference_ml:.3f}"]
        writer.writerow([_harmless(row.case_id), *cells, *volumes, int(row.counted)])
    for place, name in enumerate(("mean", "sd")):
        writer.writerow([name, *(_number(evaluation.mean_sd(column)[place]) for column in COLUMNS), "", "", ""])
    return text.getvalue()


def write_csv(path: Path, evaluation: Evaluation) -> None:
    """Write ``to_csv`` to a file; raises ``OutputError``."""
    with replacing(path) as handle:
        handle.write(to_csv(evaluation).encode())


def _score(prediction: Path, reference: Reference, counted: bool) -> Row:
    stored = read_stored(prediction)
    like = Scan(labels_of(stored, prediction.name), stored.geometry, reference.case_id)
    found, wanted = like.volume_hu > 0, read_mask(reference.mask, like)
    ml = stored.geometry.voxel_ml
    volumes = float(found.sum() * ml), float(wanted.sum() * ml)
    overlap, auc = compute_overlap(found, wanted), _auc(prediction, reference, wanted)
    return Row(reference.case_id, overlap, auc, *volumes, counted)


def _auc(prediction: Path, reference: Reference, lesion_mask: np.ndarray) -> float | None:
    """From the CT and the maps beside the lesion mask; the map's 256 steps are its resolution."""
    maps = prediction.parent / "anomaly.nii.gz", prediction.parent / "lungs.nii.gz"
    if reference.image is None or prediction.name != "lesions.nii.gz" or not all(path.is_file() for path in maps):
        return None
    scan = read_ct(reference.image)
    if scan.shape != lesion_mask.shape:
        return None
    codes = read_stored(maps[0]).voxels
    bright = (scan.volume_hu >= BRIGHT_HU) & (read_labels(maps[1], scan) > 0)
    return compute_bright_auc(255 - codes.astype(np.int16), lesion_mask, bright)


def _images(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_file() and path.name.lower().endswith(IMAGE_SUFFIXES)]


def _before_lesion(path: Path) -> str:
    name = case_id_of(path)
    return re.split(r"[-_. ]*lesion", name, maxsplit=1, flags=re.IGNORECASE)[0] or name


def _starts(name: str, start: str) -> bool:
    return name.startswith(start) and not name[len(start) : len(start) + 1].isalnum()


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError("NN-EVA-001", "no such folder", folder.name or str(folder), "check the path")


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"


def _harmless(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in "=+-@\t\r" else text
