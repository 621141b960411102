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

READ = "Per cent, ± the deviation over the cases; against the baseline of the same seed, ± the deviation over the seeds."
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


def cells(
    experiment: Experiment, row: Row, results: Iterable[Result], name: str
) -> dict[str, Cell]:
    """What is known of a row on one data set, by score."""
    own = [
        result.sets[name] for result in results if result.row.id == row.id and name in result.sets
    ]
    found = {}
    for place, score in enumerate(experiment.scores):
        per_seed = [
            [100 * case[score] for case in cases.values() if not math.isnan(case[score])]
            for cases in own
        ]
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


def write_tables(
    folder: Path, experiment: Experiment, scale: Scale, results: Sequence[Result]
) -> list[Path]:
    """Write ``<name>.csv``, ``.md`` and ``.tex`` of what is known so far.

    Raises:
        OutputError: If they cannot be written.
    """
    texts = {
        "csv": to_csv(experiment, scale, results),
        "md": to_markdown(experiment, scale, results),
        "tex": to_latex(experiment, scale, results),
    }
    return write_texts(folder, experiment.name, texts)


def write_texts(folder: Path, name: str, texts: dict[str, str]) -> list[Path]:
    """Write ``<name>.<suffix>`` for every suffix; raises ``OutputError``."""
    paths = []
    for suffix, text in texts.items():
        paths.append(folder / f"{name}.{suffix}")
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
    lines = [
        f"# {experiment.where}: {experiment.title}",
        "",
        _about(experiment, scale, results, names),
        READ,
        "",
    ]
    head = ["row"]
    for name in names:
        known = "" if any(name in result.sets for result in results) else " (no data)"
        for score in experiment.scores:
            head += [f"{SETS.get(name, name)}{known} {SCORES[score]}", "paper"]
            if experiment.baseline and score == experiment.scores[0]:
                head += ["against the baseline", "paper"]
    lines += ["| " + " | ".join([*head, "config", "seeds"]) + " |", "|---" * (len(head) + 2) + "|"]
    for row in experiment.rows:
        own = [result for result in results if result.row.id == row.id]
        if not own:
            continue
        texts = [row.label]
        for name in names:
            for score, cell in cells(experiment, row, own, name).items():
                texts += [_with_sd(cell), _number(cell.paper)]
                if experiment.baseline and score == experiment.scores[0]:
                    texts += _against_baseline(experiment, row, results, name)
        keys = sorted({result.key[:8] for result in own})
        lines.append("| " + " | ".join([*texts, ", ".join(keys), str(len(own))]) + " |")
    return "\n".join(lines) + "\n"


def differences(
    experiment: Experiment, row: Row, results: Iterable[Result], name: str
) -> list[float]:
    """First score less the baseline's at the same seed, per cent; one a seed that both have."""
    score = experiment.scores[0]
    means: dict[str, dict[int, float]] = {row.id: {}, experiment.baseline: {}}
    for result in results:
        if result.row.id in means and name in result.sets:
            values = [
                case[score] for case in result.sets[name].values() if not math.isnan(case[score])
            ]
            if values:
                means[result.row.id][result.seed] = 100 * statistics.fmean(values)
    base = means[experiment.baseline]
    return [mean - base[seed] for seed, mean in means[row.id].items() if seed in base]


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
        + " & ".join(
            rf"\multicolumn{{{n_scores}}}{{c}}{{{escape(SETS.get(name, name))}}}" for name in names
        )
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


def _about(
    experiment: Experiment, scale: Scale, results: Sequence[Result], names: list[str]
) -> str:
    sizes = {}
    for name in names:
        counts = [len(result.sets.get(name, {})) for result in results]
        n = max(counts, default=0)
        sizes[name] = (
            f"{SETS.get(name, name)}: {n} cases" if n else f"{SETS.get(name, name)}: no data"
        )
    parts = [f"Scale {scale.name}.", scale.note, experiment.note, "; ".join(sizes.values()) + "."]
    return " ".join(part for part in parts if part)


def _against_baseline(
    experiment: Experiment, row: Row, results: Sequence[Result], name: str
) -> list[str]:
    """Mean difference and its deviation over the seeds, and the paper's; of the baseline its own deviation."""
    base = next(other for other in experiment.rows if other.id == experiment.baseline)
    if row.id == base.id:
        spread = cells(experiment, row, results, name)[experiment.scores[0]].spread
        return ["-" if math.isnan(spread) else f"(seeds ± {spread:.1f})", "-"]
    found = differences(experiment, row, results, name)
    around = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
    ours = f"{statistics.fmean(found):+.1f}{around}" if found else "-"
    if name not in row.paper or name not in base.paper:
        return [ours, "-"]
    return [ours, f"{row.paper[name][0] - base.paper[name][0]:+.1f}"]


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
