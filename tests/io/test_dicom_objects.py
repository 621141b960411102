"""DICOM SEG and SR: valid, complete, read back voxel for voxel, and whose they are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from normnet.errors import OutputError
from normnet.io.dicom.source import read_source
from normnet.io.read import find_item, read_item
from normnet.io.segments import PROBABILITY, SEGMENTS
from tests.io.test_multiframe import write_enhanced
from tests.phantoms import reorient, thorax_phantom, write_dicom

highdicom = pytest.importorskip("highdicom", reason="the extra 'dicom' is not installed")
from normnet.io.dicom.measurements import make_report  # noqa: E402
from normnet.io.dicom.segmentation import encode, make_segmentation  # noqa: E402

SHAPE, SPACING_MM = (20, 24, 28), (2.5, 2.0, 1.5)
VALIDATOR = shutil.which("dciodvfy")
needs_validator = pytest.mark.skipif(not VALIDATOR, reason="Debian's dicom3tools is missing")
ROW = {"lung_ml": 2000.5, "lesion_ml": 100.25, "lesion_percent": 5.011}
RESULT = {
    "volumes": {"right": ROW, "left": {**ROW, "lung_ml": 1800.5}, "both": ROW},
    "quantification": {
        "zones": {f"{s}_{z}": ROW for s in ("right", "left") for z in ("upper", "middle", "lower")},
        "ground_glass_percent": 3.5,
        "consolidation_percent": 1.5,
        "mean_lung_density_hu": -780.25,
    },
}
# Each needs its reason in docs/how-to/dicom.md.
KNOWN_WARNINGS = (
    r"Unrecognized defined term = <99NORMNET>",
    r"Missing attribute or value that would be needed to build DICOMDIR",
)


def maps_of(shape):
    """Masks that no flip or turn leaves as they are, and probabilities in steps of 1 / 255."""
    rng = np.random.default_rng(3)
    right, left, lesions = np.zeros((3, *shape), bool)
    right[2:15, 3:9, 4:12] = True
    left[1:17, 5:20, 15:26] = True
    lesions[4:9, 6:12, 8:20] = rng.random((5, 6, 12)) < 0.5
    lesions[12, 3, 5] = True
    prob = rng.integers(0, 256, shape).astype(np.float32) / np.float32(255)
    prob[:2] = 0
    return [right, left, lesions], prob


def full(datasets):
    """Tags of a person and of a hospital."""
    for data in datasets:
        data.PatientBirthDate, data.PatientSex, data.StudyDate = "19500101", "F", "20200202"
        data.StudyTime, data.AccessionNumber, data.StudyID = "120000", "ACC-77", "ST-77"
        data.StudyDescription, data.InstitutionName = "Thorax Secret", "Secret Hospital"
        data.ReferringPhysicianName, data.Manufacturer = "Doctor^Secret", "Vendor"
        data.StationName, data.PatientAge, data.OperatorsName = "STATION-77", "070Y", "Op^Secret"


def made(folder, keep_identity=False, shape=SHAPE, empty_frames=False, files=None):
    """The objects of a series with the maps of ``maps_of``."""
    item = find_item(folder)
    scan = read_item(item)
    source = read_source(
        files or item.files, scan.geometry, len(scan.volume_hu), "ct", keep_identity
    )
    masks, prob = maps_of(scan.shape)
    options = {"serial": "0123456789abcdef", "empty_frames": empty_frames}
    seg = make_segmentation(masks, SEGMENTS, source, "ct", **options)
    study = {"study_uid": seg.StudyInstanceUID}
    anomaly = make_segmentation([prob], [PROBABILITY], source, "ct", **options, **study)
    return scan, masks, prob, seg, anomaly, make_report(RESULT, seg, source, "ct")


def series(folder, edit=full, order=None, flips=(False,) * 3):
    scan = thorax_phantom(SHAPE, SPACING_MM).scan
    return write_dicom(reorient(scan, order, flips) if order else scan, folder, edit)


def oblique(datasets):
    """The axes turned by 10 degrees about x; positions too."""
    c, s = np.cos(np.radians(10)), np.sin(np.radians(10))
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    for data in datasets:
        at = turn @ np.array([float(v) for v in data.ImagePositionPatient])
        axes = [turn @ np.array([float(v) for v in data.ImageOrientationPatient[n : n + 3]])
                for n in (0, 3)]  # fmt: skip
        data.ImagePositionPatient = [f"{v:.6f}" for v in at]
        data.ImageOrientationPatient = [f"{v:.8f}" for v in np.concatenate(axes)]


def in_gaps(datasets):
    """Thin slices with gaps between them."""
    for data in datasets:
        data.SliceThickness = "1.0"


CASES = {
    "plain": {},
    "sagittal": {"order": (2, 0, 1), "flips": (False, True, False)},
    "feet_first": {"order": (0, 1, 2), "flips": (True, False, True)},
    "oblique": {"edit": oblique},
    "gaps": {"edit": in_gaps},
}


def number_of(seg, group):
    """The segment of a frame; it stands beside all frames where there is one segment only."""
    own = "SegmentIdentificationSequence" in group
    place = group if own else seg.SharedFunctionalGroupsSequence[0]
    return int(place.SegmentIdentificationSequence[0].ReferencedSegmentNumber)


def frames_of(seg):
    """{(segment, SOPInstanceUID of the source): (rows, columns)} as the object says it."""
    found = {}
    pixels = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    for group, frame in zip(seg.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        uid = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        found[number_of(seg, group), uid] = frame
    return found


@pytest.mark.parametrize("name", CASES)
def test_each_frame_lies_on_its_slice(tmp_path, name):
    """By position and SOPInstanceUID; file names are shuffled, z may run either way."""
    from pydicom import dcmread

    folder = series(tmp_path / "ct", **CASES[name])
    scan, masks, prob, seg, anomaly, _ = made(folder)
    uid_at = {}
    for path in folder.iterdir():
        data = dcmread(path)
        world = np.array([*[float(v) for v in data.ImagePositionPatient][::-1], 1.0])
        index = np.linalg.solve(scan.geometry.affine, world)[:3]
        np.testing.assert_allclose(index, np.rint(index), atol=1e-3)
        uid_at[int(np.rint(index[0]))] = data.SOPInstanceUID
    frames = frames_of(seg)
    for number, mask in enumerate(masks, 1):
        filled = {uid_at[z] for z in range(len(mask)) if mask[z].any()}
        assert {uid for n, uid in frames if n == number} == filled
        for z in range(len(mask)):
            if mask[z].any():
                np.testing.assert_array_equal(frames[number, uid_at[z]], mask[z])
    frames = frames_of(anomaly)
    for z in range(2, len(prob)):
        np.testing.assert_array_equal(frames[1, uid_at[z]], np.rint(prob[z] * 255))
    assert seg.FrameOfReferenceUID == data.FrameOfReferenceUID


@pytest.mark.parametrize("name", CASES)
def test_dcmqi_reads_the_same_voxels(tmp_path, name):
    """Through ITK, so by position in the patient, never by index."""
    pytest.importorskip("dcmqi", reason="dcmqi is not installed")
    import SimpleITK as sitk

    folder = series(tmp_path / "ct", **CASES[name])
    scan, masks, _, seg, _, _ = made(folder, empty_frames=True)
    (tmp_path / "seg.dcm").write_bytes(encode(seg))
    out = tmp_path / "read"
    out.mkdir()
    program = Path(sys.executable).parent / "segimage2itkimage"
    subprocess.run(
        [program, "--inputDICOM", tmp_path / "seg.dcm", "--outputDirectory", out, "-t", "nrrd"],
        check=True, capture_output=True,
    )  # fmt: skip
    for number, mask in enumerate(masks, 1):
        image = sitk.ReadImage(str(out / f"{number}.nrrd"))
        voxels = sitk.GetArrayFromImage(image)
        assert np.count_nonzero(voxels) == np.count_nonzero(mask)
        for index in np.argwhere(voxels)[::7]:
            point = image.TransformIndexToPhysicalPoint([int(v) for v in index[::-1]])
            at = np.linalg.solve(scan.geometry.affine, [*point[::-1], 1.0])[:3]
            np.testing.assert_allclose(at, np.rint(at), atol=0.02)
            assert mask[tuple(np.rint(at).astype(int))]


@needs_validator
@pytest.mark.parametrize("keep_identity", [False, True])
def test_the_validator_finds_no_error(tmp_path, keep_identity):
    *_, seg, anomaly, report = made(series(tmp_path / "ct"), keep_identity)
    for name, found in {"seg": seg, "anomaly": anomaly, "report": report}.items():
        path = tmp_path / f"{name}.dcm"
        path.write_bytes(encode(found))
        done = subprocess.run([VALIDATOR, "-new", path], capture_output=True, text=True)
        lines = (done.stdout + done.stderr).splitlines()
        assert [line for line in lines if line.startswith(("Error", "Abort"))] == []
        warnings = [line for line in lines if line.startswith("Warning")]
        odd = [w for w in warnings if not any(re.search(known, w) for known in KNOWN_WARNINGS)]
        assert odd == []


@needs_validator
def test_the_validator_sees_errors(tmp_path):
    *_, seg, _, _ = made(series(tmp_path / "ct"))
    del seg.SegmentSequence[0].SegmentLabel
    (tmp_path / "bad.dcm").write_bytes(encode(seg))
    done = subprocess.run([VALIDATOR, "-new", tmp_path / "bad.dcm"], capture_output=True, text=True)
    assert "Error" in done.stdout + done.stderr


def test_nothing_of_the_patient_is_in_the_objects(tmp_path):
    folder = series(tmp_path / "ct")
    *_, seg, anomaly, report = made(folder)
    for found in (seg, anomaly, report):
        data = encode(found)
        for word in (b"Secret", b"phantom", b"19500101", b"20200202", b"-77", b"070Y", b"Vendor"):
            assert word not in data
        assert found.PatientID == "" and found.PatientName == ""
        assert found.PatientIdentityRemoved == "YES"
        assert found.StudyInstanceUID == seg.StudyInstanceUID
    source = find_item(folder).series_uid
    (study,) = seg.StudiesContainingOtherReferencedInstancesSequence
    assert study.ReferencedSeriesSequence[0].SeriesInstanceUID == source
    assert study.StudyInstanceUID != seg.StudyInstanceUID


def test_identity_is_kept_where_asked(tmp_path):
    from pydicom import dcmread

    folder = series(tmp_path / "ct")
    image = dcmread(next(folder.iterdir()))
    *_, seg, anomaly, report = made(folder, keep_identity=True)
    for found in (seg, anomaly, report):
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID",
                        "StudyDate", "AccessionNumber"):  # fmt: skip
            assert found[keyword].value == image[keyword].value
        assert "PatientIdentityRemoved" not in found
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == image.SeriesInstanceUID
    assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == SHAPE[0]


def test_what_the_segments_are(tmp_path):
    from normnet.version import __version__

    *_, seg, anomaly, _ = made(series(tmp_path / "ct"))
    assert [one.SegmentLabel for one in seg.SegmentSequence] == [
        "Right lung",
        "Left lung",
        "Lesions",
    ]
    codes = [one.SegmentedPropertyTypeCodeSequence[0] for one in seg.SegmentSequence]
    assert [code.CodeValue for code in codes] == ["39607008", "39607008", "52988006"]
    sides = [code.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning for code in codes[:2]]
    assert sides == ["Right", "Left"]
    for one in (*seg.SegmentSequence, *anomaly.SegmentSequence):
        (algorithm,) = one.SegmentationAlgorithmIdentificationSequence
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("normnet", __version__)
        assert len(one.RecommendedDisplayCIELabValue) == 3
    assert "not a medical device" in seg.ContentDescription
    assert (seg.SegmentationType, anomaly.SegmentationType) == ("BINARY", "FRACTIONAL")
    assert anomaly.SegmentationFractionalType == "PROBABILITY"


def test_empty_frames_are_a_choice(tmp_path):
    folder = series(tmp_path / "ct")
    _, masks, *_, full_ = [*made(folder)[:3], made(folder, empty_frames=True)[3]]
    sparse = made(folder)[3]
    assert sparse.NumberOfFrames == sum(
        int(mask[z].any()) for mask in masks for z in range(SHAPE[0])
    )
    assert full_.NumberOfFrames == 3 * SHAPE[0]


def test_a_result_without_lesions_has_a_seg(tmp_path):
    item = find_item(series(tmp_path / "ct"))
    scan = read_item(item)
    source = read_source(item.files, scan.geometry, SHAPE[0], "ct")
    nothing = np.zeros((3, *SHAPE), bool)
    seg = make_segmentation(list(nothing), SEGMENTS, source, "ct", serial="0")
    assert not seg.pixel_array.any()
    make_report(RESULT, seg, source, "ct")


def test_the_report_holds_the_numbers(tmp_path):
    *_, seg, _, report = made(series(tmp_path / "ct"))
    (tmp_path / "sr.dcm").write_bytes(encode(report))
    read = highdicom.sr.srread(tmp_path / "sr.dcm")
    rois = read.content.get_volumetric_roi_measurement_groups()
    assert [roi.tracking_identifier for roi in rois] == ["Right lung", "Left lung", "Lesions"]
    volumes = [{m.name.meaning: m.value for m in roi.get_measurements()} for roi in rois]
    assert [float(row["Volume"]) for row in volumes] == [2000.5, 1800.5, 100.25]
    assert float(volumes[0]["Lesions in percent of lung"]) == 5.011
    for number, roi in enumerate(rois, 1):
        reference = roi.referenced_segment
        assert reference.referenced_sop_instance_uid == seg.SOPInstanceUID
        assert reference.referenced_segment_numbers == [number]
    groups = {g.tracking_identifier: g for g in read.content.get_image_measurement_groups()}
    assert len(groups) == 7 and "Left middle zone" in groups
    both = {m.name.meaning: float(m.value) for m in groups["Both lungs"].get_measurements()}
    assert both["Attenuation Coefficient"] == -780.25
    assert both["Ground glass in percent of lesions"] == 3.5
    (site,) = groups["Right upper zone"].finding_sites
    assert (site.value.meaning, site.laterality.meaning) == ("Upper zone of lung", "Right")


def test_a_report_without_zones(tmp_path):
    item = find_item(series(tmp_path / "ct"))
    scan = read_item(item)
    source = read_source(item.files, scan.geometry, SHAPE[0], "ct")
    seg = make_segmentation(maps_of(scan.shape)[0], SEGMENTS, source, "ct", serial="0")
    none = {"lung_ml": 0.0, "lesion_ml": 0.0, "lesion_percent": None}
    volumes = {"volumes": {**RESULT["volumes"], "left": none}}
    text = str(make_report(volumes, seg, source, "ct"))
    assert "zone" not in text and "Both lungs" in text


def test_frames_of_an_enhanced_ct(tmp_path):
    """The frames lie in one file, in an order of their own."""
    scan = thorax_phantom(SHAPE, SPACING_MM).scan
    order = np.random.default_rng(5).permutation(SHAPE[0])
    path = write_enhanced(scan, tmp_path / "ct.dcm", order=order)
    found, masks, _, seg, _, _ = made(path)
    n_frames = {1: 0, 2: 0, 3: 0}
    pixels = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    for group, frame in zip(seg.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        number = number_of(seg, group)
        world = [float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient][::-1]
        z = round(np.linalg.solve(found.geometry.affine, [*world, 1.0])[0])
        np.testing.assert_array_equal(frame, masks[number - 1][z])
        n_frames[number] += 1
    assert all(n_frames.values())


def _without(keyword):
    return lambda datasets: [delattr(data, keyword) for data in datasets]


def _own_series(datasets):
    for n, data in enumerate(datasets):
        data.SeriesInstanceUID = f"1.2.3.{n}"


@pytest.mark.parametrize(
    "edit, found",
    [(_without("FrameOfReferenceUID"), "FrameOfReferenceUID is missing"),
     (_without("StudyInstanceUID"), "StudyInstanceUID is missing"),
     (_own_series, "differ in SeriesInstanceUID")],
)  # fmt: skip
def test_a_series_that_cannot_be_referred_to(tmp_path, edit, found):
    folder = series(tmp_path / "ct", edit)
    with pytest.raises(OutputError, match=f"NN-OUT-022.*{found}") as caught:
        made(folder)
    assert caught.value.exit_code == 7


def test_a_slice_that_is_not_in_the_scan(tmp_path):
    folder = series(tmp_path / "ct")
    files = find_item(folder).files[1:]
    with pytest.raises(OutputError, match=r"NN-OUT-022.*do not match the slices"):
        made(folder, files=files)


def test_a_duplicate_slice_has_one_frame(tmp_path):
    from tests.phantoms import _duplicate

    folder = series(tmp_path / "ct", _duplicate(change=0))
    seg = made(folder, empty_frames=True)[3]
    assert seg.NumberOfFrames == 3 * SHAPE[0]


def test_a_library_that_objects_is_one_line(tmp_path, monkeypatch):
    folder = series(tmp_path / "ct")

    def fail(*_, **__):
        raise ValueError("Phantom^Secret")

    monkeypatch.setattr(highdicom.seg, "Segmentation", fail)
    with pytest.raises(OutputError, match="NN-OUT-023") as caught:
        made(folder)
    assert "Secret" not in str(caught.value)


def test_segment_does_not_load_highdicom():
    code = (
        "import sys, normnet.cli.segment, normnet.cli.exchange, normnet.results.folder; "
        "print(json.dumps([m for m in ('highdicom', 'requests', 'pydicom') if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import json; {code}"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []
