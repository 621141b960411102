"""``normnet evaluate``: results against reference masks."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from normnet.evaluation.evaluate import Evaluation
    from normnet.evaluation.scores import Score
    from normnet.evaluation.statistics import Paired


def evaluate(
    predictions: Annotated[
        Path,
        typer.Argument(
            help="Folder of 'normnet segment', or of masks <case>….nii.gz.", show_default=False
        ),
    ],
    references: Annotated[
        Path,
        typer.Argument(
            help="Folder with <case>…lesion….nii.gz, a data set, or a CSV list.", show_default=False
        ),
    ],
    leave_out: Annotated[
        list[str] | None, typer.Option(help="A case to keep out of the means; repeatable.")
    ] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write the table as CSV too.")] = None,
    slices: Annotated[
        Path | None, typer.Option(help="Write the lesion area of every slice as CSV.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Results of another method on the same cases.")
    ] = None,
    tolerance_mm: Annotated[
        float, typer.Option(min=0, help="Distance up to which surfaces agree.")
    ] = 2.0,
    min_lesion_ml: Annotated[
        float, typer.Option(min=0, help="Smaller lesions are not counted.")
    ] = 0.1,
) -> int:
    """Score every case: overlap, surfaces, lesions and volumes; then summarise all cases.

    With a data set or a CSV list (which name the CTs) the bright voxels are scored too, healthy
    against lesion. --against compares two methods case by case.
    """
    from normnet.cli.texts import warn
    from normnet.evaluation.case_tables import cases_csv, slices_csv
    from normnet.evaluation.evaluate import compare, evaluate_folder
    from normnet.evaluation.tables import write_text
    from normnet.io.output_folder import check_no_input

    for table in filter(None, (csv, slices)):
        check_no_input(table, {references.resolve()})
    score = partial(
        evaluate_folder,
        references=references,
        tolerance_mm=tolerance_mm,
        min_lesion_ml=min_lesion_ml,
    )
    evaluation = score(predictions, leave_out=leave_out or [])
    for name in evaluation.unmatched:
        warn(f"no partner for {name}")
    _print_evaluation(evaluation, tolerance_mm, min_lesion_ml)
    if csv is not None:
        write_text(csv, cases_csv(evaluation))
    if slices is not None:
        write_text(slices, slices_csv(evaluation))
    if against is not None:
        _print_comparison(compare(evaluation, score(against)), predictions.name, against.name)
    return 0


def _print_evaluation(evaluation: Evaluation, tolerance_mm: float, min_lesion_ml: float) -> None:
    """One table for each of ``TABLES`` in which any case has a value; the agreement of volumes."""
    from normnet.cli.texts import print_table, say
    from normnet.evaluation.scores import TABLES, scores_of

    for name, title in TABLES.items():
        scores = scores_of(name)
        values = [row.values[score.name] for row in evaluation.rows for score in scores]
        if not all(map(math.isnan, values)):
            title = title.format(tolerance_mm=tolerance_mm, min_lesion_ml=min_lesion_ml)
            print_table(_cases_table(title, evaluation, scores))
    volume = evaluation.agreement()
    limits = (
        f"limits of agreement {volume.low:.1f} to {volume.high:.1f} ml, " if volume.n > 1 else ""
    )
    if volume.n:
        say(f"volume error: bias {volume.bias:.1f} ml, {limits}{volume.n} cases")


def _cases_table(title: str, evaluation: Evaluation, scores: list[Score]) -> Table:
    """One row per case, then the summaries of the scores that have them."""
    from rich.text import Text

    from normnet.cli.texts import one_line
    from normnet.evaluation.tables import mean_sd, number

    table = _new_table(title, "case", [score.heading for score in scores])
    for row in evaluation.rows:
        case_id = Text(one_line(row.case_id) + ("" if row.counted else " (left out)"))
        cells = (number(row.values[score.name], score.decimals) for score in scores)
        table.add_row(case_id, *cells)
    table.add_section()
    pooled = evaluation.pooled()
    means, intervals, counts, together = [], [], [], []
    for score in scores:
        has_sd = score.summary == "mean ± sd"
        mean, sd = evaluation.mean_sd(score.name)
        sd = sd if has_sd else math.nan
        means.append(mean_sd(mean, sd, score.mean_decimals) if score.summary else "")
        intervals.append(_range(evaluation.interval(score.name), score) if has_sd else "")
        counts.append(str(len(evaluation.values(score.name))) if has_sd else "")
        together.append(number(pooled.get(score.name, math.nan), score.mean_decimals, ""))
    table.add_row(f"mean ± sd of {sum(row.counted for row in evaluation.rows)}", *means)
    table.add_row("95 % of the mean", *intervals)
    if len(set(filter(None, counts))) > 1:
        table.add_row("cases with a value", *counts)
    if any(together):
        table.add_row("pooled voxels", *together)
    return table


def _print_comparison(compared: dict[str, Paired], first: str, second: str) -> None:
    """One row per score."""
    from normnet.cli.texts import one_line, print_table
    from normnet.evaluation.scores import SCORES
    from normnet.evaluation.tables import number

    title = f"{one_line(first)} against {one_line(second)}, case by case"
    columns = ["cases", "first", "second", "difference", "95 %", "p (Wilcoxon)"]
    table = _new_table(title, "score", columns)
    for name, paired in compared.items():
        score = SCORES[name]
        means = (
            number(value, score.mean_decimals)
            for value in (paired.first, paired.second, paired.difference)
        )
        p = number(paired.p_wilcoxon, 3)
        table.add_row(name, str(paired.n), *means, _range(paired.interval, score), p)
    print_table(table)


def _new_table(title: str, first: str, columns: list[str]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    heading = Text(title, style="bold")
    table = Table(box=box.SIMPLE, title=heading, title_justify="left")
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _range(interval: tuple[float, float], score: Score) -> str:
    from normnet.evaluation.tables import number

    if math.isnan(interval[0]):
        return "-"
    return " to ".join(number(value, score.mean_decimals) for value in interval)
