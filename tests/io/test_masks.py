"""Masks find their scan whatever order their file is stored in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from normnet.errors import GeometryError, NormNetError, ValueRangeError
from normnet.io import read_ct, read_labels, read_mask, write_image, write_mask
from tests import phantoms


@pytest.fixture(scope="module")
def phantom():
    return phantoms.thorax_phantom((20, 24, 28), (2.5, 2.0, 1.5), vessels=False)


@pytest.mark.parametrize(("order", "flips"), phantoms.ORIENTATIONS)
def test_mask_in_any_orientation(order, flips, phantom, tmp_path):
    mask = replace(phantom.scan, volume_hu=phantom.lung_mask.astype(np.uint8))
    stored = phantoms.reorient(mask, order, flips)
    write_mask(tmp_path / "mask.nii.gz", stored.volume_hu, stored.geometry)
    read = read_mask(tmp_path / "mask.nii.gz", phantom.scan)
    assert read.dtype == bool
    np.testing.assert_array_equal(read, phantom.lung_mask)


def test_mask_for_a_reoriented_scan(phantom, tmp_path):
    """Scan stored one way, mask the other: the voxels still meet."""
    write_mask(tmp_path / "mask.nii.gz", phantom.lesion_mask, phantom.scan.geometry)
    turned = phantoms.reorient(phantom.scan, (1, 2, 0), (True, False, True))
    scan = read_ct(phantoms.write_nifti(turned, tmp_path / "ct.nii.gz"))
    read = replace(scan, volume_hu=read_mask(tmp_path / "mask.nii.gz", scan).astype(np.uint8))
    phantoms.assert_same_world(
        read, replace(phantom.scan, volume_hu=phantom.lesion_mask.astype(np.uint8))
    )


def test_labels_are_kept(phantom, tmp_path):
    labels = phantom.lung_mask.astype(np.uint8) + 2 * phantom.lesion_mask.astype(np.uint8)
    write_image(tmp_path / "labels.nii.gz", labels.astype(np.float32), phantom.scan.geometry)
    read = read_labels(tmp_path / "labels.nii.gz", phantom.scan)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, labels)


@pytest.mark.parametrize("index", [(0.5, 0, 0), (0, 1, 0), (0, 0, -2)])
def test_shifted_mask_is_refused(index, phantom, tmp_path):
    write_mask(tmp_path / "mask.nii.gz", phantom.lung_mask, phantom.scan.geometry.moved_to(index))
    with pytest.raises(GeometryError, match=r"NN-GEO-016.*20 x 24 x 28.*20 x 24 x 28"):
        read_mask(tmp_path / "mask.nii.gz", phantom.scan)


def test_mask_of_another_size_is_refused(phantom, tmp_path):
    write_mask(tmp_path / "mask.nii.gz", phantom.lung_mask[:-1], phantom.scan.geometry)
    with pytest.raises(GeometryError, match="NN-GEO-016"):
        read_mask(tmp_path / "mask.nii.gz", phantom.scan)


@pytest.mark.parametrize("value", [0.5, -1.0, 256.0])
def test_values_that_are_no_labels(value, phantom, tmp_path):
    array = np.where(phantom.lung_mask, value, 0).astype(np.float32)
    write_image(tmp_path / "mask.nii.gz", array, phantom.scan.geometry)
    with pytest.raises(ValueRangeError, match="NN-VAL-009"):
        read_mask(tmp_path / "mask.nii.gz", phantom.scan)


def test_empty_mask_is_allowed(phantom, tmp_path):
    write_mask(tmp_path / "mask.nii.gz", np.zeros(phantom.scan.shape, bool), phantom.scan.geometry)
    assert not read_mask(tmp_path / "mask.nii.gz", phantom.scan).any()


def test_dicom_is_no_mask(phantom, tmp_path):
    folder = phantoms.write_dicom(phantom.scan, tmp_path / "ct")
    with pytest.raises(NormNetError, match="NN-FILE-009"):
        read_mask(sorted(folder.iterdir())[0], phantom.scan)
