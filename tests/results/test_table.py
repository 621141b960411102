"""results.csv has a row for every result folder, and is safe to open in a spreadsheet program."""

import csv
import json

import pytest

from normnet.errors import GeometryError, OutputError
from normnet.results import schema
from normnet.results.folder import write_failure
from normnet.results.schema import COLUMNS, RESULT, Column, write_caption
from normnet.results.table import PARQUET, TABLE, write_table

VOLUMES = {
    side: {"lung_ml": ml, "lesion_ml": ml / 10, "lesion_percent": 10.0}
    for side, ml in (("both", 3000.0), ("right", 1600.0), ("left", 1400.0))
}
OK = {
    "normnet": "0",
    "status": "ok",
    "volumes": VOLUMES,
    "uncertainty": {"lesion_ml": [250.5, 350.25]},
    "warnings": ["a breath out", 'dense, "left out"'],
    "seconds": {"reading": 0.25, "lungs": 1.5},
}


def _write(out, folder, **changes):
    (out / folder).mkdir()
    (out / folder / RESULT).write_text(json.dumps({**OK, "case_id": folder, **changes}))


def _rows(out):
    return list(csv.DictReader((out / TABLE).open(encoding="utf-8", newline="")))


def test_a_row_per_result_folder(tmp_path):
    _write(tmp_path, "b")
    write_failure(tmp_path / "a", "a", GeometryError("NN-GEO-002", "a slice is missing", "x"))
    (tmp_path / "stopped").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / RESULT).write_text('{"warnings": 3}')
    write_table(tmp_path)
    failed, ok = _rows(tmp_path)
    assert list(ok) == [column.name for column in COLUMNS]
    assert {name: text for name, text in failed.items() if text} == {
        "case_id": "a",
        "folder": "a",
        "status": "error",
        "error": "NN-GEO-002",
    }
    expected = {
        "case_id": "b",
        "folder": "b",
        "status": "ok",
        "error": "",
        "lung_ml": "3000.0",
        "right_lung_ml": "1600.0",
        "left_lung_ml": "1400.0",
        "lesion_ml": "300.0",
        "right_lesion_ml": "160.0",
        "left_lesion_ml": "140.0",
        "lesion_percent": "10.0",
        "right_lesion_percent": "10.0",
        "left_lesion_percent": "10.0",
        "lesion_ml_low": "250.5",
        "lesion_ml_high": "350.25",
        "warnings": 'a breath out | dense, "left out"',
        "seconds": "1.75",
    }
    assert [(name, text) for name, text in ok.items() if name in expected] == [*expected.items()]


def test_a_result_without_a_boundary_has_empty_cells(tmp_path):
    _write(tmp_path, "a", uncertainty={})
    write_table(tmp_path)
    (row,) = _rows(tmp_path)
    assert row["lesion_ml_low"] == row["lesion_ml_high"] == ""
    assert row["lesion_ml"] == "300.0"


@pytest.mark.parametrize(
    ("case_id", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'?=1"),
        ("a\nb", "a?b"),
        ("a\udce9", "a?"),
        ('a,"b"', 'a,"b"'),
        ("a-1", "a-1"),
    ],
)
def test_no_cell_is_a_formula(tmp_path, case_id, cell):
    _write(tmp_path, "a", case_id=case_id)
    write_table(tmp_path)
    assert [row["case_id"] for row in _rows(tmp_path)] == [cell]
    assert len((tmp_path / TABLE).read_text().splitlines()) == 2


def test_the_table_is_whole_or_the_one_before(tmp_path, monkeypatch):
    _write(tmp_path, "a")
    write_table(tmp_path)
    before = (tmp_path / TABLE).read_bytes()
    _write(tmp_path, "b")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="NN-OUT-001"):
        write_table(tmp_path)
    assert (tmp_path / TABLE).read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", TABLE}


def test_a_new_number_is_one_column(tmp_path, monkeypatch):
    """It then stands in the table and in the picture's caption."""
    _write(tmp_path, "a", mean_hu=-700.4)
    new = Column("mean_hu", "mean of the lungs", lambda result: result.get("mean_hu"), "{:.0f} HU")
    for module in ("schema", "table"):
        monkeypatch.setattr(f"normnet.results.{module}.COLUMNS", (*COLUMNS, new))
    write_table(tmp_path)
    assert _rows(tmp_path)[0]["mean_hu"] == "-700.4"
    result = schema.read_result(tmp_path / "a")
    assert write_caption(result) == (
        "Lesions 300.0 ml, 10.0 % of the lung, narrower edge 250.5 ml, wider edge 350.2 ml, -700 HU"
    )


def test_columns_are_named_once_and_explained():
    names = [column.name for column in COLUMNS]
    assert len(names) == len(set(names))
    assert all(column.meaning for column in COLUMNS)


def test_parquet_has_the_same_columns_with_types(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    _write(tmp_path, "b", quantification={"lesions": {"count": 3}})
    _write(tmp_path, "=c", quantification={"lesions": {"count": "many"}}, volumes={})
    write_failure(tmp_path / "a", "a", GeometryError("NN-GEO-002", "a slice is missing", "x"))
    write_table(tmp_path, parquet=True)
    table = pq.read_table(tmp_path / PARQUET)
    assert table.column_names == [column.name for column in COLUMNS]
    kinds = {str: "string", int: "int64", float: "double"}
    assert [str(kind) for kind in table.schema.types] == [kinds[c.kind] for c in COLUMNS]
    rows = table.to_pylist()
    assert [row["folder"] for row in rows] == ["=c", "a", "b"]  # texts as they are
    assert [row["status"] for row in rows] == ["ok", "error", "ok"]
    assert [row["lung_ml"] for row in rows] == [None, None, 3000.0]
    assert [row["n_lesions"] for row in rows] == [None, None, 3]
    assert rows[1]["error"] == "NN-GEO-002"

    _write(tmp_path, "d")
    write_table(tmp_path)  # not asked for, but there
    assert pq.read_table(tmp_path / PARQUET).num_rows == 4


def test_a_parquet_file_of_the_user_stays(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.parquet as pq

    _write(tmp_path, "a")
    for write in (
        lambda path: path.write_bytes(b"mine"),
        lambda path: pq.write_table(pa.table({"folder": ["a"]}), path),
    ):
        write(tmp_path / PARQUET)
        before = (tmp_path / PARQUET).read_bytes()
        with pytest.raises(OutputError, match="NN-OUT-015"):
            write_table(tmp_path, parquet=True)
        assert (tmp_path / PARQUET).read_bytes() == before


def test_the_table_holds_one_result_at_a_time(tmp_path, monkeypatch):
    """With 10,000 results, all of them together would take gigabytes."""
    import gc

    class Counted(dict):
        pass

    seen = []

    def read(folder):
        gc.collect()
        seen.append(sum(isinstance(thing, Counted) for thing in gc.get_objects()))
        return Counted(OK, case_id=folder.name)

    monkeypatch.setattr("normnet.results.table.read_result", read)
    for n in range(5):
        _write(tmp_path, f"r{n}")
    write_table(tmp_path)
    assert len(seen) == 5
    assert max(seen) <= 1
