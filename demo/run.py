"""`make demo`: segment the demo CT as it is, and again with known synthetic lesions in it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import normnet
from normnet.evaluation.metrics import compute_overlap
from normnet.io.formats.nifti import write_image
from normnet.io.masks import write_mask
from normnet.pipeline import Segmentation
from normnet.preparation.prepare import prepare
from normnet.synthesis.generator import synthesize_lesions

HERE = Path(__file__).parent
# Centre (z, y, x; LPS), radius and volume of the mass of LIDC-IDRI-0001, from the union of the
# contours of its four readers.
MASS_MM, MASS_RADIUS_MM, MASS_ML = (-115.9, 86.4, 56.3), 12.5, 8.1
SEED = 7


def main(out: Path) -> None:
    """Write ``out/lidc0001`` and ``out/lidc0001_synthetic``, and print what was found."""
    scan = normnet.read_ct(HERE / "lidc0001.nii.gz")
    model = normnet.load_model()

    found = normnet.segment(scan, model)
    normnet.write_results(found, scan, out / "lidc0001", model)
    report_mass(scan, found)

    sick, inserted = add_lesions(scan, found.lung_labels, model.config)
    write_image(out / "lidc0001_synthetic_ct.nii.gz", sick.volume_hu, sick.geometry)
    write_mask(out / "lidc0001_synthetic_inserted.nii.gz", inserted, sick.geometry)
    found_again = normnet.segment(sick, model)
    normnet.write_results(found_again, sick, out / "lidc0001_synthetic", model)
    report_synthetic(scan, inserted, found, found_again)
    print(
        "\nLook at\n  "
        + "\n  ".join(
            str(out / name / "preview.png") for name in ("lidc0001", "lidc0001_synthetic")
        )
    )
    print("Research use only, not a medical device.")


def report_mass(scan: normnet.Scan, found: Segmentation) -> None:
    """Whether the real mass was found."""
    points = (
        np.moveaxis(np.indices(scan.shape), 0, -1) @ scan.geometry.affine[:3, :3].T
        + scan.geometry.affine[:3, 3]
    )
    mass = ((points - MASS_MM) ** 2).sum(axis=-1) <= MASS_RADIUS_MM**2
    hit_ml = (mass & found.lesion_mask).sum() * scan.geometry.voxel_ml
    ball_ml = mass.sum() * scan.geometry.voxel_ml
    both = found.volumes["both"]
    print("As it is (LIDC-IDRI-0001, a 3 cm mass in the left lung, drawn by four readers)")
    print(
        f"  marked: {both['lesion_ml']:.1f} ml of {both['lung_ml']:.0f} ml of lung, "
        f"{both['lesion_percent']:.2f} %"
    )
    verdict = (
        "found"
        if hit_ml > 0.5 * ball_ml
        else "found in part"
        if hit_ml > 0.1 * ball_ml
        else "NOT found"
    )
    print(
        f"  the mass: {verdict}; {hit_ml:.1f} ml marked of the {ball_ml:.1f} ml ball at its centre "
        f"({MASS_ML} ml drawn)"
    )
    print(f"  elsewhere: {both['lesion_ml'] - hit_ml:.1f} ml marked")


def add_lesions(
    scan: normnet.Scan, lung_labels: np.ndarray, config: normnet.Config
) -> tuple[normnet.Scan, np.ndarray]:
    """Put synthetic lesions into the scan.

    Args:
        scan: As read.
        lung_labels: The scan's shape, 0 outside the lungs.
        config: Preparation, window and generator.

    Returns:
        A new scan, and the mask of the lesions (bool, the scan's shape).
    """
    prepared = prepare(scan, lung_labels, config.preparation, config.window)
    thorax, lungs = torch.from_numpy(prepared.thorax), torch.from_numpy(prepared.lung_mask)
    rng = torch.Generator().manual_seed(SEED)
    slab = synthesize_lesions(thorax, lungs, int(lungs.sum()), config.synthesis, rng)
    window = config.window
    brighter = slab.image.numpy() * (window.high_hu - window.low_hu) + window.low_hu
    inserted = prepared.restore_mask(slab.lesion_mask.numpy()) & (lung_labels > 0)
    lesion_hu = prepared.restore(
        np.where(slab.lesion_mask.numpy(), brighter, -1024).astype(np.float32)
    )
    volume = np.where(inserted, np.maximum(scan.volume_hu, lesion_hu), scan.volume_hu)
    return replace(
        scan, volume_hu=np.rint(volume).astype(np.int16), case_id="lidc0001_synthetic"
    ), inserted


def report_synthetic(
    scan: normnet.Scan, inserted: np.ndarray, before: Segmentation, after: Segmentation
) -> None:
    """How much of the synthetic lesions was found; what was marked before does not count."""
    counted = ~before.lesion_mask | inserted
    overlap = compute_overlap(after.lesion_mask & counted, inserted)
    print("With synthetic lesions of known place put in")
    print(
        f"  put in: {inserted.sum() * scan.geometry.voxel_ml:.1f} ml; DSC {overlap.dsc:.3f}", end=""
    )
    print(f", precision {overlap.precision:.3f}, sensitivity {overlap.sensitivity:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-out"))
