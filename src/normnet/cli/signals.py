"""SIGINT and SIGTERM: as an exception that ends a command, or as a request to stop soon."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal ended the command.

    Args:
        number: Of the signal.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.name = signal.Signals(number).name
        self.exit_code = 128 + number


@contextmanager
def raising_on_signals() -> Iterator[None]:
    """In the block a signal raises ``Stopped``: temporary files are removed, locks released."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    with _handled_by(handle):
        yield


@contextmanager
def stopping_on_signals(patient: bool = False) -> Iterator[Callable[[], bool]]:
    """In the block the first signal asks the command to stop; a second one raises at once.

    Args:
        patient: A second one changes nothing, since another program repeats the signals.

    Yields:
        A function that returns True as soon as a signal has come.

    Raises:
        Stopped: At the second signal; at the end of the block if one signal has come.
    """
    seen: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if seen and not patient:
            raise Stopped(number)
        seen.append(number)

    with _handled_by(handle):
        yield lambda: bool(seen)
    if seen:
        raise Stopped(seen[0])


@contextmanager
def _handled_by(handle: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
