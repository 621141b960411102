"""The three files of a table: CSV, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from normnet.evaluation.tables import Table, to_latex, to_markdown
from normnet.experiments.catalogue import Experiment
from normnet.io.atomic import write_bytes
from normnet.io.csv_text import csv_text

Record = Mapping[str, Any]  # heading to value: text, or a number


def write_records(
    folder: Path,
    experiment: Experiment,
    note: str,
    shown: Sequence[Record],
    records: Sequence[Record],
) -> list[Path]:
    """Write a table that has no rows of settings and no seeds (for one that has, see ``tables``).

    Args:
        folder: Where.
        experiment: Its name and title.
        note: What a reader must know.
        shown: Rows of the Markdown and the LaTeX table, at least one, all with the same headings.
        records: Rows of the CSV; where a record lacks a heading, its cell is empty.

    Raises:
        OutputError: If they cannot be written.
    """
    columns = list(dict.fromkeys(name for record in records for name in record))
    cells = [[_text(record.get(name, "")) for name in columns] for record in records]
    table = Table(list(shown[0]), [[_text(value) for value in record.values()] for record in shown])
    return write_page(
        folder,
        experiment,
        csv_text([columns, *cells]),
        to_page(experiment, [note], table),
        to_latex(table, f"{experiment.title}.", note, "l"),
    )


def to_page(experiment: Experiment, notes: Sequence[str], table: Table) -> str:
    """The Markdown page: title, notes, table."""
    title = f"# {experiment.where}: {experiment.title}"
    return "\n".join([title, "", *notes, "", to_markdown(table)])


def write_page(
    folder: Path, experiment: Experiment, csv: str, markdown: str, latex: str
) -> list[Path]:
    """Write ``<name>.csv``, ``.md`` and ``.tex``; raises ``OutputError``."""
    paths = []
    for suffix, text in (("csv", csv), ("md", markdown), ("tex", latex)):
        paths.append(folder / f"{experiment.name}.{suffix}")
        write_bytes(paths[-1], text.encode())
    return paths


def _text(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
