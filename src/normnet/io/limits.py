"""Limits on the size of every input, and the checks that headers are within them."""

from __future__ import annotations

import math

import numpy as np

from normnet.errors import GeometryError, ResourceError
from normnet.scan import Geometry

# Volumes.
MAX_SLICES = 5_000  # also the longest axis of any volume
MAX_VOXELS = 5 * 2**28  # of a file; 2.7 GB as int16; 2275 slices of 768 x 768
MAX_VOXEL_BYTES = 2 * MAX_VOXELS  # as stored; 1280 slices of 512 x 512 as float64
MAX_HELD_VOXELS = 300_000_000  # of a scan that is worked on; 1144 slices of 512 x 512
MAX_JOINED_MM = 2.5  # from one to the next of the slices that are averages of several
MAX_PLANE_MM = 1_000.0  # a scanner's opening is 900 mm wide at most
MAX_HEIGHT_MM = 2_500.0  # along the body
# Compressed voxels. Chest CTs shrink by less than 30, masks by up to 1000.
MAX_RATIO = 100  # by which a large file may swell
MAX_SWOLLEN_BYTES = MAX_VOXELS  # up to here it may swell by more: the largest mask as uint8
# Files and folders.
MAX_FILES = 20_000  # in one folder
MAX_TREE_FILES = 1_000_000  # in a folder with all its sub-folders
MAX_HEADER_BYTES = 2**20  # of a text header
MAX_DICOM_HEADER_BYTES = 2**21  # of all elements before the pixels of a deflated DICOM file
MAX_INFLATED_DICOM_BYTES = 2**28  # of one deflated DICOM file
MAX_DOWNLOAD_BYTES = 2**32  # from a DICOMweb server, in one run
# Models.
MAX_MANIFEST_BYTES = 2**22  # of a model; those of 1,000 training cases have 2**18
MAX_MEMBERS = 100  # networks of a model
MAX_WEIGHTS = 2**27  # of one network, 512 MiB as float32; the paper's has 5 million
MAX_MEMBER_BYTES = 2**29  # of one file of weights


def check_size(shape: tuple[int, ...], where: str) -> None:
    """Refuse a volume that is too large, before memory is allocated for it.

    Raises:
        ResourceError: NN-RES-001.
    """
    if max(shape) > MAX_SLICES or math.prod(shape) > MAX_VOXELS:
        size = " x ".join(str(n) for n in shape)
        allowed = f"at most {MAX_SLICES} along an axis and {MAX_VOXELS} in all"
        raise ResourceError(
            "NN-RES-001", f"a volume of {size} voxels; {allowed}", where, "crop or resample it"
        )


def check_bytes(n_bytes: int, n_stored: int, where: str) -> None:
    """Refuse voxels that take too much memory, before any is read.

    Args:
        n_bytes: Of all voxels, as the header promises.
        n_stored: Of the file, compressed or not.
        where: File name for messages.

    Raises:
        ResourceError: NN-RES-041 too many bytes, NN-RES-003 a file that swells too much.
    """
    if n_bytes > MAX_VOXEL_BYTES:
        found = f"voxels of {n_bytes} bytes; at most {MAX_VOXEL_BYTES}"
        raise ResourceError("NN-RES-041", found, where, "store it as int16, or crop it")
    if n_bytes > max(MAX_SWOLLEN_BYTES, MAX_RATIO * n_stored):
        found = f"a file of {n_stored} bytes that swells to {n_bytes} bytes"
        raise ResourceError("NN-RES-003", found, where, "store it as int16, or export it again")


def check_extent(shape: tuple[int, ...], geometry: Geometry, where: str) -> None:
    """Refuse a volume that is larger than any scanner, so with wrong lengths in its header.

    Args:
        shape: (z, y, x) as stored.
        geometry: Of the volume.
        where: File name for messages.

    Raises:
        GeometryError: NN-GEO-041.
    """
    extent_mm = np.abs(geometry.affine[:3, :3]) @ np.asarray(shape)  # along the patient's axes
    if (extent_mm > (MAX_HEIGHT_MM, MAX_PLANE_MM, MAX_PLANE_MM)).any():
        size = " x ".join(f"{length:.0f}" for length in extent_mm)
        allowed = " x ".join(f"{most:.0f}" for most in (MAX_HEIGHT_MM, MAX_PLANE_MM, MAX_PLANE_MM))
        found = f"a volume of {size} mm (z, y, x); at most {allowed}"
        todo = "correct the spacing in its header (centimetres, or microns?)"
        raise GeometryError("NN-GEO-041", found, where, todo)


def check_thickness(shape: tuple[int, ...], where: str) -> None:
    """Refuse a volume of a single slice, along any axis.

    Raises:
        GeometryError: NN-GEO-012.
    """
    if min(shape) < 2:
        raise GeometryError("NN-GEO-012", "a single slice", where, "give the whole volume")
