"""Numbers of a lesion mask and a lung mask: volumes, zones, densities, lesions and scores.

All arrays are turned: z to the head, y to the back, x to the patient's left. The HU are those of
the scan, at its own depth of breath. ``docs/explanation/quantification.md`` explains each number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from normnet.filters import count_values

SIDES = {"right": 1, "left": 2}
THIRDS = ("upper", "middle", "lower")
ZONES = tuple(f"{side}_{third}" for side in SIDES for third in THIRDS)
# Labels 1 to 5 of a lobe mask, in the order of lungmask and TotalSegmentator.
LOBES = ("left_upper", "left_lower", "right_upper", "right_middle", "right_lower")
# Limits of the bands of density; a band holds its lower limit, but not its upper one.
BANDS_HU: dict[str, tuple[float | None, float | None]] = {
    "hyperinflated": (None, -950),
    "normal": (-950, -750),
    "ground_glass": (-750, -300),
    "consolidation": (-300, 50),
    "above": (50, None),
}
HISTOGRAM_HU, BIN_HU = (-1050, 150), 25
LOWEST_HU, HIGHEST_HU = -1200, 3100  # HU beyond count as these
# 100 mm³, below which a nodule needs no follow-up (doi:10.1148/radiol.2017161659)
MIN_LESION_ML = 0.1
N_LARGEST = 10
N_DIRECTIONS, N_REFINED = 200, 5
# The score of a region is 0 without lesion and 1 above; it grows by 1 at each of these % of the
# region. Zones: doi:10.1148/radiol.2020200843; lobes: doi:10.1148/radiol.2020200370, where 25, 50
# and 75 % belong to the lower score.
ZONE_STEPS = (25.0, 50.0, 75.0)
LOBE_STEPS = (5.0, *(math.nextafter(step, math.inf) for step in ZONE_STEPS))
_N_HU = HIGHEST_HU - LOWEST_HU + 1


class Found(NamedTuple):
    """What is measured; arrays are (z, y, x) in one box that holds both lungs.

    Attributes:
        volume_hu: HU of the scan.
        lesion_mask: Bool.
        lung_labels: uint8, 1 right, 2 left.
        n_votes_normal: uint8, members that voted normal in ``bright``.
        bright: Bool, the voxels on which the ensemble voted.
        n_members: How many members voted.
        spacing_mm: (z, y, x).
    """

    volume_hu: np.ndarray
    lesion_mask: np.ndarray
    lung_labels: np.ndarray
    n_votes_normal: np.ndarray
    bright: np.ndarray
    n_members: int
    spacing_mm: tuple[float, ...]

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return math.prod(self.spacing_mm) / 1000


class Lesions(NamedTuple):
    """The single lesions of a mask.

    Attributes:
        labels: (z, y, x) from the first plane with lesion to the last, a number for each component,
            specks included; 0 outside.
        first_plane: Of the mask, plane 0 of ``labels``.
        order: The numbers of those of ``MIN_LESION_ML`` and more, the largest first.
        boxes: By number, the box of each component in ``labels``.
    """

    labels: np.ndarray
    first_plane: int
    order: list[int]
    boxes: Sequence[tuple[slice, slice, slice]]

    def find(self, rank: int) -> tuple[tuple[slice, slice, slice], np.ndarray]:
        """The box of a lesion in the mask and its voxels in it.

        Args:
            rank: Of the lesion, from 1: the largest.
        """
        number = self.order[rank - 1]
        z, y, x = self.boxes[number]
        mask = self.labels[z, y, x] == number
        return (slice(z.start + self.first_plane, z.stop + self.first_plane), y, x), mask


def quantify(lesion_mask: np.ndarray, lung_labels: np.ndarray, voxel_ml: float) -> dict[str, Any]:
    """Volumes of lungs and lesions, of both sides together and of each.

    Args:
        lesion_mask: (z, y, x) bool, inside the lungs.
        lung_labels: Same shape, 1 right, 2 left.
        voxel_ml: Volume of a voxel in millilitres.

    Returns:
        ``{"both" | "right" | "left": {"lung_ml", "lesion_ml", "lesion_percent"}}``;
        ``lesion_percent`` is None where there is no lung.
    """
    inside = lung_labels[lesion_mask]
    lungs = [float(np.count_nonzero(lung_labels == label)) * voxel_ml for label in (1, 2)]
    lesions = [float(np.count_nonzero(inside == label)) * voxel_ml for label in (1, 2)]
    both = volumes_row(sum(lungs), sum(lesions))
    return {"both": both} | {
        side: volumes_row(lungs[label - 1], lesions[label - 1]) for side, label in SIDES.items()
    }


def volumes_row(lung_ml: float, lesion_ml: float) -> dict[str, float | None]:
    """Rounded volumes of a region and the share of it that is lesion; None without any lung."""
    return {
        "lung_ml": round(float(lung_ml), 2),
        "lesion_ml": round(float(lesion_ml), 3),
        "lesion_percent": round(100 * float(lesion_ml / lung_ml), 3) if lung_ml else None,
    }


def zones_of_planes(lung_labels: np.ndarray) -> np.ndarray:
    """To which zone the voxels of each plane and side belong.

    A zone is a third of the height of its lung: of the distance from the lowest plane that holds
    the lung to the highest one.

    Args:
        lung_labels: (z, y, x), 1 right, 2 left.

    Returns:
        (z, 3) uint8: for each plane and label 0, 1, 2 the number of the zone, 1 to 6 in the order
        of ``ZONES``; 0 for label 0.
    """
    zones = np.zeros((len(lung_labels), 3), np.uint8)
    for label in SIDES.values():
        planes = np.flatnonzero((lung_labels == label).any(axis=(1, 2)))
        if len(planes):
            height = int(planes[-1]) - int(planes[0]) + 1
            below = np.clip((np.arange(len(zones)) - planes[0] + 0.5) * 3 // height, 0, 2)
            zones[:, label] = 3 * label - below
    return zones


def measure(found: Found) -> dict[str, Any]:
    """Everything that ``quantification`` of ``result.json`` holds, see ``results.schema``.

    Args:
        found: The lungs and the lesions, which lie inside them.
    """
    zones = zones_of_planes(found.lung_labels)
    with ThreadPoolExecutor(1) as aside:
        lesions = aside.submit(_describe_lesions, found, zones)
        counts = _count_densities(found, zones)  # (zone, lesion, HU)
    lung_ml = counts.sum(axis=1) * found.voxel_ml
    lesion_ml = counts[:, 1] * found.voxel_ml
    of_zones = {
        zone: volumes_row(lung_ml[n].sum(), lesion_ml[n].sum()) for n, zone in enumerate(ZONES)
    }
    scores = _score(of_zones, ZONE_STEPS)
    return {
        "zones": of_zones,
        **_describe_densities(lung_ml.sum(axis=0), lesion_ml.sum(axis=0)),
        "lesions": lesions.result(),
        "severity": {"zones_score": sum(scores.values()), "zones": scores},
        **_describe_votes(found),
    }


def add_lobes(
    quantification: dict[str, Any], lesion_mask: np.ndarray, lobes: np.ndarray, voxel_ml: float
) -> dict[str, Any]:
    """The same with ``lobes`` and their scores; a lobe is what its label marks, lung mask or not.

    Args:
        quantification: As made by ``measure``.
        lesion_mask: (z, y, x) bool, of the whole scan in any order of its axes.
        lobes: Same shape, uint8, labels 1 to 5 in the order of ``LOBES``.
        voxel_ml: Volume of a voxel in millilitres.
    """
    n_lobe = count_values(lobes)
    n_lesion = np.bincount(lobes[lesion_mask], minlength=6)
    rows = {
        name: volumes_row(n_lobe[label] * voxel_ml, n_lesion[label] * voxel_ml)
        for label, name in enumerate(LOBES, start=1)
    }
    scores = _score(rows, LOBE_STEPS)
    severity = {"lobes_score": sum(scores.values()), "lobes": scores}
    return quantification | {
        "lobes": rows,
        "severity": quantification["severity"] | severity,
    }


def measure_range(
    volumes: dict[str, Any],
    quantification: dict[str, Any],
    n_vox: np.ndarray,
    total_ml: tuple[float, float],
    voxel_ml: float,
) -> dict[str, Any]:
    """How large the lesions are at the narrower and at the wider edge, in total and by region.

    Args:
        volumes: As made by ``quantify``.
        quantification: As made by ``measure``.
        n_vox: (6, 3) voxels of each zone inside the wider edge, the chosen one and the narrower
            one, on the grid of the networks.
        total_ml: Of both lungs at the narrower and at the wider edge.
        voxel_ml: Volume of a voxel of that grid.

    Returns:
        ``lesion_ml`` and ``lesion_percent`` of both lungs as [low, high]; ``regions``:
        ``lesion_ml`` of each side and zone.
    """
    regions: dict[str, list[float]] = {}
    for zone, (n_wide, n_chosen, n_narrow) in zip(ZONES, n_vox.tolist(), strict=True):
        ml = quantification["zones"][zone]["lesion_ml"]
        scale = ml / n_chosen if ml and n_chosen else voxel_ml
        low, high = n_narrow * scale, n_wide * scale
        regions[zone] = [round(min(low, ml), 3), round(max(high, ml), 3)]
    sides = {
        side: [round(sum(regions[f"{side}_{third}"][n] for third in THIRDS), 3) for n in (0, 1)]
        for side in SIDES
    }
    lung_ml = volumes["both"]["lung_ml"]
    return {
        "lesion_ml": [round(ml, 3) for ml in total_ml],
        "lesion_percent": [round(100 * ml / lung_ml, 3) if lung_ml else None for ml in total_ml],
        "regions": sides | regions,
    }


def _count_densities(found: Found, zones: np.ndarray) -> np.ndarray:
    """(6, 2, HU) numbers of voxels: by zone, outside and inside the lesions, by whole HU."""
    counts = np.zeros(7 * 2 * _N_HU, np.int64)
    for plane_hu, lesion, labels, of_label in zip(
        found.volume_hu, found.lesion_mask, found.lung_labels, zones, strict=True
    ):
        inside = np.flatnonzero(labels)
        if len(inside):
            hu = np.rint(plane_hu.reshape(-1)[inside]).clip(LOWEST_HU, HIGHEST_HU).astype(np.int32)
            zone = of_label[labels.reshape(-1)[inside]].astype(np.int32)
            row = 2 * zone + lesion.reshape(-1)[inside]
            counts += np.bincount(row * _N_HU + hu - LOWEST_HU, minlength=len(counts))
    return counts.reshape(7, 2, _N_HU)[1:]


def _describe_densities(lung_ml: np.ndarray, lesion_ml: np.ndarray) -> dict[str, Any]:
    """Bands, means and histogram from the millilitres of each whole HU."""
    hu = np.arange(LOWEST_HU, HIGHEST_HU + 1)

    def between(ml: np.ndarray, low: float | None, high: float | None) -> float:
        chosen = (hu >= (-math.inf if low is None else low)) & (
            hu < (math.inf if high is None else high)
        )
        return float(ml[chosen].sum())

    def mean_hu(ml: np.ndarray) -> float | None:
        return round(float((hu * ml).sum() / ml.sum()), 1) if ml.any() else None

    def percent(part_ml: float, ml: np.ndarray) -> float | None:
        return round(100 * part_ml / float(ml.sum()), 3) if ml.any() else None

    bands = {
        name: {
            "low_hu": low,
            "high_hu": high,
            "lung_ml": round(between(lung_ml, low, high), 3),
            "lung_percent": percent(between(lung_ml, low, high), lung_ml),
            "lesion_ml": round(between(lesion_ml, low, high), 3),
        }
        for name, (low, high) in BANDS_HU.items()
    }
    edges = list(range(HISTOGRAM_HU[0], HISTOGRAM_HU[1] + BIN_HU, BIN_HU))
    bins = slice(edges[0] - LOWEST_HU, edges[-1] - LOWEST_HU)
    return {
        "hu_bands": bands,
        **{
            f"{name}_percent": percent(between(lesion_ml, *BANDS_HU[name]), lesion_ml)
            for name in ("ground_glass", "consolidation")
        },
        "mean_lung_density_hu": mean_hu(lung_ml),
        "mean_lesion_density_hu": mean_hu(lesion_ml),
        "lung_density_histogram": {
            "edges_hu": edges,
            **{
                name: [round(float(v), 3) for v in ml[bins].reshape(-1, BIN_HU).sum(axis=1)]
                for name, ml in (("lung_ml", lung_ml), ("lesion_ml", lesion_ml))
            },
        },
    }


def separate_lesions(lesion_mask: np.ndarray, voxel_ml: float) -> Lesions:
    """The lesions as 26-connected components, the largest first; specks are not counted.

    Args:
        lesion_mask: (z, y, x) bool.
        voxel_ml: Volume of a voxel in millilitres.
    """
    import cc3d

    planes = np.flatnonzero(lesion_mask.any(axis=(1, 2)))
    if not len(planes):
        return Lesions(np.zeros((0, *lesion_mask.shape[1:]), np.uint8), 0, [], [])
    lesion_mask = lesion_mask[planes[0] : planes[-1] + 1]
    labels = cc3d.connected_components(lesion_mask, connectivity=26)
    statistics = cc3d.statistics(labels, no_slice_conversion=False)
    n_vox = np.asarray(statistics["voxel_counts"])[1:]
    large = np.flatnonzero(n_vox >= MIN_LESION_ML / voxel_ml - 1e-6)
    order = large[np.argsort(-n_vox[large].astype(np.int64), kind="stable")] + 1
    return Lesions(labels, int(planes[0]), order.tolist(), statistics["bounding_boxes"])


def describe_lesion(found: Found, zones: np.ndarray, lesions: Lesions, rank: int) -> dict[str, Any]:
    """Volume, largest diameter, zone and mean density of one lesion.

    Args:
        found: The lungs and the lesions.
        zones: As made by ``zones_of_planes``.
        lesions: As made by ``separate_lesions``.
        rank: Of the lesion, from 1: the largest.
    """
    box, mask = lesions.find(rank)
    z = np.nonzero(mask)[0] + box[0].start
    zone = int(np.bincount(zones[z, found.lung_labels[box][mask]], minlength=7)[1:].argmax())
    return {
        "label": rank,
        "ml": round(len(z) * found.voxel_ml, 3),
        "diameter_mm": round(_largest_diameter_mm(mask, found.spacing_mm), 1),
        "zone": ZONES[zone],
        "mean_hu": round(float(found.volume_hu[box][mask].mean(dtype=float)), 1),
    }


def _describe_lesions(found: Found, zones: np.ndarray) -> dict[str, Any]:
    lesions = separate_lesions(found.lesion_mask, found.voxel_ml)
    ranks = range(1, min(N_LARGEST, len(lesions.order)) + 1)
    return {
        "count": len(lesions.order),
        "min_ml": MIN_LESION_ML,
        "largest": [describe_lesion(found, zones, lesions, rank) for rank in ranks],
    }


def _largest_diameter_mm(mask: np.ndarray, spacing_mm: tuple[float, ...]) -> float:
    """Largest distance between the centres of two voxels (Feret's diameter in 3D), within 1 %.

    The two voxels are searched among those that are outermost in one of 200 directions, and then
    in the direction of the pair that was found.
    """
    z, y = np.nonzero(mask.any(axis=2))
    rows = mask[z, y]
    ends = (rows.argmax(axis=1), rows.shape[1] - 1 - rows[:, ::-1].argmax(axis=1))
    points = np.concatenate([np.stack([z, y, x], axis=1) for x in ends]) * np.array(spacing_mm)
    n = np.arange(N_DIRECTIONS) + 0.5
    height, angle = 1 - n / N_DIRECTIONS, math.pi * (1 + 5**0.5) * n  # a spiral on a half sphere
    flat = np.sqrt(1 - height**2)
    directions = np.stack([height, flat * np.sin(angle), flat * np.cos(angle)])
    longest = 0.0
    for _ in range(1 + N_REFINED):
        along = points @ directions
        apart = points[along.argmax(axis=0)] - points[along.argmin(axis=0)]
        lengths = np.linalg.norm(apart, axis=1)
        best = int(lengths.argmax())
        if lengths[best] <= longest:
            break
        longest = float(lengths[best])
        directions = apart[best][:, None] / longest
    return longest


def _score(regions: dict[str, Any], steps: tuple[float, ...]) -> dict[str, int]:
    """The score of each region; 0 also where there is no lung."""
    return {
        region: int(row["lesion_ml"] > 0)
        + sum((row["lesion_percent"] or 0.0) >= step for step in steps)
        for region, row in regions.items()
    }


def _describe_votes(found: Found) -> dict[str, float | None]:
    """Where some members voted normal and others did not, as % of what they voted on."""
    n_bright = n_split = n_lesion = n_split_lesion = 0
    arrays = (found.n_votes_normal, found.bright, found.lesion_mask)
    for n_votes, bright, lesion in zip(*arrays, strict=True):
        split = (n_votes > 0) & (n_votes < found.n_members) & bright
        n_bright += int(np.count_nonzero(bright))
        n_split += int(np.count_nonzero(split))
        n_lesion += int(np.count_nonzero(bright & lesion))
        n_split_lesion += int(np.count_nonzero(split & lesion))

    def percent(n_part: int, n: int) -> float | None:
        return round(100 * n_part / n, 3) if n else None

    return {
        "split_votes_percent": percent(n_split, n_bright),
        "split_votes_lesion_percent": percent(n_split_lesion, n_lesion),
    }
