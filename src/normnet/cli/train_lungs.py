"""``normnet train-lungs``: the lung segmenter, from CTs with lung masks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train_lungs(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="CSV lists that name lung masks, or .npz of slices.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model folder.")],
    iterations: Annotated[int, typer.Option(min=1, help="Steps.")] = 3000,
    learning_rate: Annotated[
        float, typer.Option(help="Peak; falls to zero along a cosine.")
    ] = 1.5e-3,
    sick_share: Annotated[
        float, typer.Option(min=0, max=1, help="Part of the crops with synthetic disease.")
    ] = 0.75,
    archive_to_hu: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Slope and intercept to HU, where an .npz's own are wrong."),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Weights, crops and synthetic disease follow from it.")
    ] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    start_from: Annotated[Path | None, typer.Option(help="Lung model to go on from.")] = None,
    leave_out: Annotated[
        list[str] | None, typer.Option(help="A case to leave out; repeatable.")
    ] = None,
    config: Annotated[str, typer.Option(help="default, paper, or a TOML file.")] = "default",
) -> int:
    """Train the 2D network that finds the lungs; no lesion label enters, disease is synthetic."""
    from normnet.cli.devices import choose_device
    from normnet.cli.texts import progress_bar, say
    from normnet.cli.train import LINE_EVERY
    from normnet.config import load_config
    from normnet.io.output_folder import check_output, locked
    from normnet.network.weights import load_members, save_model
    from normnet.training.lungs.segmenter import lung_network
    from normnet.training.lungs.segmenter import train_lungs as run_training
    from normnet.training.lungs.slices import read_lung_slices

    settings = load_config(config)
    torch_device = choose_device(device)
    start = load_members(start_from, "lungs")[0][0].state_dict() if start_from else None
    check_output(out, inputs)
    with locked(out), progress_bar() as bar:
        bar("reading slices", 0, 1)
        slices = read_lung_slices(inputs, settings.lungs, frozenset(leave_out or []), archive_to_hu)
        say(f"{len(slices)} slices, {iterations} iterations on {torch_device}")
        recent: list[float] = []

        def on_step(step: int, loss: float) -> None:
            recent.append(loss)
            del recent[:-LINE_EVERY]
            mean = sum(recent) / len(recent)
            bar(f"loss {mean:.4f}", step, iterations)
            if step % LINE_EVERY == 0 or step == iterations:
                say(f"iteration {step} of {iterations}, loss {mean:.4f}")

        state = run_training(
            slices,
            settings.lungs,
            iterations=iterations,
            learning_rate=learning_rate,
            sick_share=sick_share,
            seed=seed,
            device=torch_device,
            start_from=start,
            on_step=on_step,
        )
        card = {
            "name": "normnet-lungs",
            "inference": {"lungs": settings.lungs.model_dump()},
            "training": {
                "n_slices": len(slices),
                "left_out": leave_out or [],
                "iterations": iterations,
                "learning_rate": learning_rate,
                "sick_share": sick_share,
                "seed": seed,
                "final_loss": round(sum(recent) / len(recent), 4),
            },
        }
        save_model(out, {"member-1": state}, "lungs", lung_network(settings.lungs), card)
    say(f"lung model ready: {out}")
    return 0
