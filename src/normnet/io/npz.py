"""Arrays of ``.npz`` files that come from anywhere: sizes are checked before anything is read."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path

import numpy as np

from normnet.errors import ResourceError

MAX_NPZ_BYTES = 2**31  # of all arrays of one file together
MAX_NPZ_RATIO = 100  # of those bytes to the bytes of the file; slices and masks reach about 10


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz`` file by their names; pickled objects are refused.

    Returns:
        Arrays that cannot be written to.

    Raises:
        ValueError: If the file is missing, damaged or something else than an ``.npz`` file.
        ResourceError: NN-RES-003 if its arrays are larger than the limits.
    """
    if not path.is_file():
        raise ValueError("not a regular file")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_sizes(members, path)
            return {
                member.filename.removesuffix(".npy"): _array_of(archive.read(member))
                for member in members
            }
    except (ResourceError, MemoryError):
        raise
    except (
        Exception
    ) as error:  # zipfile, its decoders and numpy raise many kinds for a damaged file
        raise ValueError("not a whole .npz file") from error


def _check_sizes(members: list[zipfile.ZipInfo], path: Path) -> None:
    """Compare the sizes in the directory of the archive with the limits; nothing is inflated.

    ``zipfile`` never inflates a member beyond its size in the directory.
    """
    if any(
        m.compress_type == zipfile.ZIP_STORED and m.file_size != m.compress_size for m in members
    ):
        raise ValueError("the directory does not fit the members")
    n_bytes = sum(member.file_size for member in members)
    if n_bytes > min(MAX_NPZ_BYTES, MAX_NPZ_RATIO * path.stat().st_size):
        raise ResourceError(
            "NN-RES-003",
            f"an archive of arrays that inflates to {n_bytes / 1e9:.1f} GB",
            path.name,
            "split it into smaller files",
        )


def _array_of(data: bytes) -> np.ndarray:
    """The array of an ``.npy`` file in memory, with exactly the bytes that its header promises."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, column_first, dtype = read_header(file)
    n_bytes = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or min(shape, default=1) < 0 or n_bytes != len(data) - file.tell():
        raise ValueError("objects, or not the bytes that the header promises")
    flat = np.frombuffer(data, dtype, math.prod(shape), file.tell())
    return flat.reshape(shape, order="F" if column_first else "C")
