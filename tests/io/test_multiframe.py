"""Enhanced CT: one file of many frames gives the same volume as single slices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from normnet.errors import NormNetError
from normnet.io import read_ct
from normnet.io.census import take_census
from tests import phantoms

SHAPE, SPACING_MM = (20, 24, 28), (2.5, 2.0, 1.5)


@pytest.fixture(scope="module")
def scan():
    return phantoms.thorax_phantom(SHAPE, SPACING_MM, vessels=False).scan


def write_enhanced(
    scan, path, edit: Callable = lambda data: None, order=None, shared_orientation=True
):
    """An Enhanced CT Image with all tags in its functional groups."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    slices = phantoms.dicom_datasets(scan)
    slices = [slices[n] for n in (range(len(slices)) if order is None else order)]
    first = slices[0]
    data = Dataset()
    data.file_meta = first.file_meta
    data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    for keyword in (
        "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID",
        "PatientID", "PatientName", "Modality", "Rows", "Columns", "SamplesPerPixel",
        "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit",
        "PixelRepresentation",
    ):  # fmt: skip
        setattr(data, keyword, getattr(first, keyword))
    data.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    data.NumberOfFrames = len(slices)

    def group(source, sequence, *keywords):
        item = Dataset()
        for keyword in keywords:
            setattr(item, keyword, getattr(source, keyword))
        return sequence, Sequence([item])

    shared, frames = Dataset(), []
    common = [("PixelMeasuresSequence", "PixelSpacing", "SliceThickness")]
    own = [
        ("PlanePositionSequence", "ImagePositionPatient"),
        ("PixelValueTransformationSequence", "RescaleSlope", "RescaleIntercept", "RescaleType"),
    ]
    (common if shared_orientation else own).append(
        ("PlaneOrientationSequence", "ImageOrientationPatient")
    )
    for entry in common:
        setattr(shared, *group(first, *entry))
    for source in slices:
        frame = Dataset()
        for entry in own:
            setattr(frame, *group(source, *entry))
        frames.append(frame)
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    data.PerFrameFunctionalGroupsSequence = Sequence(frames)
    data.PixelData = b"".join(source.PixelData for source in slices)
    edit(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize(
    "order", [None, range(19, -1, -1), np.random.default_rng(1).permutation(20)]
)
@pytest.mark.parametrize("shared", [True, False])
def test_frames_are_slices(scan, tmp_path, order, shared):
    path = write_enhanced(scan, tmp_path / "ct" / "one", order=order, shared_orientation=shared)
    for given in (path, path.parent):
        read = read_ct(given)
        phantoms.assert_same_world(read, scan)
    (item,) = take_census([path.parent]).items
    assert (item.n_slices, item.thickness_mm, item.has_position, item.why_not) == (
        20,
        2.5,
        True,
        "",
    )


@pytest.mark.parametrize("turned", [((0, 2, 1), (True, False, True)), ((2, 0, 1), (False,) * 3)])
def test_any_orientation(scan, tmp_path, turned):
    path = write_enhanced(phantoms.reorient(scan, *turned), tmp_path / "ct.dcm")
    phantoms.assert_same_world(read_ct(path), scan)


def _per_frame_slope(data):
    pixels = np.frombuffer(data.PixelData, "<u2").reshape(20, -1).copy()
    for n, group in enumerate(data.PerFrameFunctionalGroupsSequence):
        if n % 2:
            group.PixelValueTransformationSequence[0].RescaleSlope = 0.5
            pixels[n] *= 2
    data.PixelData = pixels.tobytes()


def test_rescale_of_each_frame(scan, tmp_path):
    read = read_ct(write_enhanced(scan, tmp_path / "ct.dcm", _per_frame_slope))
    phantoms.assert_same_world(replace(read, volume_hu=read.volume_hu.astype(np.int16)), scan)


def _compressed(data):
    data.compress("1.2.840.10008.1.2.5", encoding_plugin="pydicom", generate_instance_uid=False)


def test_compressed_frames(scan, tmp_path):
    phantoms.assert_same_world(
        read_ct(write_enhanced(scan, tmp_path / "ct.dcm", _compressed)), scan
    )


def test_other_syntaxes(scan, tmp_path):
    def big(data):
        data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"

    phantoms.assert_same_world(read_ct(write_enhanced(scan, tmp_path / "ct.dcm", big)), scan)


def _drop(sequence):
    def edit(data):
        delattr(data.PerFrameFunctionalGroupsSequence[7], sequence)

    return edit


def _position_of_another(data):
    groups = data.PerFrameFunctionalGroupsSequence
    groups[7].PlanePositionSequence = groups[8].PlanePositionSequence


FAULTS = {
    "no position": (_drop("PlanePositionSequence"), "NN-GEO-009"),
    "no rescale": (_drop("PixelValueTransformationSequence"), "NN-VAL-001"),
    "fewer groups": (lambda data: data.PerFrameFunctionalGroupsSequence.pop(), "NN-FILE-014"),
    "a place twice": (_position_of_another, "NN-GEO-003"),
    "short pixels": (lambda data: setattr(data, "PixelData", data.PixelData[:-500]), "NN-FILE-005"),
    "no pixels": (lambda data: delattr(data, "PixelData"), "NN-FILE-013"),
    "2e9 frames": (lambda data: setattr(data, "NumberOfFrames", 2_000_000_000), "NN-RES-001"),
    "no groups": (lambda data: delattr(data, "PerFrameFunctionalGroupsSequence"), "NN-FILE-015"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults(scan, tmp_path, name):
    edit, code = FAULTS[name]
    with pytest.raises(NormNetError) as caught:
        read_ct(write_enhanced(scan, tmp_path / "ct.dcm", edit))
    assert caught.value.code == code
    assert "ct" in caught.value.where
