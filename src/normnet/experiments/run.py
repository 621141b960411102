"""Which code runs which kind of experiment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from normnet.errors import ConfigError, InputError
from normnet.experiments.bench import Bench
from normnet.experiments.catalogue import Experiment, Row, Scale


def run_experiment(
    experiment: Experiment, scale: Scale, bench: Bench, rows: list[str]
) -> Iterator[Path]:
    """Run an experiment.

    Args:
        experiment: What to run.
        scale: Size.
        bench: The CTs, and the results of earlier runs.
        rows: Rows of a table of scores, by id; all if empty.

    Yields:
        The files that it wrote, in the folder of the scale.

    Raises:
        ConfigError: NN-EXP-005 if a row is not known.
        InputError: NN-EXP-006 if there is no CT with a lesion mask and the experiment needs one.
        NormNetError: If a CT cannot be read, or a supervised method cannot run here.
        Interrupted: If the run shall stop.
    """
    wanted, folder = _chosen(experiment, rows), bench.out / scale.name
    if experiment.needs_lesions and not any(bench.data.tests.values()):
        raise InputError(
            "NN-EXP-006", "no CT with a lesion mask", "--data", "see 'normnet datasets list'"
        )
    if experiment.kind == "scores":
        yield from _run_table(folder, experiment, wanted, scale, bench)
    elif experiment.kind == "figure":
        from normnet.experiments.figures import draw_figure, save_figure

        path = folder / f"{experiment.name}.png"
        save_figure(draw_figure(experiment.name, scale, bench), path)
        yield path
    elif experiment.kind == "datasets":
        from normnet.experiments.overview import write_overview

        yield from write_overview(folder, experiment, scale, bench)
    elif experiment.kind == "lungs":
        from normnet.experiments.lungs import run_lungs

        yield from run_lungs(folder, experiment, scale, bench)
    else:
        from normnet.experiments.searches import (
            search_postprocessing,
            search_threshold,
            write_search,
        )

        search = (
            search_postprocessing
            if experiment.kind == "search-postprocessing"
            else search_threshold
        )
        yield from write_search(folder, experiment, scale, search(scale, bench))


def _run_table(
    folder: Path, experiment: Experiment, rows: list[Row], scale: Scale, bench: Bench
) -> Iterator[Path]:
    """A table of scores; it is written again whenever a row is finished."""
    from normnet.experiments.rival_runs import finished_rivals, run_rivals
    from normnet.experiments.scores import finished_rows, run_rows
    from normnet.experiments.tables import write_tables

    def write() -> list[Path]:
        finished = finished_rows(experiment, scale, bench)
        return write_tables(
            folder, experiment, scale, finished + finished_rivals(experiment, scale, bench)
        )

    for run in (run_rows, run_rivals):
        for _ in run(experiment, rows, scale, bench):
            write()
    yield from write()


def _chosen(experiment: Experiment, rows: list[str]) -> list[Row]:
    known = {row.id: row for row in experiment.rows}
    for name in rows:
        if name not in known:
            listed = ", ".join(known) or "it has none"
            raise ConfigError(
                "NN-EXP-005", f"no row '{name}' in {experiment.name}", "--row", f"rows: {listed}"
            )
    return [row for row in experiment.rows if not rows or row.id in rows]
