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


def stored_in_12_bits(spoil):
    """An edit: 12 of 16 bits hold the value, ``spoil`` may use the others."""

    def store(datasets):
        for data in datasets:
            pixels = np.frombuffer(data.PixelData, "<u2").reshape(data.Rows, data.Columns)
            data.BitsStored, data.HighBit = 12, 11
            data.PixelData = spoil(pixels.copy()).tobytes()

    return store


def overlay(pixels):
    pixels[5:9, 4:20] |= 0x8000
    return pixels


BITS_ABOVE = {
    "overlay": overlay,
    "two overlays": lambda pixels: overlay(pixels) | 0x1000,
    "noise": lambda pixels: (
        pixels | (np.random.default_rng(3).integers(0, 16, pixels.shape) << 12).astype("<u2")
    ),
}


@pytest.mark.parametrize("above", BITS_ABOVE)
@pytest.mark.parametrize("compressed", [False, True])
def test_bits_above_the_stored_ones_are_no_value(above, compressed, scan, tmp_path):
    def store(datasets):
        stored_in_12_bits(BITS_ABOVE[above])(datasets)
        for data in datasets if compressed else ():
            data.compress(
                "1.2.840.10008.1.2.5", encoding_plugin="pydicom", generate_instance_uid=False
            )

    read = read_ct(phantoms.write_dicom(scan, tmp_path / "ct", store))
    phantoms.assert_same_world(read, scan)
    assert not read.warnings


@pytest.mark.parametrize("spacing", [0.625, 0.4, 1.25, 0.7])
def test_positions_rounded_to_a_tenth(spacing, scan, tmp_path):
    thin = replace(scan, geometry=replace(scan.geometry, spacing_mm=(spacing, 2.0, 1.5)))

    def store(datasets):
        for data in datasets:
            x, y, z = (float(v) for v in data.ImagePositionPatient)
            data.ImagePositionPatient = [x, y, f"{z:.1f}"]

    read = read_ct(phantoms.write_dicom(thin, tmp_path / "ct", store))
    assert read.geometry.spacing_mm[0] == pytest.approx(spacing, abs=0.01)
    np.testing.assert_array_equal(read.volume_hu, scan.volume_hu)


@pytest.mark.parametrize(
    ("spacing", "jitter"), [(5.0, 0.3), (2.5, 0.2), (1.0, 0.25), (0.625, 0.2), (0.625, 0.3)]
)
def test_jitter_beyond_rounding_is_refused(spacing, jitter, scan, tmp_path):
    thin = replace(scan, geometry=replace(scan.geometry, spacing_mm=(spacing, 2.0, 1.5)))
    edit = phantoms._move(lambda n: (0, 0, jitter * (n % 2)))
    with pytest.raises(NormNetError, match="NN-GEO-004"):
        read_ct(phantoms.write_dicom(thin, tmp_path / "ct", edit))


ENHANCED, MR = "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.4"


@pytest.mark.parametrize("modality", [None, ""])
@pytest.mark.parametrize(("uid", "taken"), [(None, True), (ENHANCED, True), (MR, False)])
def test_without_modality_the_class_says_what_it_is(modality, uid, taken, scan, tmp_path):
    def store(datasets):
        phantoms._set("Modality", modality)(datasets)
        for data in datasets if uid else ():
            data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = uid

    folder = phantoms.write_dicom(scan, tmp_path / "ct", store)
    if not taken:
        with pytest.raises(NormNetError, match="NN-VAL-003"):
            read_ct(folder)
        return
    read = read_ct(folder)
    phantoms.assert_same_world(read, scan)
    assert any("20 slices have no Modality" in line for line in read.warnings)


TOO_LONG = {
    "twice": lambda data: setattr(data, "PixelData", data.PixelData * 2),
    "a column less": lambda data: setattr(data, "Columns", data.Columns - 1),
    "a row less": lambda data: setattr(data, "Rows", data.Rows - 1),
    "two bytes": lambda data: setattr(data, "PixelData", data.PixelData + bytes(2)),
}


@pytest.mark.parametrize("change", TOO_LONG)
@pytest.mark.parametrize("which", [slice(None), slice(5, 6)], ids=["all", "one"])
def test_longer_pixels_are_refused(change, which, scan, tmp_path):
    def store(datasets):
        for data in datasets[which]:
            TOO_LONG[change](data)

    with pytest.raises(NormNetError, match=r"NN-(FILE-005|GEO-007)"):
        read_ct(phantoms.write_dicom(scan, tmp_path / "ct", store))


def test_one_byte_of_padding_is_allowed(scan, tmp_path):
    odd = replace(scan, volume_hu=scan.volume_hu[:, :23, :27])

    def store(datasets):
        for data in datasets:
            pixels = np.frombuffer(data.PixelData, "<u2") // 16
            data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
            data.RescaleSlope, data.PixelData = 16, pixels.astype("u1").tobytes() + bytes(1)

    read = read_ct(phantoms.write_dicom(odd, tmp_path / "ct", store))
    np.testing.assert_array_equal(read.volume_hu, (odd.volume_hu + 1024) // 16 * 16 - 1024)


def damaged_run(data: bytes) -> bytes:
    """The length of the first run is changed."""
    item = b"\xfe\xff\x00\xe0"
    frame = data.index(item, data.index(item) + 4) + 8
    length = data[frame + 64]
    changed = length - 3 if length > 131 else length + 3
    return data[: frame + 64] + bytes([changed]) + data[frame + 65 :]


RLE_DAMAGE = {
    "length": damaged_run,
    "cut": lambda data: data[:-300],
    "zeros": lambda data: data[:-500] + bytes(400) + data[-100:],
    "repeated": lambda data: data[:-400] + data[-500:-400] + data[-400:],
}


@pytest.mark.parametrize("damage", RLE_DAMAGE)
def test_damaged_run_lengths(damage, scan, tmp_path):
    def store(datasets):
        for data in datasets:
            data.compress(
                "1.2.840.10008.1.2.5", encoding_plugin="pydicom", generate_instance_uid=False
            )

    folder = phantoms.write_dicom(scan, tmp_path / "ct", store)
    file = sorted(folder.iterdir())[3]
    file.write_bytes(RLE_DAMAGE[damage](file.read_bytes()))
    with pytest.raises(NormNetError, match="NN-FILE-01"):
        read_ct(folder)


def recoded(folder: Path, syntax: str) -> Path:
    """The series in another transfer syntax, written by GDCM."""
    gdcm = pytest.importorskip("gdcm")
    for file in folder.iterdir():
        reader, change, writer = (
            gdcm.ImageReader(),
            gdcm.ImageChangeTransferSyntax(),
            gdcm.ImageWriter(),
        )
        reader.SetFileName(str(file))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(file))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
    return folder


SYNTAXES = ["JPEG2000Lossless", "JPEGLSLossless", "JPEGLosslessProcess14_1", "RLELossless"]


@pytest.mark.parametrize(
    ("syntax", "keyword"), [*((syntax, "Columns") for syntax in SYNTAXES), (SYNTAXES[1], "Rows")]
)
def test_a_stream_of_another_size_than_the_header(syntax, keyword, scan, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    folder = recoded(phantoms.write_dicom(scan, tmp_path / "ct"), syntax)
    phantoms.assert_same_world(read_ct(folder), scan)
    for file in folder.iterdir():
        data = pydicom.dcmread(file)
        setattr(data, keyword, data[keyword].value - 1)
        data.save_as(file)
    with pytest.raises(NormNetError, match="NN-FILE-012"):
        read_ct(folder)


@pytest.mark.parametrize(
    ("syntax", "seed"),
    [*((syntax, 0) for syntax in SYNTAXES), (SYNTAXES[0], 1), (SYNTAXES[0], 2)],
)
def test_a_damaged_body_that_the_decoder_conceals(syntax, seed, tmp_path):
    large = phantoms.thorax_phantom((24, 96, 96), (6.0, 3.4, 3.4)).scan
    folder = recoded(phantoms.write_dicom(large, tmp_path / "ct"), syntax)
    rng = np.random.default_rng(seed)
    file = sorted(folder.iterdir())[seed]
    data = bytearray(file.read_bytes())
    for at in rng.integers(data.rindex(b"\xe0\x7f\x10\x00") + 250, len(data) - 20, 700):
        data[at] ^= int(rng.integers(1, 256))
    file.write_bytes(data)
    with pytest.raises(NormNetError, match=r"NN-FILE-012|NN-VAL-013"):
        read_ct(folder)


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


PIXELS = b"\xe0\x7f\x10\x00OW"


@pytest.mark.parametrize("place", [0.45, 0.6, 0.8, 1.0])
@pytest.mark.parametrize("number", [0, 3, 19])
def test_a_slice_that_ends_in_its_header(place, number, scan, tmp_path):
    """Behind the SOP class, so that the file is known to be a CT."""
    folder = phantoms.write_dicom(scan, tmp_path / "ct")
    path = folder / f"{number:04d}.dcm"
    data = path.read_bytes()
    path.write_bytes(data[: int(place * data.index(PIXELS))])
    with pytest.raises(NormNetError) as caught:
        read_ct(folder)
    assert caught.value.exit_code == 3
    assert path.name in str(caught.value)


@pytest.mark.parametrize(
    ("at", "inserted"), [(10, b"\0"), (11, b"\0"), (11, b"\0\0"), (12, b"\7"), (12, b"\1\2")]
)
def test_pixels_shifted_by_bytes_before_them(at, inserted, scan, tmp_path):
    folder = phantoms.write_dicom(scan, tmp_path / "ct")
    path = folder / "0003.dcm"
    data = path.read_bytes()
    at += data.index(PIXELS)
    path.write_bytes(data[:at] + inserted + data[at:])
    with pytest.raises(NormNetError) as caught:
        read_ct(folder)
    assert caught.value.code == "NN-FILE-005"


@pytest.mark.parametrize(
    "behind",
    [bytes(2), bytes(512), b"\xfc\xff\xfc\xffOB\0\0\4\0\0\0\1\2\3\4"],
    ids=["2 zeros", "512 zeros", "trailing padding"],
)
def test_padding_behind_the_pixels_is_allowed(behind, scan, tmp_path):
    folder = phantoms.write_dicom(scan, tmp_path / "ct")
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes() + behind)
    phantoms.assert_same_world(read_ct(folder), scan, atol_mm=0.1)
