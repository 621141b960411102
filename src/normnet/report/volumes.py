"""The volumes of the viewer in a report: cut to the lungs, made coarser, coded in one byte."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from normnet.io.formats.nifti import write_image
from normnet.preparation.orient import Orientation
from normnet.results.preview import lungs_box
from normnet.scan import Geometry, Scan, Triple

VOXEL_MM = 1.8  # about, along each axis that is finer in the scan
STEP_HU, LOWEST_HU = 8.0, -1024.0  # codes 0 to 255 reach 1016 HU


@dataclass(frozen=True)
class Volumes:
    """What the viewer shows; each entry is a gzip-compressed NIfTI file.

    Attributes:
        files: By name: ``ct`` in HU, ``lesions`` 0 or 1, ``anomaly`` 0 to 1, ``lungs`` 0 to 2.
        spacing_mm: (z, y, x) of all of them.
        shape: (z, y, x) of all of them.
        start_mm: World position (z, y, x; LPS) of a lesion in the axial slice with the most lesion;
            None without a lesion.
    """

    files: dict[str, bytes]
    spacing_mm: Triple
    shape: tuple[int, ...]
    start_mm: Triple | None


@dataclass(frozen=True)
class CoarseGrid:
    """The grid of the viewer: the box of the lungs in coarser voxels.

    Attributes:
        orientation: File order of the scan to anatomical order.
        box: Of the lungs in the turned scan, with a margin.
        weights: One matrix of ``box_weights`` per axis.
        geometry: Where the coarser voxels lie; their outer edges are those of the box.
    """

    orientation: Orientation
    box: tuple[slice, slice, slice]
    weights: tuple[Any, ...]
    geometry: Geometry

    @classmethod
    def of(cls, scan: Scan, lung_labels: np.ndarray) -> CoarseGrid:
        """The grid of a scan with its lungs."""
        orientation = Orientation.of(scan.geometry)
        geometry = orientation.geometry(scan.geometry, scan.shape)
        box = lungs_box(orientation.apply(lung_labels), geometry.spacing_mm)
        n_fine = [part.stop - part.start for part in box]
        weights = tuple(map(box_weights, n_fine, geometry.spacing_mm))
        ratios = [n / matrix.shape[0] for n, matrix in zip(n_fine, weights, strict=True)]
        first = tuple(part.start + (r - 1) / 2 for part, r in zip(box, ratios, strict=True))
        spacing = tuple(s * r for s, r in zip(geometry.spacing_mm, ratios, strict=True))
        coarse = replace(geometry.moved_to(first), spacing_mm=spacing)
        return cls(orientation, box, weights, coarse)

    @property
    def shape(self) -> tuple[int, ...]:
        """(z, y, x)."""
        return tuple(matrix.shape[0] for matrix in self.weights)

    def shrink(self, array: np.ndarray) -> np.ndarray:
        """An array of the scan's shape, averaged; float32."""
        return average(self.orientation.apply(array)[self.box], self.weights)

    def shrink_mask(self, mask: np.ndarray) -> np.ndarray:
        """A bool mask of the scan's shape, cut at one half after the averaging."""
        shrunk: np.ndarray = self.shrink(mask) > 0.5
        return shrunk


def make_volumes(
    scan: Scan, lung_labels: np.ndarray, lesion_mask: np.ndarray, anomaly_codes: np.ndarray
) -> Volumes:
    """Cut a scan and its result to the box of the lungs and average them over coarser voxels.

    Masks are cut at one half after the averaging, so a lesion smaller than a voxel may vanish.

    Args:
        scan: As read, any orientation.
        lung_labels: The scan's shape, 1 right, 2 left.
        lesion_mask: Same shape, bool.
        anomaly_codes: Same shape, 255 times the probability of anomaly.
    """
    grid = CoarseGrid.of(scan, lung_labels)
    shrink, coarse, shape = grid.shrink, grid.geometry, grid.shape
    lungs = shrink(lung_labels == 1) > 0.5
    codes = {
        "ct": np.clip(np.rint((shrink(scan.volume_hu) - LOWEST_HU) / STEP_HU), 0, 255),
        "lesions": grid.shrink_mask(lesion_mask),
        "anomaly": np.rint(shrink(anomaly_codes)),
        "lungs": np.where(shrink(lung_labels == 2) > 0.5, 2, lungs),
    }
    scales = {"ct": (STEP_HU, LOWEST_HU), "anomaly": (1 / 255, 0.0)}
    with tempfile.TemporaryDirectory(prefix="normnet-") as name, ThreadPoolExecutor() as pool:
        paths = {key: Path(name, f"{key}.nii.gz") for key in codes}
        for done in [
            pool.submit(
                write_image, paths[key], array.astype(np.uint8), coarse, *scales.get(key, ())
            )
            for key, array in codes.items()
        ]:
            done.result()
        files = {key: path.read_bytes() for key, path in paths.items()}
    return Volumes(files, coarse.spacing_mm, shape, _find_start(codes["lesions"], coarse))


def _find_start(lesions: np.ndarray, geometry: Geometry) -> Triple | None:
    """The lesion voxel nearest to the centre of lesion in the slice with the most."""
    if not lesions.any():
        return None
    z = int(lesions.sum(axis=(1, 2)).argmax())
    places = np.argwhere(lesions[z])
    y, x = places[((places - places.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    return tuple(float(mm) for mm in (geometry.affine @ [z, y, x, 1])[:3])


def box_weights(n: int, spacing_mm: float) -> Any:
    """How much each voxel of an axis counts in each voxel of the coarser axis.

    Args:
        n: Voxels of the axis.
        spacing_mm: Between their centres.

    Returns:
        (m, n) sparse float32, each row with the sum 1. The m voxels cover the same length; m is n
        where the axis is not finer than ``VOXEL_MM``.
    """
    from scipy.sparse import csr_array

    m = max(1, min(n, round(n * spacing_mm / VOXEL_MM)))
    edges = np.arange(m + 1) * (n / m)
    overlap = np.minimum(edges[1:, None], np.arange(1, n + 1)) - np.maximum(
        edges[:-1, None], np.arange(n)
    )
    return csr_array((np.clip(overlap, 0, None) * (m / n)).astype(np.float32))


def average(array: np.ndarray, weights: Sequence[Any]) -> np.ndarray:
    """Average a (z, y, x) array over coarser voxels; one matrix of ``box_weights`` per axis."""
    along_z, along_y, along_x = weights
    rows = np.empty((array.shape[0], along_y.shape[0], along_x.shape[0]), np.float32)
    for plane, row in zip(array, rows, strict=True):
        row[:] = along_y @ (along_x @ plane.T.astype(np.float32)).T
    averaged: np.ndarray = along_z @ rows.reshape(len(rows), -1)
    return averaged.reshape(-1, *rows.shape[1:])
