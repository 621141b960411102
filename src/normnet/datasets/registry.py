"""Every known data set by name, and which of them a folder holds."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from normnet.datasets import layouts
from normnet.datasets.dataset import Dataset, Role
from normnet.datasets.manifest import Case
from normnet.errors import ConfigError, InputError


def known_datasets() -> dict[str, Dataset]:
    """The ``DATASET`` of every module in ``layouts`` by name, by rank."""
    modules = [
        import_module(f"{layouts.__name__}.{found.name}")
        for found in pkgutil.iter_modules(layouts.__path__)
    ]
    known = sorted((module.DATASET for module in modules), key=lambda one: (one.rank, one.name))
    return {dataset.name: dataset for dataset in known}


DATASETS = known_datasets()


def with_role(role: Role) -> list[Dataset]:
    """The data sets of a role."""
    return [dataset for dataset in DATASETS.values() if dataset.role == role]


def recognise(path: Path, kind: str | None = None) -> list[tuple[Dataset, Path]]:
    """The data sets in a folder or one level below it, each with its root.

    Args:
        path: A folder, or a CSV list of cases.
        kind: Name of the only data set to look for.

    Raises:
        InputError: NN-FILE-001 if there is no such path, NN-DAT-011 if it has none of the layouts.
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
        csv = DATASETS["csv"]
        found = [(csv, path)] if csv in wanted and path.suffix.lower() == ".csv" else []
    else:
        found = find_roots(path, wanted)
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


def find_roots(folder: Path, wanted: Iterable[Dataset]) -> list[tuple[Dataset, Path]]:
    """Which of the wanted data sets lie in a folder or one level below it, each with its root."""
    places = [folder, *sorted(below for below in folder.iterdir() if below.is_dir())]
    roots = ((dataset, _root(dataset, places)) for dataset in wanted)
    return [(dataset, root) for dataset, root in roots if root is not None]


def find_used(dataset: Dataset, root: Path) -> list[Case]:
    """The cases of a data set whose CT is there and that the paper uses.

    Raises:
        NormNetError: As ``dataset.find``.
    """
    return [case for case in dataset.find(root) if case.image.exists() and not case.left_out]


def load(path: Path, kind: str | None = None) -> list[Case]:
    """The used cases of all data sets in a folder; raises as ``recognise``."""
    return [case for dataset, root in recognise(path, kind) for case in find_used(dataset, root)]


def _root(dataset: Dataset, places: list[Path]) -> Path | None:
    return next(
        (place for place in places if any(any(place.glob(marker)) for marker in dataset.markers)),
        None,
    )
