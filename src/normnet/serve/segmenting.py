"""The tasks of the child that segments: the models stay loaded from one CT to the next.

In the folder of a job: ``input`` what was uploaded, ``result`` as ``normnet segment`` writes it,
``viewer`` the volumes that the page shows, ``steps.npz`` and ``steps.json`` what the slider needs.

Error ids: NN-GEO-001 several CTs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from normnet.errors import GeometryError, OutputError
from normnet.io.choice import AUTO, choose_scans, left_out_notes
from normnet.io.json_files import write_json
from normnet.results.exports import NOTHING, SEG, SEG_NRRD, SR, Exports
from normnet.serve.children import Progress

if TYPE_CHECKING:
    from normnet.config import Config
    from normnet.findings import Findings
    from normnet.io.census import Item
    from normnet.lungs.learned import Lungs
    from normnet.models import Model

INPUT, RESULT, VIEWER, STEPS, ABOUT = "input", "result", "viewer", "steps.npz", "steps.json"
# Where each stage begins and ends in the progress bar; roughly its share of the time.
_STAGES = {
    "lungs": (0.08, 0.35),
    "preparation": (0.35, 0.38),
    "inference": (0.38, 0.8),
    "postprocessing": (0.8, 0.84),
    "restoring": (0.84, 0.88),
}


class Loaded(NamedTuple):
    """What segments.

    Attributes:
        model: The networks.
        config: Settings.
        device: Torch device.
    """

    model: Model
    config: Config
    device: str


class Segmenter:
    """Segments the CT of a job.

    Args:
        load: Loads the models.
        keep_identity: Whether DICOM objects name the patient and the study.
    """

    def __init__(self, load: Callable[[], Loaded], keep_identity: bool):
        self._load, self._keep_identity = load, keep_identity

    @cached_property
    def _loaded(self) -> Loaded:
        return self._load()

    def segment(self, folder: Path, title: str, tell: Progress) -> None:
        """Segment what was uploaded and write all that the page of the job shows.

        Args:
            folder: Of the job.
            title: Name of the scan.
            tell: Called with the stage and the share that is done.

        Raises:
            NormNetError: As the readers and ``pipeline.segment``.
        """
        from normnet.io.read import read_item
        from normnet.pipeline import segment
        from normnet.report.scan_report import Maps, write_report
        from normnet.results.folder import result_key, shared_key, write_results

        tell("reading", 0.0)
        item, notes = find_one(folder / INPUT)
        scan = read_item(item, title)
        tell("loading the networks", 0.04)
        model, config, device = self._loaded
        tell("lungs", _STAGES["lungs"][0])
        kept: dict[str, np.ndarray] = {}
        found = segment(
            scan,
            model,
            config,
            device=device,
            on_progress=lambda stage, done, total: tell(stage, _share(stage, done, total)),
            on_findings=lambda lungs, findings: kept.update(_keep(lungs, findings)),
        )
        tell("writing", 0.88)
        manifests = [part.manifest for part in (model.ensemble, model.lungs, model.lesions)]
        key = result_key(item.path, shared_key(manifests, config), item)

        def write(exports: Exports) -> dict[str, Any]:
            return write_results(
                found, scan, folder / RESULT, model,
                config=config, key=key, source=title, exports=exports, dicom_files=item.files,
            )  # fmt: skip

        exports = self._exports(item)
        try:
            result = write(exports)
        except OutputError as error:
            if not exports.dicom:
                raise
            notes.append(f"no DICOM objects: {error}")
            exports = Exports((SEG_NRRD,))
            result = write(exports)
        tell("report", 0.94)
        shown = write_report(folder / RESULT, scan, Maps.of(found), result)
        (folder / VIEWER).mkdir(exist_ok=True)
        for name, data in shown.files.items():
            (folder / VIEWER / f"{name}.nii.gz").write_bytes(data)
        np.savez(folder / STEPS, **kept)  # type: ignore[arg-type]
        about = {
            "config": config.model_dump(mode="json"),
            "exports": list(exports.files),
            "keep_identity": exports.keep_identity,
            "start_mm": shown.start_mm,
            "spacing_mm": shown.spacing_mm,
            "notes": notes,
        }
        write_json(folder / ABOUT, about)

    def _exports(self, item: Item) -> Exports:
        if item.kind != "DICOM" or find_spec("highdicom") is None:
            return replace(NOTHING, files=(SEG_NRRD,))
        return Exports((SEG, SR, SEG_NRRD), self._keep_identity)


def find_one(folder: Path) -> tuple[Item, list[str]]:
    """The one CT of an upload, and lines that say what was left out.

    Of several series of a study it is the proposed one.

    Raises:
        InputError: NN-FILE-008 if there is none.
        GeometryError: NN-GEO-001 if there are CTs of several studies, or several images.
    """
    from normnet.io.census import take_census

    files = sorted(folder.iterdir())
    census = take_census(files if len(files) == 1 else [folder])
    items = choose_scans(census, AUTO)
    if len(items) > 1:
        found = f"{len(items)} studies or images"
        raise GeometryError("NN-GEO-001", found, "", "give one of them at a time")
    return items[0], left_out_notes(census, items)


def _share(stage: str, done: int, total: int) -> float:
    first, last = _STAGES[stage]
    return first + (last - first) * done / max(total, 1)


def _keep(lungs: Lungs, findings: Findings) -> dict[str, np.ndarray]:
    """What the post-processing starts from, as few bytes; nothing is rounded.

    The lesion networks say something in the lungs only; all else follows from the scan.
    """
    kept = {
        "right": np.packbits(lungs.labels == 1),
        "left": np.packbits(lungs.labels == 2),
        "normal": np.packbits(findings.normal_mask),
    }
    if lungs.possible is not None:
        kept["possible_right"] = np.packbits(lungs.possible == 1)
        kept["possible_left"] = np.packbits(lungs.possible == 2)
    if findings.prob_lesion is not None:
        inside = findings.prob_lesion > 0
        kept["inside"] = np.packbits(inside)
        kept["prob_lesion"] = findings.prob_lesion[inside]
    return kept
