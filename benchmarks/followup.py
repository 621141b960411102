"""Known changes put into real CTs: how often they lie in the range of ``normnet compare``.

    python benchmarks/followup.py $NORMNET_DATA/cases.csv --case coronacases_004 --csv rows.csv

It prints the tables of docs/how-to/follow-up.md. Every CT is segmented as it is and with each
change: synthetic ground glass in lung where nothing was found, disease of the list's lesion mask
replaced by healthy lung from beside it, or another noise or voxel size, which is no change. There
is one row per change and region: both lungs, each lung and each of their zones.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch.nn.functional import avg_pool3d

import normnet
from normnet.datasets.manifest import read_cases
from normnet.evaluation.tables import markdown_head, markdown_row
from normnet.followup.comparison import Exam, compare
from normnet.io.masks import read_mask
from normnet.preparation.breath import FLUID_HU
from normnet.preparation.orient import Orientation
from normnet.quantification import SIDES, ZONES, zones_of_planes
from normnet.results.schema import describe_result

# Name, side, millilitres, share of the air that is fluid, whether it is mottled.
LESIONS = (
    ("8 ml, dense", "left", 8.0, 0.45, False),
    ("45 ml, pale", "right", 45.0, 0.25, False),
    ("25 ml, mottled", "left", 25.0, 0.6, True),
)
EDGE_MM, GRAIN_MM, GRAIN = 1.5, 1.5, 0.15
SPOTS_MM, SPOTS_FLOOR = 4.0, 0.35
AXES = (1.25, 1.0, 0.8)  # of the ellipsoid, relative (z, y, x)
NOISE_HU, NOISE_PX = 25.0, 0.8
MIN_REMOVED_ML = 5.0  # of the lung whose lesions are removed: the less diseased one with so much
THICK_MM = 4.0  # CTs with thinner slices get slices of about this; others pixels twice as large
MARGIN_MM, BLEND_MM = 6.0, 1.0
REACH, STRIDE, N_TRIED = 6, 12, 2000  # how healthy lung is searched: steps, voxels, points
COLUMNS = (
    "case", "change", "kind", "region", "true_ml", "earlier_ml", "later_ml", "change_ml",
    "change_ml_low", "change_ml_high", "inside", "earlier_boundary_hu", "later_boundary_hu",
)  # fmt: skip


class Turned:
    """A CT as it was found: turned arrays and what the changes need of them."""

    def __init__(self, scan: normnet.Scan, found: Any, reference: np.ndarray | None):
        orientation = Orientation.of(scan.geometry)
        self.spacing_mm = orientation.spacing_mm(scan.geometry)
        self.voxel_ml = scan.geometry.voxel_ml
        self.volume_hu = orientation.apply(scan.volume_hu).astype(np.float32)
        self.labels = orientation.apply(found.lung_labels)
        self.reference = None if reference is None else orientation.apply(reference)
        sick = orientation.apply(found.lesion_mask)
        if self.reference is not None:
            sick = sick | self.reference
        near = distance_transform_edt(~sick, sampling=self.spacing_mm) < MARGIN_MM
        self.healthy = (self.labels > 0) & ~near
        self.depth_mm = distance_transform_edt(self.healthy, sampling=self.spacing_mm)

    def scan(self, volume_hu: np.ndarray, factors: tuple[int, int, int] = (1, 1, 1)) -> Any:
        """The changed CT; ``factors`` voxels become one."""
        pooled = avg_pool3d(torch.from_numpy(volume_hu)[None], factors)[0].numpy()
        larger = tuple(mm * n for mm, n in zip(self.spacing_mm, factors, strict=True))
        hu = np.rint(pooled).clip(-32768, 32767).astype(np.int16)
        return normnet.Scan(hu, normnet.Geometry(larger))


def smooth_noise(
    shape: tuple[int, ...], mm: float, spacing_mm: tuple[float, ...], rng: np.random.Generator
) -> np.ndarray:
    """Smoothed noise of mean 0 and standard deviation 1."""
    white = rng.standard_normal(shape, dtype=np.float32)
    smooth = gaussian_filter(white, [mm / own for own in spacing_mm])
    return smooth / smooth.std()


def put_lesion(
    ct: Turned, side: str, ml: float, fluid: float, mottled: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The HU with an ellipsoid of ground glass, and its mask inside the lung."""
    radius_mm = (3000 * ml / (4 * math.pi * math.prod(AXES))) ** (1 / 3)
    depth_mm = ct.depth_mm * (ct.labels == SIDES[side])
    places = np.argwhere(depth_mm >= min(0.6 * radius_mm, 0.9 * depth_mm.max()))
    centre = places[rng.integers(len(places))]
    reach = [int((2 * radius_mm + 4 * EDGE_MM) / mm) + 1 for mm in ct.spacing_mm]
    box = tuple(slice(max(0, n - far), n + far) for n, far in zip(centre, reach, strict=True))
    grid = np.ogrid[
        tuple(slice(s.start, s.start + n) for s, n in zip(box, ct.labels[box].shape, strict=True))
    ]
    squares = [
        ((along - middle) * mm / (radius_mm * axis)) ** 2
        for along, middle, mm, axis in zip(grid, centre, ct.spacing_mm, AXES, strict=True)
    ]
    inside = (sum(squares) <= 1) & ct.healthy[box] & (ct.labels[box] == SIDES[side])
    soft = gaussian_filter(inside.astype(np.float32), [EDGE_MM / mm for mm in ct.spacing_mm])
    share = fluid * (1 + GRAIN * smooth_noise(inside.shape, GRAIN_MM, ct.spacing_mm, rng))
    if mottled:
        spots = smooth_noise(inside.shape, SPOTS_MM, ct.spacing_mm, rng)
        share *= SPOTS_FLOOR + np.maximum(spots, 0)
    share = (share * soft).clip(0, 0.97) * (ct.labels[box] > 0)
    hu, mask = ct.volume_hu.copy(), np.zeros(ct.labels.shape, bool)
    hu[box] += share * np.maximum(FLUID_HU - hu[box], 0)  # vessels stay
    mask[box] = inside
    return hu, mask


def remove_lesions(ct: Turned, side: str) -> tuple[np.ndarray, np.ndarray]:
    """The HU with healthy lung in place of all disease of one lung, and the mask of that disease.

    Each lesion takes the HU of the place that holds most healthy lung, in the same lung or in the
    other one. What is not healthy there is taken at random from the healthy voxels around.
    """
    sick = (ct.labels == SIDES[side]) & ~ct.healthy
    hu = ct.volume_hu.copy()
    parts = cc3d.connected_components(sick, connectivity=26)
    rng = np.random.default_rng(0)
    for n, box in enumerate(cc3d.statistics(parts, no_slice_conversion=False)["bounding_boxes"]):
        if n == 0:
            continue
        where = np.argwhere(parts[box] == n) + [part.start for part in box]
        tried = where[:: len(where) // N_TRIED + 1]
        best, chosen = -1.0, np.zeros(3, int)
        for steps in np.ndindex(3, 2 * REACH + 1, 2 * REACH + 1):
            shift = np.array([steps[0] - 1, steps[1] - REACH, steps[2] - REACH]) * STRIDE
            moved = tried + shift
            fits = (moved >= 0).all(axis=1) & (moved < hu.shape).all(axis=1)
            good = float(ct.healthy[tuple(moved[fits].T)].sum()) / len(tried)
            if good > best:
                best, chosen = good, shift
        source = (where + chosen).clip(0, np.array(hu.shape) - 1)
        bad = ~ct.healthy[tuple(source.T)]
        wide = tuple(slice(max(0, part.start - 30), part.stop + 30) for part in box)
        pool = ct.volume_hu[wide][ct.healthy[wide]]
        values = ct.volume_hu[tuple(source.T)]
        values[bad] = rng.choice(pool if len(pool) else ct.volume_hu[ct.healthy], bad.sum())
        hu[tuple(where.T)] = values
    weight = gaussian_filter(sick.astype(np.float32), [BLEND_MM / mm for mm in ct.spacing_mm])
    weight = np.where(sick, np.minimum(2 * weight, 1), 0)
    mask = ct.reference & (ct.labels == SIDES[side])
    return (ct.volume_hu + weight * (hu - ct.volume_hu)).astype(np.float32), mask


def changes(ct: Turned, seed: int) -> Iterator[tuple[str, str, normnet.Scan, np.ndarray, float]]:
    """Name, kind, the changed CT, the mask of the change, and its sign (1 came, -1 went)."""
    rng = np.random.default_rng(seed)
    nothing = np.zeros(ct.labels.shape, bool)
    for name, side, ml, fluid, mottled in LESIONS:
        hu, mask = put_lesion(ct, side, ml, fluid, mottled, rng)
        yield name, "lesion came", ct.scan(hu), mask, 1.0
    if ct.reference is not None:
        n_vox = {side: (ct.reference & (ct.labels == n)).sum() for side, n in SIDES.items()}
        ml = {side: float(n) * ct.voxel_ml for side, n in n_vox.items()}
        enough = [side for side in SIDES if ml[side] >= MIN_REMOVED_ML]
        if enough:
            side = min(enough, key=lambda key: ml[key])
            hu, mask = remove_lesions(ct, side)
            yield f"lesions of the {side} lung removed", "lesions went", ct.scan(hu), mask, -1.0
    noise = gaussian_filter(
        rng.standard_normal(ct.labels.shape, dtype=np.float32),
        (0.3 * NOISE_PX, NOISE_PX, NOISE_PX),
    )
    noisy = (ct.volume_hu + NOISE_HU / noise.std() * noise).astype(np.float32)
    yield f"noise of {NOISE_HU:.0f} HU", "no change", ct.scan(noisy), nothing, 1.0
    thicker = round(THICK_MM / ct.spacing_mm[0])
    factors = (thicker, 1, 1) if thicker > 1 else (1, 2, 2)
    name = f"slices of {thicker * ct.spacing_mm[0]:.0f} mm" if thicker > 1 else "larger pixels"
    yield name, "no change", ct.scan(ct.volume_hu, factors), nothing, 1.0


def true_ml(ct: Turned, mask: np.ndarray) -> dict[str, float]:
    """Millilitres of a mask in both lungs, each lung and each zone."""
    zones = zones_of_planes(ct.labels)
    place = np.nonzero(mask)
    count = np.bincount(zones[place[0], ct.labels[place]], minlength=7)[1:] * ct.voxel_ml
    of_zones = dict(zip(ZONES, map(float, count), strict=True))
    sides = {
        side: sum(ml for zone, ml in of_zones.items() if zone.startswith(side)) for side in SIDES
    }
    return {"both": sum(sides.values()), **sides, **of_zones}


def rows_of(
    case_id: str, name: str, kind: str, exams: tuple[Exam, Exam], truth: dict[str, float]
) -> list[dict[str, Any]]:
    """One row per region with the keys of ``COLUMNS``."""
    told = compare(*exams)["regions"]
    boundary_hu = [exam.result["certainty"]["boundary_hu"] for exam in exams]
    rows = []
    for region, row in told.items():
        inside = row["change_ml_low"] - 5e-3 <= truth[region] <= row["change_ml_high"] + 5e-3
        ml = (row["earlier_lesion_ml"], row["later_lesion_ml"], row["change_ml"])
        spans = (row["change_ml_low"], row["change_ml_high"])
        values = (case_id, name, kind, region, round(truth[region], 2), *ml, *spans, inside)
        rows.append(dict(zip(COLUMNS, (*values, *boundary_hu), strict=True)))
    return rows


def write_summary(rows: list[dict[str, Any]]) -> None:
    """Print the changes of both lungs, and how often the truth lies in the range."""
    print(markdown_head(("CT", "change", "true, ml", "found, ml", "from, ml", "to, ml", "inside")))
    for row in rows:
        if row["region"] == "both":
            numbers = (row[key] for key in ("true_ml", *COLUMNS[7:10]))
            cells = (row["case"], row["change"], *(f"{ml:.1f}" for ml in numbers))
            print(markdown_row((*cells, "yes" if row["inside"] else "no")))
    print()
    print(markdown_head(("kind", "regions", "number", "inside", "%", "mean error, ml")))
    groups = {"both": "both lungs", "right": "each lung", "left": "each lung"}
    for kind in dict.fromkeys(row["kind"] for row in rows):
        for group in ("both lungs", "each lung", "zones"):
            for moved in (True, False):
                chosen = [
                    row
                    for row in rows
                    if row["kind"] == kind
                    and groups.get(row["region"], "zones") == group
                    and (row["true_ml"] != 0) == moved
                    and (row["true_ml"] or row["earlier_ml"] or row["later_ml"])
                ]
                if chosen:
                    n_inside = sum(row["inside"] for row in chosen)
                    error = np.mean([abs(row["change_ml"] - row["true_ml"]) for row in chosen])
                    name = f"{group}, {'changed' if moved else 'unchanged'}"
                    numbers = (
                        str(len(chosen)),
                        str(n_inside),
                        f"{100 * n_inside / len(chosen):.0f}",
                    )
                    print(markdown_row((kind, name, *numbers, f"{error:.1f}")))


def main() -> None:
    """Read the options and measure every case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--case", action="append", required=True, help="repeatable")
    parser.add_argument("--csv", type=Path, help="all rows")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model = normnet.load_model()

    def examine(scan: normnet.Scan, name: str) -> tuple[Exam, Any]:
        found = normnet.segment(scan, model)
        key = {"input": name}
        return Exam(Path(name), describe_result(found, scan, model, model.config, key, "")), found

    rows: list[dict[str, Any]] = []
    for case in read_cases(options.manifest):
        if case.case_id not in options.case:
            continue
        scan = normnet.read_ct(case.image)
        earlier, found = examine(replace(scan, case_id=case.case_id), "earlier")
        reference = read_mask(case.lesion_mask, scan) if case.lesion_mask else None
        ct = Turned(scan, found, reference)
        same = compare(earlier, earlier)["regions"].values()
        if any(row[key] for row in same for key in COLUMNS[7:10]):
            raise SystemExit(f"{case.case_id} with itself: not 0")
        for name, kind, changed, mask, sign in changes(ct, options.seed):
            later, _ = examine(changed, name)
            truth = {region: sign * ml for region, ml in true_ml(ct, mask).items()}
            rows += rows_of(case.case_id, name, kind, (earlier, later), truth)
            if options.csv:
                with options.csv.open("w", newline="", encoding="utf-8") as file:
                    writer = csv.DictWriter(file, COLUMNS)
                    writer.writeheader()
                    writer.writerows(rows)
    write_summary(rows)


if __name__ == "__main__":
    main()
