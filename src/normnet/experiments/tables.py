"""A table of scores: CSV has every row, seed and data set; Markdown and LaTeX have means.

The paper's numbers stand beside ours. Shares are in per cent, other scores in their own unit.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from normnet.evaluation import tables as writer
from normnet.evaluation.scores import SCORES, Score
from normnet.evaluation.tables import Table, mean_sd, number
from normnet.experiments.catalogue import SETS, Experiment, Row, Scale
from normnet.experiments.pages import to_page, write_page
from normnet.experiments.scores import Result
from normnet.io.csv_text import csv_text

READ = (
    "Per cent, ± the deviation over the cases; against another row at the same seed, "
    "± the deviation over the seeds."
)
CSV_COLUMNS = (
    "experiment",
    "scale",
    "row",
    "label",
    "seed",
    "config",
    "set",
    "score",
    "mean",
    "sd",
    "n_cases",
    "paper",
)
CSV_DECIMALS = 2


@dataclass(frozen=True)
class Cell:
    """One score of one row on one data set, shares in per cent; NaN where it is not known.

    Attributes:
        mean: Over the cases, then over the seeds.
        sd: Standard deviation over the cases (n - 1), mean over the seeds; the paper gives this.
        spread: Standard deviation over the seeds of the mean over the cases (n - 1); NaN with one
            seed.
        paper: The paper's mean.
    """

    mean: float
    sd: float
    spread: float
    paper: float


def cells(
    experiment: Experiment, row: Row, results: Iterable[Result], name: str
) -> dict[str, Cell]:
    """All that is known of a row on one data set, by score."""
    own = [
        result.sets[name] for result in results if result.row.id == row.id and name in result.sets
    ]
    found = {}
    for place, score in enumerate(experiment.scores):
        per_seed = [values for cases in own if (values := _known(score, cases))]
        means = [statistics.fmean(values) for values in per_seed]
        sds = [statistics.stdev(values) for values in per_seed if len(values) > 1]
        paper = row.paper.get(name, ())
        found[score] = Cell(
            statistics.fmean(means) if means else math.nan,
            statistics.fmean(sds) if sds else math.nan,
            statistics.stdev(means) if len(means) > 1 else math.nan,
            paper[place] if place < len(paper) else math.nan,
        )
    return found


def write_tables(
    folder: Path, experiment: Experiment, scale: Scale, results: Sequence[Result]
) -> list[Path]:
    """Write ``<name>.csv``, ``.md`` and ``.tex`` with all that is known so far.

    Raises:
        OutputError: If they cannot be written.
    """
    texts = (make(experiment, scale, results) for make in (to_csv, to_markdown, to_latex))
    return write_page(folder, experiment, *texts)


def to_csv(experiment: Experiment, scale: Scale, results: Sequence[Result]) -> str:
    """One line per row, seed, data set and score."""
    lines: list[Sequence[object]] = [CSV_COLUMNS]
    for result in results:
        row = result.row
        head = (experiment.name, scale.name, row.id, row.label, result.seed, result.key)
        for name, cases in result.sets.items():
            for score, cell in cells(experiment, row, [result], name).items():
                mean, sd, paper = (
                    number(value, CSV_DECIMALS, missing="")
                    for value in (cell.mean, cell.sd, cell.paper)
                )
                lines.append([*head, name, score, mean, sd, len(cases), paper])
    return csv_text(lines)


def to_markdown(experiment: Experiment, scale: Scale, results: Sequence[Result]) -> str:
    """The table as the paper has it; beside every score of ours the paper's."""
    names = _sets(experiment, results)
    compared = _compared_row(experiment)
    columns = ["row"]
    for name in names:
        known = "" if any(name in result.sets for result in results) else " (no data)"
        for score in experiment.scores:
            columns += [f"{SETS.get(name, name)}{known} {SCORES[score].heading}", "paper"]
            if compared and score == experiment.scores[0]:
                columns += [f"against {compared.label}", "paper"]
    rows = []
    for row, own in _finished(experiment, results):
        texts = [row.label]
        for name in names:
            for score, cell in cells(experiment, row, own, name).items():
                decimals = _decimals(SCORES[score])
                texts += [mean_sd(cell.mean, cell.sd, decimals), number(cell.paper, decimals)]
                if compared and score == experiment.scores[0]:
                    texts += _against(compared, experiment, row, results, name)
        keys = sorted({result.key[:8] for result in own})
        rows.append([*texts, ", ".join(keys), str(len(own))])
    notes = [_about(experiment, scale, results, names), READ]
    return to_page(experiment, notes, Table([*columns, "config", "seeds"], rows))


def differences(
    experiment: Experiment, row: Row, results: Iterable[Result], name: str
) -> list[float]:
    """First score less that of the row ``compared_with``, in per cent if it is a share.

    Returns:
        One difference for each seed that both rows have.
    """
    means: dict[str, dict[int, float]] = {row.id: {}, experiment.compared_with: {}}
    for result in results:
        if result.row.id in means and name in result.sets:
            values = _known(experiment.scores[0], result.sets[name])
            if values:
                means[result.row.id][result.seed] = statistics.fmean(values)
    base = means[experiment.compared_with]
    return [mean - base[seed] for seed, mean in means[row.id].items() if seed in base]


def to_latex(experiment: Experiment, scale: Scale, results: Sequence[Result]) -> str:
    """The same for a paper; ours, then the paper's in brackets."""
    names = _sets(experiment, results)
    rows, comments = [], []
    for row, own in _finished(experiment, results):
        found = [
            _latex_cell(cell, SCORES[score])
            for name in names
            for score, cell in cells(experiment, row, own, name).items()
        ]
        rows.append([row.label, *found])
        comments.append(", ".join(f"{result.key[:8]} (seed {result.seed})" for result in own))
    table = Table(
        ["", *(SCORES[score].heading for _ in names for score in experiment.scores)],
        rows,
        [(SETS.get(name, name), len(experiment.scores)) for name in names],
        comments,
    )
    caption = f"{experiment.title}. Ours (the paper's in brackets), per cent."
    return writer.to_latex(table, caption, _about(experiment, scale, results, names), "c")


def _finished(
    experiment: Experiment, results: Sequence[Result]
) -> Iterable[tuple[Row, list[Result]]]:
    """Rows that have results, in the order of the experiment."""
    for row in experiment.rows:
        own = [result for result in results if result.row.id == row.id]
        if own:
            yield row, own


def _sets(experiment: Experiment, results: Sequence[Result]) -> list[str]:
    """Data sets of the paper's table, then any others that were given."""
    named = [name for name in SETS if any(name in row.paper for row in experiment.rows)]
    given = [name for result in results for name in result.sets]
    return list(dict.fromkeys([*(name for name in SETS if name in named or name in given), *given]))


def _about(
    experiment: Experiment, scale: Scale, results: Sequence[Result], names: list[str]
) -> str:
    sizes = []
    for name in names:
        n = max((len(result.sets.get(name, {})) for result in results), default=0)
        sizes.append(f"{SETS.get(name, name)}: {f'{n} cases' if n else 'no data'}")
    parts = [f"Scale {scale.name}.", scale.note, experiment.note, "; ".join(sizes) + "."]
    return " ".join(part for part in parts if part)


def _compared_row(experiment: Experiment) -> Row | None:
    """The row that the others are compared with."""
    rows = (row for row in experiment.rows if row.id == experiment.compared_with)
    return next(rows, None)


def _against(
    base: Row, experiment: Experiment, row: Row, results: Sequence[Result], name: str
) -> list[str]:
    """Our difference to ``base`` and the paper's; of ``base`` itself the spread over the seeds."""
    decimals = _decimals(SCORES[experiment.scores[0]])
    if row.id == base.id:
        spread = cells(experiment, row, results, name)[experiment.scores[0]].spread
        return ["-" if math.isnan(spread) else f"(seeds ± {spread:.{decimals}f})", "-"]
    found = differences(experiment, row, results, name)
    around = f" ± {statistics.stdev(found):.{decimals}f}" if len(found) > 1 else ""
    ours = f"{statistics.fmean(found):+.{decimals}f}{around}" if found else "-"
    if name not in row.paper or name not in base.paper:
        return [ours, "-"]
    return [ours, f"{row.paper[name][0] - base.paper[name][0]:+.{decimals}f}"]


def _known(score: str, cases: dict[str, dict[str, float]]) -> list[float]:
    """The values of a score over the cases for which it is defined, shares in per cent."""
    factor = 100 if SCORES[score].unit == "share" else 1
    return [factor * case[score] for case in cases.values() if not math.isnan(case[score])]


def _decimals(score: Score) -> int:
    """Of a mean; a share in per cent has two fewer."""
    return score.decimals - 2 if score.unit == "share" else score.mean_decimals


def _latex_cell(cell: Cell, score: Score) -> str:
    decimals = _decimals(score)
    ours = mean_sd(cell.mean, cell.sd, decimals, missing="--", sign="±")
    return ours if math.isnan(cell.paper) else f"{ours} ({cell.paper:.{decimals}f})"
