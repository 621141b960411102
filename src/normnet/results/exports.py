"""What a result holds beside its usual files where the user asks for it: DICOM objects, .seg.nrrd.

Error ids: NN-OUT-021 the input is no DICOM series, 024 its slices were averaged; those of
``io.dicom.source``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normnet.errors import OutputError
from normnet.io.archive import unpacked
from normnet.io.atomic import write_bytes
from normnet.io.seg_nrrd import write_seg_nrrd
from normnet.io.segments import PROBABILITY, SEGMENTS, segment_masks
from normnet.results.schema import EXPORTS

if TYPE_CHECKING:
    from normnet.pipeline import Segmentation
    from normnet.results.schema import Result
    from normnet.scan import Scan

SEG, ANOMALY, SR, SEG_NRRD = EXPORTS
DICOM_FILES = (SEG, ANOMALY, SR)


@dataclass(frozen=True)
class Exports:
    """Files that are asked for.

    Attributes:
        files: Names of ``EXPORTS``.
        keep_identity: Whether DICOM objects belong to the patient and the study of the CT.
        empty_frames: Whether a SEG has frames for slices without any voxel of a segment.
    """

    files: tuple[str, ...] = ()
    keep_identity: bool = False
    empty_frames: bool = False

    @property
    def dicom(self) -> tuple[str, ...]:
        """Those of the files that are DICOM objects."""
        return tuple(name for name in self.files if name in DICOM_FILES)

    def describe(self) -> dict[str, Any]:
        """The key ``dicom`` of a result; empty without DICOM objects."""
        if not self.dicom:
            return {}
        return {"dicom": {"identity": "kept" if self.keep_identity else "removed"}}


NOTHING = Exports()


def check_dicom(exports: Exports, kind: str, where: str) -> None:
    """See that an input can have what is asked for.

    Args:
        exports: What is asked for.
        kind: Of the item of the census.
        where: Name of the scan.

    Raises:
        OutputError: NN-OUT-021.
    """
    if exports.dicom and kind != "DICOM":
        raise OutputError(
            "NN-OUT-021",
            "no DICOM object without a DICOM series as input",
            where,
            "give the DICOM folder, or leave out the DICOM output",
        )


def check_slices(exports: Exports, scan: Scan) -> None:
    """See that a scan, now that it has been read, can have the DICOM objects that are asked for.

    Raises:
        OutputError: NN-OUT-024.
    """
    if exports.dicom and scan.joined is not None:
        found = (
            f"no DICOM object of {scan.joined.n_slices} slices that were averaged to fit in memory"
        )
        todo = "leave out the DICOM output (--seg-nrrd is possible)"
        raise OutputError("NN-OUT-024", found, scan.case_id, todo)


def write_exports(
    folder: Path,
    exports: Exports,
    segmentation: Segmentation,
    scan: Scan,
    result: Result,
    sources: Sequence[Path],
) -> None:
    """Write the files that are asked for.

    Args:
        folder: Where to write.
        exports: What is asked for.
        segmentation: Of ``scan``, on its grid.
        scan: As read.
        result: The content of ``result.json``.
        sources: Files of the DICOM series.

    Raises:
        OutputError: If a file cannot be written, or a DICOM object cannot be made.
    """
    if not exports.files:
        return
    masks = segment_masks(segmentation.lung_labels, segmentation.lesion_mask)
    if SEG_NRRD in exports.files:
        write_seg_nrrd(folder / SEG_NRRD, masks, scan.geometry, scan.joined)
    if not exports.dicom:
        return
    from normnet.io.dicom.measurements import make_report
    from normnet.io.dicom.segmentation import encode, make_segmentation
    from normnet.io.dicom.source import read_source

    where, note = scan.case_id, "EDITED BY HAND. " if "edited" in result else ""
    with unpacked(sources) as files:
        n_slices = len(scan.volume_hu)
        source = read_source(files, scan.geometry, n_slices, where, exports.keep_identity)
    shared: dict[str, Any] = {
        "serial": result["model"]["sha256"][:16],
        "empty_frames": exports.empty_frames,
        "note": note,
    }
    made = make_segmentation(masks, SEGMENTS, source, where, **shared)
    if SEG in exports.files:
        write_bytes(folder / SEG, encode(made))
    if SR in exports.files:
        write_bytes(folder / SR, encode(make_report(result, made, source, where, note)))
    if ANOMALY in exports.files:
        shared["study_uid"] = made.StudyInstanceUID
        made = make_segmentation(
            [segmentation.prob_anomaly], [PROBABILITY], source, where, **shared
        )
        write_bytes(folder / ANOMALY, encode(made))
