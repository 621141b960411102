"""``normnet``: the subcommands. Only here an error becomes a line of text and an exit code.

Exit codes: 0 ok, 2 usage or settings, 3 unreadable file, 4 geometry, 5 values, 6 model, 7 output,
8 resources, 9 part of a batch failed, 70 a bug of normnet, 130 and 143 stopped by SIGINT and
SIGTERM.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from normnet.cli import (
    baseline,
    compare,
    datasets,
    evaluate,
    info,
    prepare,
    report,
    reproduce,
    segment,
    serve,
    slicer,
    synthesize,
    train,
    train_lungs,
)
from normnet.cli.failures import as_named_error
from normnet.cli.signals import Stopped, raising_on_signals
from normnet.cli.streams import lasting_streams, lost_output
from normnet.cli.texts import say, warn
from normnet.errors import NormNetWarning
from normnet.version import __version__

app = typer.Typer(
    name="normnet",
    help="Label-free lesion segmentation in lung CT. Research use only, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("segment")(segment.segment)
app.command("segment-volume")(slicer.segment_volume)
app.command("slicer-module")(slicer.slicer_module)
app.command("prepare")(prepare.prepare)
app.command("train")(train.train)
app.command("train-lungs")(train_lungs.train_lungs)
app.command("synthesize")(synthesize.synthesize)
app.command("report")(report.report)
app.command("serve")(serve.serve)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("info")(info.info)
app.command("datasets")(datasets.datasets)
app.command("reproduce")(reproduce.reproduce)
app.command("baseline")(baseline.baseline)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"normnet {__version__}")
        raise typer.Exit


@contextmanager
def _own_warnings_only() -> Iterator[None]:
    """Print a warning of normnet as one line, and nothing that other libraries warn of or log."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # normnet logs nothing; what others log is for developers
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is loaded
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", NormNetWarning)
        warnings.showwarning = _show_warning
        try:
            yield
        finally:
            logging.disable(before)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning without the place in the source that Python adds."""
    warn(f"warning: {message}")


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere.")
    ] = False,
) -> None:
    """The options of all subcommands."""


def main(argv: list[str] | None = None) -> int:
    """Run a command line.

    Args:
        argv: Without the program's name; ``sys.argv`` where None.

    Returns:
        The exit code.
    """
    with lasting_streams() as output:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        output.flush()
        lost = lost_output(output)
        if lost is None:
            return code
        warn(str(lost))
        return code or lost.exit_code


def _run(arguments: list[str]) -> int:
    options_end = arguments.index("--") if "--" in arguments else len(arguments)
    debug = "--debug" in arguments[:options_end]
    arguments = [a for i, a in enumerate(arguments) if a != "--debug" or i > options_end]
    if "" in arguments:
        warn("NN-CLI-003: an empty argument; write '.' for the current folder")
        return 2
    try:
        with raising_on_signals(), _own_warnings_only():
            return app(arguments, standalone_mode=False, prog_name="normnet", obj=debug) or 0
    except Stopped as stopped:
        warn(f"stopped by {stopped.name}; the same command goes on from here")
        return stopped.exit_code
    except Exception as error:
        if debug:
            traceback.print_exc()
        if hasattr(error, "format_message"):  # a usage error found by typer
            warn(f"NN-CLI-001: {error.format_message().rstrip('.')}; see normnet --help")
            return 2
        named = as_named_error(error, "")
        warn(str(named))
        return named.exit_code


if __name__ == "__main__":
    sys.exit(main())
