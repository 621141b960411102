"""``results.csv``: one row per result folder, written beside the folders.

The columns are ``COLUMNS`` of ``results.schema``. Every call reads all result folders, so that
scans of earlier runs have their rows, too.
"""

from __future__ import annotations

from pathlib import Path

from normnet.io.atomic import write_bytes
from normnet.io.csv_text import csv_text, harmless_cell
from normnet.results.schema import COLUMNS, RESULT, read_result

TABLE = "results.csv"


def write_table(out: Path) -> None:
    """Write the table of all result folders in ``out``, in the order of their names.

    Raises:
        OutputError: If it cannot be written whole; an older table stays then.
    """
    folders = sorted(path.parent for path in out.glob(f"*/{RESULT}"))
    results = [(folder.name, read_result(folder)) for folder in folders]
    rows = [
        [_cell(column.value({**result, "folder": name})) for column in COLUMNS]
        for name, result in results
        if result is not None and "normnet" in result
    ]
    write_bytes(out / TABLE, csv_text([[column.name for column in COLUMNS], *rows]).encode())


def _cell(value: object) -> object:
    return harmless_cell(value) if isinstance(value, str) else value
