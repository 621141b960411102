"""``normnet datasets``: the known data sets, and the check of a copy of one."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from normnet.cli.texts import Bar
    from normnet.datasets.check import Report


class Action(StrEnum):
    """What ``normnet datasets`` does."""

    LIST = "list"
    CHECK = "check"


def datasets(
    action: Annotated[
        Action,
        typer.Argument(help="'list' the data sets, or 'check' a folder.", show_default=False),
    ],
    path: Annotated[
        Path | None,
        typer.Argument(help="Folder or CSV list of cases to check.", show_default=False),
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="Name in the list, to look for this data set only.")
    ] = None,
) -> int:
    """List the data sets of the paper and where to get them, or check a copy of one.

    'check' recognises the layout and reads every CT and mask. It prints one line for everything
    that is missing or odd, and says what to do. It ends with 0 if all cases that the paper uses are
    usable, with 9 if only some are.
    """
    if action is Action.LIST:
        if path is not None or kind is not None:
            raise typer.BadParameter("'list' takes no path and no --kind")
        _print_list()
        return 0
    if path is None:
        raise typer.BadParameter("'check' needs a folder or a CSV list of cases")
    return _check(path, kind)


def _print_list() -> None:
    from rich import box
    from rich.table import Table

    from normnet.cli.texts import print_table, say
    from normnet.datasets.registry import DATASETS

    table = Table(
        box=box.SIMPLE, title="Data sets (Table I and Sec. IV-A of the paper)", title_justify="left"
    )
    table.add_column("name", no_wrap=True)
    table.add_column("CTs", justify="right", no_wrap=True)
    table.add_column("Table I", justify="right", no_wrap=True)
    for name in ("what it is", "use in the paper", "licence", "where to get it"):
        table.add_column(name, overflow="fold")
    for known in DATASETS.values():
        n = str(known.n_volumes or "any")
        table.add_row(
            known.name, n, known.table1 or "-", known.title, known.use, known.licence, known.source
        )
    print_table(table)
    say(
        "Not read: COVID-CT, SIRM-COVID, SIRM-Seg and BIMCV of Table I; "
        "single images, or graded without lesion masks."
    )
    say("How each lies on disk: docs/datasets.md")


def _check(path: Path, kind: str | None) -> int:
    from normnet.cli.texts import progress_bar
    from normnet.datasets.check import check_dataset
    from normnet.datasets.registry import recognise

    codes = []
    for dataset, root in recognise(path, kind):
        with progress_bar() as bar:

            def show(name: str, n: int, n_cases: int, bar: Bar = bar) -> None:
                bar(f"{name}: checking", n, n_cases)

            report = check_dataset(dataset, root, show)
        _print_report(report)
        codes.append(report.exit_code)
    return codes[0] if len(set(codes)) == 1 else 9


def _print_report(report: Report) -> None:
    from normnet.cli.texts import say

    def count(mask: str) -> int:
        return sum(
            (found := getattr(case, mask)) is not None and found.exists() for case in report.cases
        )

    n_cts = sum(case.image.exists() for case in report.cases)
    say(f"{report.dataset.name}: {report.dataset.title}, in {report.root}")
    say(f"found: {n_cts} CTs, {count('lung_mask')} lung masks, {count('lesion_mask')} lesion masks")
    for case in report.left_out:
        say(f"left out: {case.case_id}: {case.left_out}")
    for note in report.notes:
        say(f"note: {note}")
    for faults in report.faults.values():
        for fault in faults:
            say(str(fault))
    say(f"usable: {report.n_usable} of {len(report.cases) - len(report.left_out)}")
