"""One CT as other scanners would have made it, through the whole pipeline.

    python benchmarks/acquisition.py $NORMNET_DATA/cases.csv --case coronacases_001

It prints the table of docs/results.md. Thicker slices and larger pixels are means of the CT's own;
noise, kernel and calibration are changed in place. There is one row per variant: Dice of the lungs
with those of the CT as it is; the share of the lung that is marked; by how much the marked volume
differs from that in the CT as it is; and, if the list has a lesion mask, DSC, precision and
sensitivity (a larger voxel is lesion if most of it is).
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
from normnet.evaluation.scores import Comparison, score_cells
from normnet.evaluation.tables import markdown_head, markdown_row
from normnet.io.masks import read_mask
from normnet.preparation.orient import Orientation

COLUMNS = (
    "case",
    "variant",
    "lungs",
    "marked",
    "change of volume",
    "DSC",
    "precision",
    "sensitivity",
)
THICK_MM = (3.0, 5.0, 8.0)
GRAIN_PX = 0.8  # of noise that a kernel has smoothed


def pooled(volume: np.ndarray, factors: tuple[int, int, int]) -> np.ndarray:
    """Means over blocks of voxels; voxels at the end that fill no block are left out."""
    return avg_pool3d(torch.from_numpy(volume.astype(np.float32))[None], factors)[0].numpy()


def variants(
    volume_hu: np.ndarray, spacing_mm: tuple[float, ...], rng: np.random.Generator
) -> Iterator[tuple[str, tuple[int, int, int], np.ndarray]]:
    """Name, number of voxels per axis that become one, and the HU on the CT's own grid."""
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
    print(markdown_head(COLUMNS))
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
                changed = normnet.Scan(hu, normnet.Geometry(larger), case.case_id)
                found = normnet.segment(changed, model)
            except NormNetError as error:
                print(markdown_row((case.case_id, name, str(error))), flush=True)
                if own_lungs is None:
                    break  # nothing to compare the other variants with
                continue
            lungs = found.lung_labels > 0
            ml = found.volumes["both"]["lesion_ml"]
            if own_lungs is None:
                own_lungs, own_ml = lungs, ml
            change = f"{100 * (ml / own_ml - 1):+.1f} %" if own_ml else f"{ml:+.1f} ml"
            dice = compute_overlap(lungs, pooled(own_lungs, factors) >= 0.5).dsc
            share = 100 * found.lesion_mask.sum() / lungs.sum()
            cells = [case.case_id, name, f"{dice:.3f}", f"{share:.2f} %", change]
            if reference is not None:
                wanted = pooled(reference, factors) >= 0.5
                compared = Comparison(found.lesion_mask, wanted, changed.geometry)
                cells += score_cells(compared, "dsc", "precision", "sensitivity")
            print(markdown_row(cells), flush=True)


if __name__ == "__main__":
    main()
