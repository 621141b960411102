"""``normnet reproduce``: the tables and figures of the paper."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normnet.cli.arguments import BenchFolder, DataSets, Device, LeftOut, LungModel, ScaleName

if TYPE_CHECKING:
    from normnet.experiments.bench import Bench
    from normnet.experiments.catalogue import Experiment, Scale


def reproduce(
    name: Annotated[
        str | None, typer.Argument(help="An experiment, see --list.", show_default=False)
    ] = None,
    data: DataSets = None,
    out: BenchFolder = None,
    scale: ScaleName = "small",
    row: Annotated[
        list[str] | None, typer.Option(help="Only this row of a table; repeatable.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds: how often every training is repeated.")
    ] = None,
    leave_out: LeftOut = None,
    lung_model: LungModel = None,
    device: Device = "auto",
    list_: Annotated[
        bool, typer.Option("--list", help="Print every experiment with its cost and stop.")
    ] = False,
) -> int:
    """Reproduce a table or a figure of the paper on the given data sets.

    A table is written again after every row. If the run is stopped, the same command goes on from
    there: every experiment uses the networks, lungs and scores that OUT already holds.
    """
    from normnet.experiments.catalogue import find_experiment, load_scale

    size = load_scale(scale)
    if seeds is not None:
        size = size.model_copy(update={"seeds": seeds})
    if list_:
        _print_list(size)
        return 0
    if name is None:
        raise typer.BadParameter("give an experiment, or --list")
    experiment = find_experiment(name)
    if out is None or not data:
        raise typer.BadParameter(f"'{name}' needs --data and --out")
    return _run(experiment, size, data, out, row or [], leave_out or [], lung_model, device)


def _print_list(scale: Scale) -> None:
    from rich import box
    from rich.table import Table

    from normnet.cli.texts import print_table, say
    from normnet.experiments.catalogue import experiments

    table = Table(box=box.SIMPLE, title=f"Experiments at scale {scale.name}", title_justify="left")
    for column in ("name", "in the paper", "what", "cost"):
        table.add_column(column, no_wrap=column == "name", overflow="fold")
    for experiment in experiments().values():
        table.add_row(experiment.name, experiment.where, experiment.title, _cost(experiment, scale))
    print_table(table)
    say(f"{scale.note} {scale.cost}".strip())


def _cost(experiment: Experiment, scale: Scale) -> str:
    from normnet.experiments.catalogue import count_trainings

    n = count_trainings(experiment, scale)
    trainings = f"{n} networks of {scale.config().training.iterations} iterations" if n else ""
    return "; ".join(part for part in (trainings, experiment.cost) if part)


def _run(
    experiment: Experiment,
    scale: Scale,
    data: list[Path],
    out: Path,
    rows: list[str],
    leave_out: list[str],
    lung_model: Path | None,
    device: str,
) -> int:
    with opened_bench(data, out, leave_out, lung_model, device) as bench:
        from normnet.experiments.bench import Interrupted
        from normnet.experiments.run import run_experiment

        sets = bench.data.tests.items()
        tests = ", ".join(f"{len(cases)} of {name}" for name, cases in sets if cases)
        bench.say(f"{len(bench.data.normals)} normal CTs; with lesion masks: {tests or 'none'}")
        try:
            for path in run_experiment(experiment, scale, bench, rows):
                bench.say(f"written: {path}")
        except Interrupted:
            bench.say("stopped; the same command goes on from here")
    return 0


@contextmanager
def opened_bench(
    data: list[Path], out: Path, leave_out: list[str], lung_model: Path | None, device: str
) -> Iterator[Bench]:
    """The CTs and stored results of a command, with ``out`` locked and signals that stop it."""
    from normnet.memory import check_memory

    check_memory()  # before the imports, which take memory
    from normnet.cli.devices import choose_device
    from normnet.cli.signals import stopping_on_signals
    from normnet.cli.texts import say
    from normnet.experiments.bench import Bench, find_data
    from normnet.io.output_folder import check_output, locked

    found = find_data(data, leave_out)
    check_output(out, data)
    with locked(out), stopping_on_signals() as stop:
        yield Bench(found, out, lung_model, choose_device(device), say, stop)
