"""Linear resampling between axis-parallel grids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from normnet.scan import Triple

PARTS_PER_LEVEL = 255  # the largest factor by which numbers of 8 bits fit into 16
NEAREST_VOX = 1e-6  # larger than rounding errors: a place in the middle goes to the later voxel


@dataclass(frozen=True)
class Grid:
    """An axis-parallel grid in the voxel coordinates of another one.

    Attributes:
        start: Where voxel [0, 0, 0] lies, in voxels (z, y, x) of the parent array.
        step: Distance between voxels, in voxels of the parent array.
        shape: (z, y, x).
    """

    start: Triple
    step: Triple
    shape: tuple[int, ...]

    def inverse(self, shape: tuple[int, ...]) -> Grid:
        """The parent's grid of the given shape, seen from this one."""
        return Grid(
            tuple(-s / d for s, d in zip(self.start, self.step, strict=True)),
            tuple(1 / d for d in self.step),
            shape,
        )


def resample(
    array: np.ndarray, grid: Grid, nearest: bool = False, outside: float = 0.0
) -> np.ndarray:
    """Values of ``array`` on ``grid``.

    Args:
        array: (z, y, x), any numeric type; the result has the same type.
        grid: In voxels of ``array``.
        nearest: Nearest neighbour instead of linear interpolation; the later one of two that are
            equally near.
        outside: Value half a voxel and more beyond the array.
    """
    import SimpleITK as sitk

    start = tuple(place + NEAREST_VOX for place in grid.start) if nearest else grid.start
    if grid.start == (0, 0, 0) and grid.step == (1, 1, 1) and grid.shape == array.shape:
        return array
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    interpolator = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    result: np.ndarray = sitk.GetArrayFromImage(
        sitk.Resample(
            image,
            grid.shape[::-1],
            sitk.Transform(),
            interpolator,
            start[::-1],
            grid.step[::-1],
            (),
            outside,
        )
    )
    return result


def resample_mask(mask: np.ndarray, grid: Grid) -> np.ndarray:
    """A bool mask on ``grid``: where its linear interpolation reaches one half.

    Args:
        mask: (z, y, x) bool.
        grid: In voxels of ``mask``.
    """
    return resample_reaching(mask.astype(np.uint8) * np.uint8(200), grid, 100)


def resample_reaching(levels: np.ndarray, grid: Grid, least: int) -> np.ndarray:
    """Where the linear interpolation of whole numbers reaches a number; (z, y, x) bool.

    Args:
        levels: (z, y, x) uint8.
        grid: In voxels of ``levels``.
        least: The number. It counts as reached if only a rounding error is missing: between two
            voxels, places exactly in the middle are common.
    """
    fine = resample(levels.astype(np.uint16) * np.uint16(PARTS_PER_LEVEL), grid)
    return fine >= least * PARTS_PER_LEVEL - 1
