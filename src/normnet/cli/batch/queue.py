"""The list of jobs and those who do them: workers here, in other processes, or in a cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from normnet.cli.batch.jobs import Job, Run
from normnet.cli.batch.worker import Outcome, Worker

if TYPE_CHECKING:
    from normnet.cli.texts import Bar

MAX_TRIES = 3  # of a scan whose process ended
Ended = tuple[Job, Outcome | None]  # None: the process ended before the job did


class Workers(Protocol):
    """Those who do jobs, one at a time each."""

    def n_idle(self) -> int:
        """How many jobs can be given out now."""

    def give(self, job: Job) -> None:
        """Give a job to one who is idle."""

    def wait(self) -> list[Ended]:
        """Wait until something happens; the jobs that ended.

        Raises:
            NormNetError: If no job can be done at all.
        """

    def close(self) -> None:
        """End all that is still done, cleanly."""


class Here:
    """One worker in this process.

    Args:
        run: What the scans share.
        bar: Shows the stages of a scan.
    """

    def __init__(self, run: Run, bar: Bar):
        self._worker, self._bar = Worker(run), bar
        self._job: Job | None = None

    def n_idle(self) -> int:
        """One, until a job is given."""
        return int(self._job is None)

    def give(self, job: Job) -> None:
        """Take a job; ``wait`` does it."""
        self._job = job

    def wait(self) -> list[Ended]:
        """Do the job."""
        assert self._job is not None
        job, self._job = self._job, None
        return [(job, self._worker.do(job, self._bar))]

    def close(self) -> None:
        """Nothing is left."""


def work_off(jobs: Sequence[Job], workers: Workers, run: Run) -> Iterator[Ended]:
    """Give out all jobs; one whose process ended is tried again by another.

    Not more jobs are given out than there are workers, so that the memory of this process does not
    grow with the number of jobs.

    Yields:
        What happened to a job: its outcome at the end, or None where it is tried again.
    """
    waiting = deque(jobs)
    n_running = 0
    while waiting or n_running:
        while waiting and (run.leaves(waiting[0]) or workers.n_idle()):
            job = waiting.popleft()
            if run.leaves(job):
                yield job, Outcome()
                continue
            workers.give(job)
            n_running += 1
        if not n_running and not waiting:
            return
        for job, outcome in workers.wait():
            n_running -= 1
            if outcome is not None:
                yield job, outcome
            elif job.n_tries < MAX_TRIES:
                waiting.appendleft(replace(job, n_tries=job.n_tries + 1))
                yield job, None
            else:
                yield job, Worker(run).give_up(job)
