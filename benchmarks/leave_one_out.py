"""The settings of the boundary, chosen by leave-one-patient-out.

    python benchmarks/leave_one_out.py $NORMNET_DATA/cases.csv

It prints the first table of docs/results.md. Every CT with a lesion mask is one patient. The
networks run once; then each setting of the grid is tried on each patient. In the fold of a patient,
the setting with the best mean DSC over the *other* patients is scored on the patient. Beside it
stand the settings as shipped, Eq. 10 alone with the same ensemble and lungs, and the settings as
shipped with either half of the lesion networks, which differ only in the seed of their training.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np

import normnet
from normnet.config import Config, PostprocessingConfig
from normnet.datasets.manifest import Case, read_cases
from normnet.evaluation.metrics import compute_overlap
from normnet.evaluation.tables import markdown_head, markdown_row, number
from normnet.findings import postprocess_votes
from normnet.inference.lesions import predict_lesions
from normnet.inference.voting import predict_normal
from normnet.io.masks import read_mask
from normnet.lungs.learned import segment_lungs
from normnet.postprocessing import bound_lesions, parenchyma_density
from normnet.preparation.prepare import prepare

GRID = {
    "step_hu": (0.0, 45.0, 60.0, 75.0, 90.0),
    "share": (0.08, 0.12, 0.15, 0.2, 0.25, 0.3),
    "disease_percentile": (75.0, 90.0),
    "prob_lesion": (0.1, 0.2),
}


def settings(config: PostprocessingConfig) -> list[PostprocessingConfig]:
    """Every combination of the grid."""
    return [
        config.model_copy(update=dict(zip(GRID, values, strict=True)))
        for values in itertools.product(*GRID.values())
    ]


def measure(
    case: Case, model: normnet.Model, config: Config
) -> tuple[list[float], dict[str, float]]:
    """DSC of every setting of the grid, and of the methods beside the grid."""
    scan = normnet.read_ct(case.image)
    reference = read_mask(case.lesion_mask, scan)
    labels = segment_lungs(scan, model.lungs.networks, config.lungs)
    prepared = prepare(scan, labels, config.preparation, config.window)
    votes = predict_normal(
        prepared.thorax, model.ensemble.networks, config.network.stride, config.inference
    )
    found = postprocess_votes(prepared, votes, config)
    normal, core, post = found.normal_mask, found.steps.core, config.postprocessing

    def dsc(mask: np.ndarray) -> float:
        return compute_overlap(prepared.restore_mask(mask) & (labels > 0), reference).dsc

    density_hu = parenchyma_density(
        prepared.volume_hu, prepared.lung_mask, normal, post.density_sigma_vox
    )

    def bounded(networks: list, chosen: list[PostprocessingConfig]) -> list[float]:
        prob = predict_lesions(prepared, networks, model.lesions.config)
        found = (
            bound_lesions(density_hu, core, prob, prepared.lung_mask, normal, one)[0]
            for one in chosen
        )
        return [dsc((edges & 2) > 0) for edges in found]

    *grid, shipped = bounded(model.lesions.networks, [*settings(post), post])
    half = len(model.lesions.networks) // 2
    halves = [
        bounded(part, [post])[0]
        for part in (model.lesions.networks[:half], model.lesions.networks[half:])
    ]
    return grid, {
        "shipped": shipped,
        "Eq. 10": dsc(core),
        "one half": halves[0],
        "other half": halves[1],
    }


def main() -> None:
    """Read the options, measure every case, choose in folds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--split", default="dev")
    options = parser.parse_args()
    model = normnet.load_model()
    cases = [
        case
        for case in read_cases(options.manifest)
        if case.split == options.split and case.lesion_mask
    ]
    measured = [measure(case, model, model.config) for case in cases]
    table = np.array([grid for grid, _ in measured])  # (patients, settings)
    names = list(measured[0][1])
    print(markdown_head(["case", "left out", *names, "chosen on the others"]))
    left_out = []
    for row, (case, (grid, beside)) in enumerate(zip(cases, measured, strict=True)):
        best = int(np.delete(table, row, axis=0).mean(axis=0).argmax())
        left_out.append(grid[best])
        values = dict(zip(GRID, list(itertools.product(*GRID.values()))[best], strict=True))
        numbers = [number(value, 3) for value in (grid[best], *(beside[name] for name in names))]
        print(markdown_row([case.case_id, *numbers, str(values)]))
    columns = [left_out, *([beside[name] for _, beside in measured] for name in names)]
    print(markdown_row(["**mean**", *(number(float(np.mean(part)), 3) for part in columns), ""]))


if __name__ == "__main__":
    main()
