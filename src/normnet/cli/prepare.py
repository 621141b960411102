"""``normnet prepare``: normal CTs on the training grid, stored for many trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from normnet.cli.arguments import Device, LeftOut, LungModel, Settings


def prepare(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="Normal CTs, folders of them, data sets, or CSV lists.", show_default=False
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the prepared cases, <case>.npz.")
    ],
    split: Annotated[
        str | None,
        typer.Option(help="Split of a CSV list; without it, 'train' and unmarked cases."),
    ] = None,
    leave_out: LeftOut = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Slices not to learn from, CASE:FIRST-LAST; repeatable."),
    ] = None,
    lung_model: LungModel = None,
    reference_lungs: Annotated[
        bool, typer.Option("--reference-lungs", help="Use a CSV list's lung masks.")
    ] = False,
    config: Settings = "default",
    device: Device = "auto",
) -> int:
    """Find the lungs of normal CTs, resample them to the training grid and mark erroneous edges.

    Nothing is learned from slices that a list marks as suspect. A case that is up to date is not
    prepared again.
    """
    from normnet.memory import check_memory

    check_memory()
    from normnet.cli.devices import choose_device
    from normnet.cli.normals import find_normals, prepare_all, without_slices
    from normnet.cli.texts import progress_bar, say
    from normnet.config import load_config
    from normnet.io.output_folder import check_output, locked
    from normnet.training.normals import Preparer

    settings = load_config(config)
    cases = without_slices(find_normals(inputs, split, leave_out or []), exclude or [])
    check_output(out, inputs)
    with locked(out), progress_bar() as bar:
        preparer = Preparer(out, settings, lung_model, reference_lungs, choose_device(device))
        done, errors = prepare_all(cases, preparer, bar)
    say(f"{len(done)} of {len(cases)} normal CTs ready")
    if not errors:
        return 0
    return errors[0].exit_code if len(cases) == 1 else 9
