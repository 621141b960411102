"""Which mask belongs to which reference, and which CT to both: by name, or by a list of cases."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from normnet.datasets.manifest import read_manifest
from normnet.errors import InputError
from normnet.io.read import IMAGE_SUFFIXES, case_id_of


@dataclass(frozen=True)
class Reference:
    """A reference mask and, where a list of cases names it, its CT."""

    case_id: str
    mask: Path
    image: Path | None = None


def find_predictions(folder: Path) -> dict[str, Path]:
    """Lesion masks of a folder by name."""
    _check_folder(folder)
    found = {path.parent.name: path for path in sorted(folder.glob("*/lesions.nii.gz"))}
    if not found and (folder / "lesions.nii.gz").is_file():
        found = {folder.resolve().name: folder / "lesions.nii.gz"}
    return found or {case_id_of(path): path for path in _images(folder)}


def find_references(source: Path) -> list[Reference]:
    """Reference masks of a folder or of a CSV list of cases."""
    if source.is_file():
        cases = read_manifest(source)
        return [Reference(case.case_id, case.lesion_mask, case.image) for case in cases if case.lesion_mask is not None]
    _check_folder(source)
    images = _images(source)
    named = [path for path in images if "lesion" in path.name.lower() and "lung" not in path.name.lower()]
    return [Reference(_before_lesion(path), path) for path in named or images]


def pair_names(predictions: list[str], references: list[str]) -> dict[str, str]:
    """For each prediction the reference of the same name, or the longest that it starts with (or that starts with it).

    ``case_1_ct`` belongs to ``case_1`` but not to ``case``, if both are there, and ``case_10`` not to ``case_1``.
    """
    pairs: dict[str, str] = {}
    for name in sorted(predictions, key=lambda name: (name not in references, name)):
        free = [reference for reference in references if reference not in pairs.values()]
        close = [reference for reference in free if _starts(name, reference) or _starts(reference, name)]
        if name in free:
            pairs[name] = name
        elif close:
            pairs[name] = max(close, key=len)
    return pairs


def _images(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_file() and path.name.lower().endswith(IMAGE_SUFFIXES)]


def _before_lesion(path: Path) -> str:
    name = case_id_of(path)
    return re.split(r"[-_. ]*lesion", name, maxsplit=1, flags=re.IGNORECASE)[0] or name


def _starts(name: str, start: str) -> bool:
    return name.startswith(start) and not name[len(start) : len(start) + 1].isalnum()


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError("NN-EVA-001", "no such folder", folder.name or str(folder), "check the path")
