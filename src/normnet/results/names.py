"""Names of result folders: the shortest parts of the paths that tell the scans apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations, zip_longest
from pathlib import Path

from normnet.io.read import case_id_of

_MAX_LENGTH = 120
_FORBIDDEN = '<>:"/\\|?*'


def result_names(paths: Sequence[Path], roots: Sequence[Path]) -> list[str]:
    """One name per scan, in the same order.

    A scan is called as its file or folder, if no other scan is. Else the fewest parts of the paths
    that differ are joined: ``SUBJ001_2`` for ``SUBJ001/scans/2/DICOM``. Paths that differ in
    nothing but the suffix of the file keep one name.

    Args:
        paths: The scans.
        roots: The argument below which each of them was found.
    """
    names = [own_name(path) for path in paths]
    alike: dict[str, list[int]] = defaultdict(list)
    for n, name in enumerate(names):
        alike[name].append(n)
    for group in alike.values():
        if len(group) > 1:
            longer = _longer_names([paths[n] for n in group], [roots[n] for n in group])
            for n, name in zip(group, longer, strict=True):
                names[n] = name
    return names


def own_name(path: Path) -> str:
    """The name of a file without its suffix, or of a folder, as a valid folder name."""
    name = case_id_of(path)
    return safe_name(path.resolve().name if name in {"", ".", ".."} else name)


def safe_name(name: str) -> str:
    """A name that is a valid folder name on every system."""
    shown = "".join(c if c.isprintable() and c not in _FORBIDDEN else "_" for c in name)
    shown = shown[:_MAX_LENGTH].rstrip(". ")
    return shown or "scan"


def _longer_names(paths: list[Path], roots: list[Path]) -> list[str]:
    folders = [[part.removesuffix(".zip") for part in path.absolute().parts] for path in paths]
    parts = [(*row[:-1], case_id_of(path)) for row, path in zip(folders, paths, strict=True)]
    columns = list(zip_longest(*parts, fillvalue=""))
    differing = [column for column in columns if len(set(column)) > 1]
    names = [part[-1] for part in parts]
    for size in range(1, len(differing) + 1):
        for chosen in combinations(differing, size):
            joined = [tuple(filter(None, row)) for row in zip(*chosen, strict=True)]
            if all(joined) and len(set(joined)) == len(paths):
                names = ["_".join(row) for row in joined]
                return _with_subject(names, paths, roots)
    return [safe_name(name) for name in names]


def _with_subject(names: list[str], paths: list[Path], roots: list[Path]) -> list[str]:
    """Put the first folder below the argument before names that are numbers only."""
    if all(any(c.isalpha() for c in name) for name in names):
        return [safe_name(name) for name in names]
    longer = []
    for name, path, root in zip(names, paths, roots, strict=True):
        below = path.relative_to(root).parts if path != root else ()
        first = below[0] if len(below) > 1 and below[0] != name else root.absolute().name
        longer.append(safe_name(f"{first}_{name}"))
    return longer
