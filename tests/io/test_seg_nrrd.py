"""The .seg.nrrd for 3D Slicer: the same voxels at the same place, names and colours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from normnet.io.read import read_stored
from normnet.io.seg_nrrd import write_label_map, write_seg_nrrd
from normnet.scan import Scan
from tests.phantoms import reorient, thorax_phantom

SHAPE, SPACING_MM = (20, 24, 28), (2.5, 2.0, 1.5)


def masks_of(shape):
    rng = np.random.default_rng(1)
    right, left = np.zeros((2, *shape), bool)
    right[2:9, 3:11, 4:10], left[5:15, 6:12, 12:19] = True, True
    return right, left, rng.random(shape) < 0.2


def oblique(scan: Scan) -> Scan:
    c, s = np.cos(np.radians(17)), np.sin(np.radians(17))
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
    direction = turn @ np.array(scan.geometry.direction)
    rows = tuple(tuple(float(v) for v in row) for row in direction)
    return replace(scan, geometry=replace(scan.geometry, direction=rows))


SCANS = {
    "plain": lambda scan: scan,
    "flipped": lambda scan: reorient(scan, (0, 1, 2), (True, False, True)),
    "sagittal": lambda scan: reorient(scan, (2, 0, 1), (False, True, False)),
    "oblique": oblique,
}


@pytest.fixture(params=SCANS)
def case(request, tmp_path):
    """The scan, its masks, and the file."""
    scan = SCANS[request.param](thorax_phantom(SHAPE, SPACING_MM, vessels=False).scan)
    masks = masks_of(scan.shape)
    write_seg_nrrd(tmp_path / "a.seg.nrrd", masks, scan.geometry)
    return scan, masks, tmp_path / "a.seg.nrrd"


def test_simpleitk_reads_the_same_voxels_at_the_same_place(case):
    scan, (right, left, lesions), path = case
    image = sitk.ReadImage(str(path))
    voxels = sitk.GetArrayFromImage(image)  # (z, y, x, layer)
    np.testing.assert_array_equal(voxels[..., 0], right + 2 * left.astype(int))
    np.testing.assert_array_equal(voxels[..., 1], lesions)
    for index in ((0, 0, 0), (3, 7, 5), tuple(n - 1 for n in scan.shape)):
        point = image.TransformIndexToPhysicalPoint([int(n) for n in index[::-1]])
        expected = scan.geometry.affine @ [*index, 1.0]
        np.testing.assert_allclose(point[::-1], expected[:3], atol=1e-6)


def test_pynrrd_reads_segments_as_slicer_writes_them(case):
    nrrd = pytest.importorskip("nrrd", reason="pynrrd is not installed")
    scan, masks, path = case
    data, header = nrrd.read(str(path))
    assert header["space"] == "left-posterior-superior"
    assert header["kinds"] == ["list", "domain", "domain", "domain"]
    assert np.isnan(header["space directions"][0]).all()
    names = [header[f"Segment{n}_Name"] for n in range(3)]
    assert names == ["Right lung", "Left lung", "Lesions"]
    for n, mask in enumerate(masks):
        layer, value = int(header[f"Segment{n}_Layer"]), int(header[f"Segment{n}_LabelValue"])
        np.testing.assert_array_equal(data[layer].transpose() == value, mask)
        colour = [float(part) for part in header[f"Segment{n}_Color"].split()]
        assert len(colour) == 3 and all(0 <= part <= 1 for part in colour)
        extent = [int(part) for part in header[f"Segment{n}_Extent"].split()]
        assert extent[1::2] == [size - 1 for size in scan.shape[::-1]]
        assert header[f"Segment{n}_Tags"].count("~") == 6
    assert header["Segmentation_MasterRepresentation"] == "Binary labelmap"


def test_the_same_masks_give_the_same_bytes(tmp_path):
    scan = thorax_phantom(SHAPE, SPACING_MM, vessels=False).scan
    for name in "ab":
        write_seg_nrrd(tmp_path / f"{name}.seg.nrrd", masks_of(scan.shape), scan.geometry)
    assert (tmp_path / "a.seg.nrrd").read_bytes() == (tmp_path / "b.seg.nrrd").read_bytes()


def test_a_label_map_is_read_back(tmp_path):
    scan = oblique(thorax_phantom(SHAPE, SPACING_MM, vessels=False).scan)
    labels = np.random.default_rng(0).integers(0, 4, scan.shape).astype(np.uint8)
    write_label_map(tmp_path / "a.nrrd", labels, scan.geometry)
    stored = read_stored(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(stored.voxels, labels)
    np.testing.assert_allclose(stored.geometry.affine, scan.geometry.affine, atol=1e-9)
