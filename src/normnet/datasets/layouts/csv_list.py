"""Any CTs in a CSV list of cases; ``normnet.datasets.manifest`` names its columns."""

from __future__ import annotations

from pathlib import Path

from normnet.datasets.dataset import Dataset
from normnet.datasets.manifest import Case, read_rows


def find_cases(root: Path) -> list[Case]:
    """All rows of a list, or of ``cases.csv`` in a folder."""
    return read_rows(root if root.is_file() else root / "cases.csv")


DATASET = Dataset(
    name="csv",
    label="CSV list",
    title="Any CTs in a CSV list of cases",
    role=None,
    n_volumes=0,
    table1="",
    use="-",
    licence="column licence",
    source="columns: see normnet.datasets.manifest",
    layout=("cases.csv", "<folder>/<file>, and masks beside it"),
    markers=("cases.csv",),
    expects=(),
    find=find_cases,
    rank=1000,
)
