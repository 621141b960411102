"""How much one input may ask for, and where it is refused."""

from __future__ import annotations

import math

from normnet.errors import ResourceError

MAX_SLICES = 5_000  # also the longest axis of any volume
MAX_VOXELS = 2**29  # 1 GiB as int16; 2048 slices of 512 x 512
MAX_FILES = 20_000  # looked at in one folder
MAX_HEADER_BYTES = 2**20  # text headers
MAX_INFLATED_DICOM_BYTES = 2**28  # one deflated DICOM file


def check_size(shape: tuple[int, ...], where: str) -> None:
    """Refuse a volume that is too large before anything is allocated.

    Raises:
        ResourceError: NN-RES-001.
    """
    if max(shape) > MAX_SLICES or math.prod(shape) > MAX_VOXELS:
        size = " x ".join(str(n) for n in shape)
        raise ResourceError(
            "NN-RES-001",
            f"a volume of {size} voxels; at most {MAX_SLICES} along an axis and {MAX_VOXELS} in all",
            where,
            "crop or resample it",
        )
