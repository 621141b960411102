"""Whether an image holds labels (a mask) or HU, from its header and a few of its voxels."""

from __future__ import annotations

import numpy as np

from normnet.io.formats import Header

MAX_FEW = 20  # a CT never has so few different values
MIN_SAME = 0.9  # share of neighbours with equal values; a CT is noisy
_MAX_VOXELS = 2**25  # to read, where no value was negative so far
_MAX_VOXELS_UNSIGNED = 2**20  # to read, where no value can be negative


def holds_labels(header: Header) -> bool:
    """Whether an image is a label map: no negative value, whole numbers, and large equal areas.

    Reading ends at the first value that no label map has; a CT has one in its first slices.

    Raises:
        InputError: If the voxels cannot be read.
        OSError: Likewise.
    """
    can_be_negative = header.dtype.kind not in "ub" or header.intercept < 0
    n_left = _MAX_VOXELS if can_be_negative else _MAX_VOXELS_UNSIGNED
    values: set[float] = set()
    n_pairs = n_same = 0
    for part in header.voxels():
        ends = [float(end) * header.slope + header.intercept for end in (part.min(), part.max())]
        if min(ends) < 0 or not (header.dtype.kind in "iub" or np.array_equal(part, part.round())):
            return False
        if len(values) <= MAX_FEW:
            values.update(np.unique(part).tolist())
        n_pairs += len(part) - 1
        n_same += int(np.count_nonzero(part[1:] == part[:-1]))
        n_left -= len(part)
        if n_left <= 0:
            break
    return n_pairs > 0 and (len(values) <= MAX_FEW or n_same >= MIN_SAME * n_pairs)
