"""Workers in processes of this machine; one that ends before its job does is replaced."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType

from normnet.cli.batch.jobs import Job, Run
from normnet.cli.batch.queue import Ended
from normnet.cli.batch.worker import DistantWorker
from normnet.cli.signals import Stopped
from normnet.errors import NormNetError

MAX_STOP_S = 60.0  # until a process must have removed what it was writing
# Read when the libraries are loaded: torch and numpy, then SimpleITK.
THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


class _Child:
    """A process, its connection, and the job that it works on."""

    def __init__(self, process: BaseProcess, connection: Connection):
        self.process, self.connection = process, connection
        self.job: Job | None = None


class Processes:
    """Workers in processes; each starts with its first job.

    Args:
        run: What the scans share.
        n_workers: How many.
    """

    def __init__(self, run: Run, n_workers: int):
        self._run, self._n_workers = run, n_workers
        self._n_threads = max(1, n_cores() // n_workers)
        self._children: list[_Child] = []

    def n_idle(self) -> int:
        """Workers without a job, those not yet started among them."""
        return self._n_workers - sum(child.job is not None for child in self._children)

    def give(self, job: Job) -> None:
        """Send a job to an idle process, or start one."""
        child = next((child for child in self._children if child.job is None), None)
        if child is None:
            child = self._start()
        child.job = job
        with suppress(OSError):  # it has ended; ``wait`` notices
            child.connection.send(job)

    def wait(self) -> list[Ended]:
        """Wait until a job ends, or its process."""
        busy = {child.connection: child for child in self._children if child.job is not None}
        return [self._receive(busy[connection]) for connection in wait(list(busy))]  # type: ignore[index]

    def _receive(self, child: _Child) -> Ended:
        job, child.job = child.job, None
        assert job is not None
        try:
            answer = child.connection.recv()
        except (EOFError, OSError):
            self._children.remove(child)
            child.connection.close()
            child.process.join()
            return job, None
        if isinstance(answer, NormNetError):
            raise answer
        return job, answer

    def close(self) -> None:
        """End all processes: those that work remove first what they were writing."""
        for child in self._children:
            child.connection.close()
            if child.job is not None:
                child.process.terminate()
        last = time.monotonic() + MAX_STOP_S
        for child in self._children:
            child.process.join(max(0.0, last - time.monotonic()))
            child.process.kill()
            child.process.join()
        self._children.clear()

    def _start(self) -> _Child:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(
            target=_work, args=(there, self._run), daemon=True, name="normnet worker"
        )
        with _few_threads(self._n_threads), _no_interrupt():
            process.start()
        there.close()
        child = _Child(process, here)
        self._children.append(child)
        return child


def n_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _few_threads(n_threads: int) -> Iterator[None]:
    """Processes that start in the block use so many threads, or fewer if the user said so."""
    before = {name: os.environ.get(name) for name in THREADS}
    for name, value in before.items():
        given = int(value) if value and value.isdecimal() and int(value) > 0 else n_threads
        os.environ[name] = str(min(given, n_threads))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Ctrl-C reaches no process that starts in the block: this process ends those."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(connection: Connection, run: Run) -> None:
    """Do jobs until the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    logging.disable(logging.CRITICAL)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with suppress(EOFError, OSError, Stopped):
        worker = DistantWorker(run)
        while True:
            connection.send(worker.do(connection.recv()))


def _stop(number: int, frame: FrameType | None) -> None:
    """End the work as an exception; a second signal does not disturb what it then cleans up."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stopped(number)
