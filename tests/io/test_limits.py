"""Volumes and files beyond the limits are refused from their header, soon and in little memory."""

from __future__ import annotations

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

from normnet.errors import NormNetError
from normnet.io import limits
from normnet.io.limits import check_bytes, check_extent
from normnet.io.masks import read_labels
from normnet.io.read import read_ct
from normnet.scan import Geometry
from tests import phantoms

SOURCES = Path(__file__).parents[2] / "src"
DEFLATED = "1.2.840.10008.1.2.1.99"
# Fails as the command does, and says how much memory the process took, in MB.
MEASURED = """
import re, sys
from pathlib import Path
from normnet.errors import NormNetError
from normnet.io.read import read_ct
try:
    read_ct(sys.argv[1])
except NormNetError as error:
    print(error.code, error.exit_code, end=" ")
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


@pytest.fixture(scope="module")
def scan():
    return phantoms.thorax_phantom((20, 24, 28), (6.0, 8.0, 8.0)).scan


def refused_with(path) -> NormNetError:
    started = time.process_time()
    with pytest.raises(NormNetError) as caught:
        read_ct(path)
    assert time.process_time() - started < 5
    assert "\n" not in str(caught.value)
    return caught.value


def stretched(scan, factors):
    """The scan with other lengths in its header."""
    spacing = tuple(s * f for s, f in zip(scan.geometry.spacing_mm, factors, strict=True))
    return replace(scan, geometry=replace(scan.geometry, spacing_mm=spacing))


def write_mha(scan, path) -> Path:
    spacing = scan.geometry.spacing_mm[::-1]
    header = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        "CompressedData = True\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\n"
        f"ElementSpacing = {' '.join(map(str, spacing))}\nDimSize = "
        f"{' '.join(map(str, scan.shape[::-1]))}\nElementType = MET_SHORT\n"
        "ElementDataFile = LOCAL\n"
    )
    path.write_bytes(header.encode() + zlib.compress(scan.volume_hu.astype("<i2").tobytes()))
    return path


def write_nrrd(scan, path) -> Path:
    sz, sy, sx = scan.geometry.spacing_mm
    header = (
        "NRRD0004\ntype: int16\ndimension: 3\nspace: left-posterior-superior\n"
        f"sizes: {' '.join(map(str, scan.shape[::-1]))}\n"
        f"space directions: ({sx},0,0) (0,{sy},0) (0,0,{sz})\n"
        "kinds: domain domain domain\nendian: little\nencoding: gzip\nspace origin: (0,0,0)\n\n"
    )
    path.write_bytes(header.encode() + gzip.compress(scan.volume_hu.astype("<i2").tobytes()))
    return path


WRITERS = {
    "ct.nii.gz": phantoms.write_nifti,
    "ct.mha": write_mha,
    "ct.nrrd": write_nrrd,
    "ct": phantoms.write_dicom,
}


# --- larger than any scanner ---


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    ("shape", "spacing_mm"),
    [
        ((20, 130, 28), (6.0, 8.0, 8.0)),  # 1040 mm from front to back
        ((20, 28, 130), (6.0, 8.0, 8.0)),  # from right to left
        ((140, 24, 28), (18.0, 8.0, 8.0)),  # 2520 mm high
        ((60, 128, 128), (15.0, 8.0, 8.0)),  # centimetres taken for millimetres
    ],
)
def test_larger_than_any_scanner(tmp_path, scan, name, shape, spacing_mm):
    big = np.resize(scan.volume_hu, shape)
    path = WRITERS[name](
        replace(scan, volume_hu=big, geometry=Geometry(spacing_mm)), tmp_path / name
    )
    error = refused_with(path)
    assert error.code == "NN-GEO-041"
    assert error.exit_code == 4
    assert "at most 2500 x 1000 x 1000" in str(error)


@pytest.mark.parametrize("name", WRITERS)
def test_whole_bodies_and_wide_fields_are_read(tmp_path, scan, name):
    wide = stretched(scan, (3.0, 4 / 3, 4 / 3))  # 360 x 256 x 299 mm
    high = replace(wide, volume_hu=np.tile(wide.volume_hu, (6, 3, 3)))  # 2160 x 768 x 896 mm
    path = WRITERS[name](high, tmp_path / name)
    assert sorted(read_ct(path).shape) == sorted(high.shape)


@pytest.mark.parametrize(
    ("order", "flips"),
    [((0, 1, 2), (True, False, True)), ((2, 0, 1), (False,) * 3), ((1, 2, 0), (True,) * 3)],
)
def test_the_height_is_that_of_the_body_not_of_the_file(order, flips):
    """2 m along the body are many; 2 m across it are none, in whatever order they are stored."""
    direction = np.zeros((3, 3))
    for axis, (world, flip) in enumerate(zip(order, flips, strict=True)):
        direction[world, axis] = -1 if flip else 1
    geometry = Geometry((1.0, 1.0, 1.0), direction=tuple(map(tuple, direction)))
    high, wide = np.full(3, 400), np.full(3, 400)
    high[order.index(0)], wide[order.index(1)] = 2000, 2000
    check_extent(tuple(high), geometry, "ct")
    with pytest.raises(NormNetError, match="NN-GEO-041"):
        check_extent(tuple(wide), geometry, "ct")


# --- bytes ---


def nifti_header(shape, code, bits, spacing_mm=(0.5, 0.5, 0.5)) -> bytes:
    header = bytearray(352)
    for offset, layout, values in (
        (0, "<i", (348,)),
        (40, "<8h", (3, *shape, 1, 1, 1, 1)),
        (70, "<2h", (code, bits)),
        (76, "<8f", (1, *spacing_mm, 1, 0, 0, 0)),
        (108, "<2f", (352, 1)),
        (123, "<B", (2,)),
        (254, "<h", (1,)),
        (280, "<12f", (spacing_mm[0], 0, 0, 0, 0, spacing_mm[1], 0, 0, 0, 0, spacing_mm[2], 0)),
        (344, "<4s", (b"n+1",)),
    ):
        struct.pack_into(layout, header, offset, *values)
    return bytes(header)


def write_zeros(stream, n_bytes) -> None:
    for start in range(0, n_bytes, 2**24):
        stream.write(bytes(min(2**24, n_bytes - start)))


@pytest.mark.parametrize(
    ("edge", "code", "bits", "error"),
    [
        (812, 64, 64, "NN-RES-041"),  # 4 GiB of float64
        (800, 16, 32, "NN-RES-003"),
        (600, 64, 64, "NN-RES-003"),
        (881, 4, 16, "NN-RES-003"),  # 1.4 GB of int16
        (1104, 2, 8, "NN-RES-001"),
    ],
)
def test_bombs_are_refused_from_the_header(tmp_path, edge, code, bits, error):
    """As large as their header says, once they are inflated; no more than that is read."""
    path = tmp_path / "ct.nii.gz"
    with path.open("wb") as handle:
        handle.write(gzip.compress(nifti_header((edge,) * 3, code, bits)))
        handle.truncate(edge**3 * bits // 8 // 900)  # what a gzip stream of zeros would have
    assert refused_with(path).code == error


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "code", "bits"), [((640, 640, 900), 4, 16)])
def test_a_real_bomb_takes_little(tmp_path, shape, code, bits):
    path = tmp_path / "ct.nii.gz"
    with gzip.open(path, "wb", 6) as stream:
        stream.write(nifti_header(shape, code, bits))
        write_zeros(stream, int(np.prod(shape)) * bits // 8 // 8)  # the rest is missing
    answer = measured(path)
    assert answer[:2] == ["NN-FILE-005", "3"]
    assert int(answer[2]) < 1000  # MB


def measured(path) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100)
    assert done.stderr == ""
    return done.stdout.split()


def test_what_a_ct_and_a_mask_may_swell():
    thin = 512 * 512 * 1000
    check_bytes(8 * thin, 8 * thin // 20, "a float64 CT")
    check_bytes(2 * thin, 2 * thin // 3, "an int16 CT")
    check_bytes(thin, thin // 1000, "a uint8 mask")
    check_bytes(8 * 512 * 512 * 384, 10**6, "a float64 mask")
    for n_bytes, n_stored in ((5 * 2**29 + 1, 2**31), (5 * 2**28 + 1, 2**20), (2**31, 2**24)):
        with pytest.raises(NormNetError, match="NN-RES-0"):
            check_bytes(n_bytes, n_stored, "a bomb")


# --- deflated DICOM ---


def deflated(change=lambda data: None):
    """Deflates all slices, of which the fourth is changed before."""

    def store(datasets):
        for data in datasets:
            data.file_meta.TransferSyntaxUID = DEFLATED
        change(datasets[3])

    return store


def test_deflated_dicom_is_read(tmp_path, scan):
    whole = read_ct(phantoms.write_dicom(scan, tmp_path / "plain"))
    read = read_ct(phantoms.write_dicom(scan, tmp_path / "deflated", deflated()))
    np.testing.assert_array_equal(read.volume_hu, whole.volume_hu)
    assert read.geometry == whole.geometry


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.add_new(0x00091001, "UN", bytes(60_000_000)),
        lambda data: data.add_new(0x00091001, "OB", bytes(3_000_000)),
        lambda data: setattr(data, "PixelData", data.PixelData + bytes(60_000_000)),
        lambda data: data.add_new(0xFFFCFFFC, "OB", bytes(60_000_000)),
    ],
    ids=["private", "a little", "pixels", "after the pixels"],
)
def test_deflated_dicom_swells_no_further_than_its_pixels(tmp_path, scan, change):
    folder = phantoms.write_dicom(scan, tmp_path / "ct", deflated(change))
    assert sum(file.stat().st_size for file in folder.iterdir()) < 500_000
    error = refused_with(folder)
    assert (error.code, error.exit_code) == ("NN-RES-003", 8)
    assert int(measured(folder)[2]) < 200  # MB


def test_cut_deflated_dicom(tmp_path, scan):
    folder = phantoms.write_dicom(scan, tmp_path / "ct", deflated())
    file = sorted(folder.iterdir())[3]
    file.write_bytes(file.read_bytes()[:-400])
    assert refused_with(folder).exit_code == 3


# --- files that are none ---


@pytest.mark.parametrize("kind", ["pipe", "endless", "socket", "broken link"])
@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nrrd", "ct.dcm", "ct"])
def test_only_regular_files_are_opened(tmp_path, scan, kind, name):
    import socket

    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(path))
    else:
        path.symlink_to("/dev/zero" if kind == "endless" else tmp_path / "nothing")
    for read in (read_ct, lambda path: read_labels(path, scan)):
        with pytest.raises(NormNetError) as caught:
            read(path)
        assert caught.value.code == "NN-FILE-001"


def test_detached_data_is_a_regular_file(tmp_path, scan):
    path = write_nrrd(scan, tmp_path / "ct.nrrd")
    header, data = path.read_bytes().split(b"\n\n", 1)
    nhdr = tmp_path / "ct.nhdr"
    nhdr.write_bytes(header + b"\ndata file: ct.raw.gz\n")
    (tmp_path / "ct.raw.gz").write_bytes(data)
    assert read_ct(nhdr).shape == scan.shape
    (tmp_path / "ct.raw.gz").unlink()
    os.mkfifo(tmp_path / "ct.raw.gz")
    assert refused_with(nhdr).code in ("NN-FILE-001", "NN-FILE-007")


def test_every_limit_has_its_reason():
    """A comment stands behind each of them."""
    lines = Path(limits.__file__).read_text(encoding="utf-8").splitlines()
    told = [line for line in lines if line.startswith("MAX_")]
    assert len(told) > 10
    assert all("  # " in line for line in told)
