"""``results.csv``: one row per result folder, written beside the folders.

The columns are ``COLUMNS`` of ``results.schema``. Every call reads all result folders, so that
scans of earlier runs have their rows, too.

Error ids: NN-OUT-015 a table that normnet did not write, 016 a link.
"""

from __future__ import annotations

import csv
from pathlib import Path

from normnet.io.atomic import check_regular, foreign_file, remove_temporaries, write_bytes
from normnet.io.csv_text import csv_text, harmless_cell
from normnet.io.lock import locked_folder
from normnet.results.schema import COLUMNS, RESULT, is_own, read_result

TABLE = "results.csv"
MAX_WAIT_S = 60.0  # for another process that writes the table


def write_table(out: Path) -> None:
    """Write the table of all result folders in ``out``, in the order of their names.

    Another process that writes it at that time is waited for.

    Raises:
        OutputError: If it cannot be written; an older table stays then. NN-OUT-015 or 016 if it is
            not ours.
    """
    with locked_folder(out, MAX_WAIT_S):
        remove_temporaries(out)
        check_table(out)
        folders = sorted(path.parent for path in out.glob(f"*/{RESULT}"))
        results = [(folder.name, read_result(folder)) for folder in folders]
        rows = [
            [_cell(column.value({**result, "folder": name})) for column in COLUMNS]
            for name, result in results
            if result is not None and is_own(result)
        ]
        write_bytes(out / TABLE, csv_text([[column.name for column in COLUMNS], *rows]).encode())


def check_table(out: Path) -> None:
    """See that a table that lies in ``out`` already was written by normnet, of any version.

    Raises:
        OutputError: NN-OUT-015 or 016.
    """
    path = out / TABLE
    check_regular(path)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            names = next(csv.reader(file), [])
    except FileNotFoundError:
        return
    except (OSError, ValueError, csv.Error) as error:
        raise foreign_file(path) from error
    known = {column.name for column in COLUMNS}
    if not known >= set(names) >= {"case_id", "folder", "status"}:
        raise foreign_file(path)


def _cell(value: object) -> object:
    return harmless_cell(value) if isinstance(value, str) else value
