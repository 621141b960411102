"""``results.csv`` and ``results.parquet``: one row per result folder, written beside the folders.

The columns are ``COLUMNS`` of ``results.schema``. Every call reads all result folders, one after
the other, so that scans of earlier runs have their rows, too; so it is called at the end of a run.

Error ids: NN-OUT-015 a table that normnet did not write, 016 a link.
"""

from __future__ import annotations

import csv
import io
from importlib.util import find_spec
from pathlib import Path

from normnet.io.atomic import check_regular, foreign_file, remove_temporaries, write_bytes
from normnet.io.csv_text import csv_text, harmless_cell
from normnet.io.lock import locked_folder
from normnet.results.schema import COLUMNS, RESULT, is_own, read_result

TABLE, PARQUET = "results.csv", "results.parquet"
MAX_WAIT_S = 600.0  # for other processes that write the table, each of which reads all results
_MARK = b"normnet"  # in the metadata of a Parquet file of ours


def write_table(out: Path, parquet: bool = False) -> None:
    """Write the table of all result folders in ``out``, in the order of their names.

    Another process that writes it at that time is waited for.

    Args:
        out: Where the result folders lie.
        parquet: Whether ``results.parquet`` is written, too; one that is there is always renewed
            where pyarrow is installed.

    Raises:
        OutputError: If it cannot be written; an older table stays then. NN-OUT-015 or 016 if it is
            not ours.
    """
    with locked_folder(out, MAX_WAIT_S):
        remove_temporaries(out)
        check_table(out)
        rows = _rows(out)
        cells = [[_cell(value) for value in row] for row in rows]
        write_bytes(out / TABLE, csv_text([[column.name for column in COLUMNS], *cells]).encode())
        if parquet or ((out / PARQUET).exists() and find_spec("pyarrow") is not None):
            write_bytes(out / PARQUET, _parquet(rows))


def check_table(out: Path) -> None:
    """See that tables that lie in ``out`` already were written by normnet, of any version.

    Raises:
        OutputError: NN-OUT-015 or 016.
    """
    path = out / TABLE
    check_regular(path)
    _check_parquet(out / PARQUET)
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


def _check_parquet(path: Path) -> None:
    check_regular(path)
    if not path.exists() or find_spec("pyarrow") is None:
        return  # without pyarrow it is not written either
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException) as error:
        raise foreign_file(path) from error
    if _MARK not in metadata:
        raise foreign_file(path)


def _rows(out: Path) -> list[list[object]]:
    """The values of all columns, one row per result; no more than one result is in memory."""
    rows = []
    for folder in sorted(path.parent for path in out.glob(f"*/{RESULT}")):
        result = read_result(folder)
        if result is not None and is_own(result):
            result["folder"] = folder.name
            rows.append([column.value(result) for column in COLUMNS])
    return rows


def _parquet(rows: list[list[object]]) -> bytes:
    """The table as Parquet: texts, whole numbers and numbers; an empty cell is null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from normnet.version import __version__

    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    arrays = [
        pa.array([_typed(row[n], column.kind) for row in rows], kinds[column.kind])
        for n, column in enumerate(COLUMNS)
    ]
    table = pa.table(arrays, [column.name for column in COLUMNS])
    file = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({_MARK: __version__.encode()}), file)
    return file.getvalue()


def _typed(value: object, kind: type) -> object:
    """A value of its column's type; None where a result of another version holds another one."""
    if kind is str:
        return None if value is None else str(value).encode(errors="replace").decode()
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or (kind is int and value != int(value)):  # type: ignore[call-overload]
        return None
    return kind(value)


def _cell(value: object) -> object:
    return harmless_cell(value) if isinstance(value, str) else value
