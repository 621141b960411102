"""What one process does: it loads the models once and segments one scan after the other.

It prints nothing: the lines of a scan go with its outcome, so that all processes can print alike.

Error ids: NN-RES-007 the process of a scan ended again and again.
"""

from __future__ import annotations

import os
import shutil
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from normnet.cli.batch.jobs import Job, Run
from normnet.cli.devices import LOST_DEVICE, is_lost, lost_device
from normnet.cli.failures import as_named_error
from normnet.errors import NormNetError, NormNetWarning, OutputError, ResourceError
from normnet.memory import give_back_memory, keep_freed_memory

if TYPE_CHECKING:
    import numpy as np

    from normnet.cli.texts import Bar
    from normnet.io.census import Item
    from normnet.io.dicomweb import Server
    from normnet.models import Model
    from normnet.scan import Scan

LOCK_WAIT_S = 120.0  # a lost node may keep its locks for so long
Result = TypeVar("Result")


@dataclass(frozen=True)
class Line:
    """What is printed.

    Attributes:
        text: One line.
        is_error: Whether it goes to the standard error.
        once: Whether it is printed once, whatever number of processes says it.
    """

    text: str
    is_error: bool = False
    once: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a scan ended.

    Attributes:
        lines: What to print.
        error: Why it failed; None if it did not.
        is_left_out: Whether it turned out to be no CT.
    """

    lines: tuple[Line, ...] = ()
    error: NormNetError | None = None
    is_left_out: bool = False


class Worker:
    """Segments scans.

    Args:
        run: What they share. Its ``taken`` is changed.
    """

    def __init__(self, run: Run):
        self.run = run
        self._lines: list[Line] = []
        keep_freed_memory()

    def do(self, job: Job, bar: Bar = lambda description, done, total: None) -> Outcome:
        """Segment a scan, or add to its result what it lacks.

        Raises:
            NormNetError: If the models cannot be loaded.
        """
        self._lines = []
        if job.is_done:
            return self._end(self._add_pages(job) or self._store(job))
        outcome = self._claim(job, lambda claimed: self._segment(claimed, bar))
        give_back_memory()
        return outcome

    def give_up(self, job: Job) -> Outcome:
        """Record that the process of a scan ended each time."""
        self._lines = []
        found = f"the process that segmented it ended {job.n_tries} times (killed, or no memory)"
        todo = "give more memory or fewer --workers, and run it again"
        error = ResourceError("NN-RES-007", found, job.item.path.name, todo)
        return self._claim(job, lambda claimed: self._end(self._fail(claimed, error)))

    def _end(self, error: NormNetError | None = None, is_left_out: bool = False) -> Outcome:
        return Outcome(tuple(self._lines), error, is_left_out)

    def _say(self, text: str) -> None:
        self._lines.append(Line(text))

    def _warn(self, text: str, once: bool = False) -> None:
        self._lines.append(Line(text, is_error=True, once=once))

    @cached_property
    def _server(self) -> Server:
        from normnet.io.dicomweb import Server

        return Server(self.run.server or "")

    @cached_property
    def _loaded(self) -> tuple[Model, str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", NormNetWarning)
            loaded = self.run.load()
        for warning in caught:
            self._warn(f"warning: {warning.message}", once=True)
        return loaded

    def _claim(self, job: Job, work: Callable[[_Claimed], Outcome]) -> Outcome:
        """Work on a scan in a folder that no other process uses.

        If the folder cannot be used, that error is the outcome; it is recorded nowhere.
        """
        try:
            with self._claimed(job) as claimed:
                return work(claimed)
        except OutputError as error:
            self._warn(f"{job.folder.name}: {error}")
            return self._end(error)

    @contextmanager
    def _claimed(self, job: Job) -> Iterator[_Claimed]:
        run, key = self.run, self.run.key_of(job.item)
        if run.remote is not None:
            job.folder.mkdir(parents=True, exist_ok=True)
            try:
                yield _Claimed(job, job.folder, key)
            finally:
                shutil.rmtree(job.folder, ignore_errors=True)
            return
        from normnet.results.folder import claimed_folder

        run.taken.discard(job.folder)
        folder = job.folder
        path, names = job.item.path, (job.name, run.owners, job.shares_place)
        wait_s = LOCK_WAIT_S if job.n_tries > 1 else 0.0
        try:
            with claimed_folder(
                run.out, path, run.taken, key, run.inputs, *names, wait_s=wait_s
            ) as folder:
                yield _Claimed(job, folder, key)
        finally:
            run.taken.add(folder)

    def _segment(self, claimed: _Claimed, bar: Bar) -> Outcome:
        """Fetch, read, segment and write one scan; a failure is recorded in its folder.

        Raises:
            OutputError: If a failure cannot be recorded.
        """
        from normnet.results.folder import is_done

        job, exports, start = claimed.job, self.run.exports, time.perf_counter()
        if (
            job.n_tries > 1
            and is_done(claimed.folder, claimed.key, exports)
            and self._has_pages(claimed.folder)
        ):
            self._say(describe(claimed.folder, "ok"))  # its process ended before it could say so
            return self._end(self._store(claimed))
        from normnet.io.remote import brought_here

        if job.item.content:
            bar(f"{job.name}: fetching", 0, 1)
        with ExitStack() as files:
            try:
                item = files.enter_context(brought_here(job.item, self.run.series))
            except Exception as caught:
                error = as_named_error(caught, job.item.path.name)
                if error.code == "NN-FILE-008" and job.item.path != job.item.root:
                    self._say(f"{claimed.folder.name}: left out; {error.found}")
                    return self._end(is_left_out=True)
                return self._end(self._fail(claimed, error))
            return self._segment_item(claimed, item, bar, start)

    def _segment_item(self, claimed: _Claimed, item: Item, bar: Bar, start: float) -> Outcome:
        """Read, segment and write one scan that is on this machine.

        Args:
            claimed: The scan and its folder.
            item: Where it is on this machine.
            bar: Shows the stages.
            start: When the work began, by ``time.perf_counter``.
        """
        from normnet.io.masks import read_labels
        from normnet.io.read import read_item
        from normnet.pipeline import segment
        from normnet.results.exports import check_dicom, check_slices
        from normnet.results.folder import write_results

        run, name, folder = self.run, claimed.job.name, claimed.folder
        bar(f"{name}: reading", 0, 1)

        def read() -> tuple[Scan, list[np.ndarray | None]]:
            check_dicom(run.exports, item.kind, name)
            scan = read_item(item, name)
            check_slices(run.exports, scan)
            masks = (run.lungs, run.lobes)
            return scan, [None if mask is None else read_labels(mask, scan) for mask in masks]

        def find_and_write() -> dict[str, Any]:
            found = segment(
                scan,
                model,
                run.config,
                lung_labels=lung_labels,
                lobe_labels=lobe_labels,
                device=device,
                on_progress=lambda stage, done, total: bar(f"{name}: {stage}", done, total),
            )
            found = replace(found, seconds={"reading": reading, **found.seconds})
            bar(f"{name}: writing", 0, 1)
            result = write_results(
                found,
                scan,
                folder,
                model,
                config=run.config,
                key=claimed.key,
                source=claimed.source,
                exports=run.exports,
                dicom_files=item.files,
            )
            if run.pages:
                from normnet.report.scan_report import PRINT, Maps, write_report

                bar(f"{name}: report", 0, 1)
                write_report(folder, scan, Maps.of(found), result, PRINT in run.pages)
            if run.remote is not None:
                bar(f"{name}: sending", 0, 1)
                run.remote.push(folder)
            return result

        inputs = self._try(claimed, read)
        if isinstance(inputs, NormNetError):
            return self._end(inputs)
        scan, (lung_labels, lobe_labels) = inputs
        reading = round(time.perf_counter() - start, 3)
        model, device = self._loaded
        result = self._try(claimed, find_and_write)
        if isinstance(result, NormNetError):
            return self._end(result)
        self._say(describe(folder, "ok", result, time.perf_counter() - start))
        for warning in result["warnings"]:
            self._say(f"{folder.name}: warning: {warning}")
        return self._end(self._store(claimed))

    def _try(self, claimed: _Claimed, work: Callable[[], Result]) -> Result | NormNetError:
        """What the work returns, or its failure, which is then recorded in the folder.

        Raises:
            ResourceError: NN-RES-009 if the GPU is lost for this process: no later scan would work.
        """
        try:
            return work()
        except Exception as caught:
            if self.run.debug:
                traceback.print_exception(caught)
            name = claimed.job.item.path.name
            if "_loaded" in self.__dict__ and is_lost(self._loaded[1]):
                raise lost_device(name) from caught
            return self._fail(claimed, as_named_error(caught, name))

    def _fail(self, claimed: _Claimed, error: NormNetError) -> NormNetError:
        """Record why a scan has no result."""
        from normnet.results.folder import write_failure

        self._warn(f"{claimed.folder.name}: {error}")
        write_failure(
            claimed.folder, claimed.job.name, error, key=claimed.key, source=claimed.source
        )
        if self.run.remote is not None:
            self.run.remote.push(claimed.folder)
        return error

    def _store(self, place: Job | _Claimed) -> NormNetError | None:
        """Send the DICOM objects of a result, if that was asked for; the failure, if any."""
        if self.run.server is None:
            return None
        names = self.run.exports.dicom
        try:
            self._server.store([place.folder / name for name in names])
        except NormNetError as error:
            self._warn(f"{place.folder.name}: {error}")
            return error
        self._say(f"{place.folder.name}: stored {', '.join(names)}")
        return None

    def _has_pages(self, folder: Path) -> bool:
        """Whether a finished result has all pages that were asked for."""
        if not self.run.pages:
            return True
        from normnet.results.schema import read_result

        return self.run.pages <= set((read_result(folder) or {}).get("files", ()))

    def _add_pages(self, job: Job) -> NormNetError | None:
        """Write the pages that a finished result lacks; returns the error if that fails."""
        if self._has_pages(job.folder):
            return None
        from normnet.cli.report import report_again
        from normnet.io.remote import brought_here
        from normnet.report.scan_report import PRINT
        from normnet.results.schema import read_result

        result = read_result(job.folder) or {}
        try:
            with brought_here(job.item, self.run.series) as item:
                items = {result["key"]["input"]: item}
                report_again(job.folder, result, items, PRINT in self.run.pages)
        except Exception as caught:
            if self.run.debug:
                traceback.print_exception(caught)
            error = as_named_error(caught, job.folder.name)
            self._warn(f"{job.folder.name}: {error}")
            return error
        return None


@dataclass(frozen=True)
class _Claimed:
    """A scan that is worked on.

    Attributes:
        job: The scan.
        folder: Of its result; another one than planned, if another process had that.
        key: As made by ``result_key``.
    """

    job: Job
    folder: Path
    key: dict[str, str]

    @property
    def source(self) -> str:
        """Path of the input, for people."""
        return str(self.job.item.source)


def describe(
    folder: Path, status: str, result: dict[str, Any] | None = None, seconds: float | None = None
) -> str:
    """The line of a scan that has a result.

    Args:
        folder: Of the result.
        status: How it ended.
        result: Its ``result.json``; read from the folder where None.
        seconds: How long it took.
    """
    from normnet.results.schema import read_result

    both = (result or read_result(folder) or {}).get("volumes", {}).get("both", {})
    parts = [f"{folder.name}: {status}"]
    if both:
        parts.append(
            f"lesions {both['lesion_ml']:.1f} ml, {both['lesion_percent']:.2f} % of the lung"
        )
    if seconds is not None:
        parts.append(f"{seconds:.1f} s")
    return "; ".join(parts)


class DistantWorker:
    """A worker in another process: errors come back as values, warnings as lines.

    Args:
        run: As ``Worker`` takes it.
    """

    def __init__(self, run: Run):
        self._worker = Worker(run)

    def do(self, job: Job) -> Outcome | NormNetError:
        """The outcome of a job; an error if no job can be done here."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", NormNetWarning)
            try:
                outcome = self._worker.do(job)
            except Exception as error:
                if self._worker.run.debug:
                    traceback.print_exception(error)
                named = as_named_error(error, "")
                if named.code == LOST_DEVICE:
                    os._exit(1)  # a new process gets the GPU back, and tries the scan again
                return named
        said = (Line(f"warning: {warning.message}", is_error=True) for warning in caught)
        return replace(outcome, lines=(*said, *outcome.lines))
