"""Enhanced CT: many frames in one DICOM file (DICOM PS3.3 A.38), taken apart into single slices.

Position, orientation, pixel spacing and rescale of a frame stand in the functional groups (PS3.3
C.7.6.16). Each frame becomes a DICOM file of its own in a private folder, so that the reader of
single slices checks and decodes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from normnet.errors import InputError
from normnet.io.dicom.header import quiet_pydicom
from normnet.io.limits import check_size

_GROUPS = "PerFrameFunctionalGroupsSequence"
_SHARED = "SharedFunctionalGroupsSequence"
# Sequence of the functional groups: the tags of a single slice that stand in it.
_TAGS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
}
_KEPT = (
    "SOPClassUID", "Modality", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID",
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "RescaleSlope", "RescaleIntercept",
)  # fmt: skip
_CORRUPT = "export the series again"


def is_multiframe(header: Any, path: Path) -> bool:
    """Whether a file has frames with functional groups.

    Raises:
        ResourceError: NN-RES-001 if there are more frames than any CT has.
    """
    from pydicom import dcmread

    with quiet_pydicom(path):
        n_frames = int(header.get("NumberOfFrames") or 1)
        check_size(
            (n_frames, int(header.get("Rows") or 1), int(header.get("Columns") or 1)), path.name
        )
        if n_frames == 1:
            return False
        return _GROUPS in dcmread(path, stop_before_pixels=True, specific_tags=[_GROUPS])


def split_frames(path: Path, folder: Path) -> list[Path]:
    """Write each frame as a DICOM file of one slice.

    Args:
        path: Enhanced CT.
        folder: Private folder for the slices.

    Returns:
        One file per frame, in the order of the frames.

    Raises:
        InputError: NN-FILE-005 if pixels are missing, NN-FILE-013 if there are none, NN-FILE-014 if
            the functional groups do not fit the frames.
    """
    from pydicom import dcmread
    from pydicom.dataset import Dataset

    with quiet_pydicom(path):
        whole = dcmread(path)
        groups = whole.get(_GROUPS) or []
        n_frames = int(whole.NumberOfFrames)
        if len(groups) != n_frames:
            found = f"{n_frames} frames, but {len(groups)} functional groups"
            raise InputError("NN-FILE-014", found, path.name, _CORRUPT)
        if "PixelData" not in whole:
            raise InputError("NN-FILE-013", "no pixels in the file", path.name, _CORRUPT)
        shared = (whole.get(_SHARED) or [Dataset()])[0]
        base = Dataset()
        for keyword in _KEPT:
            if keyword in whole:
                base[keyword] = whole[keyword]
        files = []
        for n, (group, pixels) in enumerate(zip(groups, _pixels(whole, path), strict=True), 1):
            slice_ = deepcopy(base)
            slice_.preamble, slice_.file_meta = bytes(128), deepcopy(whole.file_meta)
            for sequence, keywords in _TAGS.items():
                _take(slice_, shared, sequence, keywords)
                _take(slice_, group, sequence, keywords)
            slice_.InstanceNumber = n
            slice_.PixelData = pixels
            slice_["PixelData"].VR = whole["PixelData"].VR
            slice_[
                "PixelData"
            ].is_undefined_length = whole.file_meta.TransferSyntaxUID.is_encapsulated
            files.append(folder / f"{path.stem}_frame{n:05d}.dcm")
            slice_.save_as(files[-1], enforce_file_format=False)
        return files


def _take(target: Any, group: Any, sequence: str, keywords: tuple[str, ...]) -> None:
    for item in group.get(sequence) or ():
        for keyword in keywords:
            if keyword in item:
                target[keyword] = item[keyword]


def _pixels(whole: Any, path: Path) -> Iterator[bytes]:
    """The pixel data of each frame, compressed as in the file."""
    from pydicom.encaps import encapsulate, generate_frames

    n_frames = int(whole.NumberOfFrames)
    if whole.file_meta.TransferSyntaxUID.is_encapsulated:
        for frame in generate_frames(whole.PixelData, number_of_frames=n_frames):
            yield encapsulate([frame])
        return
    n_bytes = int(whole.Rows) * int(whole.Columns) * int(whole.BitsAllocated) // 8
    if len(whole.PixelData) < n_frames * n_bytes:
        found = f"pixels need {n_frames * n_bytes} bytes, the file has {len(whole.PixelData)}"
        raise InputError("NN-FILE-005", found, path.name, _CORRUPT)
    for start in range(0, n_frames * n_bytes, n_bytes):
        yield whole.PixelData[start : start + n_bytes]
