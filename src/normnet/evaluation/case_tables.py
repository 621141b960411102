"""CSV files of an evaluation: one row per case and the summaries; one row per slice.

The columns of the first file are the names in ``scores.SCORES``, where each one is explained, and
``in_mean``: 0 for a case that is left out of the summaries. A cell is empty where a score is not
defined; the summaries leave such a case out. The last rows are

    mean, sd              over the cases; sd with n - 1
    ci95_low, ci95_high   95 % interval of the mean, by bootstrap over the cases
    n                     number of cases with a value
    pooled                the bright voxels of all cases together
    loa_low, loa_high     95 % limits of agreement of ``error_ml``; its mean is the bias
"""

from __future__ import annotations

import math
from collections.abc import Callable

from normnet.evaluation.evaluate import Evaluation
from normnet.evaluation.scores import SCORES
from normnet.evaluation.tables import number
from normnet.io.csv_text import csv_text, harmless_cell

DECIMALS = 4  # of everything but the counts of a case


def cases_csv(evaluation: Evaluation) -> str:
    """All cases, then the summaries."""
    rows: list[list[str]] = [["case", *SCORES, "in_mean"]]
    for row in evaluation.rows:
        cells = [
            _cell(row.values[name], 0 if score.unit == "count" else DECIMALS)
            for name, score in SCORES.items()
        ]
        rows.append([harmless_cell(row.case_id), *cells, str(int(row.counted))])
    means = {name: evaluation.mean_sd(name) for name in SCORES}
    intervals = {name: evaluation.interval(name) for name in SCORES}
    pooled, agreement = evaluation.pooled(), evaluation.agreement()
    summaries: dict[str, Callable[[str], float]] = {
        "mean": lambda name: means[name][0],
        "sd": lambda name: means[name][1],
        "ci95_low": lambda name: intervals[name].low,
        "ci95_high": lambda name: intervals[name].high,
        "n": lambda name: len(evaluation.values(name)),
        "pooled": lambda name: pooled.get(name, math.nan),
        "loa_low": lambda name: agreement.low if name == "error_ml" else math.nan,
        "loa_high": lambda name: agreement.high if name == "error_ml" else math.nan,
    }
    for summary, value in summaries.items():
        decimals = 0 if summary == "n" else DECIMALS
        rows.append([summary, *(_cell(value(name), decimals) for name in SCORES), ""])
    return csv_text(rows)


def slices_csv(evaluation: Evaluation) -> str:
    """Lesion area in every slice of every case, in the prediction and in the reference."""
    rows = [["case", "slice", "position_mm", "prediction_mm2", "reference_mm2"]]
    for row in evaluation.rows:
        for n, numbers in enumerate(zip(*row.areas, strict=True)):
            cells = [f"{value:.2f}" for value in numbers]
            rows.append([harmless_cell(row.case_id), str(n), *cells])
    return csv_text(rows)


def _cell(value: float, decimals: int) -> str:
    return number(value, decimals, missing="")
