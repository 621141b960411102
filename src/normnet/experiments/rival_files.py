"""What ``normnet baseline score`` writes: the scores of every CT, and the maps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from normnet.errors import ConfigError
from normnet.evaluation.tables import number
from normnet.experiments.bench import Interrupted
from normnet.experiments.catalogue import Row, find_experiment
from normnet.experiments.rival_runs import RivalRun, mask_scores
from normnet.experiments.scores import wanted_scores
from normnet.io.atomic import write_bytes
from normnet.io.csv_text import csv_text
from normnet.io.formats.nifti import write_image

TABLE = "table3"  # the columns are those of its scores


def write_case_scores(run: RivalRun) -> Path:
    """Score all test CTs and write ``baseline-<name>.csv``: a line per choice of threshold and CT.

    Raises:
        OutputError: If it cannot be written.
        Interrupted: If the run shall stop; finished work is stored.
    """
    run.score_missing(mask_scores(wanted_scores(find_experiment(TABLE))))
    names = find_experiment(TABLE).scores
    row = Row(id=run.rival.name, label=run.rival.label, method=run.rival.name)
    head = ["method", "scale", "seed", "config", "set", "case", "choice"]
    lines: list[list[object]] = [[*head, "threshold", "upper_threshold", *names]]
    for result in run.results(row, names):
        for name, cases in result.sets.items():
            for case_id, scores in cases.items():
                ends = result.thresholds.get(name, {}).get(case_id, ())
                shown = [number(end, 2, missing="") if math.isfinite(end) else "" for end in ends]
                lines.append(
                    [row.id, run.scale.name, run.seed, run.key, name, case_id, result.choice]
                    + (shown or ["", ""])
                    + [number(scores[score], 4, missing="") for score in names]
                )
    path = run.bench.out / run.scale.name / f"baseline-{row.id}.csv"
    write_bytes(path, csv_text(lines).encode())
    return path


def write_maps(run: RivalRun) -> Iterator[Path]:
    """Write the maps of an unsupervised or a simple method as ``<case>.nii.gz``.

    Yields:
        Every file: float32 on the grid of the CT, 0 outside the lungs.

    Raises:
        ConfigError: NN-BAS-011 if the method is supervised.
        OutputError: If one cannot be written.
        Interrupted: If the run shall stop.
    """
    if run.rival.kind == "supervised":
        raise ConfigError(
            "NN-BAS-011", f"'{run.rival.name}' gives masks, not maps", "--maps", "leave it out"
        )
    folder = run.bench.out / run.scale.name / f"maps-{run.rival.name}"
    for case in (case for own in run.bench.data.tests.values() for case in own):
        if run.bench.stop():
            raise Interrupted
        subject = run.bench.subject(case, run.config)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{case.case_id}.nii.gz"
        scan, scores = subject.scan, subject.prepared.restore(run.score_map(subject))
        scores *= subject.lung_labels > 0
        write_image(path, scores, scan.geometry, joined=scan.joined)
        yield path
