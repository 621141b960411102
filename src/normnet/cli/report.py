"""``normnet report``: pages for results that are there already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from normnet.io.census import Item
    from normnet.results.schema import Result


def report(
    results: Annotated[
        Path,
        typer.Argument(help="Folder of 'normnet segment', or one result.", show_default=False),
    ],
    scans: Annotated[
        list[Path] | None,
        typer.Option("--scans", help="Where the CTs are, if they were moved; repeatable."),
    ] = None,
    pdf: Annotated[bool, typer.Option("--pdf", help="Write report.pdf too, by Chromium.")] = False,
) -> int:
    """Write report.html for each result, and index.html for a folder of results.

    The pages show the CT, so each CT is read again and must be the one that was segmented. Without
    --scans it is looked for at the path in result.json, from the current folder.
    """
    from normnet.cli.texts import say
    from normnet.errors import InputError
    from normnet.report.cohort import check_index, write_index
    from normnet.report.printing import find_browser
    from normnet.results.schema import RESULT

    alone = (results / RESULT).is_file()
    folders = [results] if alone else sorted(path.parent for path in results.glob(f"*/{RESULT}"))
    if not folders:
        raise InputError("NN-RPT-005", "no result", results.name, "give the --out of 'segment'")
    if pdf:
        find_browser()
    if not alone:
        check_index(results)
    items: dict[str, Item] = {}
    for path in scans or ():
        items |= find_scans(path)
    codes = report_each(folders, items, pdf)
    if not alone:
        write_index(results)
        say("index.html written")
    failed = [code for code in codes if code]
    return 0 if not failed else failed[0] if alone else 9


def report_each(folders: list[Path], items: dict[str, Item], pdf: bool) -> list[int]:
    """Write the reports of all complete results among some folders; one exit code for each.

    Args:
        folders: Of results.
        items: CTs by their sha256, as ``find_scans`` makes them.
        pdf: Whether to print the reports, too.
    """
    from normnet.cli.failures import as_named_error
    from normnet.cli.texts import progress_bar, say, warn
    from normnet.results.schema import read_result

    codes = []
    with progress_bar() as bar:
        for n, folder in enumerate(folders):
            bar(folder.name, n, len(folders))
            result = read_result(folder)
            if result is None or result.get("status") != "ok":
                continue
            try:
                report_again(folder, result, items, pdf)
                codes.append(0)
                say(f"{folder.name}: report written")
            except Exception as caught:
                error = as_named_error(caught, folder.name)
                warn(f"{folder.name}: {error}")
                codes.append(error.exit_code)
    return codes


def report_again(folder: Path, result: Result, items: dict[str, Item], pdf: bool) -> None:
    """Write the report of a result whose CT is read again.

    Args:
        folder: Of the result.
        result: Its ``result.json``.
        items: CTs by their sha256, as ``find_scans`` makes them.
        pdf: Whether to print it, too.

    Raises:
        InputError: NN-RPT-001 if the CT is not found.
        NormNetError: If the CT or a file of the result cannot be read, or the report not written.
    """
    from normnet.errors import InputError
    from normnet.io.lock import locked_folder
    from normnet.io.read import read_item
    from normnet.report.scan_report import Maps, write_report

    wanted = result.get("key", {}).get("input")
    source = str(result.get("source", ""))
    item = items.get(wanted) or (find_scans(Path(source)) if source else {}).get(wanted)
    if item is None:
        raise InputError(
            "NN-RPT-001",
            "the CT of this result was moved or changed",
            Path(source).name or folder.name,
            "say where it is with --scans",
        )
    scan = read_item(item, result["case_id"])
    with locked_folder(folder):
        write_report(folder, scan, Maps.read(folder, scan), result, pdf)


def find_scans(path: Path) -> dict[str, Item]:
    """The scans at a path and below it, by the sha256 that a result knows them by."""
    from normnet.errors import NormNetError
    from normnet.io.census import take_census
    from normnet.io.fingerprint import fingerprint
    from normnet.results.folder import is_result_file

    try:
        census = take_census([path], is_result_file)
    except NormNetError:
        return {}
    return {fingerprint(item.path, item.files): item for item in census.items if item.error is None}
