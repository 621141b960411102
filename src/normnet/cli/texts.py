"""What the commands print: single lines without control characters, and progress bars."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.table import Table


def one_line(text: str) -> str:
    """The text without line breaks, control characters and undecodable bytes."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in line)


def say(text: str) -> None:
    """Print one line, safe for any terminal."""
    print(one_line(text), flush=True)


def warn(text: str) -> None:
    """Print one line to the standard error."""
    print(one_line(text), file=sys.stderr, flush=True)


def print_table(table: Table) -> None:
    """Print a table, 160 columns wide where the output is no terminal."""
    from rich.console import Console

    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)


class Bar(Protocol):
    """A progress bar."""

    def __call__(self, description: str, done: float, total: float) -> None:
        """Show that ``done`` of ``total`` is done."""


@contextmanager
def progress_bar() -> Iterator[Bar]:
    """A bar on the standard error, removed when the block ends; no bar if that is no terminal."""
    if not sys.stderr.isatty():
        yield lambda description, done, total: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=1.0)

        def show(description: str, done: float, total: float) -> None:
            progress.update(
                task, description=escape(one_line(description)), completed=done, total=total
            )

        yield show
