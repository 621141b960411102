"""Lungs and lesions under heavy synthetic disease, put into CTs of known lungs.

    python benchmarks/heavy_disease.py $NORMNET_DATA/cases.csv --case radiopaedia_5

It prints the table of docs/results.md. Whole lobes, bases, dependent and peripheral lung become
solid, or all of the lung becomes hazy. There is one row per kind of disease: Dice of the lungs that
are found with those of the CT (its mask in the list, or normnet's own without the disease), the
share of the disease inside them, and the share of it that is marked. Disease that the CT had before
counts as a false positive.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

import normnet
from normnet.datasets.manifest import read_cases
from normnet.errors import NormNetError
from normnet.evaluation.metrics import compute_overlap
from normnet.evaluation.scores import Comparison, score_cells
from normnet.evaluation.tables import markdown_head, markdown_row
from normnet.io.masks import read_mask
from normnet.lungs.learned import segment_lungs
from normnet.lungs.sides import find_middle, split_left_right
from normnet.preparation.orient import Orientation

COLUMNS = (
    "case",
    "disease",
    "Dice of the lungs",
    "disease inside them",
    "marked",
    "precision",
)
TEXTURE_MM, OUTLINE_MM, EDGE_MM = 0.8, 12.0, 0.7
HAZE_HU = -100.0  # below, vessels shine through


def place_disease(
    scan: normnet.Scan, lungs: np.ndarray, rng: np.random.Generator
) -> Iterator[tuple[str, normnet.Scan, np.ndarray]]:
    """Name, the CT with disease and the mask of it, one kind after the other."""
    orientation = Orientation.of(scan.geometry)
    spacing = orientation.spacing_mm(scan.geometry)
    volume_hu = orientation.apply(scan.volume_hu).astype(np.float32)
    inside = orientation.apply(lungs)
    side = split_left_right(inside, find_middle(volume_hu, inside, spacing).column)

    def noise(mm: float) -> np.ndarray:
        values = gaussian_filter(
            rng.standard_normal(inside.shape).astype(np.float32), [mm / own for own in spacing]
        )
        return values / values.std()

    fine, coarse = noise(TEXTURE_MM), noise(OUTLINE_MM)
    z, y, _ = np.nonzero(inside)
    # 0 at the lungs' base, 1 at the apex; 0 in front, 1 at the back
    height = ((np.arange(inside.shape[0]) - z.min()) / np.ptp(z))[:, None, None]
    back = ((np.arange(inside.shape[1]) - y.min()) / np.ptp(y))[None, :, None]
    depth_mm = distance_transform_edt(inside, sampling=spacing)
    lower = height - 0.8 * (back - 0.5) + 0.05 * coarse < 0.35
    kinds = {
        "lower lobe right, solid": ((side == 1) & lower, 30, 20),
        "lower lobe left, solid": ((side == 2) & lower, 30, 20),
        "upper third right, solid": ((side == 1) & (height > 0.6 + 0.03 * coarse), 30, 20),
        "left lung up to its apex, solid": ((side == 2) & (height + 0.03 * coarse < 0.75), 20, 20),
        "dependent quarter, solid": (inside & (back + 0.04 * coarse > 0.72), 30, 20),
        "dependent third, solid and aerated": (inside & (back + 0.04 * coarse > 0.6), -80, 90),
        "both bases, solid": (inside & (height + 0.04 * coarse < 0.3), 30, 20),
        "rind of 2 cm, solid": (inside & (depth_mm < 20 + 8 * coarse), 0, 30),
        "all of it hazy, -450 HU": (inside, -450, 60),
        "all of it dense, -250 HU": (inside, -250, 60),
    }
    for name, (where, level, spread) in kinds.items():
        share = (
            gaussian_filter(where.astype(np.float32), [EDGE_MM / own for own in spacing]) * inside
        )
        texture = level + spread * fine + 15 * coarse
        if level < HAZE_HU:
            texture = np.maximum(texture, volume_hu)
        sick_hu, sick = np.zeros_like(scan.volume_hu), np.zeros(scan.shape, bool)
        orientation.apply(sick_hu)[...] = np.rint(volume_hu + share * (texture - volume_hu))
        orientation.apply(sick)[...] = where
        yield name, replace(scan, volume_hu=sick_hu), sick


def main() -> None:
    """Read the options and measure every case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--case", action="append", required=True, help="repeatable")
    parser.add_argument("--lung-model", type=Path)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    model = normnet.load_model(lungs=options.lung_model)
    print(markdown_head(COLUMNS))
    for case in read_cases(options.manifest):
        if case.case_id not in options.case:
            continue
        scan = normnet.read_ct(case.image)
        given = read_mask(case.lung_mask, scan) if case.lung_mask else None
        lungs = (
            segment_lungs(scan, model.lungs.networks, model.config.lungs)
            if given is None
            else given
        ) > 0
        for name, sick_scan, sick in place_disease(
            scan, lungs, np.random.default_rng(options.seed)
        ):
            try:
                found = normnet.segment(sick_scan, model)
            except NormNetError as error:
                print(markdown_row((case.case_id, name, str(error))), flush=True)
                continue
            dice = compute_overlap(found.lung_labels > 0, lungs).dsc
            inside = (found.lung_labels > 0)[sick].mean()
            compared = Comparison(found.lesion_mask, sick, scan.geometry)
            cells = [case.case_id, name, f"{dice:.3f}", f"{inside:.3f}"]
            cells += score_cells(compared, "sensitivity", "precision")
            print(markdown_row(cells), flush=True)


if __name__ == "__main__":
    main()
