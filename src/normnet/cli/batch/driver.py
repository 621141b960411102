"""Work off the scans of a run, print what happens, and write the table of all results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from normnet.cli.batch.jobs import Job, Run
from normnet.cli.batch.queue import Here, Workers, work_off
from normnet.cli.batch.worker import Line, Outcome, describe
from normnet.cli.texts import progress_bar, say, warn
from normnet.results.folder import is_current, is_done
from normnet.results.schema import read_result
from normnet.results.table import write_table

Start = Callable[[Run], Workers]  # begins to use other processes


def mark_done(jobs: Sequence[Job], run: Run) -> list[Job]:
    """The jobs, with those marked whose results are complete and follow from the same."""
    return [replace(job, is_done=_is_done(job, run)) for job in jobs]


def _is_done(job: Job, run: Run) -> bool:
    result = read_result(job.folder)
    if result is None or result.get("status") != "ok":
        return False  # known without reading the scan
    key = run.key_of(job.item)
    if run.remote is None:
        return is_done(job.folder, key, run.exports)
    return is_current(result, key, run.exports) and run.remote.has(job.folder, result["files"])


def work(jobs: Sequence[Job], run: Run, start: Start | None = None) -> int:
    """Segment all scans whose results are not done.

    Args:
        jobs: All scans.
        run: What they share.
        start: Of workers in other processes; None: this process does everything.

    Returns:
        The exit code of the command.
    """
    told = _Told(jobs)
    is_elsewhere = start is not None and not all(map(run.leaves, jobs))
    try:
        with progress_bar() as bar:
            workers = start(run) if start and is_elsewhere else Here(run, bar)
            with closing(workers):
                for job, outcome in work_off(jobs, workers, run):
                    told.tell(job, outcome)
                    if is_elsewhere:
                        bar(f"{told.n_ended} of {len(jobs)} scans", told.n_ended, len(jobs))
    finally:  # also when a signal stops the run
        _write_tables(run)
    return told.sum_up()


def _write_tables(run: Run) -> None:
    if run.remote is not None:
        run.remote.pull()
    write_table(run.out, run.parquet)
    if run.remote is not None:
        run.remote.push_tables()
    if run.pages:
        from normnet.report.cohort import write_index

        write_index(run.out)


@dataclass
class _Told:
    """What was printed of the scans so far.

    Attributes:
        jobs: All scans.
        n_ended: Scans that need no more work.
        n_done: Of these, those that were done before.
        n_failed: Of these, those that failed.
        exit_code: Of the first failure.
        n_left_out: Of these, those that were no CT.
        once: Lines that are not printed again.
    """

    jobs: Sequence[Job]
    n_ended: int = 0
    n_done: int = 0
    n_failed: int = 0
    exit_code: int = 0
    n_left_out: int = 0
    once: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._all_done = all(job.is_done for job in self.jobs)

    def tell(self, job: Job, outcome: Outcome | None) -> None:
        """Print what happened to a job; None: it is tried again."""
        if outcome is None:
            warn(f"{job.folder.name}: the process that segmented it has ended; it is tried again")
            return
        if job.is_done and not self._all_done:
            say(describe(job.folder, "done already"))
        for line in outcome.lines:
            self._print(line)
        self.n_ended += 1
        self.n_left_out += outcome.is_left_out
        if outcome.error is not None:
            self.n_failed += 1
            self.exit_code = self.exit_code or outcome.error.exit_code
        elif job.is_done:
            self.n_done += 1

    def _print(self, line: Line) -> None:
        if line.once and line.text in self.once:
            return
        if line.once:
            self.once.add(line.text)
        (warn if line.is_error else say)(line.text)

    def sum_up(self) -> int:
        """Print how many scans ended how; the exit code."""
        n = len(self.jobs) - self.n_left_out
        if len(self.jobs) != 1 or any(job.is_done for job in self.jobs):
            n_new = n - self.n_done - self.n_failed
            found = f"{n_new} segmented, {self.n_done} done already, {self.n_failed} failed"
            say(f"{n} scans: {found}")
        if not self.n_failed:
            return 0
        return self.exit_code if len(self.jobs) == 1 else 9
