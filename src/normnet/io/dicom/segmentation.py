"""DICOM segmentation objects (PS3.3 A.51) of lungs, lesions and the probability of anomaly."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from normnet.io.dicom.source import Source, making
from normnet.io.segments import LUNG, Code, Segment
from normnet.version import __version__

NOTICE = "Research use only, not a medical device"
NETWORKS: Code = ("123110", "DCM", "Artificial Intelligence")  # its name in the standard, CID 7162
PROBABILITY_STEPS = 255  # as in anomaly.nii.gz
_SERIES_NUMBERS = {True: 9101, False: 9102}  # binary, fractional
_DEIDENTIFIED = "normnet: person, dates, texts and equipment were left out"


def make_segmentation(
    maps: Sequence[np.ndarray],
    segments: Sequence[Segment],
    source: Source,
    where: str,
    *,
    serial: str,
    study_uid: str = "",
    empty_frames: bool = False,
    note: str = "",
) -> Any:
    """A SEG: binary of masks, fractional of probabilities.

    Args:
        maps: (z, y, x) for each segment, on the grid of the scan: bool, or float32 in [0, 1].
        segments: What the maps show.
        source: The images of the scan.
        where: Name of the scan, for messages.
        serial: Names the model exactly: digits of its sha256.
        study_uid: Study of a de-identified object; a new one where it is empty.
        empty_frames: Whether frames without any voxel are stored, too.
        note: Begins the description of the series.

    Returns:
        A pydicom data set; ``encode`` makes it a file.

    Raises:
        OutputError: NN-OUT-023.
    """
    import highdicom
    from pydicom.uid import ExplicitVRLittleEndian

    binary = maps[0].dtype == bool
    voxels = np.stack([one[source.planes] for one in maps], axis=-1)
    empty_frames = empty_frames or not voxels.any()  # an object has a frame at least
    with making("segmentation", where):
        found = highdicom.seg.Segmentation(
            source.images,
            voxels,
            "BINARY" if binary else "FRACTIONAL",
            [_describe(n, segment) for n, segment in enumerate(segments, 1)],
            series_instance_uid=highdicom.UID(),
            series_number=_SERIES_NUMBERS[bool(binary)],
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="normnet",
            manufacturer_model_name="normnet",
            software_versions=__version__,
            device_serial_number=serial,
            max_fractional_value=PROBABILITY_STEPS,
            omit_empty_frames=not empty_frames,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            content_label="LESIONS" if binary else "ANOMALY",
            content_description=NOTICE,
            series_description=f"{note}normnet: {', '.join(one.name.lower() for one in segments)}"[
                :64
            ],
        )
        if not source.keeps_identity:
            _remove_identity(found, study_uid or highdicom.UID())
        return found


def encode(dataset: Any) -> bytes:
    """A data set as the bytes of a DICOM file."""
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def _describe(number: int, segment: Segment) -> Any:
    import highdicom
    from highdicom.color import CIELabColor

    region = highdicom.sr.CodedConcept(*LUNG)
    side = highdicom.sr.CodedConcept(*segment.laterality)
    described = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.name,
        segmented_property_category=highdicom.sr.CodedConcept(*segment.category),
        segmented_property_type=highdicom.sr.CodedConcept(*segment.kind),
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            "normnet", highdicom.sr.CodedConcept(*NETWORKS), __version__
        ),
        tracking_uid=highdicom.UID(),
        tracking_id=segment.name,
        anatomic_regions=[region],
        display_color=CIELabColor.from_rgb(*segment.rgb),
    )
    if segment.kind == LUNG:  # the side qualifies the type, which is the region itself
        del described.AnatomicRegionSequence
        described.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
            side
        ]
    else:
        described.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [side]
    return described


def _remove_identity(dataset: Any, study_uid: str) -> None:
    """Put an object into a study of its own, from which it refers to the images of the CT."""
    from pydicom.dataset import Dataset

    study = Dataset()
    study.StudyInstanceUID = dataset.StudyInstanceUID
    study.ReferencedSeriesSequence = dataset.ReferencedSeriesSequence
    del dataset.ReferencedSeriesSequence
    dataset.StudiesContainingOtherReferencedInstancesSequence = [study]
    del dataset.StudyInstanceUID  # the element is that of the image
    dataset.StudyInstanceUID = study_uid
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = _DEIDENTIFIED
