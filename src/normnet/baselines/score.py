"""The map of anomaly of a CT, and the lesions above a threshold of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import nn

from normnet.baselines.fitting import BaselineSettings, slice_size
from normnet.baselines.methods import Method, Tuned
from normnet.baselines.slices import from_square, to_square
from normnet.config import WindowConfig
from normnet.preparation.prepare import Prepared
from normnet.preparation.window import scale_hu
from normnet.training.member import stream

MEDIAN_VOX = 5  # filter_median is written for this number
SLAB_VOX = 8  # slices of the median filter done together, few enough for the processor's cache
MOST_DROPPED_VOX = 7

Scored = tuple[int, np.ndarray, np.ndarray]  # slice, image of ``Method.score``, score


def score_slices(
    method: Method,
    network: nn.Module,
    prepared: Prepared,
    window: WindowConfig,
    settings: BaselineSettings,
    tuned: Tuned,
    wanted: Sequence[int],
    *,
    seed: int = 0,
    device: str = "cpu",
) -> Iterator[Scored]:
    """Score one slice after the other.

    Args:
        method: The baseline.
        network: Trained.
        prepared: The CT.
        window: Of the HU.
        settings: Those of the training.
        tuned: From ``fitting.tune``.
        wanted: Numbers of the slices.
        seed: Of the random numbers that scoring needs.
        device: Torch device.

    Yields:
        Number of the slice, then two (y, x) float32 on the prepared grid: reconstruction,
        restoration or gradient, and the score in [0, 1], which is 0 outside the lungs.
    """
    plane, spacing = prepared.thorax.shape[1:], prepared.spacing_mm
    for first in range(0, len(wanted), settings.batch):
        part = list(wanted[first : first + settings.batch])
        seen = (
            prepared.thorax[part]
            if method.lungs_only
            else scale_hu(prepared.volume_hu[part], window)
        )
        slices = to_square(
            torch.from_numpy(seen).float().to(device),
            slice_size(method, settings),
            method.field_mm,
            spacing,
        )
        rng = torch.Generator(device).manual_seed(stream(seed, part[0]))
        with torch.no_grad():
            squares = method.score(
                network, slices.contiguous(memory_format=torch.channels_last), rng, tuned
            )
            shown, score = (
                from_square(images, plane, method.field_mm, spacing).cpu().numpy()
                for images in squares
            )
        yield from zip(part, shown, score * prepared.lung_mask[part], strict=True)


def compute_anomaly(scored: Iterable[Scored], lung_mask: np.ndarray) -> np.ndarray:
    """The map of anomaly in hundredths, rounded up.

    So the same voxels as before rounding are above any threshold of two decimals.

    Args:
        scored: From ``score_slices``.
        lung_mask: (z, y, x) bool.

    Returns:
        (z, y, x) uint8, 0 to 100, median over 5 x 5 x 5 voxels, 0 outside the lungs.
    """
    hundredths = np.zeros(lung_mask.shape, np.uint8)
    for z, _, score in scored:
        hundredths[z] = np.ceil(100 * score.clip(0, 1))
    anomaly: np.ndarray = filter_median(hundredths) * lung_mask
    return anomaly


def filter_median(values: np.ndarray) -> np.ndarray:
    """Median over 5 x 5 x 5 voxels; voxels beyond the array are 0.

    It counts: the median is at least v where more than half of the voxels are.

    Args:
        values: (z, y, x) uint8; the fewer different values, the faster.
    """
    padded, filtered = np.pad(values, MEDIAN_VOX // 2), np.zeros_like(values)
    for start in range(0, len(values), SLAB_VOX):
        slab = padded[start : start + SLAB_VOX + MEDIAN_VOX - 1]
        for value in range(1, int(slab.max()) + 1):
            count = (slab >= value).view(np.uint8)
            for axis in (2, 1, 0):
                parts = np.moveaxis(count, axis, 0)
                parts = parts[:-4] + parts[1:-3] + parts[2:-2] + parts[3:-1] + parts[4:]
                count = np.moveaxis(parts, 0, axis)
            reached = count > MEDIAN_VOX**3 // 2
            if not reached.any():
                break
            filtered[start : start + SLAB_VOX] += reached
    return filtered


def segment_anomalies(score_map: np.ndarray, threshold: float) -> np.ndarray:
    """Voxels above the threshold, (z, y, x) bool, without components of up to seven voxels."""
    import cc3d

    found = cc3d.dust(score_map > threshold, threshold=MOST_DROPPED_VOX + 1, connectivity=26)
    lesion_mask: np.ndarray = found.astype(bool)
    return lesion_mask
