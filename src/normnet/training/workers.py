"""Processes that make batches ahead of the network, and that never outlive the training."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NoReturn, TypeVar

import torch
from torch import multiprocessing

from normnet.errors import NormNetError, ResourceError

Batch = TypeVar("Batch")
AHEAD = 2  # batches that each process makes before they are needed
_POLL_S = 0.25  # how often a process looks whether the training still runs


def make_in_order(
    make: Callable[[int], Batch], steps: range, n_workers: int
) -> Generator[Batch, None, None]:
    """Yield ``make(step)`` for every step in their order.

    A signal for the whole group of processes stops the training, not its workers. They are killed
    when the iterator is closed, and they end by themselves when the training is killed.

    Args:
        make: Makes the batch of an iteration, in another process.
        steps: The iterations.
        n_workers: Number of processes; 0: this process makes each batch when it is needed.

    Raises:
        ResourceError: NN-TRN-021 as soon as a process has been killed; no batch is lost by that.
        Exception: What ``make`` raises.
    """
    if n_workers == 0:
        yield from map(make, steps)
        return
    # Forked processes share the CTs in memory. Other systems copy them to each process.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    workers: list[tuple[BaseProcess, Connection]] = []
    try:
        for _ in range(min(n_workers, len(steps))):
            ours, theirs = context.Pipe()
            worker = context.Process(target=_serve, args=(make, theirs, os.getpid()), daemon=True)
            worker.start()
            theirs.close()
            workers.append((worker, ours))
        for place, step in enumerate(steps[: AHEAD * n_workers]):
            _send(workers[place % n_workers][1], step)
        for place, step in enumerate(steps):
            connection = workers[place % n_workers][1]
            wait([connection, *(process.sentinel for process, _ in workers)])
            if any(process.exitcode is not None for process, _ in workers):
                raise _killed(step)
            try:
                batch = connection.recv()
            except (EOFError, OSError) as error:
                raise _killed(step) from error
            if isinstance(batch, Exception):
                raise batch
            if place + AHEAD * n_workers < len(steps):
                _send(connection, steps[place + AHEAD * n_workers])
            yield batch
    finally:
        for process, connection in workers:
            process.kill()
            process.join()
            connection.close()


def _send(connection: Connection, step: int) -> None:
    try:
        connection.send(step)
    except OSError as error:
        raise _killed(step) from error


def _killed(step: int) -> ResourceError:
    return ResourceError(
        "NN-TRN-021",
        "a process that makes slabs was killed, most likely because memory ran out",
        f"before iteration {step}",
        "free memory or give fewer --workers; the same command goes on from here",
    )


def _serve(make: Callable[[int], Batch], connection: Connection, parent: int) -> None:
    """Answer every step that comes with its batch, or with the error that it raised."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    with suppress(EOFError, OSError):  # the training has ended
        while True:
            answer = _answer(make, connection.recv())
            try:
                connection.send(answer)
            except RuntimeError as error:  # no shared memory for its tensors
                connection.send(MemoryError(str(error)))


def _answer(make: Callable[[int], Batch], step: int) -> Batch | Exception:
    try:
        return make(step)
    except (NormNetError, MemoryError) as error:
        return error
    except Exception as error:  # not every exception can be sent
        return RuntimeError(f"{type(error).__name__}: {error}")


def _end_with(parent: int) -> NoReturn:
    """End this process when its parent has ended: another process is its parent then."""
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os._exit(1)
