"""The jobs of the app: their queue in SQLite, and a private folder for each.

A job is uploaded, waits, runs, and ends as done, failed or cancelled. The queue survives a restart:
what waited still waits, what ran is run again, what was half uploaded is removed.

Error ids: NN-APP-003 a folder that is not ours, 004 too many files, 005 too many bytes, 006 no such
job, 007 a job in another state.
"""

from __future__ import annotations

import math
import os
import re
import secrets
import shutil
import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normnet.errors import InputError, OutputError, ResourceError
from normnet.io.limits import MAX_DOWNLOAD_BYTES, MAX_FILES

MAX_BYTES = MAX_DOWNLOAD_BYTES  # of the files of one job
MAX_JOBS = 1_000
UPLOADING, QUEUED, RUNNING = "uploading", "queued", "running"
DONE, FAILED, CANCELLED = "done", "failed", "cancelled"
DATABASE = "jobs.sqlite"
_TABLE = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, title TEXT NOT NULL, state TEXT NOT NULL, error TEXT NOT NULL DEFAULT '',
    created REAL NOT NULL, ended REAL, n_files INTEGER NOT NULL DEFAULT 0,
    n_bytes INTEGER NOT NULL DEFAULT 0
)
"""
_COLUMNS = "id, title, state, error, created, ended, n_files, n_bytes"
_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Job:
    """One upload and what becomes of it.

    Attributes:
        id: Made by the server; also the name of its folder.
        title: As the user calls the files, for people; it becomes no path.
        state: One of the six states.
        error: One line, where it failed.
        created: Seconds since 1970.
        ended: Likewise; None while it has not ended.
        n_files: Uploaded.
        n_bytes: Of these.
    """

    id: str
    title: str
    state: str
    error: str
    created: float
    ended: float | None
    n_files: int
    n_bytes: int


class Jobs:
    """All jobs; safe for several threads.

    Args:
        folder: Of the app, made by ``make_private`` and locked by the caller.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = threading.Lock()
        self._database = sqlite3.connect(
            folder / DATABASE, check_same_thread=False, isolation_level=None
        )
        self._database.execute(_TABLE)
        self._do("UPDATE jobs SET state = ? WHERE state = ?", QUEUED, RUNNING)
        for job in self.all():
            if job.state == UPLOADING:
                self.delete(job.id)
        known = {job.id for job in self.all()}
        for path in folder.iterdir():  # what a crash has left
            if _ID.fullmatch(path.name) and path.name not in known:
                shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._database.close()

    def all(self) -> list[Job]:
        """All jobs, the newest first."""
        rows = self._do(f"SELECT {_COLUMNS} FROM jobs ORDER BY created DESC, rowid DESC")
        return [Job(*row) for row in rows]

    def get(self, job_id: str) -> Job:
        """One job.

        Raises:
            InputError: NN-APP-006.
        """
        rows = self._do(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", job_id)
        if not rows:
            raise InputError("NN-APP-006", "no such job", "", "go back to the list of jobs")
        return Job(*rows[0])

    def done(self, job_id: str) -> Job:
        """One job that has a result.

        Raises:
            InputError: NN-APP-006 or 007.
        """
        return self._in_state(job_id, DONE)

    def place(self, job: Job) -> Path:
        """The folder of a job."""
        return self.folder / job.id

    def create(self, title: str) -> Job:
        """A job without files.

        Raises:
            ResourceError: NN-APP-004 if there are too many jobs.
        """
        if len(self.all()) >= MAX_JOBS:
            raise ResourceError("NN-APP-004", f"more than {MAX_JOBS} jobs", "", "delete some")
        job_id = secrets.token_hex(8)
        (self.folder / job_id / "input").mkdir(parents=True, mode=0o700)
        self._do(
            "INSERT INTO jobs (id, title, state, created) VALUES (?, ?, ?, ?)",
            job_id, title, UPLOADING, time.time(),
        )  # fmt: skip
        return self.get(job_id)

    def reserve(self, job_id: str, n_bytes: int) -> int:
        """Count one more file of a job.

        Returns:
            Its number, from 1.

        Raises:
            InputError: NN-APP-006 or 007.
            ResourceError: NN-APP-004 too many files, 005 too many bytes.
        """
        with self._lock:
            row = self._database.execute(
                "UPDATE jobs SET n_files = n_files + 1, n_bytes = n_bytes + ?"
                " WHERE id = ? AND state = ? AND n_files < ? AND n_bytes + ? <= ?"
                " RETURNING n_files",
                (n_bytes, job_id, UPLOADING, MAX_FILES, n_bytes, MAX_BYTES),
            ).fetchone()
        if row is not None:
            return int(row[0])
        if self._in_state(job_id, UPLOADING).n_files >= MAX_FILES:
            raise ResourceError(
                "NN-APP-004", f"more than {MAX_FILES} files", "", "drop one series, or a zip"
            )
        found = f"more than {MAX_BYTES / 2**30:.0f} GiB in one job"
        raise ResourceError("NN-APP-005", found, "", "drop one series")

    def queue(self, job_id: str) -> None:
        """Let a job wait whose files are complete.

        Raises:
            InputError: NN-APP-006 or 007.
        """
        self._in_state(job_id, UPLOADING)
        self._do("UPDATE jobs SET state = ? WHERE id = ? AND n_files > 0", QUEUED, job_id)

    def take(self) -> Job | None:
        """The job that waits longest; it runs from now on."""
        rows = self._do(
            "UPDATE jobs SET state = ? WHERE id = (SELECT id FROM jobs WHERE state = ?"
            f" ORDER BY created, rowid LIMIT 1) RETURNING {_COLUMNS}",
            RUNNING, QUEUED,
        )  # fmt: skip
        return Job(*rows[0]) if rows else None

    def end(self, job_id: str, state: str, error: str = "") -> None:
        """Record how a job that ran has ended, unless it was cancelled or deleted before."""
        self._do(
            "UPDATE jobs SET state = ?, error = ?, ended = ? WHERE id = ? AND state = ?",
            state, error, time.time(), job_id, RUNNING,
        )  # fmt: skip

    def cancel(self, job_id: str) -> bool:
        """Cancel a job that waits or runs; whether it ran."""
        state = self.get(job_id).state
        self._do(
            "UPDATE jobs SET state = ?, ended = ? WHERE id = ? AND state IN (?, ?)",
            CANCELLED, time.time(), job_id, QUEUED, RUNNING,
        )  # fmt: skip
        return state == RUNNING

    def delete(self, job_id: str) -> None:
        """Remove a job with all its files."""
        self._do("DELETE FROM jobs WHERE id = ?", job_id)
        if _ID.fullmatch(job_id):
            shutil.rmtree(self.folder / job_id, ignore_errors=True)

    def old(self, older_s: float) -> list[Job]:
        """The jobs that ended before so many seconds, and the uploads that were left then."""
        last = time.time() - older_s
        return [
            job
            for job in self.all()
            if (job.created if job.state == UPLOADING else job.ended or math.inf) < last
        ]

    def _in_state(self, job_id: str, state: str) -> Job:
        job = self.get(job_id)
        if job.state != state:
            raise InputError("NN-APP-007", f"the job is {job.state}", "", "load the page again")
        return job

    def _do(self, statement: str, *values: object) -> list[Any]:
        with self._lock:
            return self._database.execute(statement, values).fetchall()


def make_private(folder: Path) -> None:
    """Make the folder of the app where it is missing; only its owner may read it.

    Raises:
        OutputError: NN-APP-003 if it holds something else, NN-OUT-010 if it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        foreign = not (folder / DATABASE).is_file() and any(
            path.name != ".lock" for path in folder.iterdir()
        )
        if foreign or folder.is_symlink():
            found = "a folder that holds something else than jobs of normnet serve"
            raise OutputError("NN-APP-003", found, folder.name, "choose a new folder")
        os.chmod(folder, 0o700)  # noqa: PTH101 - of another user: an OSError
    except OSError as error:
        found = f"no private folder can be made ({error.strerror})"
        raise OutputError("NN-OUT-010", found, folder.name, "choose another --folder") from error
