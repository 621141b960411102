"""Turn a scan so that its axes run to head, back and the patient's left, and turn results back."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from normnet.errors import GeometryError
from normnet.scan import Geometry, Triple

# Scanners divide a field of view by a power of two, or the spacing is a number of few decimals.
PARTS_PER_MM = 512
DECIMALS_PER_MM = 100_000
# Farther than float32 or six decimals are from the part of a millimetre that they stand for.
NEAR_MM = 5.6e-7
# A spacing exactly between two numbers would go either way, so "between" is not at the half, where
# the numbers of six decimals lie.
OFF_HALF = 0.015


def snap_spacing(spacing_mm: float) -> float:
    """The spacing that was meant, without the rounding errors of its storage.

    One CT is stored with 0.7, with 0.699999988 (float32) or with 0.70000001 mm. Places of voxels
    and thresholds at one half depend on the last digit, so masks would, too.

    Args:
        spacing_mm: As read.

    Returns:
        The next multiple of 1/512 mm if it is very near, else five decimals.
    """
    snapped_mm = round(spacing_mm * PARTS_PER_MM) / PARTS_PER_MM
    if abs(snapped_mm - spacing_mm) > NEAR_MM:
        snapped_mm = round(spacing_mm * DECIMALS_PER_MM - OFF_HALF) / DECIMALS_PER_MM
    return float(np.float32(snapped_mm))


@dataclass(frozen=True)
class Orientation:
    """A permutation of axes and flips; oblique axes go to the nearest anatomical one.

    Attributes:
        axes: Array axis of the file that becomes z, y, x.
        flips: Whether z, y, x are reversed after the permutation.
    """

    axes: tuple[int, ...]
    flips: tuple[bool, ...]

    @classmethod
    def of(cls, geometry: Geometry) -> Orientation:
        """How an array of this geometry becomes (z to head, y to back, x to left).

        Raises:
            GeometryError: If two axes point along the same anatomical direction.
        """
        direction = np.asarray(geometry.direction)
        axes = tuple(int(a) for a in np.abs(direction).argmax(axis=1))
        if sorted(axes) != [0, 1, 2]:
            raise GeometryError(
                "NN-GEO-020",
                "axes lie between two anatomical directions",
                "",
                "resample to an axial grid",
            )
        return cls(axes, tuple(bool(direction[world, axis] < 0) for world, axis in enumerate(axes)))

    def apply(self, array: np.ndarray) -> np.ndarray:
        """File order to (z, y, x); a view."""
        turned = array.transpose(self.axes)
        return turned[tuple(slice(None, None, -1 if flip else None) for flip in self.flips)]

    def undo(self, array: np.ndarray) -> np.ndarray:
        """(z, y, x) back to file order; a view."""
        turned = array[tuple(slice(None, None, -1 if flip else None) for flip in self.flips)]
        return turned.transpose(np.argsort(self.axes))

    def spacing_mm(self, geometry: Geometry) -> Triple:
        """(z, y, x) spacing of the turned array, snapped; ``geometry`` is that of the file."""
        return tuple(snap_spacing(geometry.spacing_mm[axis]) for axis in self.axes)

    def geometry(self, geometry: Geometry, shape: tuple[int, ...]) -> Geometry:
        """Geometry of the turned array.

        Args:
            geometry: Of the array in file order.
            shape: Its shape in file order.
        """
        direction = np.asarray(geometry.direction)[:, self.axes] * np.where(self.flips, -1.0, 1.0)
        corner = [0.0, 0.0, 0.0]
        for axis, flip in zip(self.axes, self.flips, strict=True):
            corner[axis] = shape[axis] - 1.0 if flip else 0.0
        return replace(
            geometry.moved_to(tuple(corner)),
            spacing_mm=self.spacing_mm(geometry),
            direction=tuple(tuple(float(v) for v in row) for row in direction),
        )
