"""CT and masks of a case: always in HU, and only with the labels that count."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from normnet.datasets.manifest import Case
from normnet.errors import GeometryError
from normnet.io.acceptance import accept
from normnet.io.joining import join_slices
from normnet.io.masks import read_labels
from normnet.io.read import read_ct, read_stored
from normnet.io.values import labels_of, rescale
from normnet.lungs.given import sort_lungs
from normnet.scan import Scan

_ROUNDING = 0.01  # of a window stored as 0..1


def read_scan(case: Case) -> Scan:
    """The CT in HU.

    If the case has a window, values of 0 to 1 are converted to HU with it. A copy of such a CT that
    is in HU already is not changed.

    Raises:
        NormNetError: As ``read_ct``.
    """
    if case.window_hu is None:
        return read_ct(case.image)
    where = case.image.name
    stored = read_stored(case.image)
    values = rescale(stored, where)
    if values.min() >= -_ROUNDING and values.max() <= 1 + _ROUNDING:
        low, high = case.window_hu
        values = (low + (high - low) * values.astype(np.float32)).clip(low, high)
    scan = accept(Scan(values, stored.geometry, case.case_id, stored.warnings), where)
    return join_slices(scan, where)


def read_lungs(case: Case, scan: Scan) -> np.ndarray | None:
    """Lungs, (z, y, x) bool on the grid of the scan, or None.

    If the case names no labels and the mask has several, those that are not lung are left out.

    Raises:
        NormNetError: As ``read_labels`` and ``sort_lungs``.
    """
    if case.lung_mask is None:
        return None
    labels = _labels(case.lung_mask, case, scan)
    if case.lung_labels:
        return np.isin(labels, sorted(case.lung_labels))
    several = np.count_nonzero(np.bincount(labels.ravel())[1:]) > 1
    return sort_lungs(labels, scan)[0] > 0 if several else labels > 0


def read_lesions(case: Case, scan: Scan) -> np.ndarray | None:
    """Lesions, (z, y, x) bool on the grid of the scan, or None; raises as ``read_labels``."""
    if case.lesion_mask is None:
        return None
    labels = _labels(case.lesion_mask, case, scan)
    return np.isin(labels, sorted(case.lesion_labels)) if case.lesion_labels else labels > 0


def _labels(path: Path, case: Case, scan: Scan) -> np.ndarray:
    return _on_array(path, scan) if case.mask_follows_array else read_labels(path, scan)


def _on_array(path: Path, scan: Scan) -> np.ndarray:
    """(z, y, x) labels as they are stored, without a look at their place in the header."""
    labels = labels_of(read_stored(path), path.name)
    if labels.shape != scan.file_shape:
        shapes = [" x ".join(map(str, shape)) for shape in (labels.shape, scan.file_shape)]
        found = f"mask of {shapes[0]} voxels on a scan of {shapes[1]}"
        raise GeometryError("NN-GEO-016", found, path.name, "download both again")
    return labels if scan.joined is None else scan.joined.thinned(labels)
