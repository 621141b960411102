"""Scans too large for the memory: slices are averaged, and masks get the file's slices back."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from normnet.errors import ResourceError
from normnet.filters import block_means
from normnet.io import joining, read_ct, read_labels, write_image
from normnet.io.joining import check_held, join_slices
from normnet.io.masks import read_codes
from normnet.io.read import read_stored
from normnet.io.seg_nrrd import write_label_map, write_seg_nrrd
from normnet.io.values import Stored, rescale
from normnet.scan import Geometry, Joined, Scan
from tests import phantoms

SOURCES = Path(__file__).parents[2] / "src"
N_SLICES, SIZE = 50, 4  # in groups of four, the last has two


@pytest.fixture(scope="module")
def phantom():
    return phantoms.thorax_phantom((N_SLICES, 48, 56), (0.6, 6.0, 6.0), vessels=False)


@pytest.fixture
def small_memory(monkeypatch):
    """Room for 13 of the 50 slices."""
    monkeypatch.setattr(joining, "MAX_HELD_VOXELS", 13 * 48 * 56)


def averages(volume):
    groups = [volume[n : n + SIZE] for n in range(0, len(volume), SIZE)]
    return np.stack([np.rint(group.mean(axis=0, dtype=float)) for group in groups])


def write(kind, scan, folder):
    if kind == "dicom":
        return phantoms.write_dicom(scan, folder / "ct")
    return phantoms.write_nifti(scan, folder / "ct.nii.gz")


# --- reading ---


@pytest.mark.parametrize("kind", ["nifti", "dicom"])
def test_slices_are_averaged_in_groups(kind, phantom, small_memory, tmp_path):
    scan = read_ct(write(kind, phantom.scan, tmp_path))
    assert scan.joined == Joined(0, SIZE, N_SLICES)
    assert scan.volume_hu.dtype == np.int16
    assert np.abs(scan.volume_hu - averages(phantom.scan.volume_hu)).max() <= 1  # halves
    assert scan.file_shape == phantom.scan.shape
    np.testing.assert_allclose(scan.file_geometry.affine, phantom.scan.geometry.affine, atol=1e-3)
    assert scan.geometry.spacing_mm == pytest.approx((2.4, 6.0, 6.0))
    told = "50 slices of 0.6 mm were averaged in groups of 4, so that they fit in memory; the masks"
    assert [line for line in scan.warnings if "averaged" in line] == [
        f"{told} have the scan's own slices"
    ]


@pytest.mark.parametrize(("order", "flips"), phantoms.ORIENTATIONS)
def test_what_is_averaged_lies_along_the_body(order, flips, phantom, small_memory, tmp_path):
    stored = phantoms.reorient(phantom.scan, order, flips)
    read = read_ct(phantoms.write_nifti(stored, tmp_path / "ct.nii.gz"))
    assert read.joined is not None
    assert read.joined.axis == stored.geometry.body_axis
    assert read.file_shape == stored.shape
    upright, spacing_mm = read.upright()
    assert len(upright) == 13
    assert spacing_mm[0] == pytest.approx(2.4)
    for n in (0, 5, 11):  # the middle of a group of four lies between its slices 1 and 2
        index = [0.0, 0.0, 0.0]
        index[read.joined.axis] = n
        in_file = list(index)
        in_file[read.joined.axis] = SIZE * n + 1.5
        here = read.geometry.affine @ [*index, 1]
        np.testing.assert_allclose(here, stored.geometry.affine @ [*in_file, 1], atol=1e-3)
    of_file = np.moveaxis(stored.volume_hu, read.joined.axis, 0)
    averaged = np.moveaxis(read.volume_hu, read.joined.axis, 0)
    assert np.abs(averaged - averages(of_file)).max() <= 1


def test_a_scan_that_fits_is_the_same(phantom, tmp_path):
    assert join_slices(phantom.scan) is phantom.scan
    read = read_ct(phantoms.write_nifti(phantom.scan, tmp_path / "ct.nii.gz"))
    assert read.joined is None
    assert (read.file_shape, read.file_geometry) == (read.shape, read.geometry)
    assert [read.file_slice(7, axis) for axis in range(3)] == [7, 7, 7]


def test_fractions_of_hu_are_averaged_too(phantom, small_memory):
    exact = replace(phantom.scan, volume_hu=phantom.scan.volume_hu + np.float32(0.25))
    joined = join_slices(exact)
    assert joined.volume_hu.dtype == np.int16
    means = block_means(exact.volume_hu, (SIZE, 1, 1))
    assert np.abs(joined.volume_hu[:12] - means).max() <= 0.501


# --- refusals ---


def test_slices_that_would_be_too_thick_are_refused(phantom, monkeypatch, tmp_path):
    path = phantoms.write_nifti(phantom.scan, tmp_path / "ct.nii.gz")
    monkeypatch.setattr(joining, "MAX_HELD_VOXELS", 10 * 48 * 56)
    with pytest.raises(ResourceError) as caught:
        read_ct(path)
    assert str(caught.value) == (
        "NN-RES-001: a volume of 50 x 48 x 56 voxels; 26880 fit in memory, and averages of 5 "
        "slices of 0.6 mm would be too thick; ct.nii.gz; crop or resample it"
    )


def test_a_plane_that_does_not_fit_is_refused(phantom, monkeypatch):
    monkeypatch.setattr(joining, "MAX_HELD_VOXELS", 48 * 56)
    with pytest.raises(ResourceError, match=r"NN-RES-001.*too thick"):
        join_slices(replace(phantom.scan, geometry=Geometry((0.01, 6.0, 6.0))))


def test_a_caller_in_python_is_told_what_to_do(phantom, small_memory):
    from normnet.pipeline import segment

    with pytest.raises(ResourceError, match=r"NN-RES-001.*phantom; average .*join_slices"):
        segment(phantom.scan, None)
    check_held(join_slices(phantom.scan))


# --- writing, and reading masks ---


@pytest.fixture
def joined(phantom, small_memory):
    return join_slices(phantom.scan)


def test_a_mask_has_the_slices_of_the_file(joined, phantom, tmp_path):
    labels = (np.arange(joined.volume_hu.size) % 251).astype(np.uint8).reshape(joined.shape)
    path = tmp_path / "mask.nii.gz"
    write_image(path, labels, joined.geometry, 1.0, joined=joined.joined)
    stored = read_stored(path)
    np.testing.assert_array_equal(stored.voxels, labels.repeat(SIZE, axis=0)[:N_SLICES])
    np.testing.assert_allclose(stored.geometry.affine, phantom.scan.geometry.affine, atol=1e-4)
    np.testing.assert_array_equal(read_labels(path, joined), labels)
    np.testing.assert_array_equal(read_codes(path, joined), labels)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("n_slices", [8, 9, 10, 11])
def test_repeating_and_thinning_are_inverse(axis, n_slices):
    joined = Joined(axis, SIZE, n_slices)
    shape = [5, 6, 7]
    shape[axis] = -(-n_slices // SIZE)
    array = np.arange(math.prod(shape)).reshape(shape)
    whole = np.stack(list(joined.repeated(array)))
    assert whole.shape == joined.file_shape(tuple(shape))
    np.testing.assert_array_equal(whole.take(range(0, n_slices, SIZE), axis), array)
    np.testing.assert_array_equal(joined.thinned(whole), array)
    geometry = Geometry((0.5, 0.7, 0.9), (10.0, -20.0, 30.0))
    again = joined.file_geometry(joined.averaged_geometry(geometry))
    np.testing.assert_allclose(again.affine, geometry.affine)


def test_slices_of_the_file_that_an_average_holds(phantom, joined):
    """Of ten slices in groups of ``SIZE``; across another axis nothing was averaged."""
    own = joined.holds_slices(0, {0, N_SLICES - 1})
    assert own.shape == joined.shape[:1]
    assert np.flatnonzero(own).tolist() == [0, joined.shape[0] - 1]
    assert np.flatnonzero(joined.holds_slices(0, {SIZE})).tolist() == [1]
    assert np.flatnonzero(joined.holds_slices(1, {7})).tolist() == [7]
    assert np.flatnonzero(phantom.scan.holds_slices(0, {3, 99})).tolist() == [3]


def test_a_mask_of_the_file_is_thinned_in_any_orientation(joined, phantom, tmp_path):
    mask = replace(phantom.scan, volume_hu=phantom.lung_mask.astype(np.uint8))
    for n, (order, flips) in enumerate(phantoms.ORIENTATIONS):
        stored = phantoms.reorient(mask, order, flips)
        write_image(tmp_path / f"{n}.nii.gz", stored.volume_hu, stored.geometry)
        read = read_labels(tmp_path / f"{n}.nii.gz", joined)
        middles = [min(SIZE * group + 2, N_SLICES - 1) for group in range(13)]
        np.testing.assert_array_equal(read, phantom.lung_mask[middles])


def test_a_segmentation_for_slicer_has_the_slices_of_the_file(joined, tmp_path):
    masks = [joined.volume_hu < hu for hu in (-900, -500, 0)]
    write_seg_nrrd(tmp_path / "x.seg.nrrd", masks, joined.geometry, joined.joined)
    header = (tmp_path / "x.seg.nrrd").read_bytes()[:2000]
    assert b"sizes: 2 56 48 50\n" in header
    assert b"Extent:=0 55 0 47 0 49\n" in header
    write_label_map(tmp_path / "x.nrrd", masks[0].view(np.uint8), joined.geometry, joined.joined)
    stored = read_stored(tmp_path / "x.nrrd")
    np.testing.assert_array_equal(stored.voxels, masks[0].repeat(SIZE, axis=0)[:N_SLICES])


# --- voxels take the place of what is stored ---


@pytest.mark.parametrize("dtype", ["<u2", ">i2", "<i4", "<f4", "<f8", "|u1"])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (2, -1024), (0.5, 0.25)])
def test_rescaling_in_place_gives_the_same(dtype, slope, intercept):
    values = np.random.default_rng(0).integers(0, 200, (5, 6, 7)).astype(dtype)
    stored = Stored(values, Geometry(), slope, intercept)
    expected = rescale(stored, "ct")
    np.testing.assert_array_equal(stored.voxels, values)
    own = replace(stored, voxels=values.copy())
    found = rescale(own, "ct", in_place=True)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    fits = found.itemsize <= values.itemsize
    assert np.shares_memory(found, own.voxels) == fits


# --- memory ---

MEASURED = """
import json, re, sys
from pathlib import Path

def peak_mb():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

import scipy.ndimage
from normnet.io import joining, read_ct, read_labels, write_image
joining.MAX_HELD_VOXELS = 15_000_000
before = peak_mb()
scan = read_ct(sys.argv[1])
read = peak_mb()
mask = (scan.volume_hu > -500)
write_image(Path(sys.argv[2]), mask, scan.geometry, joined=scan.joined)
written = peak_mb()
same = bool((read_labels(sys.argv[2], scan) == mask).all())
print(json.dumps([before, read, written, peak_mb(), same, scan.joined.size]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize("kind", ["int16", "uint16"])
def test_memory_is_that_of_the_stored_voxels_and_the_averages(kind, tmp_path):
    """112 MB of int16; a second copy, or floats of it, would be seen."""
    small = phantoms.thorax_phantom((50, 100, 100), (4.2, 3.6, 3.6), vessels=False).scan
    volume = small.volume_hu.repeat(7, axis=0).repeat(4, axis=1).repeat(4, axis=2)
    scan = Scan(volume, Geometry((0.6, 0.9, 0.9)))
    stored_mb = scan.volume_hu.nbytes / 2**20
    path = tmp_path / "ct.nii.gz"
    if kind == "uint16":
        shifted = (scan.volume_hu + 1024).astype(np.uint16)
        write_image(path, shifted, scan.geometry, intercept=-1024.0)
    else:
        write_image(path, scan.volume_hu, scan.geometry)
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURED, str(path), str(tmp_path / "mask.nii.gz")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100)
    assert done.stderr == ""
    before, read, written, masks, same, size = json.loads(done.stdout)
    assert (same, size) == (True, 4)
    assert read - before < 1.25 * stored_mb + 60
    assert written <= read + 5  # neither the mask nor what is read back was held as a whole
    assert masks <= read + 5
