"""Every known data set by name, and which of them a folder holds."""

from __future__ import annotations

from pathlib import Path

from normnet.datasets import (
    coronacases,
    luna16,
    mosmed,
    msd_lung,
    nsclc,
    radiopaedia,
    structseg,
    uestc,
)
from normnet.datasets.dataset import Dataset
from normnet.datasets.manifest import Case, read_rows
from normnet.errors import ConfigError, InputError

CSV = Dataset(
    name="csv",
    title="Any CTs in a CSV list of cases",
    n_volumes=0,
    table1="",
    use="-",
    licence="column licence",
    source="columns: see normnet.datasets.manifest",
    layout=("cases.csv", "<folder>/<file>, and masks beside it"),
    markers=("cases.csv",),
    expects=(),
    find=lambda root: read_rows(root if root.is_file() else root / "cases.csv"),
)
DATASETS: dict[str, Dataset] = {
    module.DATASET.name: module.DATASET
    for module in (luna16, coronacases, radiopaedia, uestc, mosmed, nsclc, structseg, msd_lung)
} | {CSV.name: CSV}


def recognise(path: Path, kind: str | None = None) -> list[tuple[Dataset, Path]]:
    """The data sets in a folder or one level below it, each with its root.

    Args:
        path: A folder, or a CSV list of cases.
        kind: Look for this one only.

    Raises:
        InputError: NN-FILE-001 if there is no such path, NN-DAT-011 if none of the layouts is
            there.
        ConfigError: NN-DAT-010 if ``kind`` is not known.
    """
    if kind is not None and kind not in DATASETS:
        raise ConfigError(
            "NN-DAT-010", f"no data set '{kind}'", "--kind", f"one of {', '.join(DATASETS)}"
        )
    if not path.exists():
        raise InputError("NN-FILE-001", "no such file or folder", path.name, "check the path")
    wanted = list(DATASETS.values()) if kind is None else [DATASETS[kind]]
    if path.is_file():
        found = [(CSV, path)] if CSV in wanted and path.suffix.lower() == ".csv" else []
    else:
        places = _places(path)
        roots = ((dataset, _root(dataset, places)) for dataset in wanted)
        found = [(dataset, root) for dataset, root in roots if root is not None]
    if not found:
        layout = (
            f"the layout of {kind}: {'; '.join(DATASETS[kind].layout)}"
            if kind
            else "a known layout"
        )
        raise InputError(
            "NN-DAT-011",
            f"not {layout}",
            path.name,
            "see 'normnet datasets list', or write a CSV list of cases",
        )
    return found


def load(path: Path, kind: str | None = None) -> list[Case]:
    """The cases in a folder whose CT is there and that the paper uses; raises as ``recognise``."""
    cases = [case for dataset, root in recognise(path, kind) for case in dataset.find(root)]
    return [case for case in cases if case.image.exists() and not case.left_out]


def root_of(name: str, path: Path) -> Path | None:
    """Root of the data set of that name in a folder or one level below it; None if it is not there."""
    return _root(DATASETS[name], _places(path)) if path.is_dir() else None


def _places(folder: Path) -> list[Path]:
    """Where a data set's root may lie."""
    return [folder, *sorted(below for below in folder.iterdir() if below.is_dir())]


def _root(dataset: Dataset, places: list[Path]) -> Path | None:
    return next(
        (place for place in places if any(any(place.glob(marker)) for marker in dataset.markers)),
        None,
    )
