"""NIfTI, NRRD and MetaImage: right in every orientation and type, or one named error."""

from __future__ import annotations

import errno
import gzip
import os
import struct
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normnet.errors import NormNetError, OutputError
from normnet.io import case_id_of, read_ct, write_image
from normnet.io.census import take_census
from normnet.io.choice import choose_scans
from normnet.io.read import read_stored
from normnet.scan import Geometry
from tests import phantoms
from tests.phantoms import MHA, NRRD, poke, write_text

SHAPE, SPACING_MM = (20, 24, 28), (2.5, 2.0, 1.5)


@pytest.fixture(scope="module")
def scan():
    return phantoms.thorax_phantom(SHAPE, SPACING_MM, vessels=False).scan


@pytest.fixture
def stored(scan, tmp_path):
    """The phantom as an uncompressed NIfTI file, and its bytes to spoil."""
    phantoms.write_nifti(scan, tmp_path / "ct.nii.gz")
    path = tmp_path / "ct.nii"
    path.write_bytes(gzip.decompress((tmp_path / "ct.nii.gz").read_bytes()))
    return path


def assert_refused(path: Path, code: str) -> None:
    with pytest.raises(NormNetError) as caught:
        read_ct(path)
    assert caught.value.code == code, str(caught.value)
    assert "\n" not in str(caught.value) and path.name in str(caught.value)


# --- NIfTI: what must be right


@pytest.mark.parametrize(("order", "flips"), phantoms.ORIENTATIONS)
def test_round_trip_in_any_orientation(order, flips, scan, tmp_path):
    nib = pytest.importorskip("nibabel")
    turned = phantoms.reorient(scan, order, flips)
    path = phantoms.write_nifti(turned, tmp_path / "ct.nii.gz")
    read = read_ct(path)
    np.testing.assert_array_equal(read.volume_hu, turned.volume_hu)  # stored order is kept
    assert read.volume_hu.dtype == np.int16 and not read.warnings
    phantoms.assert_same_world(read, scan)

    image = nib.load(path)
    ras = nib.as_closest_canonical(image)
    expected = phantoms.canonical(scan)
    np.testing.assert_array_equal(
        np.asarray(ras.dataobj), expected.volume_hu.transpose(2, 1, 0)[::-1, ::-1]
    )
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)


def test_oblique_geometry_survives(scan, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    rng = np.random.default_rng(1)
    for _ in range(8):
        rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))  # also mirrored ones
        geometry = replace(scan.geometry, direction=tuple(map(tuple, rotation.tolist())))
        write_image(tmp_path / "ct.nii.gz", scan.volume_hu, geometry)
        read = read_ct(tmp_path / "ct.nii.gz")
        np.testing.assert_allclose(read.geometry.affine, geometry.affine, atol=1e-4)
        assert not read.warnings
        image = sitk.ReadImage(str(tmp_path / "ct.nii.gz"))
        np.testing.assert_allclose(
            np.reshape(image.GetDirection(), (3, 3))[::-1, ::-1], rotation, atol=1e-4
        )
        np.testing.assert_allclose(image.GetOrigin()[::-1], geometry.origin_mm, atol=1e-4)


@pytest.mark.parametrize("dtype", ["int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("version", [1, 2])
def test_nibabel_files_of_any_type(dtype, order, version, scan, tmp_path):
    nib = pytest.importorskip("nibabel")
    kind = nib.Nifti1Image if version == 1 else nib.Nifti2Image
    header = (nib.Nifti1Header if version == 1 else nib.Nifti2Header)(endianness=order)
    header.set_data_dtype(np.dtype(dtype).newbyteorder(order))
    affine = np.diag([-1.5, -2.0, 2.5, 1.0])
    affine[:3, 3] = [20.25, 23.0, -23.75]
    image = kind(scan.volume_hu.transpose(2, 1, 0).astype(dtype), affine, header)
    nib.save(image, tmp_path / "ct.nii.gz")
    read = read_ct(tmp_path / "ct.nii.gz")
    assert read.volume_hu.dtype == np.int16
    phantoms.assert_same_world(read, scan)


@pytest.mark.parametrize(
    ("dtype", "slope", "intercept"), [("uint8", 8, -1024), ("uint16", 1, -1024), ("int16", 0.5, 1)]
)
def test_scale_factors(dtype, slope, intercept, scan, tmp_path):
    nib = pytest.importorskip("nibabel")
    values = ((scan.volume_hu.clip(-1024, 1000) - intercept) / slope).astype(dtype) + np.array(
        slope == 0.5, dtype
    )
    write_image(tmp_path / "ct.nii.gz", values, scan.geometry, slope, intercept)
    read = read_ct(tmp_path / "ct.nii.gz")
    assert read.volume_hu.dtype == (np.float32 if slope == 0.5 else np.int16)
    np.testing.assert_array_equal(
        read.volume_hu.transpose(2, 1, 0), nib.load(tmp_path / "ct.nii.gz").get_fdata()
    )


def test_fractional_hu_stay_float(scan, tmp_path):
    write_image(tmp_path / "ct.nii.gz", scan.volume_hu + np.float32(0.25), scan.geometry)
    np.testing.assert_array_equal(
        read_ct(tmp_path / "ct.nii.gz").volume_hu, scan.volume_hu + np.float32(0.25)
    )


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*[st.integers(2, 6)] * 3),
    spacing=st.tuples(*[st.floats(0.125, 10, width=32)] * 3),
    origin=st.tuples(*[st.floats(-500, 500, width=32)] * 3),
    orientation=st.sampled_from(phantoms.ORIENTATIONS),
)
def test_any_grid_comes_back(shape, spacing, origin, orientation, tmp_path_factory):
    path = tmp_path_factory.mktemp("grid") / "image.nii.gz"
    order, flips = orientation
    direction = np.zeros((3, 3))
    for axis in range(3):
        direction[order[axis], axis] = -1.0 if flips[axis] else 1.0
    geometry = Geometry(spacing, origin, tuple(map(tuple, direction.tolist())))
    array = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    write_image(path, array, geometry)
    read = read_stored(path)
    np.testing.assert_array_equal(read.voxels, array)
    np.testing.assert_allclose(read.geometry.affine, geometry.affine, rtol=1e-5, atol=1e-3)


# --- NRRD and MetaImage against SimpleITK


def itk_image(scan):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(scan.volume_hu)
    image.SetSpacing(scan.geometry.spacing_mm[::-1])
    image.SetOrigin(scan.geometry.origin_mm[::-1])
    image.SetDirection(np.array(scan.geometry.direction)[::-1, ::-1].ravel().tolist())
    return sitk, image


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd", ".nii", ".nii.gz"])
@pytest.mark.parametrize("compress", [False, True])
def test_files_of_simpleitk(suffix, compress, scan, tmp_path):
    rotation, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    oblique = replace(
        scan, geometry=replace(scan.geometry, direction=tuple(map(tuple, rotation.tolist())))
    )
    sitk, image = itk_image(oblique)
    sitk.WriteImage(image, str(tmp_path / f"ct{suffix}"), compress)
    read = read_ct(tmp_path / f"ct{suffix}")
    np.testing.assert_array_equal(read.volume_hu, scan.volume_hu)
    np.testing.assert_allclose(read.geometry.affine, oblique.geometry.affine, atol=1e-4)
    assert read.case_id == "ct"


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_truncated_and_corrupt_files_of_simpleitk(suffix, scan, tmp_path):
    sitk, image = itk_image(scan)
    path = tmp_path / f"ct{suffix}"
    for compress, flipped in ((False, None), (True, "NN-FILE-006")):
        sitk.WriteImage(image, str(path), compress)
        data = path.read_bytes()
        for cut in (0.5, 0.99):
            path.write_bytes(data[: int(len(data) * cut)])
            assert_refused(path, "NN-FILE-005")
        if flipped:
            path.write_bytes(data[:-200] + bytes([data[-200] ^ 0x55]) + data[-199:])
            assert_refused(path, flipped)


def test_hand_written_headers(scan, tmp_path):
    phantoms.assert_same_world(read_ct(write_text(tmp_path / "ct.nrrd", NRRD, scan)), scan)
    phantoms.assert_same_world(read_ct(write_text(tmp_path / "ct.mha", MHA, scan)), scan)
    ras = (
        NRRD.replace("left-posterior", "right-anterior")
        .replace("(1.5,", "(-1.5,")
        .replace("(0,2,", "(0,-2,")
    )
    ras = ras.replace("(-20.25,-23", "(20.25,23")
    phantoms.assert_same_world(read_ct(write_text(tmp_path / "ras.nrrd", ras, scan)), scan)


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("sizes: 28 24 20", "sizes: 60000 60000 60000", "NN-RES-001"),
        ("sizes: 28 24 20", "sizes: 28 -24 20", "NN-FILE-004"),
        ("sizes: 28 24 20", "sizes: 28 24", "NN-FILE-004"),
        ("sizes: 28 24 20", "sizes: 28 24 nan", "NN-FILE-004"),
        ("sizes: 28 24 20", "sizes: 28 24 1e999", "NN-FILE-004"),
        ("dimension: 3", "dimension: 4", "NN-FILE-004"),
        ("type: int16", "type: block", "NN-VAL-008"),
        ("encoding: raw", "encoding: hex", "NN-FILE-009"),
        ("encoding: raw", "encoding: gzip", "NN-FILE-006"),
        ("endian: little\n", "", "NN-FILE-004"),
        ("space: left-posterior-superior\n", "", "NN-GEO-015"),
        ("(0,2,0)", "none", "NN-GEO-015"),
        ("(0,2,0)", "(0,nan,0)", "NN-GEO-010"),
        ("(0,2,0)", "(0,0,0)", "NN-GEO-011"),
        ("(0,2,0)", "(1,2,0)", "NN-GEO-010"),
        ("(0,2,0)", "(0,200,0)", "NN-GEO-011"),
        ("(0,2,0)", "(0,2)", "NN-FILE-004"),
        ("endian: little", "endian: little\nline skip: 3", "NN-FILE-009"),
        ("endian: little", "endian: little\nbyte skip: 99999999", "NN-FILE-005"),
        ("endian: little", "endian: little\ndata file: /etc/hostname", "NN-FILE-007"),
        ("endian: little", "endian: little\ndata file: ../secret.raw", "NN-FILE-007"),
    ],
)
def test_nrrd_faults(old, new, code, scan, tmp_path):
    assert old in NRRD
    assert_refused(write_text(tmp_path / "ct.nrrd", NRRD.replace(old, new), scan), code)


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("NDims = 3", "NDims = -1", "NN-FILE-004"),
        ("NDims = 3", "NDims = 4", "NN-GEO-013"),
        ("DimSize = 28 24 20", "DimSize = 60000 60000 60000", "NN-RES-001"),
        ("DimSize = 28 24 20", "DimSize = 28 24 nan", "NN-FILE-004"),
        ("DimSize = 28 24 20", "DimSize = 28 24", "NN-FILE-004"),
        ("MET_SHORT", "MET_SHORT_ARRAY", "NN-VAL-008"),
        ("MET_SHORT", "MET_SHORT\nElementNumberOfChannels = 3", "NN-VAL-008"),
        ("MET_SHORT", "MET_SHORT\nElementToIntensityFunctionSlope = x", "NN-FILE-004"),
        ("MET_SHORT", "MET_SHORT\nElementToIntensityFunctionSlope = 2", "NN-VAL-001"),
        ("ElementSpacing = 1.5 2 2.5", "ElementSpacing = 1.5 0 2.5", "NN-GEO-011"),
        ("ElementSpacing = 1.5 2 2.5", "ElementSpacing = 1.5 -2 2.5", "NN-GEO-011"),
        ("ElementSpacing = 1.5 2 2.5\n", "", "NN-GEO-009"),
        ("Matrix = 1 0 0", "Matrix = 1 1 0", "NN-GEO-010"),
        ("Matrix = 1 0 0", "Matrix = 0 0 0", "NN-GEO-010"),
        ("Matrix = 1 0 0", "Matrix = nan 0 0", "NN-GEO-010"),
        ("BinaryData = True", "BinaryData = False", "NN-FILE-009"),
        ("CompressedData = False", "CompressedData = True", "NN-FILE-006"),
    ],
)
def test_mha_faults(old, new, code, scan, tmp_path):
    assert old in MHA
    assert_refused(write_text(tmp_path / "ct.mha", MHA.replace(old, new), scan), code)


@pytest.mark.parametrize(
    "target",
    [
        "/etc/hostname",
        "../secret.raw",
        "sub/secret.raw",
        "..\\secret.raw",
        "LIST",
        "ct_%02d.raw 1 9 1",
        "link.raw",
    ],
)
def test_headers_stay_in_their_folder(target, scan, tmp_path):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for secret in (tmp_path / "secret.raw", folder / "sub" / "secret.raw"):
        secret.write_bytes(scan.volume_hu.tobytes())
    (folder / "link.raw").symlink_to(tmp_path / "secret.raw")
    (folder / "ct.mhd").write_text(f"{MHA}ElementDataFile = {target}\n")
    (folder / "ct.mha").write_text(f"{MHA}ElementDataFile = {target}\n")
    (folder / "ct.nhdr").write_text(f"{NRRD}data file: {target}\n")
    for name in ("ct.mhd", "ct.mha", "ct.nhdr"):
        assert_refused(folder / name, "NN-FILE-007")


@pytest.mark.parametrize("target", ["./ct.raw", "././ct.raw", ".//ct.raw"])
@pytest.mark.parametrize(
    ("name", "header"),
    [("ct.mhd", MHA + "ElementDataFile = {}\n"), ("ct.nhdr", NRRD + "data file: {}\n")],
)
def test_a_header_may_name_its_own_folder(name, header, target, scan, tmp_path):
    (tmp_path / "ct.raw").write_bytes(scan.volume_hu.tobytes())
    (tmp_path / name).write_text(header.format(target))
    if target == ".//ct.raw":  # an absolute path, once the folder is taken off
        assert_refused(tmp_path / name, "NN-FILE-007")
    else:
        phantoms.assert_same_world(read_ct(tmp_path / name), scan)


@pytest.mark.parametrize("target", ["./../ct.raw", "./sub/ct.raw", "./", "./link.raw", "./LIST"])
def test_a_dot_opens_no_other_folder(target, scan, tmp_path):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path, folder / "sub"):
        (place / "ct.raw").write_bytes(scan.volume_hu.tobytes())
    (folder / "link.raw").symlink_to(tmp_path / "ct.raw")
    (folder / "ct.nhdr").write_text(f"{NRRD}data file: {target}\n")
    with pytest.raises(NormNetError, match=r"NN-FILE-00[17]"):
        read_ct(folder / "ct.nhdr")


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("Offset = -20.25 -23 -23.75", "Offsef = -20.25 -23 -23.75", "no Offset"),
        ("TransformMatrix = 1 0", "TransformMatrjx = 1 0", "no TransformMatrix"),
        ("space origin: (", "space oriGim: (", "no space origin"),
    ],
)
def test_a_damaged_name_is_noticed(old, new, word, scan, tmp_path):
    header, name = (MHA, "ct.mha") if old in MHA else (NRRD, "ct.nrrd")
    assert old in header
    read = read_ct(write_text(tmp_path / name, header.replace(old, new), scan))
    assert any(word in line for line in read.warnings)


@pytest.mark.parametrize(
    ("header", "old", "new"),
    [
        (MHA, "ElementSpacing = 1.5", "ElementSpacing = 1_5"),
        (NRRD, "(1.5,0,0)", "(1_5,0,0)"),
        (MHA, "ElementSpacing = 1.5 2 2.5", "ElementSpacing = 1.5 2 2.5\nElementSpacing = 2 2 2"),
        (NRRD, "endian: little", "endian: little\nspace origin: (0,0,0)"),
    ],
)
def test_ambiguous_numbers_are_refused(header, old, new, scan, tmp_path):
    assert old in header
    name = "ct.mha" if header is MHA else "ct.nrrd"
    assert_refused(write_text(tmp_path / name, header.replace(old, new), scan), "NN-FILE-004")


def test_missing_detached_data(tmp_path):
    (tmp_path / "ct.mhd").write_text(f"{MHA}ElementDataFile = ct.raw\n")
    assert_refused(tmp_path / "ct.mhd", "NN-FILE-001")


# --- NIfTI faults

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("offset", "code", "values", "error"),
    [
        (40, "8h", (3, -28, 24, 20, 1, 1, 1, 1), "NN-FILE-004"),
        (40, "8h", (9, 28, 24, 20, 1, 1, 1, 1), "NN-FILE-004"),
        (40, "8h", (4, 28, 24, 10, 2, 1, 1, 1), "NN-GEO-013"),
        (40, "8h", (2, 28, 24, 1, 1, 1, 1, 1), "NN-GEO-012"),
        (40, "8h", (3, 32000, 32000, 32000, 1, 1, 1, 1), "NN-RES-001"),
        (40, "8h", (3, 28, 24, 21, 1, 1, 1, 1), "NN-FILE-005"),
        (40, "8h", (3, 28, 24, 10, 1, 1, 1, 1), "NN-FILE-005"),
        (70, "h", (32,), "NN-VAL-008"),
        (70, "h", (128,), "NN-VAL-008"),
        (70, "h", (1024,), "NN-FILE-009"),
        (80, "f", (0.0,), "NN-GEO-011"),
        (80, "f", (-1.0,), "NN-GEO-011"),
        (80, "f", (NAN,), "NN-GEO-011"),
        (80, "f", (25.0,), "NN-GEO-011"),
        (108, "f", (0.0,), "NN-FILE-004"),
        (108, "f", (1e9,), "NN-FILE-004"),
        (108, "f", (NAN,), "NN-FILE-004"),
        (112, "f", (INF,), "NN-VAL-001"),
        (112, "f", (1e30,), "NN-VAL-007"),
        (116, "f", (INF,), "NN-VAL-001"),
        (123, "B", (3,), "NN-GEO-011"),
        (252, "2h", (0, 0), "NN-GEO-015"),
        (280, "f", (NAN,), "NN-GEO-010"),
        (280, "f", (INF,), "NN-GEO-010"),
        (280, "12f", (0,) * 12, "NN-GEO-011"),
        (284, "f", (0.7,), "NN-GEO-010"),
        (344, "4s", (b"ni1",), "NN-FILE-009"),
        (0, "i", (1234,), "NN-FILE-003"),
    ],
)
def test_nifti_header_faults(offset, code, values, error, stored):
    poke(stored, offset, code, *values)
    assert_refused(stored, error)


@pytest.mark.parametrize("slope", [NAN, 0.0, 1.0])
@pytest.mark.parametrize("intercept", [0.0, NAN])
def test_no_slope_means_not_scaled(slope, intercept, stored, scan):
    """As the standard says; the intercept means nothing then."""
    poke(stored, 112, "2f", slope, intercept)
    if slope == 1.0 and intercept != 0.0:
        assert_refused(stored, "NN-VAL-001")
    else:
        phantoms.assert_same_world(read_ct(stored), scan)


@pytest.mark.parametrize("shear", [0.005, 0.02, 0.04])
def test_a_slightly_sheared_sform_gives_way_to_the_qform(shear, stored, scan):
    poke(stored, 284, "f", 2.0 * shear)
    read = read_ct(stored)
    phantoms.assert_same_world(read, scan)
    (warning,) = read.warnings
    assert "qform was used" in warning
    poke(stored, 252, "h", 0)  # no qform
    assert_refused(stored, "NN-GEO-010")


def test_pixdim_that_contradicts_the_only_form(stored):
    poke(stored, 252, "h", 0)
    assert not read_ct(stored).warnings
    poke(stored, 80, "3f", 1.5, 2.0, 3.0)
    assert any("pixdim" in line for line in read_ct(stored).warnings)


def test_sform_wins_with_a_warning(stored, scan):
    poke(stored, 268, "f", 999.0)  # qoffset_x
    read = read_ct(stored)
    phantoms.assert_same_world(read, scan)
    assert len(read.warnings) == 1 and "sform was used" in read.warnings[0]


def test_microns_are_converted(stored, scan):
    axes = [v * 1000 for v in struct.unpack_from("<12f", stored.read_bytes(), 280)]
    poke(stored, 280, "12f", *axes)
    poke(stored, 80, "3f", 1500, 2000, 2500)
    poke(stored, 268, "3f", *axes[3::4])
    poke(stored, 123, "B", 3)
    read = read_ct(stored)
    phantoms.assert_same_world(read, scan)
    assert "microns" in read.warnings[0]


def test_truncated_nifti(stored):
    data = stored.read_bytes()
    for n_bytes, error in (
        (0, "NN-FILE-002"),
        (3, "NN-FILE-003"),
        (200, "NN-FILE-005"),
        (len(data) - 1, "NN-FILE-005"),
    ):
        stored.write_bytes(data[:n_bytes])
        assert_refused(stored, error)


def test_spoiled_gzip(scan, tmp_path):
    path = phantoms.write_nifti(scan, tmp_path / "ct.nii.gz")
    data = path.read_bytes()
    spoiled = {
        "half": (data[: len(data) // 2], "NN-FILE-005"),
        "no trailer": (data[:-4], "NN-FILE-005"),
        "wrong crc": (data[:-8] + bytes([data[-8] ^ 1]) + data[-7:], "NN-FILE-006"),
        "flipped": (data[:-500] + bytes([data[-500] ^ 0x55]) + data[-499:], "NN-FILE-006"),
        "not a nifti": (gzip.compress(b"x" * 1000), "NN-FILE-003"),
    }
    for content, error in spoiled.values():
        path.write_bytes(content)
        assert_refused(path, error)


def test_gzip_of_several_members(scan, tmp_path):
    path = phantoms.write_nifti(scan, tmp_path / "ct.nii.gz")
    data = gzip.decompress(path.read_bytes())
    path.write_bytes(
        b"".join(gzip.compress(data[start : start + 5000]) for start in range(0, len(data), 5000))
    )
    phantoms.assert_same_world(read_ct(path), scan)


def test_gzip_bomb_stops_early(scan, tmp_path):
    path = phantoms.write_nifti(scan, tmp_path / "ct.nii.gz")
    data = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(data) + gzip.compress(bytes(50_000_000), 9))
    started = time.monotonic()
    assert_refused(path, "NN-FILE-005")
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda hu: np.where(hu == hu.max(), np.nan, hu), "NN-VAL-005"),
        (lambda hu: np.where(hu == hu.max(), -np.inf, hu), "NN-VAL-005"),
        (lambda hu: np.zeros_like(hu), "NN-VAL-006"),
        (lambda hu: np.clip((hu + 1000) / 4, 0, 255).astype(np.uint8), "NN-VAL-007"),
        (lambda hu: np.clip((hu + 800) / 900, 0, 1).astype(np.float32), "NN-VAL-007"),
        (lambda hu: ((hu - hu.mean()) / hu.std()).astype(np.float32), "NN-VAL-007"),
        (lambda hu: hu + 1024, "NN-VAL-007"),
        (lambda hu: np.where(hu > 45, 20000, hu), "NN-VAL-007"),
        (lambda hu: np.minimum(hu, -600), "NN-VAL-007"),
    ],
    ids=[
        "nan",
        "inf",
        "constant",
        "8 bit",
        "windowed",
        "z score",
        "offset",
        "wrong sign",
        "air only",
    ],
)
def test_values_that_are_no_hu(change, error, scan, tmp_path):
    write_image(tmp_path / "ct.nii.gz", change(scan.volume_hu), scan.geometry)
    assert_refused(tmp_path / "ct.nii.gz", error)


# --- which files are scans


def find_scans(paths):
    return [item.path for item in choose_scans(take_census(paths))]


def test_content_decides_not_the_suffix(scan, tmp_path):
    path = phantoms.write_nifti(scan, tmp_path / "ct.nii.gz")
    phantoms.assert_same_world(read_ct(path.rename(tmp_path / "ct.dat")), scan)
    phantoms.assert_same_world(read_ct(write_text(tmp_path / "ct.nii", NRRD, scan)), scan)


def test_missing_path(tmp_path):
    assert_refused(tmp_path / "nothing.nii.gz", "NN-FILE-001")


def test_zip_and_pipe(tmp_path):
    (tmp_path / "ct.zip").write_bytes(b"PK\x03\x04" + bytes(600))
    assert_refused(tmp_path / "ct.zip", "NN-FILE-003")
    os.mkfifo(tmp_path / "pipe")
    assert_refused(tmp_path / "pipe", "NN-FILE-001")
    assert find_scans([tmp_path / "ct.zip"])
    (tmp_path / "ct.zip").unlink()
    with pytest.raises(NormNetError, match="NN-FILE-008"):
        find_scans([tmp_path])


def test_out_of_memory_is_said(scan, tmp_path, monkeypatch):
    path = phantoms.write_nifti(scan, tmp_path / "ct.nii.gz")

    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr("normnet.io.read.rescale", fail)
    assert_refused(path, "NN-RES-004")


def test_find_scans(scan, tmp_path):
    phantoms.write_dicom(scan, tmp_path / "b_series" / "deeper")
    phantoms.write_dicom(scan, tmp_path / "c_series")
    (tmp_path / "c_series" / "README.txt").write_text("hello")
    for name in ("a.nii.gz", "z.mhd", "z.raw", "notes.txt", ".hidden.nii"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    found = find_scans([tmp_path, tmp_path / "a.nii.gz"])
    names = ["a.nii.gz", "z.mhd", "b_series/deeper", "c_series"]
    assert [str(path.relative_to(tmp_path)) for path in found] == names
    assert find_scans([str(tmp_path / "notes.txt")]) == [tmp_path / "notes.txt"]
    for path, code in ((tmp_path / "empty", "NN-FILE-008"), (tmp_path / "none", "NN-FILE-001")):
        with pytest.raises(NormNetError, match=code):
            find_scans([path])


@pytest.mark.parametrize(
    ("name", "case_id"),
    [
        ("a.b.nii.gz", "a.b"),
        ("A.NII", "A"),
        ("x.mha", "x"),
        ("y.nhdr", "y"),
        ("plain", "plain"),
        (".nii", ".nii"),
    ],
)
def test_case_ids(name, case_id):
    assert case_id_of(Path("folder") / name) == case_id


def test_folders_keep_their_whole_name(tmp_path, monkeypatch):
    (tmp_path / "case.1.nii").mkdir()
    assert case_id_of(tmp_path / "case.1.nii") == "case.1.nii"
    monkeypatch.chdir(tmp_path / "case.1.nii")
    assert case_id_of(".") == "case.1.nii"


def test_import_is_cheap():
    code = (
        "import sys, normnet.io; "
        "print([m for m in ('pydicom', 'SimpleITK', 'torch', 'scipy') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
        == "[]"
    )


# --- writing


def test_same_input_same_bytes(scan, tmp_path):
    one, two = (
        phantoms.write_nifti(scan, tmp_path / name).read_bytes()
        for name in ("one.nii.gz", "two.nii.gz")
    )
    assert one == two


def test_header_follows_the_standard(scan, tmp_path):
    nib = pytest.importorskip("nibabel")
    header = nib.load(phantoms.write_nifti(scan, tmp_path / "ct.nii.gz")).header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    assert header.get_xyzt_units()[0] == "mm" and int(header["sizeof_hdr"]) == 348
    assert nib.Nifti1Header.diagnose_binaryblock(header.binaryblock) == ""


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ENOSPC, "NN-OUT-001"), (errno.EROFS, "NN-OUT-002"), (errno.EIO, "NN-OUT-003")],
)
def test_failed_write_leaves_the_old_file(number, code, scan, tmp_path, monkeypatch):
    path = tmp_path / "out.nii.gz"
    path.write_bytes(b"old")

    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("normnet.io.atomic.os.fsync", fail)
    with pytest.raises(OutputError) as caught:
        phantoms.write_nifti(scan, path)
    assert caught.value.code == code
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_full_disk(scan, tmp_path):
    """A real limit of the kernel: no file of this process may grow beyond 4 kB."""
    code = (
        "import resource, sys, numpy as np\n"
        "from pathlib import Path; from normnet.io import write_image\n"
        "from normnet.scan import Geometry; from normnet.errors import OutputError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "values = np.random.default_rng(0).integers(0, 9, (9, 99, 99), np.int16)\n"
        "try: write_image(Path(sys.argv[1]), values, Geometry())\n"
        "except OutputError as error: print(error.code)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.nii.gz")], capture_output=True, text=True
    )
    assert run.stdout.strip() == "NN-OUT-001", run.stderr
    assert list(tmp_path.iterdir()) == []


def test_missing_folder(scan, tmp_path):
    with pytest.raises(OutputError, match="NN-OUT-003"):
        phantoms.write_nifti(scan, tmp_path / "nowhere" / "out.nii.gz")


def test_read_back_notices_a_bad_disk(scan, tmp_path, monkeypatch):
    monkeypatch.setattr("normnet.io.formats.nifti._inflated_crc", lambda path: (0, 0))
    with pytest.raises(OutputError, match="NN-OUT-004"):
        phantoms.write_nifti(scan, tmp_path / "out.nii.gz")
    assert list(tmp_path.iterdir()) == []


def test_metaimage_zlib_without_local_size(scan, tmp_path):
    header = (
        MHA.replace("CompressedData = False", "CompressedData = True") + "ElementDataFile = LOCAL\n"
    )
    (tmp_path / "ct.mha").write_bytes(header.encode() + zlib.compress(scan.volume_hu.tobytes()))
    phantoms.assert_same_world(read_ct(tmp_path / "ct.mha"), scan)


# --- the phantom itself, and real files


def test_phantom_volumes_match_their_formulas():
    phantom = phantoms.thorax_phantom()
    voxel_ml = phantom.scan.geometry.voxel_ml
    assert phantom.lung_mask.sum() * voxel_ml == pytest.approx(phantom.lung_ml, rel=0.01)
    assert phantom.lesion_mask.sum() * voxel_ml == pytest.approx(phantom.lesion_ml, rel=0.02)
    assert not np.any(phantom.lesion_mask & ~phantom.lung_mask)
    healthy = phantom.scan.volume_hu[phantom.lung_mask & ~phantom.lesion_mask]
    assert 0.02 < np.mean(healthy > -500) < 0.2  # vessels


DATA = os.environ.get("NORMNET_DATA")
ODD_FILES = sorted(path for path in Path(DATA, "odd").rglob("*") if path.is_file()) if DATA else []
ODD = [path for path in ODD_FILES if ".ni" in path.name or path.suffix == ".mha"]
ODD_FOLDERS = sorted({path.parent for path in ODD_FILES if "dc" in str(path.relative_to(DATA))})


@pytest.mark.skipif(not DATA, reason="NORMNET_DATA does not point at real CTs")
@pytest.mark.parametrize("path", ODD + ODD_FOLDERS, ids=lambda path: "-".join(path.parts[-2:]))
def test_odd_files_end_in_an_error(path):
    started = time.monotonic()
    with pytest.raises(NormNetError):
        read_ct(path)
    assert time.monotonic() - started < 10


@pytest.mark.skipif(not DATA, reason="NORMNET_DATA does not point at real CTs")
def test_real_nifti_as_nibabel_reads_it():
    nib = pytest.importorskip("nibabel")
    path = Path(DATA, "covid_dev", "radiopaedia_1_ct.nii.gz")
    scan, image = read_ct(path), nib.load(path)
    np.testing.assert_array_equal(
        scan.volume_hu[::9], image.get_fdata(dtype=np.float32).transpose(2, 1, 0)[::9]
    )
    ras = np.diag([-1, -1, 1, 1]) @ image.affine
    np.testing.assert_allclose(scan.geometry.affine[:3, :3], ras[:3, :3][::-1, ::-1], atol=1e-5)
    np.testing.assert_allclose(scan.geometry.origin_mm, ras[:3, 3][::-1], atol=1e-4)
