"""A look at a whole volume before any network: can this be a chest CT in Hounsfield units?

Each check judges only what is in view. The limits were set on 42 real chest CTs (thick and thin
slices, soft and sharp kernels, whole and cropped fields of view) and on spoiled copies of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from normnet.errors import GeometryError, ValueRangeError
from normnet.scan import Doubt, Scan

_EXPORT_AGAIN = "export the scan again as HU"
_AIR_BELOW_HU = -400  # parts air and lung from soft tissue

# Histogram of HU.
_MIN_VOXELS = 4096  # with fewer, there are no peaks to look for
_MAX_VOXELS = 1_000_000  # of the sample
_BIN_HU = 10
_SOFT_TISSUE_HU = (-250, 280)  # where fat or muscle lies, with an offset of up to about 150 HU
_PARTIAL_HU = (-600, -300)  # few voxels lie between lung and soft tissue
_NO_PEAK_BELOW_HU = -600  # the shoulder of the lung: soft tissue is not in view
_MIN_PEAK = 3.0  # times the frequency between lung and soft tissue; real CTs: 20 and more
_MIN_PEAK_SHARE = 1 / 3  # of the highest peak above air and lung
_MAX_SHARE_DENSE, _DENSE_HU = 0.1, 600  # bone, contrast medium and metal; real CTs: below 0.02
_MAX_SHARE_THIN, _THIN_HU = 0.1, (-3100, -1150)  # thinner than air; real CTs: 0

# Outlines of single slices.
_N_SLICES, _GRID = 16, 128
_MIN_BODY_VOX = 60  # across; a coarser outline is not judged
_MIN_BODY_SHARE = 0.1  # of the slice
_BODY_MM = (60.0, 600.0)  # diameter of a disc of the same area
_MAX_BODY_RATIO = 4.0  # of length and width of its box
_MAX_SHARE_INVERTED = 0.2  # of the slices; real CTs: 0

# Slices and their neighbours.
_MIN_SLICES, _MIN_COLUMNS, _MAX_STEP_MM = 9, 96, 8.0  # fewer or farther ones are not judged
_TILES, _WINDOW = 8, 13
_MIN_SLICES_FOR_ENDS, _N_END = 12, 8
# HU beyond both neighbours: the share of pixels from which on a slice is doubtful (inside, at an
# end). Inside of real CTs: up to 0.016, 0.015, 0.010 and 0.002.
_DOUBTFUL = {50: (0.022, 0.02), 100: (0.020, 0.015), 200: (0.012, 0.009), 400: (0.003, 0.004)}
_REFUSED = 2.0  # times the doubtful share


def check_appearance(scan: Scan, where: str) -> tuple[str, ...]:
    """Refuse a volume that does not look like a chest CT in HU; about 0.2 s for 300 slices.

    Args:
        scan: Finite HU, in any orientation.
        where: File or case, for messages.

    Returns:
        Warnings of what is doubtful, one line each.

    Raises:
        GeometryError: NN-GEO-017 if the body is too small, too large or too flat for a person.
        ValueRangeError: NN-VAL-011 if no tissue lies where it belongs, NN-VAL-012 if the grey scale
            is inverted, NN-VAL-013 if a slice does not fit its neighbours.
    """
    volume_hu, spacing_mm = scan.upright()
    _check_tissues(volume_hu, where)
    _check_outlines(volume_hu, np.asarray(spacing_mm[1:]), where)
    if spacing_mm[0] > _MAX_STEP_MM:
        return ()
    return _check_slices(volume_hu, where)


def _check_tissues(volume_hu: np.ndarray, where: str) -> None:
    """Air and lung, then a peak of fat or muscle, then little that is denser."""
    from scipy.ndimage import gaussian_filter1d

    if volume_hu.size < _MIN_VOXELS:
        return

    step = max(1, int(np.ceil((volume_hu.size / _MAX_VOXELS) ** (1 / 3))))
    sample = volume_hu[::step, ::step, ::step].ravel()
    sample = sample[(sample > sample.min()) & (sample < sample.max())]  # padding, clipped values
    edges = np.arange(_THIN_HU[0], 3001, _BIN_HU)
    centres = edges[:-1] + _BIN_HU / 2
    counts = np.histogram(sample, edges)[0].astype(float)

    def part(values: np.ndarray, start: float, end: float) -> np.ndarray:
        return values[(centres > start) & (centres < end)]

    total = max(counts.sum(), 1.0)
    thin = np.sort(part(counts, *_THIN_HU))[:-2].sum() / total  # without two values of padding
    dense = part(counts, _DENSE_HU, np.inf).sum() / total
    smooth = gaussian_filter1d(counts, 2.0)
    upper = part(smooth, _AIR_BELOW_HU, np.inf)
    highest_hu = part(centres, 1.5 * _AIR_BELOW_HU, np.inf)[
        part(smooth, 1.5 * _AIR_BELOW_HU, np.inf).argmax()
    ]
    soft = part(smooth, *_SOFT_TISSUE_HU)
    inner = soft[1:-1]
    tops = inner[(inner >= soft[:-2]) & (inner >= soft[2:])]
    peak = max(tops, default=0.0)
    between = part(smooth, *_PARTIAL_HU).mean()
    if thin > _MAX_SHARE_THIN:
        found = f"{100 * thin:.0f} % of the voxels are thinner than air"
    elif dense > _MAX_SHARE_DENSE:
        found = f"{100 * dense:.0f} % of the voxels are denser than {_DENSE_HU} HU"
    elif peak < _MIN_PEAK * between and highest_hu > _NO_PEAK_BELOW_HU + 2 * _BIN_HU:
        found = "no peak of fat or muscle among the values"
    elif peak < _MIN_PEAK_SHARE * upper.max() and highest_hu > _NO_PEAK_BELOW_HU + 2 * _BIN_HU:
        found = f"the soft tissue lies at about {highest_hu:.0f} HU"
    else:
        return
    raise ValueRangeError(
        "NN-VAL-011", f"{found} (rescale slope or offset wrong?)", where, _EXPORT_AGAIN
    )


class _Outlines(NamedTuple):
    """Slices on a coarse grid: (n, y, x) mean HU, what is dark, and what touches no border."""

    means_hu: np.ndarray
    dark: np.ndarray
    enclosed: np.ndarray
    size_vox: int  # of a cell, along y and x


def _check_outlines(volume_hu: np.ndarray, spacing_mm: np.ndarray, where: str) -> None:
    """Bright body around dark lungs, not the reverse, and the body of a person's size."""
    outlines = _outlines_of(volume_hu)
    if _share_inverted(outlines) > _MAX_SHARE_INVERTED:
        raise ValueRangeError(
            "NN-VAL-012",
            "the grey scale is inverted (bright lungs in a dark body)",
            where,
            _EXPORT_AGAIN,
        )
    sizes = _body_sizes(outlines, spacing_mm)
    if sizes is None:
        return
    diameter_mm, length_mm, width_mm = sizes
    low, high = _BODY_MM
    if not low <= diameter_mm <= high or length_mm > _MAX_BODY_RATIO * width_mm:
        raise GeometryError(
            "NN-GEO-017",
            f"a body of {length_mm:.0f} x {width_mm:.0f} mm, which is no person's",
            where,
            "correct the voxel spacing or export the scan again",
        )


def _outlines_of(volume_hu: np.ndarray) -> _Outlines:
    from scipy.ndimage import generate_binary_structure, label

    n = len(volume_hu)
    chosen = np.unique(np.linspace(0, n - 1, min(n, _N_SLICES) + 2).astype(int)[1:-1])
    size = max(1, int(np.ceil(max(volume_hu.shape[1:]) / _GRID)))
    ny, nx = (length // size for length in volume_hu.shape[1:])
    planes = volume_hu[chosen][:, : ny * size, : nx * size].clip(-1100, 3000)
    means = planes.reshape(len(chosen), ny, size, nx, size).mean((2, 4), dtype=np.float32)
    dark = means < _AIR_BELOW_HU
    in_plane = np.zeros((3, 3, 3), bool)
    in_plane[1] = generate_binary_structure(2, 1)
    enclosed = np.zeros_like(dark)
    for kind in (dark, ~dark):
        parts, _ = label(kind, in_plane)
        border = np.concatenate([parts[:, [0, -1]].ravel(), parts[:, :, [0, -1]].ravel()])
        enclosed |= kind & ~np.isin(parts, np.unique(border))
    return _Outlines(means, dark, enclosed, size)


def _share_inverted(outlines: _Outlines) -> float:
    """The share of slices in which bright lungs lie in a dark body.

    Where the whole body is in view, the border of a true slice is dark, and dark lungs lie inside
    of what is bright; where it is cropped, what is bright touches the border, and only dark lungs
    do not. Air is even, tissue is not.
    """
    n_inverted = 0
    for means, dark, enclosed in zip(*outlines[:3], strict=True):
        border = np.concatenate([dark[[0, -1]].ravel(), dark[:, [0, -1]].ravel()])
        border_hu = np.concatenate([means[[0, -1]].ravel(), means[:, [0, -1]].ravel()])[border]
        lungs, body = (enclosed & ~dark).mean(), (enclosed & dark).mean()  # if inverted
        uneven_border_hu = 60 if border.mean() >= 0.85 else 20
        cropped = (
            lungs >= 0.08
            and body < 0.1 * lungs
            and _spread(means[dark & ~enclosed]) > 80
            and _spread(border_hu) > uneven_border_hu
        )
        whole = (
            border.mean() < 0.15
            and body > 0.15
            and lungs > 0.2 * body
            and _spread(means[~dark & ~enclosed]) < 70
        )
        n_inverted += cropped or whole
    return n_inverted / len(outlines.means_hu)


def _spread(values: np.ndarray) -> float:
    """Distance of the quartiles; 0 of no values."""
    if values.size == 0:
        return 0.0
    low, high = np.percentile(values, [25, 75])
    return float(high - low)


def _body_sizes(outlines: _Outlines, spacing_mm: np.ndarray) -> tuple[float, float, float] | None:
    """Diameter of a disc as large as the largest body, then the longer and the shorter side.

    None where no slice shows a whole body with air around it.
    """
    from scipy.ndimage import binary_fill_holes, find_objects, label

    largest: tuple[float, float, float] | None = None
    cell_mm = spacing_mm * outlines.size_vox
    for dark, enclosed in zip(outlines.dark, outlines.enclosed, strict=True):
        parts, n_parts = label(~dark)
        if not n_parts:
            continue
        biggest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
        body = binary_fill_holes(parts == biggest)
        box = find_objects(parts)[biggest - 1]
        shape = np.array([side.stop - side.start for side in box])
        whole = bool(enclosed[parts == biggest].all()) and body.mean() >= _MIN_BODY_SHARE
        if not whole or shape.max() * outlines.size_vox < _MIN_BODY_VOX:
            continue
        diameter_mm = float(2 * np.sqrt(body.sum() * cell_mm.prod() / np.pi))
        if largest is None or diameter_mm > largest[0]:
            width_mm, length_mm = sorted(float(side) for side in shape * cell_mm)
            largest = diameter_mm, length_mm, width_mm
    return largest


def _check_slices(volume_hu: np.ndarray, where: str) -> tuple[str, ...]:
    """Compare every axial slice with its two neighbours, and that with how the others differ.

    Along the other axes a table or an arm may lie in one slice alone.
    """
    if len(volume_hu) < _MIN_SLICES or min(volume_hu.shape[1:]) < _MIN_COLUMNS:
        return ()
    step = int(np.ceil(np.sqrt(volume_hu[0].size) / _GRID))
    planes = volume_hu[:, ::step, ::step].clip(-1024, 1000).astype(np.int16)
    doubt = np.zeros(len(planes))  # 1: doubtful
    doubt[1:-1] = _doubt_inside(planes)
    if len(planes) >= _MIN_SLICES_FOR_ENDS:
        doubt[0], doubt[-1] = _doubt_first(planes), _doubt_first(planes[::-1])
    worst = int(doubt.argmax())
    if doubt[worst] < 1:
        return ()
    found = f"slice {worst + 1} of {len(planes)} does not fit its neighbours"
    if doubt[worst] >= _REFUSED:
        raise ValueRangeError(
            "NN-VAL-013", f"{found} (damaged?)", where, "copy or export the scan again"
        )
    n_more = np.count_nonzero(doubt >= 1) - 1
    more = f", nor do {n_more} more" if n_more else ""
    return (Doubt(f"{where}: {found}{more} (motion, or damaged?)", "motion"),)


def _doubt_inside(planes: np.ndarray) -> np.ndarray:
    """How far each slice but the ends lies beyond both of its neighbours, in tiles of its image."""
    from scipy.ndimage import median_filter

    beyond = _beyond(planes[1:-1], planes[:-2], planes[2:])
    n, ny, nx = beyond.shape
    ny, nx = ny // _TILES, nx // _TILES
    tiles = beyond[:, : ny * _TILES, : nx * _TILES].reshape(n, _TILES, ny, _TILES, nx)
    doubt = np.zeros(n)
    for hu, (doubtful, _) in _DOUBTFUL.items():
        share = (tiles > hu).mean((2, 4))  # (n, tiles, tiles)
        usual = median_filter(share, (min(_WINDOW, n), 1, 1), mode="reflect")
        excess = np.maximum(share - 3 * usual - 0.02, 0).mean((1, 2))
        doubt = np.maximum(doubt, excess / doubtful)
    return doubt


def _doubt_first(planes: np.ndarray) -> float:
    """How far the first slice lies beyond what the next two lead to, beside the slices after it."""
    nearer, farther = planes[1 : _N_END + 1], planes[2 : _N_END + 2]
    change = np.abs(nearer - farther)
    beyond = _beyond(planes[:_N_END], nearer, farther) - change
    doubt = 0.0
    for hu, (_, doubtful) in _DOUBTFUL.items():
        share = (beyond > hu).mean((1, 2))
        doubt = max(doubt, float(share[0] - 3 * np.median(share)) / doubtful)
    return doubt


def _beyond(planes: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """By how many HU each pixel lies outside of the range between two others; negative inside."""
    outside: np.ndarray = np.maximum(
        planes - np.maximum(one, other), np.minimum(one, other) - planes
    )
    return outside
