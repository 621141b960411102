"""Linear resampling between axis-parallel grids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from normnet.scan import Triple


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
        nearest: Nearest neighbour instead of linear interpolation.
        outside: Value half a voxel and more beyond the array.
    """
    import SimpleITK as sitk

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
            grid.start[::-1],
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
    return resample(mask.astype(np.uint8) * np.uint8(200), grid) >= 100
