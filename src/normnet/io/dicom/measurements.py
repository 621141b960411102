"""DICOM structured report with the measurements of a result (PS3.16, TID 1500).

It takes patient and study from the segmentation that it refers to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from normnet.io.dicom.segmentation import NETWORKS, NOTICE
from normnet.io.dicom.source import Source, making
from normnet.io.segments import BOTH, LEFT, LUNG, RIGHT, SEGMENTS, Code
from normnet.version import __version__

_SERIES_NUMBER = 9103
_SCHEME = "99NORMNET"  # codes of normnet's own, where no coding scheme has one
_VOLUME: Code = ("118565006", "SCT", "Volume")
_ATTENUATION: Code = ("112031", "DCM", "Attenuation Coefficient")
_MEAN: Code = ("373098007", "SCT", "Mean")
_CHEST_CT: Code = ("24627-2", "LN", "CT Chest")
_ML: Code = ("ml", "UCUM", "ml")
_PERCENT: Code = ("%", "UCUM", "%")
_HU: Code = ("[hnsf'U]", "UCUM", "Hounsfield unit")
_SIDES: dict[str, Code] = {"right": RIGHT, "left": LEFT, "both": BOTH}
_ZONES: dict[str, Code] = {
    "upper": ("281392002", "SCT", "Upper zone of lung"),
    "middle": ("281393007", "SCT", "Middle zone of lung"),
    "lower": ("281394001", "SCT", "Lower zone of lung"),
}
# Key of a result: name, unit, and how it was derived from the voxels.
_MEASURES: dict[str, tuple[Code, Code, Code | None]] = {
    "lung_ml": (("lung_volume", _SCHEME, "Volume of lung"), _ML, None),
    "lesion_ml": (("lesion_volume", _SCHEME, "Volume of lesions"), _ML, None),
    "lesion_percent": (("lesion_share", _SCHEME, "Lesions in percent of lung"), _PERCENT, None),
    "ground_glass_percent": (
        ("ground_glass_lesion_share", _SCHEME, "Ground glass in percent of lesions"),
        _PERCENT, None,
    ),
    "consolidation_percent": (
        ("consolidation_lesion_share", _SCHEME, "Consolidation in percent of lesions"),
        _PERCENT, None,
    ),
    "mean_lung_density_hu": (_ATTENUATION, _HU, _MEAN),
}  # fmt: skip


def make_report(
    result: Mapping[str, Any], segmentation: Any, source: Source, where: str, note: str = ""
) -> Any:
    """A TID 1500 report.

    Args:
        result: The content of ``result.json``: ``volumes`` and, where it is there,
            ``quantification``.
        segmentation: As made by ``make_segmentation``.
        source: The images of the scan.
        where: Name of the scan, for messages.
        note: Begins the description of the series.

    Returns:
        A pydicom data set.

    Raises:
        OutputError: NN-OUT-023.
    """
    import highdicom

    with making("report", where):
        observer = highdicom.sr.ObserverContext(
            highdicom.sr.CodedConcept("121007", "DCM", "Device"),
            highdicom.sr.DeviceObserverIdentifyingAttributes(
                uid=highdicom.UID(),
                name=NOTICE,
                manufacturer_name="normnet",
                model_name="normnet",
                serial_number=str(segmentation.DeviceSerialNumber),
            ),
        )
        series_uid = source.images[0].SeriesInstanceUID
        groups = [
            *_segment_groups(result, segmentation, series_uid),
            *_region_groups(result, source),
        ]
        content = highdicom.sr.MeasurementReport(
            observation_context=highdicom.sr.ObservationContext(observer_device_context=observer),
            procedure_reported=_concept(_CHEST_CT),
            imaging_measurements=groups,
            title=_concept(("126000", "DCM", "Imaging Measurement Report")),
        )
        report = highdicom.sr.EnhancedSR(
            evidence=[segmentation, *source.images],
            content=content[0],
            series_instance_uid=highdicom.UID(),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="normnet",
            manufacturer_model_name="normnet",
            software_versions=__version__,
            device_serial_number=str(segmentation.DeviceSerialNumber),
            is_complete=True,
            is_final=False,
            series_description=f"{note}normnet measurements. {NOTICE}"[:64],
        )
        if not source.keeps_identity:
            report.PatientIdentityRemoved = "YES"
            report.DeidentificationMethod = segmentation.DeidentificationMethod
        return report


def _segment_groups(result: Mapping[str, Any], segmentation: Any, series_uid: str) -> Iterator[Any]:
    """Measurements of the segments: each lung, and all lesions."""
    import highdicom

    volumes = result["volumes"]
    rows = (volumes["right"], volumes["left"], volumes["both"])
    for number, (segment, row) in enumerate(zip(SEGMENTS, rows, strict=True), 1):
        lesions = segment.kind != LUNG
        measures = dict(row) if not lesions else {"lesion_percent": row["lesion_percent"]}
        own_ml = row["lesion_ml"] if lesions else measures.pop("lung_ml")
        described = segmentation.SegmentSequence[number - 1]
        yield highdicom.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=highdicom.sr.TrackingIdentifier(
                described.TrackingUID, described.TrackingID
            ),
            referenced_segment=highdicom.sr.ReferencedSegment(
                segmentation.SOPClassUID,
                segmentation.SOPInstanceUID,
                number,
                source_series=highdicom.sr.SourceSeriesForSegmentation(series_uid),
            ),
            finding_category=_concept(segment.category),
            finding_type=_concept(segment.kind),
            finding_sites=[_site(LUNG, segment.laterality)],
            algorithm_id=_algorithm(),
            measurements=[_measure(_VOLUME, own_ml, _ML), *_measures(measures)],
        )


def _region_groups(result: Mapping[str, Any], source: Source) -> Iterator[Any]:
    """Measurements of regions without a segment: zones of the lungs, and both lungs together."""
    import highdicom

    found = result.get("quantification") or {}
    regions = [("Both lungs", LUNG, BOTH, {**result["volumes"]["both"], **found})]
    for name, row in (found.get("zones") or {}).items():
        side, _, zone = name.partition("_")
        if side in _SIDES and zone in _ZONES:
            shown = f"{side} {zone} zone".capitalize()
            regions.append((shown, _ZONES[zone], _SIDES[side], row))
    for name, place, side, row in regions:
        if measurements := list(_measures(row)):
            yield highdicom.sr.MeasurementsAndQualitativeEvaluations(
                tracking_identifier=highdicom.sr.TrackingIdentifier(highdicom.UID(), name),
                finding_type=_concept(LUNG),
                finding_sites=[_site(place, side)],
                algorithm_id=_algorithm(),
                measurements=measurements,
                source_images=[
                    highdicom.sr.SourceImageForMeasurementGroup.from_source_image(image)
                    for image in source.images[:1]
                ],
            )


def _measures(row: Mapping[str, Any]) -> Iterator[Any]:
    """The measurements that a row of a result has; what is None there is left out."""
    for key, (name, unit, derivation) in _MEASURES.items():
        if isinstance(row.get(key), int | float):
            yield _measure(name, row[key], unit, derivation)


def _measure(name: Code, value: float, unit: Code, derivation: Code | None = None) -> Any:
    import highdicom

    return highdicom.sr.Measurement(
        _concept(name),
        value,
        _concept(unit),
        derivation=None if derivation is None else _concept(derivation),
    )


def _algorithm() -> Any:
    import highdicom

    return highdicom.sr.AlgorithmIdentification("normnet", __version__, family=_concept(NETWORKS))


def _site(place: Code, side: Code) -> Any:
    import highdicom

    return highdicom.sr.FindingSite(_concept(place), laterality=_concept(side))


def _concept(code: Code) -> Any:
    import highdicom

    return highdicom.sr.CodedConcept(*code)
