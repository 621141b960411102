"""The shipped lung segmenter: a 2D U-Net that sees axial slices and their neighbours."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from normnet.config import LUNGS_STRIDE, LungsConfig
from normnet.errors import ValueRangeError
from normnet.filters import bounding_box, dilate
from normnet.inference.precision import autocast, choose_precision
from normnet.lungs.anatomy import DENSE_HU, doubt_cut, doubts, find_fat, keep_lungs
from normnet.lungs.external import ExternalLungs
from normnet.lungs.sides import find_middle, split_left_right
from normnet.preparation.orient import Orientation
from normnet.preparation.resample import Grid, resample
from normnet.preparation.window import scale_hu
from normnet.scan import Scan, Triple

if TYPE_CHECKING:
    import torch

SLICES_AT_ONCE = 16
COARSE_MM = 3.0
BESIDE_VOX = 5  # as far from the certain lungs as tissue beside a lesion may be added to them
MARGIN_VOX = 4  # around what could be lung: no filter of find_fat looks further


class Lungs(NamedTuple):
    """Labels of the scan's shape, uint8: 1 right lung, 2 left lung, 0 elsewhere.

    Attributes:
        labels: The lungs.
        possible: The same at a lower threshold, up to ``BESIDE_VOX`` beyond the lungs; None if no
            such threshold was given or if the lungs are not learned ones.
    """

    labels: np.ndarray
    possible: np.ndarray | None


def seen_slices(slice_mm: float, config: LungsConfig) -> np.ndarray:
    """Which slices the network sees with each slice.

    Args:
        slice_mm: Distance of the slices.
        config: ``neighbours_mm``.

    Returns:
        How many slices above it they lie, in rising order; the slice itself, 0, is in the middle.
    """
    apart = np.array([max(1, round(mm / slice_mm)) for mm in config.neighbours_mm], int)
    return np.concatenate([-apart[::-1], [0], apart])


def predict_lungs(
    volume_hu: np.ndarray,
    slice_mm: float,
    networks: list[torch.nn.Module],
    config: LungsConfig,
    device: str = "cpu",
) -> np.ndarray:
    """Mean probability of lung of every voxel.

    The mean is taken over the networks, and over the slices as they are and mirrored.

    Args:
        volume_hu: (z, y, x) float32 on a grid of about ``slice_mm`` and ``pixel_mm``, turned to
            head, back, left.
        slice_mm: Distance of its slices.
        networks: One or more 2D U-Nets that see a slice and its neighbours.
        config: Grey scale.
        device: Torch device.

    Returns:
        (z, y, x) float32 in [0, 1].
    """
    import torch

    depth, height, width = volume_hu.shape
    pads = (0, -width % LUNGS_STRIDE, 0, -height % LUNGS_STRIDE)
    prob = np.zeros(volume_hu.shape, np.float32)
    apart = seen_slices(slice_mm, config)
    networks = [network.to(device) for network in networks]
    mixed = choose_precision(device) == "bfloat16"
    with torch.inference_mode(), autocast(device):
        scaled = scale_hu(torch.from_numpy(volume_hu).to(device), config)
        scaled = torch.nn.functional.pad(scaled.bfloat16() if mixed else scaled, pads)
        for start in range(0, depth, SLICES_AT_ONCE):
            middle = np.arange(start, min(start + SLICES_AT_ONCE, depth))
            seen = torch.from_numpy((middle[:, None] + apart).clip(0, depth - 1)).to(device)
            chunk = scaled[seen].contiguous(memory_format=torch.channels_last)  # (B, S, H, W)
            probs = []
            for network in networks:
                probs.append(torch.sigmoid(network(chunk).float()))
                probs.append(torch.sigmoid(network(chunk.flip(-1)).float()).flip(-1))
            mean = torch.stack(probs).mean(0)
            prob[start : start + SLICES_AT_ONCE] = mean[:, 0, :height, :width].cpu().numpy()
    return prob


def agree(
    prob: np.ndarray, volume_hu: np.ndarray, slice_mm: float, config: LungsConfig
) -> np.ndarray:
    """Smooth the probabilities of dense tissue along z, so that neighbouring slices agree.

    Args:
        prob: (z, y, x) float32, of lung.
        volume_hu: Same shape.
        slice_mm: Distance of the slices.
        config: ``smooth_mm``; 0 changes nothing.
    """
    from scipy.ndimage import gaussian_filter1d

    if config.smooth_mm <= 0:
        return prob
    return np.where(
        volume_hu > DENSE_HU, gaussian_filter1d(prob, config.smooth_mm / slice_mm, axis=0), prob
    )


def segment_lungs(
    scan: Scan,
    networks: list[torch.nn.Module] | ExternalLungs,
    config: LungsConfig,
    device: str = "cpu",
) -> np.ndarray:
    """Find both lungs, diseased parts included, without trachea and main bronchi.

    Args:
        scan: As read, any orientation.
        networks: The lung model's members; or the model of another program, whose result is not
            changed.
        config: Grid, grey scale and threshold.
        device: Torch device.

    Returns:
        The scan's shape, uint8: 1 right lung, 2 left lung, 0 elsewhere.

    Raises:
        ValueRangeError: If no lung is found.
        NormNetError: As ``segment_externally``, for the model of another program.
    """
    return find_lungs(scan, networks, config, device).labels


def find_lungs(
    scan: Scan,
    networks: list[torch.nn.Module] | ExternalLungs,
    config: LungsConfig,
    device: str = "cpu",
    prob_possible: float | None = None,
) -> Lungs:
    """As ``segment_lungs``, but also with the lungs at a lower threshold.

    Args:
        scan: As read, any orientation.
        networks: As ``segment_lungs`` takes them.
        config: Grid, grey scale and threshold.
        device: Torch device.
        prob_possible: The lower threshold; None: the lungs only.
    """
    if isinstance(networks, ExternalLungs):
        from normnet.lungs.processes import segment_externally

        labels = segment_externally(scan, networks, device)
        return Lungs(labels, None)
    orientation = Orientation.of(scan.geometry)
    turned = whole_hu(orientation.apply(scan.volume_hu))
    spacing = orientation.spacing_mm(scan.geometry)
    z_mm = max(config.slice_mm, spacing[0])
    coarse_mm = (z_mm, config.pixel_mm, config.pixel_mm)
    grid = _grid_of(turned.shape, spacing, coarse_mm)
    whole = resample(turned, grid, outside=-1024, device=device).astype(np.float32)
    prob = predict_lungs(whole, z_mm, networks, config, device)
    thresholds = [config.threshold] + ([] if prob_possible is None else [prob_possible])
    box = _box_of_lungs(prob, min(thresholds), z_mm, config)
    if box is None:
        raise _no_lung(scan)
    coarse_hu, grid = whole[box], grid.part(box)
    prob = agree(prob[box], coarse_hu, z_mm, config)
    prob[find_fat(coarse_hu, prob > config.threshold, coarse_mm)] = 0

    certain = keep_lungs(prob > config.threshold, coarse_hu, coarse_mm)
    if not certain.any():
        raise _no_lung(scan)
    in_whole = np.zeros(whole.shape, bool)
    in_whole[box] = certain
    column = find_middle(whole, in_whole, coarse_mm).column - box[2].start
    certain_side = split_left_right(certain, column)

    def outlined(threshold: float) -> np.ndarray:
        side = certain_side
        if threshold != config.threshold:
            lungs = keep_lungs(prob > threshold, coarse_hu, coarse_mm)
            side = _spread(side, BESIDE_VOX) * lungs
        labels = np.zeros(scan.shape, np.uint8)
        part, inside = _outline(prob, threshold, side, grid, turned.shape, device)
        orientation.apply(labels)[part] = inside
        return labels

    with ThreadPoolExecutor(len(thresholds)) as pool:
        labels, *possible = pool.map(outlined, thresholds)
    return Lungs(labels, possible[0] if possible else None)


def _no_lung(scan: Scan) -> ValueRangeError:
    todo = "is this a chest CT in HU? or give --lungs MASK"
    return ValueRangeError("NN-VAL-020", "no lung found", scan.case_id, todo)


def _grid_of(shape: tuple[int, ...], spacing: tuple[float, ...], coarse_mm: Triple) -> Grid:
    """The grid of the lung network in the middle of a turned scan."""
    step = tuple(target / own for target, own in zip(coarse_mm, spacing, strict=True))
    size = tuple(max(1, round((n - 1) / d) + 1) for n, d in zip(shape, step, strict=True))
    start = tuple(((n - 1) - (m - 1) * d) / 2 for n, m, d in zip(shape, size, step, strict=True))
    return Grid(start, step, size)


def _box_of_lungs(
    prob: np.ndarray, threshold: float, slice_mm: float, config: LungsConfig
) -> tuple[slice, ...] | None:
    """The box of all that could be lung, with so much around it that no filter looks beyond.

    Returns:
        None where nothing reaches the threshold.
    """
    possible = prob > threshold
    if not possible.any():
        return None
    tight = bounding_box(possible, MARGIN_VOX)
    more = math.ceil(4 * config.smooth_mm / slice_mm)
    z = slice(max(0, tight[0].start - more), min(len(prob), tight[0].stop + more))
    return z, *tight[1:]


def whole_hu(volume_hu: np.ndarray) -> np.ndarray:
    """HU as int16, so that lungs do not depend on the type in which a volume is kept."""
    if volume_hu.dtype == np.int16:
        return volume_hu
    limits = np.iinfo(np.int16)
    whole: np.ndarray = np.rint(volume_hu).clip(limits.min, limits.max).astype(np.int16)
    return whole


def _outline(
    prob: np.ndarray,
    threshold: float,
    side: np.ndarray,
    grid: Grid,
    shape: tuple[int, ...],
    device: str,
) -> tuple[tuple[slice, ...], np.ndarray]:
    """The lungs of the coarse grid on the voxels of the turned scan.

    Returns:
        Their box, and the labels in it.
    """
    coarse = side > 0
    # The outline follows the probability near the chosen components; filled holes stay filled.
    outline = prob * dilate(coarse, 1)
    outline[coarse & (prob <= threshold)] = 1
    box = tuple(
        slice(max(0, int(s + d * part.start)), min(n, math.ceil(s + d * part.stop)))
        for part, s, d, n in zip(bounding_box(coarse, 2), grid.start, grid.step, shape, strict=True)
    )
    inner = Grid(
        tuple((part.start - s) / d for part, s, d in zip(box, grid.start, grid.step, strict=True)),
        tuple(1 / d for d in grid.step),
        tuple(part.stop - part.start for part in box),
    )
    outline *= np.float32(200)
    fine = resample(outline.astype(np.uint8), inner, device=device) > threshold * 200
    return box, resample(_spread(side, 2), inner, nearest=True, device=device) * fine


def _spread(side: np.ndarray, reach_vox: int) -> np.ndarray:
    """Labels that reach some voxels beyond the lungs; where both sides do, the left one."""
    from scipy.ndimage import maximum_filter

    return np.where(side > 0, side, maximum_filter(side, 2 * reach_vox + 1))


def doubt_lungs(scan: Scan, lung_labels: np.ndarray) -> tuple[str, ...]:
    """Reasons why a lung mask, learned or given, may be wrong or cut; see ``anatomy.doubts``.

    The mask is checked on a grid of about 3 mm.

    Args:
        scan: As read.
        lung_labels: The scan's shape, 1 right, 2 left.
    """
    orientation = Orientation.of(scan.geometry)
    spacing = orientation.spacing_mm(scan.geometry)
    every = [max(1, round(COARSE_MM / own)) for own in spacing]
    thin = tuple(slice(None, None, n) for n in every)
    volume_hu, labels = (orientation.apply(array) for array in (scan.volume_hu, lung_labels))
    thin_mm = tuple(n * own for n, own in zip(every, spacing, strict=True))
    cut = doubt_cut(labels, spacing)
    if not labels[thin].any():  # a given mask that is thinner than that
        return cut
    return doubts(volume_hu[thin], labels[thin], thin_mm) + cut
