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
    from normnet.evaluation.statistics import Paired

OVERLAP = {"dsc": "DSC", "precision": "precision", "sensitivity": "sensitivity", "auc": "AUC"}
VOLUMES = {"prediction_ml": "ml", "reference_ml": "reference ml"}
SURFACES = {"surface_dice": "surface Dice", "hd95_mm": "HD95 mm", "surface_mean_mm": "mean mm"}
LESIONS = {"n_lesions": "lesions", "n_found": "found", "n_false": "false"}
BRIGHT = {
    "bright_precision": "precision",
    "bright_sensitivity": "sensitivity",
    "bright_specificity": "specificity",
    "auc": "AUC",
}


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
    tolerance_mm: Annotated[float, typer.Option(min=0, help="Of surface Dice.")] = 2.0,
    min_lesion_ml: Annotated[
        float, typer.Option(min=0, help="Smaller lesions are not counted.")
    ] = 0.1,
) -> int:
    """Overlap, surfaces, lesions and volumes of every case; mean, deviation and 95 % interval over the cases.

    With a data set or a CSV list (which name the CTs) also the bright voxels, healthy against
    lesion. --against compares two methods case by case.
    """
    from normnet.cli.texts import warn
    from normnet.evaluation.evaluate import compare, evaluate_folder
    from normnet.evaluation.tables import to_csv, to_slices_csv, write_text

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
        write_text(csv, to_csv(evaluation))
    if slices is not None:
        write_text(slices, to_slices_csv(evaluation))
    if against is not None:
        _print_comparison(compare(evaluation, score(against)), predictions.name, against.name)
    return 0


def _print_evaluation(evaluation: Evaluation, tolerance_mm: float, min_lesion_ml: float) -> None:
    from normnet.cli.texts import say

    has_bright = any(row.bright for row in evaluation.rows)
    overlap = {column: name for column, name in OVERLAP.items() if column != "auc" or has_bright}
    _print(_table("Lesions, voxel by voxel", evaluation, overlap, VOLUMES))
    title = f"Surfaces (tolerance {tolerance_mm:g} mm) and lesions of at least {min_lesion_ml:g} ml"
    _print(_table(title, evaluation, SURFACES, LESIONS))
    if has_bright:
        _print(_table("Bright voxels of the lungs, healthy is positive", evaluation, BRIGHT, {}))
    volume = evaluation.agreement()
    limits = (
        f"limits of agreement {volume.low:.1f} to {volume.high:.1f} ml, " if volume.n > 1 else ""
    )
    if volume.n:
        say(f"volume error: bias {volume.bias:.1f} ml, {limits}{volume.n} cases")


def _table(
    title: str, evaluation: Evaluation, summarised: dict[str, str], plain: dict[str, str]
) -> Table:
    """A row a case; mean, deviation and interval of the columns that are summarised, means of counts."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from normnet.cli.texts import one_line

    table = Table(box=box.SIMPLE, title=title, title_justify="left", title_style="bold")
    table.add_column("case", no_wrap=True)
    for name in (*summarised.values(), *plain.values()):
        table.add_column(name, justify="right", no_wrap=True)
    for row in evaluation.rows:
        case_id = Text(one_line(row.case_id) + ("" if row.counted else " (left out)"))
        cells = {column: row.value(column) for column in (*summarised, *plain)}
        table.add_row(
            case_id,
            *(
                f"{v:.0f}" if column in LESIONS else _number(v, column)
                for column, v in cells.items()
            ),
        )
    table.add_section()
    means = [
        " ± ".join(_number(v, column) for v in evaluation.mean_sd(column)) for column in summarised
    ]
    counts = [
        _number(evaluation.mean_sd(column)[0], column) if column in LESIONS else ""
        for column in plain
    ]
    table.add_row(f"mean ± sd of {sum(row.counted for row in evaluation.rows)}", *means, *counts)
    table.add_row(
        "95 % of the mean", *(_range(evaluation.interval(column), column) for column in summarised)
    )
    lacking = {column: len(evaluation.values(column)) for column in summarised}
    if len(set(lacking.values())) > 1:
        table.add_row("cases with a value", *(str(n) for n in lacking.values()))
    if summarised is BRIGHT:
        pooled = evaluation.pooled()
        table.add_row(
            "pooled voxels",
            *(_number(pooled.get(column, math.nan), column) for column in summarised),
        )
    return table


def _print_comparison(compared: dict[str, Paired], first: str, second: str) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from normnet.cli.texts import one_line

    names = Text(f"{one_line(first)} against {one_line(second)}, case by case", style="bold")
    table = Table(box=box.SIMPLE, title=names, title_justify="left")
    table.add_column("score", no_wrap=True)
    for name in ("cases", "first", "second", "difference", "95 %", "p (Wilcoxon)"):
        table.add_column(name, justify="right", no_wrap=True)
    for column, paired in compared.items():
        means = (
            _number(value, column) for value in (paired.first, paired.second, paired.difference)
        )
        p = _number(paired.p_wilcoxon, "p")
        table.add_row(column, str(paired.n), *means, _range(paired.interval, column), p)
    _print(table)


def _print(table: Table) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(table)


def _range(interval: tuple[float, float], column: str) -> str:
    return (
        "-"
        if math.isnan(interval[0])
        else " to ".join(_number(value, column) for value in interval)
    )


def _number(value: float, column: str) -> str:
    """Three decimals; one for mm, ml and means of counts."""
    if math.isnan(value):
        return "-"
    return (
        f"{value:.1f}" if column.endswith(("_mm", "_ml")) or column in LESIONS else f"{value:.3f}"
    )
