"""A table of scores as CSV (every row, seed and data set), Markdown and LaTeX (means, with the paper's beside)."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from normnet.experiments.catalogue import SETS, Experiment, Row, Scale
from normnet.experiments.scores import SCORES, Result
from normnet.io.atomic import write_bytes

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


@dataclass(frozen=True)
class Cell:
    """One score of one row on one data set, in per cent; NaN where there is none.

    Attributes:
        mean: Over the cases, then over the seeds.
        sd: Deviation over the cases (n - 1), mean over the seeds; what the paper gives.
        spread: Deviation over the seeds of the mean over the cases (n - 1); NaN with one seed.
        paper: The paper's mean.
    """

    mean: float
    sd: float
    spread: float
    paper: float


def cells(experiment: Experiment, row: Row, results: Iterable[Result], name: str) -> dict[str, Cell]:
    """What is known of a row on one data set, by score."""
    own = [result.sets[name] for result in results if result.row.id == row.id and name in result.sets]
    found = {}
    for place, score in enumerate(experiment.scores):
        per_seed = [[100 * case[score] for case in cases.values() if not math.isnan(case[score])] for cases in own]
        per_seed = [values for values in per_seed if values]
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


def write_tables(folder: Path, experiment: Experiment, scale: Scale, results: Sequence[Result]) -> list[Path]:
    """Write ``<name>.csv``, ``.md`` and ``.tex`` of what is known so far.

    Raises:
        OutputError: If they cannot be written.
    """
    texts = {
        "csv": to_csv(experiment, scale, results),
        "md": to_markdown(experiment, scale, results),
        "tex": to_latex(experiment, scale, results),
    }
    paths = []
    for suffix, text in texts.items():
        paths.append(folder / f"{experiment.name}.{suffix}")
        write_bytes(paths[-1], text.encode())
    return paths


def to_csv(experiment: Experiment, scale: Scale, results: Sequence[Result]) -> str:
    """A line a row, seed, data set and score."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for result in results:
        row = result.row
        for name, cases in result.sets.items():
            for score, cell in cells(experiment, row, [result], name).items():
                numbers = (_plain(cell.mean), _plain(cell.sd), len(cases), _plain(cell.paper))
                head = (experiment.name, scale.name, row.id, row.label, result.seed, result.key)
                writer.writerow([*head, name, score, *numbers])
    return text.getvalue()


def to_markdown(experiment: Experiment, scale: Scale, results: Sequence[Result]) -> str:
    """The table as the paper has it; in every cell ours, then the paper's."""
    names = _sets(experiment, results)
    lines = [f"# {experiment.where}: {experiment.title}", "", _about(experiment, scale, results, names), ""]
    columns = [f"{SETS.get(name, name)} {SCORES[score]}" for name in names for score in experiment.scores]
    head = ["row", *(f"{column} | paper" for column in columns), "against the baseline", "config", "seeds"]
    if not experiment.baseline:
        head.remove("against the baseline")
    lines += ["| " + " | ".join(head) + " |", "|---" * (len(head) + len(columns)) + "|"]
    for row in experiment.rows:
        own = [result for result in results if result.row.id == row.id]
        if not own:
            continue
        texts = [row.label]
        for name in names:
            for cell in cells(experiment, row, own, name).values():
                texts += [_with_sd(cell), _number(cell.paper)]
        if experiment.baseline:
            texts.append(_differences(experiment, row, results, names))
        keys = sorted({result.key[:8] for result in own})
        texts += [", ".join(keys), str(len(own))]
        lines.append("| " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"


def to_latex(experiment: Experiment, scale: Scale, results: Sequence[Result]) -> str:
    """The same for a paper, with the booktabs package."""
    names = _sets(experiment, results)
    n_scores = len(experiment.scores)
    lines = [
        f"% {_about(experiment, scale, results, names)}",
        r"\begin{table}",
        rf"\caption{{{escape(experiment.title)}. Ours (the paper's in brackets), per cent.}}",
        r"\begin{tabular}{l" + "c" * (len(names) * n_scores) + "}",
        r"\toprule",
        "& "
        + " & ".join(rf"\multicolumn{{{n_scores}}}{{c}}{{{escape(SETS.get(name, name))}}}" for name in names)
        + r" \\",
        "& " + " & ".join(SCORES[score] for _ in names for score in experiment.scores) + r" \\",
        r"\midrule",
    ]
    for row in experiment.rows:
        own = [result for result in results if result.row.id == row.id]
        if own:
            found = [cell for name in names for cell in cells(experiment, row, own, name).values()]
            texts = [escape(row.label), *(_latex_cell(cell) for cell in found)]
            keys = ", ".join(f"{result.key[:8]} (seed {result.seed})" for result in own)
            lines.append(" & ".join(texts) + rf" \\ % {keys}")
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _sets(experiment: Experiment, results: Sequence[Result]) -> list[str]:
    """Data sets of the paper's table, then any others that were given."""
    named = [name for name in SETS if any(name in row.paper for row in experiment.rows)]
    given = [name for result in results for name in result.sets]
    return list(dict.fromkeys([*(name for name in SETS if name in named or name in given), *given]))


def _about(experiment: Experiment, scale: Scale, results: Sequence[Result], names: list[str]) -> str:
    sizes = {}
    for name in names:
        counts = [len(result.sets.get(name, {})) for result in results]
        n = max(counts, default=0)
        sizes[name] = f"{SETS.get(name, name)}: {n} cases" if n else f"{SETS.get(name, name)}: no data"
    parts = [f"Scale {scale.name}.", scale.note, experiment.note, "; ".join(sizes.values()) + "."]
    return " ".join(part for part in parts if part)


def _differences(experiment: Experiment, row: Row, results: Sequence[Result], names: list[str]) -> str:
    """First score against the baseline's on every data set, with the spread of both over the seeds."""
    if row.id == experiment.baseline:
        return "-"
    base = next(other for other in experiment.rows if other.id == experiment.baseline)
    texts = []
    for name in names:
        score = experiment.scores[0]
        ours = cells(experiment, row, results, name)[score]
        theirs = cells(experiment, base, results, name)[score]
        if math.isnan(ours.mean) or math.isnan(theirs.mean):
            continue
        spread = f" (seeds ± {_number(ours.spread)}, baseline ± {_number(theirs.spread)})"
        paper = f", paper {ours.paper - theirs.paper:+.1f}" if not math.isnan(ours.paper - theirs.paper) else ""
        texts.append(f"{SETS.get(name, name)} {ours.mean - theirs.mean:+.1f}{spread}{paper}")
    return "; ".join(texts) or "-"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"


def _plain(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def _with_sd(cell: Cell) -> str:
    return _number(cell.mean) if math.isnan(cell.sd) else f"{cell.mean:.1f} ± {cell.sd:.1f}"


def _latex_cell(cell: Cell) -> str:
    own = "--" if math.isnan(cell.mean) else f"{cell.mean:.1f}"
    if not math.isnan(cell.sd):
        own += rf"$\pm${cell.sd:.1f}"
    return own if math.isnan(cell.paper) else f"{own} ({cell.paper:.1f})"


def escape(text: str) -> str:
    """The text for LaTeX."""
    return text.translate({ord(c): rf"\{c}" for c in "&%$#_{}"})
