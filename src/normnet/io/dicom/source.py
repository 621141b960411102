"""The CT images that a DICOM object refers to, in the order of the scan's slices.

Error ids: NN-OUT-021 no DICOM series, 022 the series lacks what a DICOM object refers to, 023 the
object cannot be made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from normnet.errors import OutputError
from normnet.io.dicom.header import quiet_pydicom, read_header
from normnet.io.dicom.multiframe import is_multiframe
from normnet.scan import Geometry

# All that a de-identified object takes from its CT: identifiers of images, and their geometry.
_REFERENCES = (
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID",
    "SeriesInstanceUID", "FrameOfReferenceUID", "PositionReferenceIndicator", "Modality",
    "ImageType", "InstanceNumber", "NumberOfFrames", "Rows", "Columns", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "DimensionOrganizationSequence", "DimensionIndexSequence",
)  # fmt: skip
_NEEDED = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
# Attributes of patient and study that every object has, be it empty.
_PERSON = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "AccessionNumber", "StudyID", "ReferringPhysicianName",
)  # fmt: skip
_OTHER_OUTPUT = "leave out the DICOM output, or export the series again"


class Source(NamedTuple):
    """The images of a scan.

    Attributes:
        images: pydicom data sets without pixels: one per slice, or one enhanced CT.
        planes: (n,) for each image, or each frame of the enhanced CT, the slice of the scan.
        keeps_identity: Whether the images have the attributes of patient and study.
    """

    images: list[Any]
    planes: np.ndarray
    keeps_identity: bool


def read_source(
    files: Sequence[Path],
    geometry: Geometry,
    n_slices: int,
    where: str,
    keep_identity: bool = False,
) -> Source:
    """Read the headers of a series and match its images to the slices of a scan by their position.

    Args:
        files: Of the series.
        geometry: Of the scan that was read from them.
        n_slices: Of the scan.
        where: Name of the scan, for messages.
        keep_identity: Whether to keep who the patient is.

    Raises:
        OutputError: NN-OUT-022 if the images lack identifiers, are frames of several files, or do
            not show each slice.
    """
    from pydicom import dcmread

    images: list[Any] = []
    positions: list[list[float]] = []
    for file in sorted(files, key=lambda path: path.name):
        header = read_header(file)
        if header is None:
            continue  # a localizer, which the reader left out, too
        many = is_multiframe(header, file)
        if many and len(files) > 1:
            raise _lacking("frames in several files", where)
        with quiet_pydicom(file):
            image = dcmread(file, stop_before_pixels=True)
            positions += _frame_positions(image) if many else [list(image.ImagePositionPatient)]
        images.append(image)
    _check_identifiers(images, where)
    world = np.array(positions, float)[:, ::-1]  # (z, y, x)
    affine = geometry.affine
    planes = np.rint(np.linalg.solve(affine[:3, :3], (world - affine[:3, 3]).T)[0]).astype(int)
    if len(images) == len(planes) > 1:
        first = {int(plane): n for n, plane in reversed(list(enumerate(planes)))}
        images = [images[n] for _, n in sorted(first.items())]  # without duplicates
        planes = np.array(sorted(first))
    if sorted(planes.tolist()) != list(range(n_slices)):
        raise _lacking("its images do not match the slices one by one", where)
    return Source([_prepared(image, keep_identity) for image in images], planes, keep_identity)


def _frame_positions(image: Any) -> list[list[float]]:
    return [
        list(group.PlanePositionSequence[0].ImagePositionPatient)
        for group in image.PerFrameFunctionalGroupsSequence
    ]


def _check_identifiers(images: list[Any], where: str) -> None:
    for keyword in _NEEDED:
        if not all(image.get(keyword) for image in images):
            raise _lacking(f"{keyword} is missing", where)
    for keyword in _NEEDED[1:]:
        if len({image[keyword].value for image in images}) > 1:
            raise _lacking(f"its images differ in {keyword}", where)


def _prepared(image: Any, keep_identity: bool) -> Any:
    """The attributes that an object may take from an image; what has to be there is there."""
    from pydicom.dataset import Dataset

    prepared = image
    if not keep_identity:
        prepared = Dataset()
        for keyword in _REFERENCES:
            if keyword in image:
                prepared[keyword] = image[keyword]
        prepared.file_meta = image.file_meta
    for keyword in _PERSON:
        if keyword not in prepared:
            setattr(prepared, keyword, "")
    return prepared


def _lacking(found: str, where: str) -> OutputError:
    return OutputError("NN-OUT-022", f"no DICOM object: {found}", where, _OTHER_OUTPUT)


@contextmanager
def making(what: str, where: str) -> Iterator[None]:
    """Turn what a library objects to into one named error that quotes no tag.

    Raises:
        OutputError: NN-OUT-023.
    """
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote tags
        try:
            yield
        except (ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
            found = f"the {what} cannot be made from the tags of the CT"
            raise OutputError("NN-OUT-023", found, where, _OTHER_OUTPUT) from error
