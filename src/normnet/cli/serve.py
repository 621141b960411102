"""``normnet serve``: the app in a browser on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normnet.cli.arguments import Device, KeepIdentity, LesionModel, LungModel, ModelFolder

if TYPE_CHECKING:
    from normnet.serve.segmenting import Loaded

DAY_S = 86_400.0


def serve(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="To listen on; 0: any that is free.")
    ] = 8765,
    folder: Annotated[
        Path | None,
        typer.Option(help="For uploads and results; .normnet in the home folder by default."),
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True,
    keep_days: Annotated[
        float,
        typer.Option(min=0, max=3650, help="Remove jobs so long after their end; 0: keep them."),
    ] = 1.0,
    keep_identity: KeepIdentity = False,
    model: ModelFolder = None,
    lung_model: LungModel = None,
    lesion_model: LesionModel = None,
    device: Device = "auto",
) -> int:
    """Open the app: drop CTs, look at results, move the edge of lesions, take lesions out.

    It listens on this machine only (127.0.0.1), and only the browser that opens the printed address
    may use it. Research use only, not a medical device.
    """
    from functools import partial

    from normnet.cli.devices import choose_device
    from normnet.cli.exchange import check_installed
    from normnet.cli.failures import as_named_error
    from normnet.cli.texts import say
    from normnet.memory import check_memory
    from normnet.models import read_manifests

    for library in ("fastapi", "uvicorn"):
        check_installed(library, "app")
    check_memory()
    read_manifests(model, lung_model, lesion_model)
    if device != "auto":
        choose_device(device)
    from normnet.serve.server import Setup, serve

    setup = Setup(
        folder or Path.home() / ".normnet",
        port,
        partial(load, model, lung_model, lesion_model, device),
        as_named_error,
        keep_identity,
        keep_days * DAY_S or None,
    )

    def open_page(url: str) -> None:
        say(f"open {url}")
        say("stop with Ctrl-C; jobs that wait go on with the next start")
        if browser:
            import webbrowser

            webbrowser.open(url)

    serve(setup, open_page)
    return 0


def load(
    model: Path | None,
    lung_model: Path | None,
    lesion_model: Path | None,
    device: str,
) -> Loaded:
    """The models, their settings and the device; called in the process that segments."""
    from normnet.cli.devices import choose_device
    from normnet.models import load_model
    from normnet.serve.segmenting import Loaded

    loaded = load_model(model, lung_model, lesion_model)
    return Loaded(loaded, loaded.config, choose_device(device))
