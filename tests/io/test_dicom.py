"""DICOM series: every harmless storage gives the same volume, every fault its id."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from normnet.errors import NormNetError
from normnet.io import read_ct
from normnet.io.dicom import pixels
from tests import phantoms

SHAPE, SPACING_MM = (20, 24, 28), (2.5, 2.0, 1.5)


@pytest.fixture(scope="module")
def scan():
    return phantoms.thorax_phantom(SHAPE, SPACING_MM, vessels=False).scan


@pytest.mark.parametrize("name", phantoms.DICOM_HARMLESS)
def test_harmless_series_give_the_same_volume(name, scan, tmp_path):
    edit, warns = phantoms.DICOM_HARMLESS[name]
    read = read_ct(phantoms.write_dicom(scan, tmp_path / "ct", edit))
    phantoms.assert_same_world(read, scan, atol_mm=0.1)
    assert bool(read.warnings) == warns
    assert read.case_id == "ct"


@pytest.mark.parametrize("name", phantoms.DICOM_FAULTS)
def test_faulty_series_end_in_their_error(name, scan, tmp_path):
    edit, code = phantoms.DICOM_FAULTS[name]
    folder = phantoms.write_dicom(scan, tmp_path / "ct", edit)
    with pytest.raises(NormNetError) as caught:
        read_ct(folder)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value).lower() and "other" not in caught.value.where


def test_messages_hold_no_tag_text(scan, tmp_path, caplog, recwarn):
    def spoil(datasets):
        for index, data in enumerate(datasets):
            data.SeriesInstanceUID = f"1.2.{index % 2}.SECRET\x1b"
            data.PatientName = "SECRET^" * 12

    with pytest.raises(NormNetError, match="NN-GEO-001") as caught:
        folder = phantoms.write_dicom(scan, tmp_path / "ct", spoil)
        caplog.clear()
        recwarn.clear()
        read_ct(folder)
    assert "SECRET" not in str(caught.value) + caplog.text and "\x1b" not in str(caught.value)
    assert not list(recwarn)


def test_missing_slice_is_named_by_its_z(scan, tmp_path):
    edit, _ = phantoms.DICOM_FAULTS["missing_middle_slice"]
    z = scan.geometry.moved_to((7, 0, 0)).origin_mm[0]
    with pytest.raises(NormNetError, match=f"z = {z:.2f} mm"):
        read_ct(phantoms.write_dicom(scan, tmp_path / "ct", edit))


@pytest.mark.parametrize(("order", "flips"), phantoms.ORIENTATIONS)
def test_any_storage_orientation(order, flips, scan, tmp_path):
    read = read_ct(phantoms.write_dicom(phantoms.reorient(scan, order, flips), tmp_path / "ct"))
    phantoms.assert_same_world(read, scan)
    direction = np.array(read.geometry.direction)
    assert direction[np.argmax(np.abs(direction[:, 0])), 0] > 0  # slices ascend


def test_oblique_series_keeps_its_place(scan, tmp_path):
    angle = np.radians(20)
    turn = np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    )
    oblique = replace(
        scan, geometry=replace(scan.geometry, direction=tuple(map(tuple, turn.tolist())))
    )
    read = read_ct(phantoms.write_dicom(oblique, tmp_path / "ct"))
    np.testing.assert_allclose(read.geometry.affine, oblique.geometry.affine, atol=1e-3)


def test_simpleitk_reads_the_same(scan, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    folder = phantoms.write_dicom(scan, tmp_path / "ct")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    read = read_ct(folder)
    np.testing.assert_array_equal(read.volume_hu, sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(read.geometry.origin_mm, image.GetOrigin()[::-1], atol=1e-4)
    np.testing.assert_allclose(read.geometry.spacing_mm, image.GetSpacing()[::-1], atol=1e-4)


def test_series_can_be_chosen(scan, tmp_path):
    phantoms.write_dicom(scan, tmp_path / "ct" / "one", phantoms._set("SeriesInstanceUID", "1.2.3"))
    phantoms.write_dicom(scan, tmp_path / "ct" / "two", phantoms._set("SeriesInstanceUID", "1.2.4"))
    with pytest.raises(NormNetError, match=r"NN-GEO-001.*1\.2\.3 \(.*1\.2\.4 \(.*--series"):
        read_ct(tmp_path / "ct")
    phantoms.assert_same_world(read_ct(tmp_path / "ct", series_uid="1.2.4"), scan)
    with pytest.raises(NormNetError, match="NN-FILE-008"):
        read_ct(tmp_path / "ct", series_uid="1.2.5")


def test_strangers_are_ignored_and_counted(scan, tmp_path):
    folder = phantoms.write_dicom(scan, tmp_path / "ct")
    (folder / "README.txt").write_text("hello")
    (folder / "notes").mkdir()
    (folder / "notes" / "empty").touch()
    phantoms.write_dicom(
        replace(scan, volume_hu=scan.volume_hu[:1]),
        folder / "scout",
        phantoms._set("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    )
    read = read_ct(folder)
    phantoms.assert_same_world(read, scan)
    assert any("2 files" in line for line in read.warnings) and any(
        "1 localizers" in line for line in read.warnings
    )


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"", "NN-FILE-002"), (b"hello, not an image\n" * 20, "NN-FILE-003")],
    ids=["empty", "text"],
)
def test_file_named_dicom_that_is_none(content, code, scan, tmp_path):
    folder = phantoms.write_dicom(scan, tmp_path / "ct")
    (folder / "slice.dcm").write_bytes(content)
    for path in (folder, folder / "slice.dcm"):
        with pytest.raises(NormNetError) as caught:
            read_ct(path)
        assert caught.value.code == code


def test_empty_folder(tmp_path):
    with pytest.raises(NormNetError, match="NN-FILE-008"):
        read_ct(tmp_path)


def test_too_many_slices(scan, tmp_path, monkeypatch):
    monkeypatch.setattr("normnet.io.dicom.series.MAX_SLICES", 10)
    with pytest.raises(NormNetError, match="NN-RES-002"):
        read_ct(phantoms.write_dicom(scan, tmp_path / "ct"))


def test_signed_12_bits_without_sign_extension(scan, tmp_path):
    def store(datasets):
        for data in datasets:
            hu = np.frombuffer(data.PixelData, "<u2").astype(np.int32) - 1024
            data.PixelData = (hu & 0xFFF).astype("<u2").tobytes()
            data.BitsStored, data.HighBit, data.PixelRepresentation, data.RescaleIntercept = (
                12,
                11,
                1,
                0,
            )

    phantoms.assert_same_world(read_ct(phantoms.write_dicom(scan, tmp_path / "ct", store)), scan)


@pytest.mark.parametrize(
    "uid", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"]
)
def test_other_uncompressed_syntaxes(uid, scan, tmp_path):
    def store(datasets):
        for data in datasets:
            data.file_meta.TransferSyntaxUID = uid
            if uid.endswith("1.2.2"):
                data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()

    phantoms.assert_same_world(read_ct(phantoms.write_dicom(scan, tmp_path / "ct", store)), scan)


def test_run_length_encoding(scan, tmp_path):
    def store(datasets):
        for data in datasets:
            data.compress(
                "1.2.840.10008.1.2.5", encoding_plugin="pydicom", generate_instance_uid=False
            )

    folder = phantoms.write_dicom(scan, tmp_path / "ct", store)
    phantoms.assert_same_world(read_ct(folder), scan)
    file = sorted(folder.iterdir())[3]
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(NormNetError, match="NN-FILE-01"):
        read_ct(folder)


@pytest.mark.parametrize("crash", ["os.abort()", "time.sleep(60)", "os._exit(0)"])
def test_a_decoder_may_crash_or_hang(crash, scan, tmp_path, monkeypatch):
    def store(datasets):
        for data in datasets:
            data.compress(
                "1.2.840.10008.1.2.5", encoding_plugin="pydicom", generate_instance_uid=False
            )

    folder = phantoms.write_dicom(scan, tmp_path / "ct", store)
    spoil = (
        "import normnet.io.dicom.worker as worker, os, time; "
        f"worker._decode = lambda path: {crash}; "
    )
    worker = pixels._WORKER.replace("from normnet", spoil + "from normnet")
    monkeypatch.setattr(pixels, "_WORKER", worker)
    monkeypatch.setattr(pixels, "MAX_SECONDS", 3.0)
    with pytest.raises(NormNetError, match=r"NN-FILE-012.*\.dcm"):
        read_ct(folder)


def test_deeply_nested_sequence(scan, tmp_path):
    body = b""
    for _ in range(2000):
        item = b"\xfe\xff\x00\xe0" + len(body).to_bytes(4, "little") + body
        body = b"\x40\x00\x30\xa7SQ\x00\x00" + len(item).to_bytes(4, "little") + item
    folder = phantoms.write_dicom(scan, tmp_path / "ct")
    file = sorted(folder.iterdir())[3]
    data = file.read_bytes()
    at = data.index(b"\xe0\x7f\x10\x00OW")
    file.write_bytes(data[:at] + body + data[at:])
    try:
        phantoms.assert_same_world(read_ct(folder), scan)
    except NormNetError as error:
        assert error.code == "NN-FILE-014"


def test_deflate_bomb(tmp_path, scan, monkeypatch):
    def store(datasets):
        for data in datasets:
            data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
            data.add_new(0x00091001, "UN", bytes(3_000_000))

    monkeypatch.setattr("normnet.io.dicom.header.MAX_INFLATED_DICOM_BYTES", 2_000_000)
    with pytest.raises(NormNetError, match="NN-RES-003"):
        read_ct(phantoms.write_dicom(scan, tmp_path / "ct", store))


DATA = os.environ.get("NORMNET_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="NORMNET_DATA does not point at real CTs")


@needs_data
def test_real_jpeg_lossless_series():
    sitk = pytest.importorskip("SimpleITK")
    folder = Path(DATA, "covid_unlabelled", "covidctmd_p001_dicom")
    scan = read_ct(folder)
    assert scan.shape == (148, 512, 512) and scan.volume_hu.dtype == np.int16
    np.testing.assert_allclose(scan.geometry.spacing_mm, (2.0, 0.748046875, 0.748046875))
    np.testing.assert_allclose(scan.geometry.direction, np.eye(3))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    np.testing.assert_array_equal(scan.volume_hu[::10], sitk.GetArrayViewFromImage(image)[::10])
    np.testing.assert_allclose(scan.geometry.origin_mm, image.GetOrigin()[::-1], atol=1e-3)
