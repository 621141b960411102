"""Linear resampling between axis-parallel grids."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from normnet.filters import bounding_box
from normnet.scan import Triple

if TYPE_CHECKING:
    from torch import Tensor

PLANES = 8  # computed at once


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

    def part(self, box: tuple[slice, ...]) -> Grid:
        """A box of this grid, in voxels of the same parent."""
        at = [s + d * part.start for s, d, part in zip(self.start, self.step, box, strict=True)]
        shape = tuple(part.stop - part.start for part in box)
        return Grid((at[0], at[1], at[2]), self.step, shape)

    def inverse(self, shape: tuple[int, ...]) -> Grid:
        """The parent's grid of the given shape, seen from this one."""
        return Grid(
            tuple(-s / d for s, d in zip(self.start, self.step, strict=True)),
            tuple(1 / d for d in self.step),
            shape,
        )


def resample(
    array: np.ndarray,
    grid: Grid,
    nearest: bool = False,
    outside: float = 0.0,
    device: str = "cpu",
    limits: tuple[float, float] | None = None,
) -> np.ndarray:
    """Values of ``array`` on ``grid``, computed in float32, ``PLANES`` planes at a time.

    Args:
        array: (z, y, x), any numeric type of up to 32 bits; the result has the same type (float32
            for float16), whole numbers without their fraction.
        grid: In voxels of ``array``.
        nearest: Nearest neighbour instead of linear interpolation.
        outside: Value half a voxel and more beyond the array.
        device: Torch device.
        limits: The values are brought between these before they are interpolated, and the result is
            float32 whatever the type of ``array``; not for ``nearest``.
    """
    if (
        limits is None
        and grid.start == (0, 0, 0)
        and grid.step == (1, 1, 1)
        and grid.shape == array.shape
    ):
        return array
    import torch

    axes = [
        _Axis.of(n, start, step, m)
        for n, start, step, m in zip(array.shape, grid.start, grid.step, grid.shape, strict=True)
    ]
    result = np.empty(
        grid.shape, np.float32 if limits or array.dtype == np.float16 else array.dtype
    )
    with torch.inference_mode():
        inside = [torch.from_numpy(axis.inside).to(device) for axis in axes]
        in_plane = None
        if not all(axis.inside.all() for axis in axes[1:]):
            in_plane = inside[1][:, None] & inside[2]
        for first in range(0, grid.shape[0], PLANES):
            planes = slice(first, first + PLANES)
            if nearest:
                values = _nearest(array, axes, planes, device)
            else:
                values = _linear(array, axes, planes, device, limits)
            if in_plane is not None:
                values.masked_fill_(~in_plane, outside)
            values[~inside[0][planes]] = outside
            result[planes] = values.cpu().numpy()  # the fraction of whole numbers is cut off
    return result


def resample_mask(mask: np.ndarray, grid: Grid, device: str = "cpu") -> np.ndarray:
    """A bool mask on ``grid``: where its linear interpolation reaches one half.

    Only the part around its true voxels is computed.

    Args:
        mask: (z, y, x) bool.
        grid: In voxels of ``mask``.
        device: Torch device.
    """
    result = np.zeros(grid.shape, bool)
    if not mask.any():
        return result
    box = bounding_box(mask, 1)
    reach = tuple(
        slice(
            max(0, math.floor((part.start - 0.5 - start) / step)),
            max(0, min(n, math.ceil((part.stop - 0.5 - start) / step) + 1)),
        )
        for part, start, step, n in zip(box, grid.start, grid.step, grid.shape, strict=True)
    )
    inner = grid.part(reach)
    if min(inner.shape) > 0:
        z, y, x = (start - part.start for start, part in zip(inner.start, box, strict=True))
        part = mask[box].astype(np.uint8) * np.uint8(200)
        part = resample(part, Grid((z, y, x), grid.step, inner.shape), device=device)
        result[reach] = part >= 100
    return result


class _Axis(NamedTuple):
    """The places of a grid along one axis of an array.

    Attributes:
        n: Voxels of the array.
        at: Places in voxels of the array, no further than its first and last one.
        inside: Whether they lay less than half a voxel beyond it.
    """

    n: int
    at: np.ndarray
    inside: np.ndarray

    @classmethod
    def of(cls, n: int, start: float, step: float, n_places: int) -> _Axis:
        at = start + step * np.arange(n_places)
        return cls(n, at.clip(0, n - 1), (at >= -0.5) & (at < n - 0.5))


def _nearest(array: np.ndarray, axes: list[_Axis], planes: slice, device: str) -> Tensor:
    import torch

    z, y, x = (np.floor(axis.at + 0.5).astype(np.int64).clip(max=axis.n - 1) for axis in axes)
    part = torch.from_numpy(np.array(array[z[planes]], order="C")).to(device)
    for axis, at in ((1, y), (2, x)):
        part = part.index_select(axis, torch.from_numpy(at).to(device))
    return part


def _linear(
    array: np.ndarray,
    axes: list[_Axis],
    planes: slice,
    device: str,
    limits: tuple[float, float] | None,
) -> Tensor:
    import torch

    z = axes[0]._replace(at=axes[0].at[planes])
    first, last = int(z.at.min()), min(int(z.at.max()) + 2, z.n)
    z = z._replace(n=last - first, at=z.at - first)
    part = torch.from_numpy(np.array(array[first:last], order="C")).to(device).float()
    if limits is not None:
        part = part.clamp_(*limits)
    for dim, axis in enumerate((z, *axes[1:])):
        below = np.floor(axis.at).astype(np.int64).clip(max=max(axis.n - 2, 0))
        weight = torch.from_numpy((axis.at - below).astype(np.float32)).to(device)
        index = torch.from_numpy(below).to(device)
        above = part.index_select(dim, (index + 1).clamp(max=axis.n - 1))
        part = part.index_select(dim, index)
        part.lerp_(above, weight.reshape(-1, *(1,) * (2 - dim)))
    return part
