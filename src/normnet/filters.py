"""Filters of (z, y, x) arrays on a CPU or a GPU: separable means, growth and erosion.

They give what those of ``scipy.ndimage`` give, in float32, and use all cores of a CPU. A filter
adds shifted planes, a few slices at a time, so that these stay in the cache of a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

PLANES = 4  # filtered at once
Kernel = tuple[int, tuple[float, ...]]  # offset of the first weight, and the weights


def bounding_box(mask: np.ndarray, margin: int | Sequence[int] = 0) -> tuple[slice, slice, slice]:
    """Smallest box around the voxels that are not 0, widened by a margin and clipped by the array.

    Args:
        mask: (z, y, x), not empty.
        margin: In voxels, along each axis or along all.
    """
    margins = (margin,) * 3 if isinstance(margin, int) else margin
    planes = np.flatnonzero(mask.any(axis=(1, 2)))
    # Whole planes are joined first, which is fast.
    flat = np.logical_or.reduce(mask[planes[0] : planes[-1] + 1], axis=0)
    z, y, x = (
        slice(max(0, int(hits[0]) - more), min(n, int(hits[-1]) + 1 + more))
        for hits, n, more in zip(
            (planes, np.flatnonzero(flat.any(axis=1)), np.flatnonzero(flat.any(axis=0))),
            mask.shape,
            margins,
            strict=True,
        )
    )
    return z, y, x


def count_values(labels: np.ndarray) -> np.ndarray:
    """(256,) how often each value occurs, counted plane by plane.

    Args:
        labels: (z, y, x) uint8.
    """
    counts = np.zeros(256, np.int64)
    for plane in labels:  # numpy counts in a copy of eight bytes per value
        counts += np.bincount(plane.reshape(-1), minlength=256)
    return counts


def box_mean(image: np.ndarray, sizes: Sequence[int], device: str = "cpu") -> np.ndarray:
    """Mean over a box; outside the image lie zeros.

    Args:
        image: (z, y, x) float32.
        sizes: Edges of the box in voxels. An even one reaches one voxel further down than up.
        device: Torch device.

    Returns:
        Same shape, float32.
    """
    kernels = [(-(size // 2), (1 / size,) * size) for size in sizes]
    return _filter(image, kernels, False, device)


def gaussian(
    image: np.ndarray, sigma_vox: float, truncate: float, device: str = "cpu"
) -> np.ndarray:
    """Gaussian filter; beyond its border the image is mirrored.

    Args:
        image: (z, y, x) float32.
        sigma_vox: Standard deviation.
        truncate: Number of standard deviations at which the kernel is cut.
        device: Torch device.

    Returns:
        Same shape, float32.
    """
    radius = int(truncate * sigma_vox + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma_vox) ** 2)
    kernel = (-radius, tuple(float(w) for w in weights / weights.sum()))
    return _filter(image, [kernel] * 3, True, device)


def block_means(image: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Means over blocks; what is left over at the end of an axis is cut off.

    Args:
        image: (z, y, x), any numeric type.
        sizes: Edges of a block in voxels; an axis shorter than that is one block.

    Returns:
        (z / size, y / size, x / size) float32.
    """
    sizes = [min(n, size) for n, size in zip(image.shape, sizes, strict=True)]
    sums = image[tuple(slice(n // size * size) for n, size in zip(image.shape, sizes, strict=True))]
    for axis, size in enumerate(sizes):  # whole slices and rows are added, which is fast
        first, *others = (
            sums[(slice(None),) * axis + (slice(k, None, size),)] for k in range(size)
        )
        sums = first.astype(np.float32)
        for other in others:
            sums += other
    return sums / np.float32(math.prod(sizes))


def dilate(
    mask: np.ndarray, steps: int, within: np.ndarray | None = None, device: str = "cpu"
) -> np.ndarray:
    """Grow a mask to the six face neighbours.

    Args:
        mask: (z, y, x) bool.
        steps: Number of steps; 0 returns the mask unchanged.
        within: Same shape, bool; only voxels inside it are added. None: no limit.
        device: Torch device.
    """
    import torch

    if steps <= 0 or not mask.any():
        return mask
    box = bounding_box(mask, steps)
    with torch.inference_mode():
        grown = _tensor(mask[box], device)
        limit = None if within is None else _tensor(within[box], device)
        for _ in range(steps):
            more = _step(grown)
            grown = more if limit is None else torch.where(limit, more, grown)
        result = np.zeros_like(mask)
        result[box] = grown.cpu().numpy()
    return result


def erode(
    mask: np.ndarray, steps: int = 1, in_slice: bool = False, device: str = "cpu"
) -> np.ndarray:
    """Take away the outermost voxels of a mask; outside the array lies nothing of it.

    Args:
        mask: (z, y, x) bool.
        steps: Number of layers of face neighbours; 0 returns the mask unchanged.
        in_slice: Whether only the four neighbours in the slice count.
        device: Torch device.
    """
    import torch

    axes = (1, 2) if in_slice else (0, 1, 2)
    with torch.inference_mode():
        outside = ~_tensor(mask, device)
        for _ in range(max(steps, 0)):
            outside = _step(outside, axes)
            for axis in axes:
                outside.select(axis, 0).fill_(True)
                outside.select(axis, -1).fill_(True)
        inside: np.ndarray = (~outside).cpu().numpy()
    return inside


def _tensor(array: np.ndarray, device: str) -> Tensor:
    """An array, also a mirrored view, which torch itself refuses."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def _step(mask: Tensor, axes: Sequence[int] = (0, 1, 2)) -> Tensor:
    """The mask and its face neighbours along the axes."""
    grown = mask.clone()
    for axis in axes:
        n = mask.shape[axis] - 1
        for to, of in ((1, 0), (0, 1)):
            grown.narrow(axis, to, n).logical_or_(mask.narrow(axis, of, n))
    return grown


def _filter(
    image: np.ndarray, kernels: Sequence[Kernel], mirrored: bool, device: str
) -> np.ndarray:
    import torch

    (z_first, z_weights), y_kernel, x_kernel = kernels
    with torch.inference_mode():
        given = _tensor(image, device)
        n, below = len(given), -z_first
        rows = given.new_zeros((n + len(z_weights) - 1, *given.shape[1:]))
        for first in range(0, n, PLANES):
            part = given[first : first + PLANES]
            for axis, kernel in ((2, x_kernel), (1, y_kernel)):
                part = _weigh(_bordered(part, axis, kernel, mirrored), axis, kernel[1])
            rows[below + first : below + first + len(part)] = part
        if mirrored:
            at = _mirror(n, below, len(rows) - n - below)
            for z in (*range(below), *range(below + n, len(rows))):
                rows[z] = rows[below + int(at[z])]
        result = torch.empty_like(given)
        for first in range(0, n, PLANES):
            part = rows[first : min(first + PLANES, n) + len(z_weights) - 1]
            result[first : first + PLANES] = _weigh(part, 0, z_weights)
        filtered: np.ndarray = result.cpu().numpy()
    return filtered


def _mirror(n: int, before: int, after: int) -> np.ndarray:
    """The index of each of ``before + n + after`` places in n voxels, mirrored at both ends."""
    at = np.arange(-before, n + after) % (2 * n)
    return np.where(at < n, at, 2 * n - 1 - at)


def _bordered(image: Tensor, axis: int, kernel: Kernel, mirrored: bool) -> Tensor:
    """The image with as many voxels more along an axis as the kernel reaches."""
    import torch

    n, before = image.shape[axis], -kernel[0]
    after = len(kernel[1]) - 1 - before
    shape = list(image.shape)
    shape[axis] += before + after
    wide = image.new_zeros(shape)
    wide.narrow(axis, before, n).copy_(image)
    if mirrored:
        at = torch.from_numpy(_mirror(n, before, after)).to(image.device)
        for first, size in ((0, before), (before + n, after)):
            part = image.index_select(axis, at[first : first + size])
            wide.narrow(axis, first, size).copy_(part)
    return wide


def _weigh(image: Tensor, axis: int, weights: Sequence[float]) -> Tensor:
    """The sum of the weighted shifts along an axis; the weights are symmetric."""
    import torch

    last = len(weights) - 1
    n = image.shape[axis] - last
    shifts = [image.narrow(axis, k, n) for k in range(last + 1)]
    total = torch.zeros_like(shifts[0]) if last % 2 else shifts[last // 2] * weights[last // 2]
    pair = torch.empty_like(total)
    for k in range((last + 1) // 2):
        total.add_(torch.add(shifts[k], shifts[last - k], out=pair), alpha=weights[k])
    return total
