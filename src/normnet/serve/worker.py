"""The thread of the server that takes one job after the other to the child that segments."""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from dataclasses import dataclass

from normnet.serve.children import Child
from normnet.serve.jobs import DONE, FAILED, Job, Jobs

_CLEAN_EVERY_S, _TRY_AGAIN_S = 600.0, 5.0


@dataclass(frozen=True)
class Progress:
    """Where the job that runs is.

    Attributes:
        job_id: Of the job.
        stage: What is done now.
        share: Of the whole job that is done, 0 to 1.
        started: Seconds since 1970.
    """

    job_id: str
    stage: str
    share: float
    started: float


class Worker:
    """Runs the jobs that wait, one at a time.

    Args:
        jobs: The queue.
        child: Does the work.
        keep_s: Jobs that ended before so many seconds are removed; None: they stay.

    Attributes:
        progress: Of the job that runs; None where none does.
    """

    def __init__(self, jobs: Jobs, child: Child, keep_s: float | None):
        self._jobs, self._child, self._keep_s = jobs, child, keep_s
        self._news = threading.Event()
        self._ends = False
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._cleaned = -math.inf
        self._unwritten: list[tuple[str, str, str]] = []  # jobs that ended: id, state, error
        self.progress: Progress | None = None

    def start(self) -> None:
        """Begin with the jobs that wait."""
        self._thread.start()

    def wake(self) -> None:
        """Say that a job waits."""
        self._news.set()

    def stop_job(self, job_id: str) -> None:
        """End the child if it works on this job."""
        if self.progress is not None and self.progress.job_id == job_id:
            self._child.stop()

    def stop(self) -> None:
        """End the thread and the child; the job that runs will be run again after a restart."""
        self._ends = True
        self._news.set()
        self._child.stop()
        self._thread.join()

    def _run(self) -> None:
        while not self._ends:
            try:
                self._clean()
                self._news.clear()
                taken = self._jobs.take()
                if taken is None:
                    self._news.wait(_CLEAN_EVERY_S)
                else:
                    self._do(taken)
            except (OSError, sqlite3.Error):  # the disk is full, for example: it may pass
                self._news.wait(_TRY_AGAIN_S)

    def _clean(self) -> None:
        """Remove old jobs now and then, and end those whose end could not be written."""
        while self._unwritten:
            self._jobs.end(*self._unwritten[0])
            self._unwritten.pop(0)
        if self._keep_s is not None and time.monotonic() - self._cleaned >= _CLEAN_EVERY_S:
            for job in self._jobs.old(self._keep_s):
                self._jobs.delete(job.id)
            self._cleaned = time.monotonic()

    def _do(self, job: Job) -> None:
        started = time.time()
        self.progress = Progress(job.id, "starting", 0.0, started)

        def show(stage: str, share: float) -> None:
            self.progress = Progress(job.id, stage, share, started)

        try:
            self._child.call("segment", self._jobs.place(job), job.title, on_progress=show)
            state, error = DONE, ""
        except Exception as caught:
            state, error = FAILED, str(self._child.name_error(caught, job.title))
        self.progress = None
        if not self._ends:
            self._unwritten.append((job.id, state, error))
            self._clean()
        if not any(job.id == other.id for other in self._jobs.all()):
            self._jobs.delete(job.id)  # it was deleted while it ran: what it wrote goes, too
