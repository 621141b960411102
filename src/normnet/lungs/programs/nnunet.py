"""nnU-Net v2, as nnunetv2 2.8.1: a trained model's folder (doi:10.1038/s41592-020-01008-z)."""

from __future__ import annotations

import json
import re
from pathlib import Path

from normnet.errors import ModelError
from normnet.lungs.external import EITHER, LEFT, RIGHT, ExternalLungs, Program, hash_file

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
_LUNG = re.compile("lung|lobe")
_DISEASE = re.compile("lesion|infect|covid|pneumonia|glass|ggo|consolid|opaci|nodule|tumou?r")


def _recognise(path: Path) -> ExternalLungs | None:
    """A folder with ``dataset.json`` or ``plans.json``.

    Raises:
        ModelError: NN-EXT-002 if the model cannot be used.
    """
    if not ((path / "dataset.json").is_file() or (path / "plans.json").is_file()):
        return None
    try:
        dataset, plans = (
            json.loads((path / f"{name}.json").read_text()) for name in ("dataset", "plans")
        )
        n_channels = len(dataset["modality"] if "modality" in dataset else dataset["channel_names"])
        ending, sides = dataset["file_ending"], sides_named(dataset["labels"])
        name = " ".join(("nnU-Net", plans.get("dataset_name", ""), path.resolve().name))
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        found = "an nnU-Net model without a readable dataset.json and plans.json"
        raise _unusable(path, found) from error
    if n_channels != 1 or ending != ".nii.gz":
        found = f"an nnU-Net model for {n_channels} channels in {ending} files"
        raise _unusable(path, f"{found}, not for one in .nii.gz")
    if not sides:
        raise _unusable(path, "an nnU-Net model without a label of lung")
    checkpoint, folds = _find_folds(path)
    files = ["dataset.json", "plans.json", *(f"fold_{fold}/{checkpoint}" for fold in folds)]
    manifest = {
        "kind": "nnunet",
        "name": name,
        "files": {file: hash_file(path / file) for file in files},
    }
    return ExternalLungs(PROGRAM, path, sides, manifest, ("-f", *folds, "-chk", checkpoint))


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


def _arguments(external: ExternalLungs, image: Path, result: Path, device: str) -> list[str]:
    """Arguments of ``nnUNetv2_predict_from_modelfolder``, which reads and writes folders."""
    model, kind = str(external.path.absolute()), device.partition(":")[0]
    places = ["-i", str(image.parent), "-o", str(result.parent), "-m", model]
    processes = ["-npp", "1", "-nps", "1"]
    return [*places, *external.options, "-device", kind, *processes, "--disable_progress_bar"]


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


def _unusable(folder: Path, found: str) -> ModelError:
    return ModelError(
        "NN-EXT-002", found, folder.name, "give a trained nnU-Net v2 model that finds lungs in CT"
    )


PROGRAM = Program("nnunet", "nnUNetv2_predict_from_modelfolder", "nnunetv2", _recognise, _arguments)
