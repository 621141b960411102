"""Which mask belongs to which reference, and which CT belongs to both.

Masks are paired by name. The CT is known if the references are a data set or a list of cases.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from normnet.datasets.manifest import Case, read_cases
from normnet.datasets.registry import load
from normnet.errors import InputError
from normnet.io.formats import has_image_suffix
from normnet.io.read import case_id_of


@dataclass(frozen=True)
class Reference:
    """A case with a lesion mask.

    Attributes:
        case: The case; without a known CT its image is the mask.
        with_ct: Whether its CT is known.
    """

    case: Case
    with_ct: bool

    @property
    def case_id(self) -> str:
        """Name of the case."""
        return self.case.case_id


def find_predictions(folder: Path) -> dict[str, Path]:
    """Lesion masks in a folder, by name."""
    _check_folder(folder)
    found = {path.parent.name: path for path in sorted(folder.glob("*/lesions.nii.gz"))}
    if not found and (folder / "lesions.nii.gz").is_file():
        found = {folder.resolve().name: folder / "lesions.nii.gz"}
    return found or {case_id_of(path): path for path in _images(folder)}


def find_references(source: Path) -> list[Reference]:
    """Reference masks in a folder of masks, a public data set or a CSV list of cases."""
    if source.is_file():
        return [
            Reference(case, True) for case in read_cases(source) if case.lesion_mask is not None
        ]
    _check_folder(source)
    images = _images(source)
    if not images:
        return _named_as_results([case for case in load(source) if case.lesion_mask is not None])
    named = [
        path for path in images if "lesion" in path.name.lower() and "lung" not in path.name.lower()
    ]
    return [
        Reference(Case(_before_lesion(path), path, lesion_mask=path), False)
        for path in named or images
    ]


def pair_names(predictions: list[str], references: list[str]) -> dict[str, str]:
    """Find the reference of each prediction by name.

    It is the one of the same name; else the one with the longest name that the prediction's name
    starts with, or that starts with it. If both are there, ``case_1_ct`` belongs to ``case_1`` and
    not to ``case``; ``case_10`` never belongs to ``case_1``.

    Returns:
        Names of the predictions that have a reference, each with the name of the reference.
    """
    pairs: dict[str, str] = {}
    for name in sorted(predictions, key=lambda name: (name not in references, name)):
        free = [reference for reference in references if reference not in pairs.values()]
        close = [
            reference for reference in free if _starts(name, reference) or _starts(reference, name)
        ]
        if name in free:
            pairs[name] = name
        elif close:
            pairs[name] = max(close, key=len)
    return pairs


def _named_as_results(cases: list[Case]) -> list[Reference]:
    """Name the cases after the CT's file, as ``normnet segment`` does, if no two are the same."""
    names = [case_id_of(case.image) for case in cases]
    if len(set(names)) == len(names):
        cases = [replace(case, case_id=name) for case, name in zip(cases, names, strict=True)]
    return [Reference(case, True) for case in cases]


def _images(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_file() and has_image_suffix(path)]


def _before_lesion(path: Path) -> str:
    name = case_id_of(path)
    return re.split(r"[-_. ]*lesion", name, maxsplit=1, flags=re.IGNORECASE)[0] or name


def _starts(name: str, start: str) -> bool:
    return name.startswith(start) and not name[len(start) : len(start) + 1].isalnum()


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(
            "NN-EVA-001", "no such folder", folder.name or str(folder), "check the path"
        )
