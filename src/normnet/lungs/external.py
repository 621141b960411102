"""Lung models of other programs, recognised by their files: nnU-Net v2 model folders and lungmask's weights."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from normnet.errors import ModelError
from normnet.io.fingerprint import sha256_of
from normnet.network.weights import MANIFEST

RIGHT, LEFT, EITHER = 1, 2, 3
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
# by number of classes, background included, as lungmask's README says under "Semantics of output"
LUNGMASK_SIDES = {3: {1: RIGHT, 2: LEFT}, 6: {1: LEFT, 2: LEFT, 3: RIGHT, 4: RIGHT, 5: RIGHT}}
_LUNG = re.compile("lung|lobe")
_DISEASE = re.compile("lesion|infect|covid|pneumonia|glass|ggo|consolid|opaci|nodule|tumou?r")


@dataclass(frozen=True)
class ExternalLungs:
    """A lung model that another program runs.

    Attributes:
        tool: Which program.
        path: Its model folder or weights file.
        sides: Value of its result to ``RIGHT``, ``LEFT`` or ``EITHER``; other values are not lung.
        manifest: Name of the model and sha256 of its files, no folder above it.
        options: What the program is told of the model besides its place.
    """

    tool: Literal["nnunet", "lungmask"]
    path: Path
    sides: dict[int, int]
    manifest: dict[str, Any]
    options: tuple[str, ...] = ()


def find_external(path: Path) -> ExternalLungs | None:
    """The model of another program that lies at a path.

    Args:
        path: A folder, or a file that must hold lungmask's weights.

    Returns:
        None for any folder without ``dataset.json`` and ``plans.json``, and where nothing lies.

    Raises:
        ModelError: NN-EXT-001 a file that is no lungmask weights, 002 an nnU-Net model that cannot
            be used.
    """
    if path.is_file():
        return _read_lungmask(path)
    if (path / MANIFEST).is_file():
        return None
    if (path / "dataset.json").is_file() or (path / "plans.json").is_file():
        return _read_nnunet(path)
    return None


def _read_lungmask(path: Path) -> ExternalLungs:
    import torch

    try:
        state = torch.load(
            path, map_location="cpu", weights_only=True
        )  # unpickles nothing but tensors
        n_classes = len(state["last.bias"])  # lungmask counts them in the same place
    except Exception as error:  # torch raises many kinds; all mean the same to a user
        todo = "give lungmask's .pth, or the folder of a lung model"
        raise ModelError(
            "NN-EXT-001", "not a file of lungmask's weights", path.name, todo
        ) from error
    sides = LUNGMASK_SIDES.get(n_classes, dict.fromkeys(range(1, n_classes), EITHER))
    manifest = {
        "kind": "lungmask",
        "name": f"lungmask {path.name}",
        "files": {path.name: _sha256(path)},
    }
    return ExternalLungs("lungmask", path, sides, manifest)


def _read_nnunet(folder: Path) -> ExternalLungs:
    try:
        dataset, plans = (
            json.loads((folder / f"{name}.json").read_text()) for name in ("dataset", "plans")
        )
        n_channels = len(dataset["modality"] if "modality" in dataset else dataset["channel_names"])
        ending, sides = dataset["file_ending"], sides_named(dataset["labels"])
        name = " ".join(("nnU-Net", plans.get("dataset_name", ""), folder.resolve().name))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unusable(
            folder, "an nnU-Net model without a readable dataset.json and plans.json"
        ) from error
    if n_channels != 1 or ending != ".nii.gz":
        raise _unusable(
            folder,
            f"an nnU-Net model for {n_channels} channels in {ending} files, not for one in .nii.gz",
        )
    if not sides:
        raise _unusable(folder, "an nnU-Net model without a label of lung")
    checkpoint, folds = _find_folds(folder)
    files = ["dataset.json", "plans.json", *(f"fold_{fold}/{checkpoint}" for fold in folds)]
    manifest = {
        "kind": "nnunet",
        "name": name,
        "files": {file: _sha256(folder / file) for file in files},
    }
    return ExternalLungs("nnunet", folder, sides, manifest, ("-f", *folds, "-chk", checkpoint))


def _find_folds(folder: Path) -> tuple[str, list[str]]:
    """The checkpoint's name and the folds that have it; ``all`` only where there is no other."""
    for checkpoint in CHECKPOINTS:
        found = sorted(
            path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{checkpoint}")
        )
        numbered = [fold for fold in found if fold.isdecimal()]
        if numbered or "all" in found:
            return checkpoint, numbered or ["all"]
    raise _unusable(folder, "an nnU-Net model without fold_*/checkpoint_final.pth")


def sides_named(labels: dict[str, int | list[int]]) -> dict[int, int]:
    """Sides by the names of labels; where a name says lung, labels of other organs are left out.

    Args:
        labels: As in nnU-Net's ``dataset.json``; a list is a region of several labels.

    Returns:
        Label to ``RIGHT``, ``LEFT`` or ``EITHER``.

    Raises:
        ValueError: If a label is not from 1 to 255.
    """
    named = {
        name.lower(): value
        for name, value in labels.items()
        if name.lower() not in ("background", "ignore")
    }
    any_lung = any(_LUNG.search(name) for name in named)
    sides: dict[int, int] = {}
    for name, value in named.items():
        if any_lung and not (_LUNG.search(name) or _DISEASE.search(name)):
            continue
        side = {(True, False): RIGHT, (False, True): LEFT}.get(
            ("right" in name, "left" in name), EITHER
        )
        for number in map(int, value if isinstance(value, list) else [value]):
            if not 0 < number < 256:
                raise ValueError(f"label {number}")
            sides[number] = side if side != EITHER else sides.get(number, EITHER)
    return sides


def _unusable(folder: Path, found: str) -> ModelError:
    return ModelError(
        "NN-EXT-002", found, folder.name, "give a trained nnU-Net v2 model that finds lungs in CT"
    )


def _sha256(path: Path) -> str:
    try:
        status = path.stat()
        return _sha256_of(path.absolute(), status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise ModelError(
            "NN-EXT-002", "a file of the lung model cannot be read", path.name, "copy it again"
        ) from error


@lru_cache
def _sha256_of(path: Path, n_bytes: int, changed_ns: int) -> str:
    """Large files are read once a run, as long as they stay as they are."""
    return sha256_of(path)
