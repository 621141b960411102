"""``normnet baseline``: other methods on the same CTs, one by one."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from normnet.cli.arguments import BenchFolder, DataSets, Device, LeftOut, LungModel, ScaleName

if TYPE_CHECKING:
    from normnet.experiments.bench import Bench
    from normnet.experiments.catalogue import Scale
    from normnet.experiments.rival_runs import RivalRun
    from normnet.experiments.rivals import Rival


class Action(StrEnum):
    """What ``normnet baseline`` does."""

    LIST = "list"
    TRAIN = "train"
    SCORE = "score"


def baseline(
    action: Annotated[
        Action,
        typer.Argument(
            help="'list' the methods, 'train' one, or 'score' one on CTs with lesion masks.",
            show_default=False,
        ),
    ],
    method: Annotated[
        str | None, typer.Argument(help="Its name in the list.", show_default=False)
    ] = None,
    data: DataSets = None,
    out: BenchFolder = None,
    scale: ScaleName = "small",
    iterations: Annotated[int | None, typer.Option(help="Steps of a training.")] = None,
    size: Annotated[int | None, typer.Option(help="Pixels per side of a slice.")] = None,
    batch: Annotated[int | None, typer.Option(help="Slices per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the optimizer.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the training.")] = 0,
    maps: Annotated[
        bool, typer.Option("--maps", help="'score' writes the maps of scores as NIfTI.")
    ] = False,
    leave_out: LeftOut = None,
    lung_model: LungModel = None,
    device: Device = "auto",
) -> int:
    """List, train or score the methods that NormNet is compared with.

    'list' with --data and --out also says which networks are trained. 'score' trains first if it
    must, and writes the scores of every case with the threshold. OUT is shared with 'normnet
    reproduce': with the same settings, each uses what the other one has made. If the command is
    stopped, the same command goes on from there.
    """
    from normnet.experiments.catalogue import load_scale
    from normnet.experiments.rivals import find_rival

    sizes = {"iterations": iterations, "size": size, "batch": batch, "learning_rate": learning_rate}
    rival = None if method is None else find_rival(method)
    wanted = _resize(load_scale(scale), sizes, rival)
    if action is Action.LIST:
        if method is not None:
            raise typer.BadParameter("'list' takes no method")
        if out is None or not data:
            _print_list(wanted, None, seed)
            return 0
    elif method is None:
        raise typer.BadParameter(f"'{action}' needs a method, see 'normnet baseline list'")
    elif out is None or not data:
        raise typer.BadParameter(f"'{action}' needs --data and --out")
    from normnet.cli.reproduce import opened_bench
    from normnet.experiments.bench import Interrupted
    from normnet.experiments.rival_runs import RivalRun

    with opened_bench(data, out, leave_out or [], lung_model, device) as bench:
        if rival is None:
            _print_list(wanted, bench, seed)
            return 0
        try:
            run = RivalRun(rival, wanted, bench, seed)
            if action is Action.TRAIN:
                _train(run)
            else:
                _score(run, maps)
        except Interrupted:
            bench.say("stopped; the same command goes on from here")
    return 0


def _resize(scale: Scale, sizes: dict[str, float | None], rival: Rival | None) -> Scale:
    """The scale with the sizes that were given, for this method; without one, the unsupervised.

    Raises:
        ConfigError: NN-BAS-012 if the method has no such size, NN-EXP-003 if one is out of range.
    """
    from normnet.baselines.supervised import SUPERVISED
    from normnet.errors import ConfigError

    given = {name: value for name, value in sizes.items() if value is not None}
    if rival is None or rival.network is not None:
        section = "baselines"
    elif rival.name in SUPERVISED:
        section = "supervised"
    elif given:
        option = "--" + next(iter(given)).replace("_", "-")
        raise ConfigError(
            "NN-BAS-012",
            f"'{rival.name}' has no such size",
            option,
            "leave it out",
        )
    else:
        return scale
    own = getattr(scale, section)
    try:
        resized = type(own)(**{**own.model_dump(), **given})
    except ValueError as error:
        what = " ".join(str(error).splitlines()[1:3])
        raise ConfigError(
            "NN-EXP-003", f"not a scale ({what})", "the options", "see normnet baseline --help"
        ) from error
    return scale.model_copy(update={section: resized})


def _print_list(scale: Scale, bench: Bench | None, seed: int) -> None:
    from rich import box
    from rich.table import Table

    from normnet.cli.texts import print_table
    from normnet.experiments.rivals import rivals

    table = Table(box=box.SIMPLE, title="Methods to compare with", title_justify="left")
    for column in ("name", "method", "kind", "learns from"):
        table.add_column(column, no_wrap=column == "name", overflow="fold")
    if bench is not None:
        table.add_column("trained", no_wrap=True)
    for rival in rivals().values():
        trained = [] if bench is None else [_trained(rival, scale, bench, seed)]
        table.add_row(rival.name, rival.label, rival.kind, rival.learns_from, *trained)
    print_table(table)


def _trained(rival: Rival, scale: Scale, bench: Bench, seed: int) -> str:
    from normnet.experiments.baselines import is_trained

    if rival.network is None:  # folds are trained when they are scored
        return "-"
    if not bench.data.normals:
        return "no"
    return "yes" if is_trained(rival.network, scale, bench, seed) else "no"


def _train(run: RivalRun) -> None:
    """Raises ``ConfigError`` NN-BAS-010 if the method has no training of its own."""
    from normnet.errors import ConfigError
    from normnet.experiments.baselines import baseline_folder

    rival, bench = run.rival, run.bench
    if rival.network is None:
        what = "learns nothing" if rival.kind == "simple" else "is trained fold by fold"
        raise ConfigError(
            "NN-BAS-010",
            f"'{rival.name}' {what}",
            "train",
            f"run 'normnet baseline score {rival.name}'",
        )
    run.train()
    bench.say(f"trained: {baseline_folder(rival.network, run.scale, bench, run.seed)}")


def _score(run: RivalRun, maps: bool) -> None:
    """Raises ``InputError`` NN-EXP-006 without a CT with a lesion mask."""
    from normnet.errors import InputError
    from normnet.experiments.rival_files import write_case_scores, write_maps

    if not any(run.bench.data.tests.values()):
        raise InputError(
            "NN-EXP-006", "no CT with a lesion mask", "--data", "see 'normnet datasets list'"
        )
    run.bench.say(f"written: {write_case_scores(run)}")
    if maps:
        for path in write_maps(run):
            run.bench.say(f"written: {path}")
