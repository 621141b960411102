"""``normnet synthesize``: a picture of synthetic lesions in a normal CT."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from normnet.cli.arguments import Device, LungModel


def synthesize(
    ct: Annotated[
        Path, typer.Argument(help="A normal CT, or a prepared case (.npz).", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture, a .png file.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same lesions.")] = 0,
    config: Annotated[str, typer.Option(help="default, paper, or a TOML file.")] = "default",
    lung_model: LungModel = None,
    device: Device = "auto",
) -> int:
    """Draw every step of the generator (Fig. 3 of the paper) and a row of finished lesions."""
    from normnet.memory import check_memory

    check_memory()
    from normnet.cli.devices import choose_device
    from normnet.cli.texts import say
    from normnet.config import load_config
    from normnet.errors import InputError, OutputError
    from normnet.io.atomic import replacing
    from normnet.io.read import read_ct
    from normnet.lungs.learned import segment_lungs
    from normnet.models import load_lungs
    from normnet.preparation.cache import load_case, prepare_normal
    from normnet.report.synthesis_sheet import draw_sheet

    settings = load_config(config)
    torch_device = choose_device(device)
    if out.suffix.lower() != ".png":
        raise OutputError(
            "NN-OUT-014", "the picture must be a .png", out.name, "choose another --out"
        )
    if not out.parent.is_dir():
        raise OutputError("NN-OUT-010", "no such folder", out.parent.name, "make it first")
    if ct.suffix == ".npz":
        case = load_case(ct)
        if case is None:
            raise InputError(
                "NN-TRN-013",
                "not a prepared case",
                ct.name,
                "give a CT, or run 'normnet prepare' again",
            )
    else:
        scan = read_ct(ct)
        lungs = load_lungs(lung_model)
        labels = segment_lungs(scan, lungs.networks, lungs.config.lungs, torch_device)
        case = prepare_normal(scan, labels, settings)
    with replacing(out) as handle:
        draw_sheet(case, settings, seed).save(handle, "PNG")
    say(f"written: {out.name}")
    return 0
