"""``normnet evaluate``: results against reference masks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from normnet.evaluation.evaluate import Evaluation


def evaluate(
    predictions: Annotated[
        Path, typer.Argument(help="Folder of 'normnet segment', or of masks <case>….nii.gz.", show_default=False)
    ],
    references: Annotated[
        Path, typer.Argument(help="Folder with <case>…lesion….nii.gz, or a CSV list of cases.", show_default=False)
    ],
    leave_out: Annotated[list[str] | None, typer.Option(help="A case to keep out of the means; repeatable.")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write the table as CSV too.")] = None,
) -> int:
    """Dice, precision and sensitivity of every case, mean and standard deviation over the cases.

    With a CSV list of cases (which names the CTs) also the AUC of bright voxels, healthy against lesion.
    """
    from normnet.cli.texts import warn
    from normnet.evaluation.evaluate import evaluate_folder, write_csv

    evaluation = evaluate_folder(predictions, references, leave_out or [])
    for name in evaluation.unmatched:
        warn(f"no partner for {name}")
    _print_table(evaluation)
    if csv is not None:
        write_csv(csv, evaluation)
    return 0


def _print_table(evaluation: Evaluation) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from normnet.cli.texts import one_line
    from normnet.evaluation.evaluate import COLUMNS

    columns = [c for c in COLUMNS if c != "auc" or any(row.auc is not None for row in evaluation.rows)]
    names = {"dsc": "DSC", "precision": "precision", "sensitivity": "sensitivity", "auc": "AUC"}
    table = Table(box=box.SIMPLE)
    table.add_column("case", no_wrap=True)
    for name in (*(names[column] for column in columns), "ml", "reference ml"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in evaluation.rows:
        case_id = Text(one_line(row.case_id) + ("" if row.counted else " (left out)"))
        volumes = f"{row.prediction_ml:.1f}", f"{row.reference_ml:.1f}"
        table.add_row(case_id, *(_number(row.value(column)) for column in columns), *volumes)
    table.add_section()
    means = [evaluation.mean_sd(column) for column in columns]
    n_counted = sum(row.counted for row in evaluation.rows)
    table.add_row(f"mean ± sd of {n_counted}", *(f"{_number(mean)} ± {_number(sd)}" for mean, sd in means), "", "")
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(table)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
