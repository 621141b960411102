"""A scan and its lungs on the network's grid (Sec. IV-B2), and results back on the scan's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from normnet.config import PreparationConfig, WindowConfig
from normnet.filters import bounding_box
from normnet.preparation.breath import estimate_fluid, take_fluid
from normnet.preparation.orient import Orientation
from normnet.preparation.resample import Grid, resample, resample_mask
from normnet.preparation.window import scale_hu
from normnet.scan import Scan

LOWEST_HU = -1024


@dataclass(frozen=True)
class Prepared:
    """The thorax as the network sees it.

    Attributes:
        thorax: (z, y, x) float32 in [0, 1], windowed, 0 outside the lungs (H').
        volume_hu: Same shape, float32, at the common depth of breath, at least -1024 and not
            windowed below; it includes the tissue around the lungs.
        lung_mask: Same shape, bool (M').
        spacing_mm: (z, y, x).
        orientation: File order to anatomical order.
        box: The lungs' bounding box in the turned scan.
        grid: The prepared grid in voxels of that box.
        scan_shape: Shape of the scan in file order.
        fluid: Share of tissue in the air that was taken out, see ``breath``.
        device: Torch device that goes from grid to grid.

    Three methods connect three grids. ``cut`` goes from the scan to the lungs' box of the turned
    scan, ``regrid`` goes from the prepared grid to that box, and ``embed`` goes from the box to the
    scan. ``restore`` is ``regrid`` and then ``embed``.
    """

    thorax: np.ndarray
    volume_hu: np.ndarray
    lung_mask: np.ndarray
    spacing_mm: tuple[float, float, float]
    orientation: Orientation
    box: tuple[slice, ...]
    grid: Grid
    scan_shape: tuple[int, int, int]
    fluid: float = 0.0
    device: str = "cpu"

    def cut(self, array: np.ndarray) -> np.ndarray:
        """The part of an array of the scan's shape that lies in the lungs' box, turned; a view."""
        return self.orientation.apply(array)[self.box]

    def embed(self, part: np.ndarray) -> np.ndarray:
        """An array of the scan's shape and axis order: ``part`` in the lungs' box, 0 elsewhere."""
        whole = np.zeros(self.scan_shape, dtype=part.dtype)
        self.cut(whole)[:] = part
        return whole

    def regrid(
        self, array: np.ndarray, nearest: bool = False, planes: slice = slice(None)
    ) -> np.ndarray:
        """An array of the prepared grid on the voxels of the lungs' box.

        Args:
            array: (z, y, x) on the prepared grid, any numeric type.
            nearest: For whole numbers that must not be averaged.
            planes: Of the box; all where not given.
        """
        depth, *sides = (part.stop - part.start for part in self.box)
        first, last, _ = planes.indices(depth)
        grid = self.grid.inverse((depth, *sides)).part(
            (slice(first, last), *map(slice, (0, 0), sides))
        )
        return resample(array, grid, nearest, device=self.device)

    def regrid_mask(self, mask: np.ndarray) -> np.ndarray:
        """A bool mask on the voxels of the box: where its linear interpolation reaches one half."""
        shape = tuple(part.stop - part.start for part in self.box)
        return resample_mask(mask, self.grid.inverse(shape), self.device)

    def restore(self, array: np.ndarray, nearest: bool = False) -> np.ndarray:
        """Bring a result back to the scan's own grid: ``regrid``, then ``embed``.

        Args:
            array: (z, y, x) on the prepared grid, any numeric type.
            nearest: For whole numbers that must not be averaged.

        Returns:
            The scan's shape and axis order; 0 outside the lungs' box.
        """
        return self.embed(self.regrid(array, nearest))

    def restore_mask(self, mask: np.ndarray) -> np.ndarray:
        """Bring a bool mask back to the scan's own grid: ``regrid_mask``, then ``embed``."""
        return self.embed(self.regrid_mask(mask))


def prepare(
    scan: Scan,
    lung_labels: np.ndarray,
    config: PreparationConfig,
    window: WindowConfig,
    device: str = "cpu",
) -> Prepared:
    """Turn, crop, resample, bring to a common depth of breath, window.

    Args:
        scan: As read.
        lung_labels: Shape of the scan, 0 outside the lungs; not empty.
        config: Spacing, margin and depth of breath.
        window: Range of HU that is mapped to [0, 1].
        device: Torch device that goes from grid to grid.
    """
    orientation = Orientation.of(scan.geometry)
    turned_hu, turned_lungs = orientation.apply(scan.volume_hu), orientation.apply(lung_labels) > 0
    spacing = orientation.spacing_mm(scan.geometry)
    box = bounding_box(turned_lungs, config.margin_vox)
    step = tuple(target / own for target, own in zip(config.spacing_mm, spacing, strict=True))
    # The grid is anchored at the scan's first voxel and starts at a whole stride, so what the
    # network sees does not depend on the box.
    padded = config.padded_yx_vox
    align = config.align_vox if padded is None else 1
    first = [
        math.ceil(part.start / d - 1e-6) // align * align for part, d in zip(box, step, strict=True)
    ]
    last = [math.ceil((part.stop - 1) / d - 1e-6) for part, d in zip(box, step, strict=True)]
    start = tuple(n * d - part.start for n, d, part in zip(first, step, box, strict=True))
    size = tuple(b - a + 1 for a, b in zip(first, last, strict=True))
    if padded is not None:
        wanted = (size[0], *(max(n, m) for n, m in zip(size[1:], padded, strict=True)))
        start = tuple(
            s - ((m - n) // 2) * d for s, n, m, d in zip(start, size, wanted, step, strict=True)
        )
        size = wanted
    grid = Grid(start, step, size)
    lung_mask = resample_mask(turned_lungs[box], grid, device)
    limits_hu = (LOWEST_HU, window.high_hu)
    volume_hu = resample(turned_hu[box], grid, outside=LOWEST_HU, device=device, limits=limits_hu)
    fluid = estimate_fluid(volume_hu, lung_mask, config)
    volume_hu = take_fluid(volume_hu, fluid)
    np.maximum(volume_hu, LOWEST_HU, out=volume_hu)
    thorax = scale_hu(volume_hu, window)
    thorax *= lung_mask
    return Prepared(
        thorax,
        volume_hu,
        lung_mask,
        config.spacing_mm,
        orientation,
        box,
        grid,
        scan.shape,
        fluid,
        device,
    )
