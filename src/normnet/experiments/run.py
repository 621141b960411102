"""Which code runs which kind of experiment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from normnet.errors import ConfigError, InputError
from normnet.experiments.bench import Bench
from normnet.experiments.catalogue import Experiment, Row, Scale
from normnet.experiments.scores import finished_rows, run_rows
from normnet.experiments.tables import write_tables


def run_experiment(experiment: Experiment, scale: Scale, bench: Bench, rows: list[str]) -> Iterator[Path]:
    """Run an experiment; every file as it is written, a table again after each of its rows.

    Args:
        experiment: What.
        scale: Size.
        bench: The CTs and what is kept.
        rows: Rows of a table, by id; all where empty.

    Raises:
        ConfigError: NN-EXP-005 if a row is not known.
        InputError: NN-EXP-006 if there is no CT with a lesion mask.
        Interrupted: If asked to stop.
    """
    wanted = _chosen(experiment, rows)
    if not any(bench.data.tests.values()):
        raise InputError("NN-EXP-006", "no CT with a lesion mask", "--data", "see 'normnet datasets list'")
    folder = bench.out / scale.name
    for _ in run_rows(wanted, scale, bench):
        write_tables(folder, experiment, scale, finished_rows(experiment, scale, bench))
    yield from write_tables(folder, experiment, scale, finished_rows(experiment, scale, bench))


def _chosen(experiment: Experiment, rows: list[str]) -> list[Row]:
    known = {row.id: row for row in experiment.rows}
    for name in rows:
        if name not in known:
            listed = ", ".join(known) or "it has none"
            raise ConfigError("NN-EXP-005", f"no row '{name}' in {experiment.name}", "--row", f"rows: {listed}")
    return [row for row in experiment.rows if not rows or row.id in rows]
