"""Accuracy on every CT of a list, beside two trivial rivals; prints the tables of docs/results.md.

    python benchmarks/accuracy.py $NORMNET_DATA/cases.csv --split dev --split heldout

For a case with a lesion mask it prints DSC, precision and sensitivity of normnet, of (a) HU >= -500
inside the same lungs and of (b) the same after the paper's mean filters and growth; the AUC of the
bright voxels (Table II); and how good the lungs are. For a case without one it prints the share of
the lung that is marked; if the list names infected slices, also the share outside them.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

import normnet
from normnet.datasets.manifest import Case, read_cases
from normnet.evaluation.bright import count_bright
from normnet.evaluation.metrics import compute_overlap
from normnet.evaluation.scores import Comparison, score_cells
from normnet.evaluation.tables import markdown_row
from normnet.io.masks import read_mask
from normnet.postprocessing import postprocess
from normnet.preparation.orient import Orientation
from normnet.preparation.prepare import prepare
from normnet.report.worst_slices import draw_worst_slices


def rivals(
    scan: normnet.Scan, lung_labels: np.ndarray, config: normnet.Config
) -> dict[str, np.ndarray]:
    """The two trivial masks on the scan's grid."""
    prepared = prepare(scan, lung_labels, config.preparation, config.window)
    nothing = np.zeros_like(prepared.lung_mask)
    paper = config.postprocessing.model_copy(update={"rim_vox": 0})
    steps = postprocess(
        prepared.thorax, prepared.volume_hu, prepared.lung_mask, nothing, config.window.tau, paper
    )
    return {
        "threshold": (scan.volume_hu >= config.window.bright_hu) & (lung_labels > 0),
        "threshold + filters": prepared.restore_mask(steps.lesions) & (lung_labels > 0),
    }


def show(*cells: str) -> None:
    """Print one row of a Markdown table."""
    print(markdown_row(cells), flush=True)


def outside_listed(
    case: Case, infected: str, found: normnet.Segmentation, scan: normnet.Scan
) -> None:
    """Print the marked share of the lung in the slices that the list does not call infected.

    The list counts slices from the feet.
    """
    orientation = Orientation.of(scan.geometry)
    lesions, lungs = orientation.apply(found.lesion_mask), orientation.apply(found.lung_labels) > 0
    free = np.ones(len(lungs), bool)
    free[[int(index) for index in infected.split(";")]] = False
    share = 100 * lesions[free].sum() / lungs[free].sum()
    show(case.case_id, "marked outside the infected slices", f"{share:.2f} % of the lung there")


def measure(
    case: Case, model: normnet.Model, reference_lungs: bool, infected: str, pictures: Path | None
) -> None:
    """Print the rows of one case."""
    scan = normnet.read_ct(case.image)
    given = read_mask(case.lung_mask, scan) if case.lung_mask else None
    labels = given.astype(np.uint8) if reference_lungs and given is not None else None
    found = normnet.segment(scan, model, lung_labels=labels)
    lungs = found.lung_labels > 0
    if case.lesion_mask is None:
        share = 100 * found.lesion_mask.sum() / lungs.sum()
        show(case.case_id, "marked", f"{share:.2f} % of the lung")
        if infected:
            outside_listed(case, infected, found, scan)
        return
    reference = read_mask(case.lesion_mask, scan)
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        sheet = draw_worst_slices(scan, found.lung_labels, found.lesion_mask, reference)
        sheet.save(pictures / f"{case.case_id}.png")
    masks = {"normnet": found.lesion_mask, **rivals(scan, found.lung_labels, model.config)}
    for name, mask in masks.items():
        compared = Comparison(mask, reference, scan.geometry)
        show(case.case_id, name, *score_cells(compared, "dsc", "precision", "sensitivity"))
    bright = lungs & (scan.volume_hu >= model.config.window.bright_hu)
    counts = count_bright(1 - found.prob_anomaly, reference, bright)
    compared = Comparison(found.lesion_mask, reference, scan.geometry, counts)
    show(case.case_id, "AUC of bright voxels", *score_cells(compared, "auc"))
    if given is not None and not reference_lungs:
        # some lung masks are drawn on lesion slices only
        drawn = given.any(axis=(1, 2))[:, None, None]
        dice = compute_overlap(lungs & drawn, given).dsc
        inside = (reference & lungs).sum() / reference.sum()
        show(case.case_id, "lungs", f"Dice {dice:.4f}", f"lesion inside {inside:.4f}")


def main() -> None:
    """Read the options and measure every case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--split", action="append", help="repeatable; all where not given")
    parser.add_argument("--case", action="append", help="repeatable; all where not given")
    parser.add_argument("--model", type=Path)
    parser.add_argument(
        "--reference-lungs", action="store_true", help="use the lung masks of the list"
    )
    parser.add_argument("--lesion-model", type=Path)
    parser.add_argument("--lung-model", type=Path)
    parser.add_argument("--pictures", type=Path, help="folder for the worst slices of every case")
    options = parser.parse_args()
    model = normnet.load_model(options.model, options.lung_model, options.lesion_model)
    with options.manifest.open(newline="", encoding="utf-8") as file:
        infected = {
            row["case_id"]: row.get("infected_slices") or "" for row in csv.DictReader(file)
        }
    for case in read_cases(options.manifest):
        wanted = not options.split or case.split in options.split
        if (
            wanted
            and (not options.case or case.case_id in options.case)
            and case.image.suffix != ".npz"
        ):
            measure(case, model, options.reference_lungs, infected[case.case_id], options.pictures)


if __name__ == "__main__":
    main()
