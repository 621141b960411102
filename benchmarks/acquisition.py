"""One CT as other scanners would have given it, through the whole pipeline; prints the table of docs/results.md.

    python benchmarks/acquisition.py $NORMNET_DATA/cases.csv --case covidctmd_normal002 --case coronacases_001

Thicker slices and larger pixels are means of the CT's own; noise, kernel and calibration are changed in place. A row a
variant: Dice of the lungs with those of the CT as it is, the share of the lung that is marked, the change of the volume
that is marked against the CT as it is and, where the list has a lesion mask, DSC, precision and sensitivity (in larger
voxels the mask is what most of a voxel is).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch.nn.functional import avg_pool3d

import normnet
from normnet.datasets.manifest import read_cases
from normnet.errors import NormNetError
from normnet.evaluation.metrics import compute_overlap
from normnet.io.masks import read_mask
from normnet.preparation.orient import Orientation

THICK_MM = (3.0, 5.0, 8.0)
GRAIN_PX = 0.8  # of noise that a kernel has smoothed


def pooled(volume: np.ndarray, factors: tuple[int, int, int]) -> np.ndarray:
    """Means over blocks of voxels; what does not fill a block at the end is left out."""
    return avg_pool3d(torch.from_numpy(volume.astype(np.float32))[None], factors)[0].numpy()


def variants(
    volume_hu: np.ndarray, spacing_mm: tuple[float, ...], rng: np.random.Generator
) -> Iterator[tuple[str, tuple[int, int, int], np.ndarray]]:
    """Name, voxels that become one along each axis, and the HU on the CT's own grid."""
    white = rng.standard_normal(volume_hu.shape, dtype=np.float32)
    grain = gaussian_filter(white, (0.3 * GRAIN_PX, GRAIN_PX, GRAIN_PX))
    grain /= grain.std()
    yield "as it is", (1, 1, 1), volume_hu
    for mm in THICK_MM:
        factor = round(mm / spacing_mm[0])
        if factor < 2:
            continue
        yield f"slices of {factor * spacing_mm[0]:.1f} mm", (factor, 1, 1), volume_hu
    yield "pixels twice as large", (1, 2, 2), volume_hu
    yield "white noise of 40 HU", (1, 1, 1), volume_hu + 40 * white
    yield "white noise of 60 HU", (1, 1, 1), volume_hu + 60 * white
    yield "grainy noise of 60 HU", (1, 1, 1), volume_hu + 60 * grain
    yield (
        "smoothed, sigma 0.8 mm",
        (1, 1, 1),
        gaussian_filter(volume_hu, [0.8 / mm for mm in spacing_mm]),
    )
    yield "sharpened", (1, 1, 1), 2 * volume_hu - gaussian_filter(volume_hu, (0, 1, 1))
    yield "40 HU brighter", (1, 1, 1), volume_hu + 40
    yield "40 HU darker", (1, 1, 1), volume_hu - 40
    yield (
        "8 bit, -1250 to 250 HU",
        (1, 1, 1),
        np.clip(np.rint((volume_hu + 1250) * 0.17), 0, 255) / 0.17 - 1250,
    )


def main() -> None:
    """Read the options and measure every case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--case", action="append", required=True, help="repeatable")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model = normnet.load_model()
    print("| case | variant | lungs | marked | change of volume | DSC | precision | sensitivity |")
    print("|---|---|---|---|---|---|---|---|")
    for case in read_cases(options.manifest):
        if case.case_id not in options.case:
            continue
        scan = normnet.read_ct(case.image)
        orientation = Orientation.of(scan.geometry)
        spacing_mm = orientation.spacing_mm(scan.geometry)
        volume_hu = orientation.apply(scan.volume_hu).astype(np.float32)
        reference = (
            orientation.apply(read_mask(case.lesion_mask, scan)) if case.lesion_mask else None
        )
        own_lungs, own_ml = None, 0.0
        for name, factors, changed_hu in variants(
            volume_hu, spacing_mm, np.random.default_rng(options.seed)
        ):
            hu = np.rint(pooled(changed_hu, factors)).clip(-32768, 32767).astype(np.int16)
            larger = tuple(mm * factor for mm, factor in zip(spacing_mm, factors, strict=True))
            try:
                found = normnet.segment(
                    normnet.Scan(hu, normnet.Geometry(larger), case.case_id), model
                )
            except NormNetError as error:
                print(f"| {case.case_id} | {name} | {error} |", flush=True)
                if own_lungs is None:
                    break  # nothing to compare the other variants with
                continue
            lungs = found.lung_labels > 0
            ml = found.volumes["both"]["lesion_ml"]
            if own_lungs is None:
                own_lungs, own_ml = lungs, ml
            change = f"{100 * (ml / own_ml - 1):+.1f} %" if own_ml else f"{ml:+.1f} ml"
            dice = compute_overlap(lungs, pooled(own_lungs, factors) >= 0.5).dsc
            row = f"{dice:.3f} | {100 * found.lesion_mask.sum() / lungs.sum():.2f} % | {change}"
            if reference is not None:
                overlap = compute_overlap(found.lesion_mask, pooled(reference, factors) >= 0.5)
                row += f" | {overlap.dsc:.3f} | {overlap.precision:.3f} | {overlap.sensitivity:.3f}"
            print(f"| {case.case_id} | {name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
