"""``normnet compare``: what changed between two scans of one patient."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from normnet.followup.comparison import Exam


def compare(
    earlier: Annotated[
        Path, typer.Argument(help="Result folder of the first scan.", show_default=False)
    ],
    later: Annotated[
        Path, typer.Argument(help="Result folder of the second scan.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for table, picture and numbers.")
    ] = None,
    register: Annotated[
        bool,
        typer.Option("--register", help="Lay the later lungs over the earlier ones; needs --out."),
    ] = False,
    earlier_ct: Annotated[
        Path | None, typer.Option(help="CT of the first scan, where it is not at its old place.")
    ] = None,
    later_ct: Annotated[
        Path | None, typer.Option(help="CT of the second scan, where it is not at its old place.")
    ] = None,
) -> int:
    """Compare the lesions of two scans of one patient: ml and % of each lung and zone.

    Both scans must have been segmented by 'normnet segment'. Every change has a range, made of the
    ranges of both volumes. A warning says where the two protocols differ.
    """
    from normnet.cli.texts import say
    from normnet.errors import ConfigError
    from normnet.followup.comparison import compare as compare_exams
    from normnet.followup.comparison import read_exam

    if register and out is None:
        raise ConfigError("NN-CLI-006", "--register without --out", "--register", "give --out")
    exams = read_exam(earlier), read_exam(later)
    comparison = compare_exams(*exams)
    if out is not None:
        _write(out, exams, (earlier_ct, later_ct), comparison, register)
    for text in comparison["warnings"]:
        say(f"warning: {text}")
    _print(comparison)
    return 0


def _write(
    out: Path,
    exams: tuple[Exam, Exam],
    cts: tuple[Path | None, Path | None],
    comparison: dict[str, Any],
    wants_registration: bool,
) -> None:
    """Write all files; the comparison gains what the registration says."""
    from normnet.cli.texts import say
    from normnet.followup.files import read_view, read_volume, write_comparison
    from normnet.followup.picture import Shown, draw_comparison
    from normnet.followup.registration import measure_change, register
    from normnet.io.output_folder import check_output

    check_output(out, [exam.folder for exam in exams])
    shown, grids, volumes = [], [], []
    for exam, ct, option in zip(exams, cts, ("--earlier-ct", "--later-ct"), strict=True):
        volume_hu = read_volume(exam, ct)
        volumes.append(volume_hu)
        if volume_hu is None:
            source = str(exam.result.get("source", ""))
            place = f"is not at {source} in the current folder" if source else "is not known"
            say(
                f"{exam.name}: its CT {place}, so the picture shows the masks alone; "
                f"add {option} FOLDER/{Path(source).name or 'FILE'}"
            )
    for exam, volume_hu in zip(exams, volumes, strict=True):  # a CT needs most while it is read
        view, grid = read_view(exam)
        shown.append(Shown(exam.name, view, volume_hu))
        grids.append(grid)
    change = None
    if wants_registration:
        registered = register(shown[0].view, shown[1].view)
        change = registered.change
        comparison["registration"] = {
            "lung_dice": round(registered.lung_dice, 4),
            "lung_dice_before": round(registered.lung_dice_before, 4),
            "regions": measure_change(registered, shown[0].view),
        }
    picture = draw_comparison(shown[0], shown[1], comparison, change)
    write_comparison(out, comparison, picture, None if change is None else (change, grids[0]))


def _print(comparison: dict[str, Any]) -> None:
    """One row per region: volumes, change and its range."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from normnet.cli.texts import one_line, print_table

    names = [one_line(comparison[when]["case_id"]) for when in ("earlier", "later")]
    title = Text(f"{names[0]} and {names[1]}", style="bold")
    table = Table(box=box.SIMPLE, title=title, title_justify="left")
    table.add_column("lesions", no_wrap=True)
    headings = ("earlier, ml", "later, ml", "change, ml", "range, ml", "% earlier", "% later",
                "change, %", "range, %")  # fmt: skip
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for region, row in comparison["regions"].items():
        cells = [_number(row["earlier_lesion_ml"], ".1f"), _number(row["later_lesion_ml"], ".1f")]
        cells += _change(row, "change_ml", ".1f")
        cells += [_number(row[f"{when}_lesion_percent"], ".2f") for when in ("earlier", "later")]
        cells += _change(row, "change_percent", ".2f")
        table.add_row(region.replace("_", " "), *cells)
    print_table(table)


def _change(row: dict[str, Any], name: str, form: str) -> list[str]:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    span = "-" if low is None else f"{_number(low, '+' + form)} to {_number(high, '+' + form)}"
    return [_number(row[name], f"+{form}"), span]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
