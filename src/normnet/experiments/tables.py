"""A table of scores: CSV has every row, seed and data set; Markdown and LaTeX have means.

The paper's numbers stand beside ours, one number per cell. Shares are in per cent, other scores in
their own unit.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from normnet.evaluation import tables as writer
from normnet.evaluation.scores import SCORES, Score
from normnet.evaluation.tables import Table, number
from normnet.experiments.catalogue import SETS, Experiment, Row, Scale
from normnet.experiments.pages import to_page, write_page
from normnet.experiments.scores import Result
from normnet.experiments.thresholds import LEFT_OUT
from normnet.io.csv_text import csv_text

READ = "Shares in per cent; sd: standard deviation over the cases, mean over the seeds."
READ_AGAINST = (
    "Against another row: the mean difference at the same seed, and its standard deviation over "
    "the seeds; for that row itself the deviation of its mean."
)
READ_CHOICE = (
    "In-sample: the threshold with the best mean DSC on the cases that are then scored. "
    "Leave-one-patient-out: for each case the best one on the other patients of its set; the table "
    "has the mean of these thresholds, and a set of one patient has no such row. Thresholds of "
    "methods without a network are in HU."
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
    "choice",
    "threshold",
    "upper_threshold",
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
        paper: The paper's mean. Its thresholds are chosen in-sample, so no other row has it.
    """

    mean: float
    sd: float
    spread: float
    paper: float


def cells(
    experiment: Experiment, row: Row, results: Iterable[Result], name: str
) -> dict[str, Cell]:
    """All that is known of a row on one data set, by score; all results have the same choice."""
    own = [result for result in results if result.row.id == row.id and name in result.sets]
    with_paper = not own or own[0].choice != LEFT_OUT
    found = {}
    for place, score in enumerate(experiment.scores):
        per_seed = [values for result in own if (values := _known(score, result.sets[name]))]
        means = [statistics.fmean(values) for values in per_seed]
        sds = [statistics.stdev(values) for values in per_seed if len(values) > 1]
        paper = row.paper.get(name, ()) if with_paper else ()
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
                choice = [result.choice, *_thresholds([result], name, missing="")]
                lines.append([*head, name, score, mean, sd, len(cases), paper, *choice])
    return csv_text(lines)


def to_markdown(experiment: Experiment, scale: Scale, results: Sequence[Result]) -> str:
    """One line per data set and row; beside every score of ours the paper's."""
    notes = [_about(experiment, scale, results), _how_to_read(experiment, results)]
    return to_page(experiment, notes, _table(experiment, results))


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
    """The same table for a paper."""
    notes = f"{_about(experiment, scale, results)} {_how_to_read(experiment, results)}"
    caption = f"{experiment.title}. Ours beside the paper's."
    return writer.to_latex(_table(experiment, results), caption, notes, "l")


def _table(experiment: Experiment, results: Sequence[Result]) -> Table:
    compared = _compared_row(experiment)
    with_choice = any(result.choice for result in results)
    columns = ["set", "row", *(["choice", "threshold", "upper threshold"] if with_choice else [])]
    for place, score in enumerate(experiment.scores):
        columns += [SCORES[score].heading, "sd", "paper"]
        if compared and place == 0:
            columns += [f"against {compared.label}", "sd over seeds", "paper"]
    rows = []
    for name in _sets(experiment, results):
        for row, own in _finished(experiment, results, name):
            texts = [SETS.get(name, name), row.label]
            if with_choice:
                texts += [own[0].choice or "-", *_thresholds(own, name)]
            for place, (score, cell) in enumerate(cells(experiment, row, own, name).items()):
                values, decimals = (cell.mean, cell.sd, cell.paper), _decimals(SCORES[score])
                texts += [number(value, decimals) for value in values]
                if compared and place == 0:
                    texts += _against(compared, experiment, row, results, name)
            keys = sorted({result.key[:8] for result in own})
            rows.append([*texts, " ".join(keys), str(len(own))])
    return Table([*columns, "config", "seeds"], rows)


def _thresholds(results: Sequence[Result], name: str, missing: str = "-") -> list[str]:
    """Mean threshold over the cases of a data set, and that of its upper end."""
    found = [own for result in results for own in result.thresholds.get(name, {}).values()]
    texts = []
    for ends in zip(*found, strict=True) if found else ((), ()):
        known = [end for end in ends if math.isfinite(end)]
        texts.append(number(statistics.fmean(known) if known else math.nan, 2, missing))
    return texts


def _how_to_read(experiment: Experiment, results: Sequence[Result]) -> str:
    parts = [READ]
    if experiment.compared_with:
        parts.append(READ_AGAINST)
    if any(result.choice for result in results):
        parts.append(READ_CHOICE)
    return " ".join(parts)


def _finished(
    experiment: Experiment, results: Sequence[Result], name: str
) -> Iterable[tuple[Row, list[Result]]]:
    """Rows that have results on a data set, in the order of the experiment, by choice."""
    for row in experiment.rows:
        own = [result for result in results if result.row.id == row.id and name in result.sets]
        for choice in dict.fromkeys(result.choice for result in own):
            yield row, [result for result in own if result.choice == choice]


def _sets(experiment: Experiment, results: Sequence[Result]) -> list[str]:
    """Data sets of the paper's table, then any others that were given."""
    named = [name for name in SETS if any(name in row.paper for row in experiment.rows)]
    given = [name for result in results for name in result.sets]
    return list(dict.fromkeys([*(name for name in SETS if name in named or name in given), *given]))


def _about(experiment: Experiment, scale: Scale, results: Sequence[Result]) -> str:
    sizes = []
    for name in _sets(experiment, results):
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
    """Our difference to ``base``, its deviation over the seeds, and the paper's difference."""
    decimals = _decimals(SCORES[experiment.scores[0]])
    if row.id == base.id:
        spread = cells(experiment, row, results, name)[experiment.scores[0]].spread
        return ["-", number(spread, decimals), "-"]
    found = differences(experiment, row, results, name)
    ours = f"{statistics.fmean(found):+.{decimals}f}" if found else "-"
    spread = statistics.stdev(found) if len(found) > 1 else math.nan
    paper = "-"
    if name in row.paper and name in base.paper:
        paper = f"{row.paper[name][0] - base.paper[name][0]:+.{decimals}f}"
    return [ours, number(spread, decimals), paper]


def _known(score: str, cases: dict[str, dict[str, float]]) -> list[float]:
    """The values of a score over the cases for which it is defined, shares in per cent."""
    factor = 100 if SCORES[score].unit == "share" else 1
    values = [case.get(score, math.nan) for case in cases.values()]
    return [factor * value for value in values if not math.isnan(value)]


def _decimals(score: Score) -> int:
    """Of a mean; a share in per cent has two fewer."""
    return score.decimals - 2 if score.unit == "share" else score.mean_decimals
