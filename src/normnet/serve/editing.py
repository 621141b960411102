"""The tasks of the child that edits: the slider, single lesions, and new results of both.

The slider moves ``postprocessing.share``: how far between the density of this patient's healthy
lung (0) and that of the disease (1) a voxel must lie to be lesion. Only that last step of the
post-processing is run again, from what the networks said; at the position of the settings it gives
the saved mask and its millilitres, voxel for voxel. Nothing on disk changes but by ``save``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from normnet.config import Config
from normnet.errors import InputError
from normnet.io.fingerprint import digest_of
from normnet.io.formats.nifti import write_image
from normnet.io.json_files import read_json
from normnet.io.read import read_item
from normnet.lungs.learned import Lungs
from normnet.pipeline import Segmentation, describe_certainty
from normnet.postprocessing import LesionSteps, bound_lesions, parenchyma_density, postprocess
from normnet.preparation.prepare import Prepared, prepare
from normnet.quantification import (
    SIDES,
    Found,
    Lesions,
    describe_lesion,
    measure,
    quantify,
    separate_lesions,
    zones_of_planes,
)
from normnet.report.scan_report import Maps, write_report
from normnet.report.volumes import CoarseGrid
from normnet.restoration import restore_masks
from normnet.results.exports import Exports
from normnet.results.folder import write_described
from normnet.results.schema import read_result
from normnet.scan import Scan
from normnet.serve.children import Progress
from normnet.serve.segmenting import ABOUT, INPUT, RESULT, STEPS, find_one

N_LISTED = 50  # lesions that can be removed one by one; all smaller ones together
REST = 0  # the number that stands for these
EDITED = "edited"  # folders edited-1, edited-2 ... of a job


@dataclass(frozen=True)
class Edit:
    """One position of the slider with some lesions taken out.

    Attributes:
        steps: Of the post-processing.
        whole: What was found, before lesions are taken out.
        found: The same afterwards.
        lesions: The single lesions of ``whole``.
        listed: Their numbers, and the place of each, as the page shows them.
        rest: Number and millilitres of all that are not listed.
        removed: Numbers of those that were taken out.
    """

    steps: LesionSteps
    whole: Found
    found: Found
    lesions: Lesions
    listed: list[dict[str, Any]]
    rest: dict[str, Any]
    removed: list[int]


class Session:
    """A job that is open for editing.

    Args:
        folder: Of the job.
    """

    def __init__(self, folder: Path):
        self.about: dict[str, Any] = read_json(folder / ABOUT) or {}
        self.config = Config.model_validate(self.about["config"])
        self.item, _ = find_one(folder / INPUT)
        self.result = read_result(folder / RESULT) or {}
        self.scan = read_item(self.item, self.result["case_id"])
        post = self.config.postprocessing
        with np.load(folder / STEPS, allow_pickle=False) as kept:
            self.lungs, self.prepared = _unpack_lungs(kept, self.scan, self.config)
            shape = self.prepared.lung_mask.shape
            self.normal_mask = _unpack(kept["normal"], shape)
            self.prob_lesion = _unpack_probs(kept, shape)
        prepared = self.prepared
        self.steps = postprocess(
            prepared.thorax,
            prepared.volume_hu,
            prepared.lung_mask,
            self.normal_mask,
            self.config.window.tau,
            post,
            self.prob_lesion,
        )
        self.density_hu = parenchyma_density(
            prepared.volume_hu, prepared.lung_mask, self.normal_mask, post.density_sigma_vox
        )
        self.maps = Maps.read(folder / RESULT, self.scan)
        self.grid = CoarseGrid.of(self.scan, self.maps.lung_labels)
        self.last_steps: tuple[float | None, LesionSteps] = (self.default_share, self.steps)
        self.last: tuple[float | None, Edit] | None = None

    @property
    def default_share(self) -> float | None:
        """Where the slider stands at first; None where the settings have no use for it."""
        return None if self.prob_lesion is None else self.config.postprocessing.share

    def edit(self, share: float | None, removed: Sequence[int]) -> Edit:
        """The lesions at a position of the slider, without some of them.

        Args:
            share: Position; ignored where there is no slider.
            removed: Numbers of lesions, ``REST`` for all beyond the list.

        Raises:
            InputError: NN-APP-009 if there is no such lesion.
        """
        share = self.default_share if share is None else share
        if self.last is None or self.last[0] != share:
            steps = self._steps_at(share)
            self.last = (share, self._list(steps, self._restore(steps)))
        whole = self.last[1]
        if not set(removed) <= {REST, *(lesion["label"] for lesion in whole.listed)}:
            raise InputError("NN-APP-009", "no such lesion", "", "load the page again")
        if not removed:
            return whole
        mask = _without(whole, removed)
        return replace(
            whole, found=whole.whole._replace(lesion_mask=mask), removed=sorted(set(removed))
        )

    def mask(self, share: float | None, removed: Sequence[int]) -> np.ndarray:
        """The mask of ``edit`` alone, with the scan's shape; quicker at a new position."""
        share = self.default_share if share is None else share
        if removed or (self.last is not None and self.last[0] == share):
            found = self.edit(share, removed).found.lesion_mask
        else:
            lungs = Lungs(self.lungs.labels, None)  # lesions lie in the lungs that were searched
            steps = self._steps_at(share)
            found, _ = restore_masks(self.scan, lungs, self.prepared, steps, self.config)
        return self.prepared.embed(found)

    def _steps_at(self, share: float | None) -> LesionSteps:
        if self.last_steps[0] != share:
            self.last_steps = (share, self._bound(share))
        return self.last_steps[1]

    def _bound(self, share: float | None) -> LesionSteps:
        if self.prob_lesion is None or share is None or share == self.default_share:
            return self.steps
        post = self.config.postprocessing.model_copy(update={"share": share})
        edges, boundary = bound_lesions(
            self.density_hu,
            self.steps.core,
            self.prob_lesion,
            self.prepared.lung_mask,
            self.normal_mask,
            post,
        )
        return self.steps._replace(lesions=(edges & 2) > 0, edges=edges, boundary=boundary)

    def _restore(self, steps: LesionSteps) -> Found:
        lesion_mask, labels = restore_masks(
            self.scan, self.lungs, self.prepared, steps, self.config
        )
        prepared = self.prepared
        volume_hu = prepared.cut(self.scan.volume_hu)
        inside = prepared.cut(self.lungs.labels) > 0
        return Found(
            volume_hu,
            lesion_mask,
            labels,
            prepared.cut(self.maps.n_votes_normal),
            inside & (volume_hu >= self.config.window.bright_hu),
            self.result["model"]["n_members"],
            prepared.orientation.spacing_mm(self.scan.geometry),
        )

    def _list(self, steps: LesionSteps, found: Found) -> Edit:
        zones = zones_of_planes(found.lung_labels)
        lesions = separate_lesions(found.lesion_mask, found.voxel_ml)
        listed, n_vox = [], int(np.count_nonzero(found.lesion_mask))
        for rank in range(1, min(N_LISTED, len(lesions.order)) + 1):
            row = describe_lesion(found, zones, lesions, rank)
            listed.append({**row, "at_mm_xyz": self._place(lesions, rank)})
            n_vox -= int(np.count_nonzero(lesions.find(rank)[1]))
        n_rest = max(len(lesions.boxes) - 1, 0) - len(listed)
        rest = {"n": n_rest, "ml": round(n_vox * found.voxel_ml, 3)}
        return Edit(steps, found, found, lesions, listed, rest, [])

    def _place(self, lesions: Lesions, rank: int) -> list[float]:
        """World position (x, y, z; LPS) of the lesion's voxel that is nearest to its centre."""
        box, mask = lesions.find(rank)
        voxels = np.argwhere(mask)
        nearest = voxels[((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1).argmin()]
        index = [
            n + part.start + whole.start
            for n, part, whole in zip(nearest, box, self.prepared.box, strict=True)
        ]
        geometry = self.prepared.orientation.geometry(self.scan.geometry, self.scan.shape)
        at = geometry.affine @ np.array([*index, 1.0])
        return [round(float(mm), 2) for mm in at[2::-1]]


class Editor:
    """Opens one job after the other; the last one stays open."""

    def __init__(self) -> None:
        self._open: tuple[Path, Session] | None = None

    def preview(
        self, folder: Path, share: float | None, removed: Sequence[int], tell: Progress
    ) -> dict[str, Any]:
        """What the page shows for a position of the slider and some lesions taken out.

        Returns:
            ``share`` and ``default_share``; ``volumes`` as in ``result.json``; ``lesions`` and
            ``rest``.
        """
        session = self._session(folder)
        edit = session.edit(share, removed)
        boundary = edit.steps.boundary
        return {
            "share": share if share is not None else session.default_share,
            "default_share": session.default_share,
            "boundary_hu": None if boundary is None else round(boundary.lesion_hu, 1),
            "volumes": _volumes(edit.found, session),
            "lesions": edit.listed,
            "rest": edit.rest,
            "removed": edit.removed,
        }

    def mask(
        self, folder: Path, share: float | None, removed: Sequence[int], tell: Progress
    ) -> bytes:
        """The lesions that ``preview`` measures, for the viewer.

        Returns:
            A NIfTI file on the grid of the viewer, gzip-compressed.
        """
        session = self._session(folder)
        coarse = session.grid.shrink_mask(session.mask(share, removed))
        with tempfile.TemporaryDirectory(prefix="normnet-") as place:
            path = Path(place, "lesions.nii.gz")
            write_image(path, coarse.astype(np.uint8), session.grid.geometry)
            return path.read_bytes()

    def save(
        self, folder: Path, share: float | None, removed: Sequence[int], tell: Progress
    ) -> str:
        """Write a new result, marked as edited, beside the first one.

        Returns:
            Its name, ``edited-1`` and so on.
        """
        session = self._session(folder)
        edit = session.edit(share, removed)
        number = 1 + max(
            (int(path.name.split("-")[1]) for path in folder.glob(f"{EDITED}-*")), default=0
        )
        name = f"{EDITED}-{number}"
        exports = Exports(tuple(session.about["exports"]), session.about["keep_identity"])
        described, found = _describe(session, edit, share, name)
        scan = replace(session.scan, case_id=described["case_id"])
        written = write_described(
            described, found, scan, folder / name, exports, session.item.files
        )
        write_report(folder / name, scan, Maps.of(found), written)
        return name

    def _session(self, folder: Path) -> Session:
        if self._open is None or self._open[0] != folder:
            self._open = None  # its memory is needed
            self._open = (folder, Session(folder))
        return self._open[1]


def _describe(
    session: Session, edit: Edit, share: float | None, name: str
) -> tuple[dict[str, Any], Segmentation]:
    """The ``result.json`` of an edited result, and its images."""
    prepared, old = session.prepared, session.result
    volumes = _volumes(edit.found, session)
    removed_ml = _volumes(edit.whole, session)["both"]["lesion_ml"] - volumes["both"]["lesion_ml"]
    edited = {
        "share": share if share is not None else session.default_share,
        "default_share": session.default_share,
        "removed": [lesion for lesion in edit.listed if lesion["label"] in edit.removed],
        "rest_removed": REST in edit.removed,
        "removed_ml": round(removed_ml, 3),
    }
    lungs = session.lungs
    found = Segmentation(
        lesion_mask=prepared.embed(edit.found.lesion_mask),
        lung_labels=lungs.labels
        if lungs.possible is None
        else prepared.embed(edit.found.lung_labels),
        anomaly_codes=session.maps.anomaly_codes,
        n_votes_normal=session.maps.n_votes_normal,
        volumes=volumes,
    )
    described = {
        **{key: value for key, value in old.items() if key not in ("files", "seconds", "dicom")},
        "case_id": f"{old['case_id']} ({name.replace('-', ' ')})",
        "key": {**old["key"], "edited": digest_of(edited)},
        "volumes": volumes,
        "uncertainty": {},  # it belongs to the slider's first position
        "quantification": measure(edit.found),
        "certainty": describe_certainty(prepared, edit.steps, {}, session.config),
        "warnings": [_say(edited, old), *old["warnings"]],
        "edited": edited,
    }
    return described, found


def _say(edited: dict[str, Any], old: dict[str, Any]) -> str:
    """One line that says what a person changed."""
    changes = []
    if edited["share"] != edited["default_share"]:
        at, default = (100 * edited[key] for key in ("share", "default_share"))
        changes.append(f"the slider stood at {at:g} % in place of {default:g} %")
    n_removed = len(edited["removed"])
    if n_removed or edited["rest_removed"]:
        rest = " and all small ones" if edited["rest_removed"] else ""
        what = f"{n_removed} lesion{'s' if n_removed != 1 else ''}{rest}"
        changes.append(f"{what} of {edited['removed_ml']:.1f} ml taken out")
    text = "; ".join(changes) or "all lesions accepted as they were"
    first_ml = old["volumes"]["both"]["lesion_ml"]
    return f"edited by a person in the local app: {text} (before: {first_ml:.1f} ml)"


def _volumes(found: Found, session: Session) -> dict[str, Any]:
    voxel_ml = session.scan.geometry.voxel_ml
    return quantify(found.lesion_mask, found.lung_labels, voxel_ml)


def _without(edit: Edit, removed: Sequence[int]) -> np.ndarray:
    """The mask without some lesions."""
    lesions, numbers = edit.lesions, edit.lesions.order[: len(edit.listed)]
    stays = np.ones(len(lesions.boxes), bool)
    if REST in removed:
        stays[:] = False
        stays[numbers] = True
    stays[[numbers[rank - 1] for rank in removed if rank != REST]] = False
    mask = edit.whole.lesion_mask.copy()
    first = lesions.first_plane
    mask[first : first + len(lesions.labels)] &= stays[lesions.labels]
    return mask


def _unpack_lungs(kept: Any, scan: Scan, config: Config) -> tuple[Lungs, Prepared]:
    def labels(prefix: str) -> np.ndarray:
        parts = {
            side: _unpack(kept[f"{prefix}{side}"], scan.shape) * np.uint8(label)
            for side, label in SIDES.items()
        }
        whole: np.ndarray = parts["right"] + parts["left"]
        return whole

    lungs = Lungs(labels(""), labels("possible_") if "possible_right" in kept else None)
    return lungs, prepare(scan, lungs.labels, config.preparation, config.window)


def _unpack(bits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    n = int(np.prod(shape))
    return np.unpackbits(bits, count=n).reshape(shape).view(bool)


def _unpack_probs(kept: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    if "prob_lesion" not in kept:
        return None
    probs = np.zeros(shape, np.float32)
    probs[_unpack(kept["inside"], shape)] = kept["prob_lesion"]
    return probs
