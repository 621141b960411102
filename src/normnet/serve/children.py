"""Child processes of the app: they do what needs memory and time, one task after the other.

A child can be stopped in the middle of a task, and if it crashes, the server goes on: the next task
starts a new one. A child ends when the server does.

Error ids: NN-APP-001 the child ended before its task did.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from normnet.errors import NormNetError, ResourceError

Progress = Callable[[str, float], None]  # the stage, and the share of the whole task that is done


class Child:
    """A process with its tasks; it starts with the first task.

    Args:
        make: Makes, in the child, an object whose methods are the tasks; the last argument of each
            is ``Progress``. Can be pickled.
        name_error: Turns any exception into one with an id; can be pickled.
    """

    def __init__(
        self, make: Callable[[], object], name_error: Callable[[Exception, str], NormNetError]
    ):
        self._arguments = (make, name_error)
        self.name_error = name_error
        self._process: Any = None
        self._connection: Connection | None = None
        self._busy = threading.Lock()

    def call(
        self, task: str, *arguments: object, on_progress: Progress = lambda stage, share: None
    ) -> Any:
        """Do a task and wait for it; other threads wait until it is done.

        Raises:
            NormNetError: Of the task; NN-APP-001 if the child ended.
        """
        with self._busy:
            try:
                if self._process is None or not self._process.is_alive():
                    self._start()
                assert self._connection is not None
                self._connection.send((task, arguments))
                while True:
                    kind, *values = self._connection.recv()
                    if kind == "progress":
                        on_progress(*values)
                    elif kind == "failed":
                        raise values[0]
                    else:
                        return values[0]
            except (EOFError, OSError) as error:
                self.stop()
                raise ResourceError(
                    "NN-APP-001",
                    "the process that did it has ended",
                    "",
                    "try again; if it happens again, close other programs or give it more memory",
                ) from error

    def stop(self) -> None:
        """End the process, whatever it does."""
        process = self._process
        if process is not None:
            process.kill()
            process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        self._process = context.Process(
            target=_work, args=(there, *self._arguments), daemon=True, name="normnet"
        )
        self._process.start()
        there.close()
        self._connection = here


def _work(
    connection: Connection,
    make: Callable[[], object],
    name_error: Callable[[Exception, str], NormNetError],
) -> None:
    """Do tasks until the server ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the server ends us
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")

    def tell(stage: str, share: float) -> None:
        connection.send(("progress", stage, share))

    tasks = make()
    with suppress(EOFError, OSError):
        while True:
            task, arguments = connection.recv()
            try:
                reply = ("done", getattr(tasks, task)(*arguments, tell))
            except Exception as error:
                reply = ("failed", name_error(error, ""))
            connection.send(reply)
