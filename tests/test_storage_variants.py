"""One CT stored in many ways: axes, spacing, file format and voxel type change no voxel."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from normnet import read_ct, segment
from normnet.config import Config
from normnet.io.formats.nifti import write_image
from normnet.pipeline import Segmentation
from normnet.scan import Geometry, Scan
from tests.phantoms import reorient, thorax_phantom, write_dicom

AS_IT_IS = ((0, 1, 2), (False, False, False))
Order = tuple[tuple[int, ...], tuple[bool, ...]]
Writer = Callable[[Scan, Path], Path]


def spaced(scan: Scan, change: Callable[[float], float]) -> Scan:
    spacing = tuple(change(mm) for mm in scan.geometry.spacing_mm)
    return replace(scan, geometry=replace(scan.geometry, spacing_mm=spacing))


def nifti(
    voxels: Callable[[np.ndarray], np.ndarray] = lambda hu: hu,
    slope: float = 1.0,
    intercept: float = 0.0,
    edit: Callable[[bytearray], None] = lambda data: None,
    suffix: str = ".nii.gz",
) -> Writer:
    """Writes voxels of another type, and edits the header."""

    def write(scan: Scan, folder: Path) -> Path:
        path = folder / f"ct{suffix}"
        whole = folder / "whole.nii.gz"
        write_image(whole, voxels(scan.volume_hu), scan.geometry, slope, intercept)
        data = bytearray(gzip.decompress(whole.read_bytes()))
        whole.unlink()
        edit(data)
        path.write_bytes(gzip.compress(data, 1) if suffix == ".nii.gz" else data)
        return path

    return write


def in_unit(code: int, per_mm: float) -> Callable[[bytearray], None]:
    """An edit that stores all lengths in another unit."""

    def edit(data: bytearray) -> None:
        data[123] = code
        for offset, n in ((80, 3), (268, 3), (280, 12)):  # pixdim, quaternion offsets, srow
            values = struct.unpack_from(f"<{n}f", data, offset)
            struct.pack_into(f"<{n}f", data, offset, *(per_mm * value for value in values))

    return edit


def without_form(offset: int) -> Callable[[bytearray], None]:
    """An edit that sets the code of the qform (252) or of the sform (254) to 0."""
    return lambda data: struct.pack_into("<h", data, offset, 0)


def image(suffix: str, compressed: bool = False) -> Writer:
    """NRRD and MetaImage hold the spacing as text, in all its digits."""

    def write(scan: Scan, folder: Path) -> Path:
        import SimpleITK as sitk

        stored = sitk.GetImageFromArray(scan.volume_hu)
        stored.SetSpacing(scan.geometry.spacing_mm[::-1])
        stored.SetOrigin(scan.geometry.origin_mm[::-1])
        direction = np.array(scan.geometry.direction)[::-1, ::-1]
        stored.SetDirection(direction.ravel().tolist())
        path = folder / f"ct{suffix}"
        sitk.WriteImage(stored, str(path), compressed)
        return path

    return write


def dicom(scan: Scan, folder: Path) -> Path:
    return write_dicom(scan, folder / "series")


def oblique(scan: Scan) -> Scan:
    """Turned by 5 degrees about the head axis: the spacing becomes the norm of rounded columns."""
    cos, sin = np.cos(np.radians(5)), np.sin(np.radians(5))
    turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    direction = turn @ np.array(scan.geometry.direction)
    rows = tuple(tuple(row) for row in direction.tolist())
    return replace(scan, geometry=replace(scan.geometry, direction=rows))


def same(scan: Scan) -> Scan:
    return scan


# name: (axes, change of the scan, writer)
VARIANTS: dict[str, tuple[Order, Callable[[Scan], Scan], Writer]] = {
    "sagittal": (((2, 1, 0), (False, True, False)), same, nifti()),
    "coronal": (((1, 0, 2), (True, False, True)), same, nifti()),
    "feet first": (((0, 1, 2), (True, False, False)), same, nifti()),
    "all axes turned": (((2, 0, 1), (True, True, True)), same, nifti()),
    "oblique": (AS_IT_IS, oblique, nifti()),
    "oblique sagittal": (((2, 1, 0), (True, False, True)), oblique, nifti(edit=without_form(254))),
    "a hair smaller": (AS_IT_IS, lambda scan: spaced(scan, lambda mm: mm * (1 - 1e-8)),
                       image(".nrrd")),
    "a hair larger": (AS_IT_IS, lambda scan: spaced(scan, lambda mm: mm * (1 + 1e-8)),
                      image(".mha")),
    "float32 spacing": (AS_IT_IS, lambda scan: spaced(scan, lambda mm: float(np.float32(mm))),
                        image(".nrrd")),
    "six decimals": (AS_IT_IS, lambda scan: spaced(scan, lambda mm: round(mm, 6)), image(".mha")),
    "microns": (AS_IT_IS, same, nifti(edit=in_unit(3, 1000))),
    "metres": (AS_IT_IS, same, nifti(edit=in_unit(1, 0.001))),
    "sform alone": (AS_IT_IS, same, nifti(edit=without_form(252))),
    "qform alone": (AS_IT_IS, same, nifti(edit=without_form(254))),
    "not compressed": (AS_IT_IS, same, nifti(suffix=".nii")),
    "NRRD": (AS_IT_IS, same, image(".nrrd")),
    "NRRD, compressed, coronal": (((1, 2, 0), (False, True, False)), same, image(".nrrd", True)),
    "MetaImage": (AS_IT_IS, same, image(".mha")),
    "MetaImage, compressed": (AS_IT_IS, same, image(".mha", compressed=True)),
    "DICOM": (AS_IT_IS, same, dicom),
    "float32 voxels": (AS_IT_IS, same, nifti(lambda hu: hu.astype(np.float32))),
    "int32 voxels": (AS_IT_IS, same, nifti(lambda hu: hu.astype(np.int32))),
    "unsigned voxels": (AS_IT_IS, same, nifti(lambda hu: (hu + 1024).astype(np.uint16), 1, -1024)),
    "tenths": (AS_IT_IS, same, nifti(lambda hu: (hu + 1024) * np.int32(10), 0.1, -1024)),
    "half steps": (AS_IT_IS, same, nifti(lambda hu: (hu * 2).astype(np.int16), 0.5)),
}  # fmt: skip


@pytest.fixture(scope="module")
def ct() -> Scan:
    """Its spacing is a decimal, and a field of view that is divided by 512 twice over."""
    return thorax_phantom((32, 88, 96), (4.8, 3.30078125, 3.1)).scan


@pytest.fixture(scope="module")
def config(shipped_model) -> Config:
    """One member, coarse grids: the same way of the data in less time."""
    settings = shipped_model.config
    changes = {
        "preparation": {"spacing_mm": (3.0, 2.4, 2.4)},
        "inference": {"max_members": 1},
        "lungs": {"pixel_mm": 2.5, "slice_mm": 4.0},
    }
    return settings.model_copy(
        update={
            section: getattr(settings, section).model_copy(update=values)
            for section, values in changes.items()
        }
    )


def arrays_of(found: Segmentation) -> dict[str, np.ndarray]:
    names = ("lesion_mask", "lung_labels", "prob_anomaly", "n_votes_normal")
    return {name: getattr(found, name) for name in names}


@pytest.fixture(scope="module")
def expected(ct, config, shipped_model) -> dict[str, np.ndarray]:
    arrays = arrays_of(segment(ct, shipped_model, config))
    assert arrays["lesion_mask"].sum() > 50
    return arrays


def assert_same(found: Segmentation, expected: dict[str, np.ndarray], ct: Scan, axes: Order):
    for name, array in arrays_of(found).items():
        stored = reorient(replace(ct, volume_hu=expected[name]), *axes).volume_hu
        np.testing.assert_array_equal(array, stored, err_msg=name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_same_voxels_from_any_storage(variant, ct, config, expected, shipped_model, tmp_path):
    axes, change, write = VARIANTS[variant]
    path = write(change(reorient(ct, *axes)), tmp_path)
    assert_same(segment(read_ct(path), shipped_model, config), expected, ct, axes)


def test_same_voxels_from_another_type_in_memory(ct, config, expected, shipped_model):
    scan = replace(ct, volume_hu=ct.volume_hu.astype(np.float32))
    assert_same(segment(scan, shipped_model, config), expected, ct, AS_IT_IS)


@pytest.mark.parametrize("spacing_mm", [(5.0, 3.2, 3.2), (1.25 * 4, 3.515625, 3.4375), (6, 3.3, 3)])
def test_no_spacing_hangs_on_its_eighth_digit(spacing_mm, config, shipped_model):
    scan = thorax_phantom((28, 80, 88), spacing_mm).scan
    expected = arrays_of(segment(scan, shipped_model, config))
    for factor in (1 - 1e-8, 1 + 1e-8):
        near = replace(scan, geometry=Geometry(tuple(mm * factor for mm in spacing_mm)))
        assert_same(segment(near, shipped_model, config), expected, scan, AS_IT_IS)
