"""``normnet train``: an ensemble from normal CTs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from normnet.cli.arguments import Device, LeftOut, LungModel, Settings

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from normnet.cli.texts import Bar
    from normnet.config import Config
    from normnet.preparation.cache import NormalCase
    from normnet.training.group import Group

LINE_EVERY = 100  # iterations, where no one watches a progress bar


def train(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="Prepared cases, or normal CTs, folders, CSV lists.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model folder.")],
    config: Settings = "default",
    members: Annotated[int | None, typer.Option(min=1, help="Networks of the ensemble.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the first member; later ones count up from it.")
    ] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Steps per member.")] = None,
    device: Device = "auto",
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that make slabs for a GPU; 0: it makes them.")
    ] = 0,
    split: Annotated[
        str | None, typer.Option(help="Split of a CSV list; else 'train' and unmarked.")
    ] = None,
    leave_out: LeftOut = None,
    lung_model: LungModel = None,
) -> int:
    """Train networks that know normal lung tissue, on synthetic lesions in normal CTs.

    CTs that are not prepared yet are prepared into OUT/cache first. Prepared cases must have the
    same settings of preparation, window and lungs. Ctrl-C saves a checkpoint; the same command goes
    on from there as if it had not been stopped. A finished model is never overwritten. Started by
    torchrun, several processes train every network together, on the CPU or each on its own GPU.
    """
    from normnet.memory import check_memory

    check_memory()
    from normnet.cli.devices import choose_device
    from normnet.cli.signals import stopping_on_signals
    from normnet.cli.texts import progress_bar, say
    from normnet.config import load_config, override
    from normnet.io.output_folder import check_output, locked
    from normnet.training.group import Group

    group = Group.from_environment()
    torch_device = choose_device(group.device(choose_device(device)))
    with group.connected(torch_device), quiet_unless_first(group):
        settings = load_config(config)
        given = {"members": members, "seed": seed, "iterations": iterations}
        chosen = {name: value for name, value in given.items() if value is not None}
        settings = override(settings, {"training": chosen}, "the options")
        training = settings.training
        group.check_batch(training.batch)
        if group.is_first:
            check_output(out, inputs)
        with locked(out) if group.is_first else nullcontext(), progress_bar() as bar:
            cases = group.after_first(
                lambda: load_normals(
                    inputs,
                    out / "cache",
                    settings,
                    lung_model,
                    split,
                    leave_out or [],
                    torch_device,
                    bar,
                )
            )
            from normnet.training.ensemble import train_ensemble

            run = describe_run(settings, cases)
            group.check_same(run)
            if group.from_first(lambda: is_finished(out, settings, run)):
                say(f"done already: the model in {out} is finished")
                return 0
            n_steps = f"{training.members} x {training.iterations} iterations"
            together = f" in {group.size} processes" if group.size > 1 else ""
            say(f"{len(cases)} normal CTs; {n_steps} on {torch_device}{together}")
            with (
                stopping_on_signals(patient=group.size > 1) as stop,
                step_reporter(out, settings, bar, group) as on_step,
            ):
                finished = train_ensemble(
                    cases,
                    settings,
                    out,
                    device=torch_device,
                    workers=workers,
                    group=group,
                    on_step=on_step,
                    stop=stop,
                )
        if finished:
            say(f"model ready: {out}")
    return 0


@contextmanager
def quiet_unless_first(group: Group) -> Iterator[None]:
    """Let the first process alone print, and end last.

    What ends the first process, too, is not said twice. Another one waits until the first has
    ended, because torchrun ends all processes as soon as one has ended with a code that is not 0.

    Raises:
        Exit: In another process, with the exit code of what the first one says.
    """
    if group.is_first:
        yield
        return
    import os

    from normnet.cli.signals import Stopped
    from normnet.errors import InputError, NormNetError, ResourceError

    try:
        with (
            Path(os.devnull).open("w") as nowhere,
            redirect_stdout(nowhere),
            redirect_stderr(nowhere),
        ):
            yield
    except (NormNetError, Stopped) as ended:
        here_alone = isinstance(ended, InputError | ResourceError) and ended.code != "NN-TRN-033"
        if here_alone:  # this machine lacks a file or memory, the first process goes on
            raise
        with suppress(Stopped):  # torchrun ends this process, too, and says so itself
            group.wait_for_the_end()
        raise typer.Exit(ended.exit_code) from ended


def is_finished(out: Path, config: Config, run: dict[str, Any]) -> bool:
    """Whether the folder holds the model of this very run with all its members.

    Raises:
        OutputError: NN-OUT-013 if it holds another one, NN-TRN-022 if its record is damaged.
    """
    from normnet.errors import OutputError
    from normnet.training.ensemble import kind_of
    from normnet.training.record import check_same_run, count_finished

    check_same_run(out, run)
    n_finished = count_finished(out, kind_of(config))
    if n_finished > config.training.members:
        raise OutputError(
            "NN-OUT-013",
            f"a finished model of {n_finished} members lies there",
            "--out",
            f"choose another --out, or give --members {n_finished}",
        )
    return n_finished == config.training.members


def load_normals(
    inputs: list[Path],
    cache: Path,
    config: Config,
    lung_model: Path | None,
    split: str | None,
    leave_out: list[str],
    device: str,
    bar: Bar,
) -> list[NormalCase]:
    """Load prepared cases, and prepare CTs into the cache.

    Raises:
        InputError: NN-TRN-013 if a prepared case is damaged, NN-TRN-014 if it was prepared with
            other settings, NN-TRN-010 to 012 as ``find_normals``; or as reading a CT that fails.
    """
    from normnet.cli.normals import check_names, find_normals, prepare_all
    from normnet.errors import InputError
    from normnet.preparation.cache import load_case
    from normnet.training.normals import Preparer

    files, others = [], []
    for path in inputs:
        inside = (
            sorted(path.glob("*.npz")) if path.is_dir() else [path] if path.suffix == ".npz" else []
        )
        files += inside
        if not inside:
            others.append(path)
    cases = []
    skipped = set(leave_out)
    preparer = Preparer(cache, config, lung_model, False, device)
    for file in files:
        case = load_case(file)
        if case is None:
            raise InputError(
                "NN-TRN-013", "not a prepared case", file.name, "run 'normnet prepare' again"
            )
        if case.case_id in leave_out or file.stem in leave_out:
            skipped -= {case.case_id, file.stem}
            continue
        preparer.check(case, file.name)
        cases.append(case)
    if others:
        prepared, errors = prepare_all(find_normals(others, split, skipped), preparer, bar)
        if errors:
            raise errors[0]
        cases += prepared
    elif skipped:
        raise InputError(
            "NN-TRN-010",
            f"no case '{sorted(skipped)[0]}' to leave out",
            "--leave-out",
            "check its name",
        )
    if not cases:
        raise InputError(
            "NN-TRN-011",
            "no normal CT to learn from",
            "the inputs",
            "give CTs, a folder or a CSV list",
        )
    check_names([case.case_id for case in cases])
    return cases


def describe_run(config: Config, cases: list[NormalCase]) -> dict[str, Any]:
    """What must be the same for checkpoints to be used again."""
    settings = config.model_dump(mode="json", exclude={"lungs_training"})
    settings["training"].pop("members")  # a larger ensemble only adds some
    settings["training"].pop("checkpoint_every")
    return {"config": settings, "cases": {case.case_id: case.key for case in cases}}


@contextmanager
def step_reporter(
    out: Path, config: Config, bar: Bar, group: Group
) -> Iterator[Callable[[int, int, float], None]]:
    """Report every iteration: a bar on a terminal, lines in a log, curves for TensorBoard."""
    import sys

    from normnet.cli.texts import say

    members, iterations = config.training.members, config.training.iterations
    writer = _tensorboard(out / "tensorboard") if group.is_first else None
    recent: list[float] = []

    def on_step(member: int, step: int, loss: float) -> None:
        recent.append(loss)
        del recent[:-LINE_EVERY]
        mean = sum(recent) / len(recent)
        bar(
            f"member {member} of {members}, loss {mean:.4f}",
            (member - 1) * iterations + step,
            members * iterations,
        )
        if writer is not None:
            writer.add_scalar(f"loss/member-{member}", loss, step)
        if not sys.stderr.isatty() and (step % LINE_EVERY == 0 or step == iterations):
            say(f"member {member} of {members}: iteration {step} of {iterations}, loss {mean:.4f}")

    try:
        yield on_step
    finally:
        if writer is not None:
            writer.close()


def _tensorboard(folder: Path) -> SummaryWriter | None:
    """A writer, or None where tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
