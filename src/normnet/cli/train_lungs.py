"""``normnet train-lungs``: the lung segmenter, from CTs with lung masks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from normnet.cli.arguments import Device, LeftOut, Settings


def train_lungs(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="CSV lists that name lung masks, or .npz of slices.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model folder.")],
    iterations: Annotated[int | None, typer.Option(min=1, help="Steps.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak; falls to zero along a cosine.")
    ] = None,
    sick_share: Annotated[
        float | None, typer.Option(min=0, max=1, help="Part of the crops with synthetic disease.")
    ] = None,
    archive_to_hu: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Slope and intercept to HU, where an .npz's own are wrong."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Weights, crops and synthetic disease follow from it.")
    ] = None,
    device: Device = "auto",
    start_from: Annotated[Path | None, typer.Option(help="Lung model to start from.")] = None,
    leave_out: LeftOut = None,
    config: Settings = "default",
) -> int:
    """Train the 2D network that finds the lungs; no lesion label enters, disease is synthetic.

    Options that are not given are those of the section lungs_training in --config. Ctrl-C saves a
    checkpoint; the same command goes on from there as if it had not been stopped. A finished model
    is never overwritten.
    """
    from normnet.memory import check_memory

    check_memory()
    from normnet.cli.devices import choose_device
    from normnet.cli.signals import stopping_on_signals
    from normnet.cli.texts import progress_bar, say
    from normnet.cli.train import LINE_EVERY
    from normnet.config import load_config, override
    from normnet.io.output_folder import check_output, locked
    from normnet.network.weights import load_members, save_model
    from normnet.training.group import refuse_group
    from normnet.training.lungs.segmenter import lung_network
    from normnet.training.lungs.segmenter import train_lungs as run_training
    from normnet.training.lungs.slices import fingerprints, read_lung_slices
    from normnet.training.record import check_same_run, count_finished

    refuse_group("train-lungs")
    settings = load_config(config)
    given = {
        "iterations": iterations,
        "learning_rate": learning_rate,
        "sick_share": sick_share,
        "seed": seed,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    training = override(settings, {"lungs_training": chosen}, "the options").lungs_training
    torch_device = choose_device(device)
    start, start_members = None, []
    if start_from:
        networks, manifest = load_members(start_from, "lungs", for_training=True)
        start, start_members = networks[0].state_dict(), manifest["members"]
    check_output(out, inputs)
    with locked(out), progress_bar() as bar:
        left_out = frozenset(leave_out or [])
        run = {
            "lungs": settings.lungs.model_dump(mode="json"),
            "lungs_training": training.model_dump(mode="json", exclude={"checkpoint_every"}),
            "inputs": fingerprints(inputs, left_out),
            "archive_to_hu": archive_to_hu and list(archive_to_hu),
            "start_from": start_members,
        }
        check_same_run(out, run)
        if count_finished(out, "lungs"):
            say(f"done already: the lung model in {out} is finished")
            return 0
        bar("reading slices", 0, 1)
        slices = read_lung_slices(inputs, settings.lungs, left_out, archive_to_hu)
        say(f"{len(slices)} slices, {training.iterations} iterations on {torch_device}")
        recent: list[float] = []

        def on_step(step: int, loss: float) -> None:
            recent.append(loss)
            del recent[:-LINE_EVERY]
            mean = sum(recent) / len(recent)
            bar(f"loss {mean:.4f}", step, training.iterations)
            if step % LINE_EVERY == 0 or step == training.iterations:
                say(f"iteration {step} of {training.iterations}, loss {mean:.4f}")

        with stopping_on_signals() as stop:
            state = run_training(
                slices,
                settings.lungs,
                training,
                device=torch_device,
                start_from=start,
                checkpoints=out / "checkpoints",
                on_step=on_step,
                stop=stop,
            )
        last = state.losses[-LINE_EVERY:]
        card = {
            "name": "normnet-lungs",
            "inference": {"lungs": settings.lungs.model_dump()},
            "provenance": {"lungs_training": training.model_dump()},
            "training": {
                "n_slices": len(slices),
                "left_out": leave_out or [],
                "final_loss": round(sum(last) / len(last), 4),
            },
        }
        network = lung_network(settings.lungs, training)
        save_model(out, {"member-1": state.weights}, "lungs", network, card)
    say(f"lung model ready: {out}")
    return 0
