"""Scores as CSV: a row a case, then the summaries; and slice by slice.

Columns of the table of cases (an empty cell: no such value, left out of the summaries):

    dsc precision sensitivity                 lesion voxels, 0 to 1
    auc bright_precision bright_sensitivity   bright voxels of the lungs, healthy ones positive (Table II);
    bright_specificity                          need the CT and the maps of ``normnet segment``
    surface_dice hd95_mm surface_mean_mm      see ``surfaces``
    n_lesions n_found n_false                 lesions of the reference, found ones, invented ones, see ``lesions``
    lesion_sensitivity                        n_found / n_lesions
    prediction_ml reference_ml                volumes
    error_ml abs_error_ml                     prediction - reference, and without its sign
    in_mean                                   0 for a case left out of the summaries

and its last rows: mean, sd (n - 1), ci95_low and ci95_high (bootstrap over cases, of the mean), n (cases with a value),
pooled (all bright voxels together), loa_low and loa_high (limits of agreement, of error_ml; its mean is the bias).
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable
from pathlib import Path

from normnet.evaluation.evaluate import COLUMNS, Evaluation
from normnet.io.atomic import replacing


def to_csv(evaluation: Evaluation) -> str:
    """All rows, then the summaries."""
    rows: list[list[object]] = [["case", *COLUMNS, "in_mean"]]
    for row in evaluation.rows:
        cells = [_number(row.value(column), column) for column in COLUMNS]
        rows.append([_harmless(row.case_id), *cells, int(row.counted)])
    means = {column: evaluation.mean_sd(column) for column in COLUMNS}
    intervals = {column: evaluation.interval(column) for column in COLUMNS}
    pooled, agreement = evaluation.pooled(), evaluation.agreement()
    summaries: dict[str, Callable[[str], float]] = {
        "mean": lambda column: means[column][0],
        "sd": lambda column: means[column][1],
        "ci95_low": lambda column: intervals[column].low,
        "ci95_high": lambda column: intervals[column].high,
        "n": lambda column: len(evaluation.values(column)),
        "pooled": lambda column: pooled.get(column, math.nan),
        "loa_low": lambda column: agreement.low if column == "error_ml" else math.nan,
        "loa_high": lambda column: agreement.high if column == "error_ml" else math.nan,
    }
    for name, value in summaries.items():
        rows.append([name, *(_number(value(column), name) for column in COLUMNS), ""])
    return _text(rows)


def to_slices_csv(evaluation: Evaluation) -> str:
    """Lesion area of every slice of every case, prediction and reference."""
    rows: list[list[object]] = [["case", "slice", "position_mm", "prediction_mm2", "reference_mm2"]]
    for row in evaluation.rows:
        for n, (position, *areas) in enumerate(zip(*row.areas, strict=True)):
            rows.append(
                [_harmless(row.case_id), n, f"{position:.2f}", *(f"{area:.2f}" for area in areas)]
            )
    return _text(rows)


def write_text(path: Path, text: str) -> None:
    """Write a table to a file; raises ``OutputError``."""
    with replacing(path) as handle:
        handle.write(text.encode())


def _text(rows: Iterable[list[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _number(value: float, name: str = "") -> str:
    """Four decimals, none for counts."""
    if math.isnan(value):
        return ""
    return f"{value:.0f}" if name == "n" or name.startswith("n_") else f"{value:.4f}"


def _harmless(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in "=+-@\t\r" else text
