"""Limits on the size of an input, and the check of a volume's size."""

from __future__ import annotations

import math

from normnet.errors import GeometryError, ResourceError

MAX_SLICES = 5_000  # also the longest axis of any volume
MAX_VOXELS = 2**29  # 1 GiB as int16; 2048 slices of 512 x 512
MAX_FILES = 20_000  # in one folder
MAX_TREE_FILES = 1_000_000  # in a folder with all its sub-folders
MAX_HEADER_BYTES = 2**20  # of a text header
MAX_INFLATED_DICOM_BYTES = 2**28  # of one deflated DICOM file


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


def check_thickness(shape: tuple[int, ...], where: str) -> None:
    """Refuse a volume of a single slice, along any axis.

    Raises:
        GeometryError: NN-GEO-012.
    """
    if min(shape) < 2:
        raise GeometryError("NN-GEO-012", "a single slice", where, "give the whole volume")
