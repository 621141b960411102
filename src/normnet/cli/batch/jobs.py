"""The scans of a run as jobs: each with its name and its result folder, planned before any work.

Error ids: NN-CLI-007 a share of the scans that cannot be.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from normnet.errors import ConfigError
from normnet.results.folder import output_folder, place_of, result_key
from normnet.results.names import result_names

if TYPE_CHECKING:
    from normnet.config import Config
    from normnet.io.census import Item
    from normnet.models import Model
    from normnet.results.exports import Exports
    from normnet.results.remote import RemoteResults


@dataclass(frozen=True)
class Job:
    """One scan of a run.

    Attributes:
        item: The scan.
        name: Its ``case_id``.
        folder: Where its result goes.
        is_done: Whether its result is there already.
        n_tries: How often it was tried, with this time.
        shares_place: Whether another scan of the run has the same path, such as another series of
            the folder.
    """

    item: Item
    name: str
    folder: Path
    is_done: bool = False
    n_tries: int = 1
    shares_place: bool = False


@dataclass(frozen=True)
class Run:
    """What the scans of a run share; it can be sent to other processes.

    Attributes:
        out: Folder of all results; where they go to a remote storage, a folder for those in work.
        config: Settings.
        load: Loads the model and chooses the device; its errors are not those of a scan.
        shared_key: As made by ``results.folder.shared_key``.
        lungs: A lung mask, if there is one.
        lobes: A lobe mask, if there is one.
        series: SeriesInstanceUID or ``auto``, where it was given.
        inputs: Resolved paths of all that the run reads.
        owners: As ``read_owners`` makes it.
        taken: Result folders of the scans of this run.
        debug: Whether to print the traceback of a failure.
        exports: Files that are asked for beside the usual ones.
        server: Address of the DICOMweb server that gets the DICOM objects; None: they stay here.
        pages: The pages to write for each scan: none, ``report.html``, and ``report.pdf``.
        parquet: Whether the table is also written as Parquet.
        remote: The remote storage of the results, if there is one.
    """

    out: Path
    config: Config
    load: Callable[[], tuple[Model, str]]
    shared_key: dict[str, str]
    exports: Exports
    lungs: Path | None = None
    lobes: Path | None = None
    series: str | None = None
    inputs: Set[Path] = frozenset()
    owners: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    taken: set[Path] = field(default_factory=set)
    debug: bool = False
    server: str | None = None
    pages: Set[str] = frozenset()
    parquet: bool = False
    remote: RemoteResults | None = None

    def key_of(self, item: Item) -> dict[str, str]:
        """What the result of a scan follows from; the whole scan is read for it."""
        return result_key(item.path, self.shared_key, item)

    def leaves(self, job: Job) -> bool:
        """Whether nothing has to be done for a scan: its result is complete, and goes nowhere."""
        return job.is_done and not (self.pages or self.server)


class _LateKey(dict[str, str]):
    """The place of a scan, and the sum of its bytes as soon as someone asks for it."""

    def __init__(self, place: str, item: Item, run: Run):
        super().__init__(place=place)
        self._item, self._run = item, run

    def __missing__(self, name: str) -> str:
        self |= self._run.key_of(self._item)
        return self[name]


def plan(items: Sequence[Item], run: Run) -> list[Job]:
    """A name and a result folder for each scan; the folders are added to ``run.taken``.

    No scan is read, but one that has the name of another scan's result, or another scan's path.

    Raises:
        OutputError: As ``output_folder``.
    """
    names = result_names([item.path for item in items], [item.root for item in items])
    places = [place_of(item.path) for item in items]
    n_scans = Counter(places)
    jobs = []
    for item, name, place in zip(items, names, places, strict=True):
        key, shares = _LateKey(place, item, run), n_scans[place] > 1
        folder = output_folder(run.out, item.path, run.taken, key, name, run.owners, shares)
        run.taken.add(folder)
        jobs.append(Job(item, name, folder, shares_place=shares))
    return jobs


def share_of(jobs: list[Job], shard: str | None) -> list[Job]:
    """Every n-th job, so that n runs do all of them and none of them twice.

    Args:
        jobs: All that was planned.
        shard: As ``3/10``: the third of ten shares; None: all jobs.

    Raises:
        ConfigError: NN-CLI-007.
    """
    if shard is None:
        return jobs
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", shard)
    number, n_shares = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= n_shares:
        raise ConfigError(
            "NN-CLI-007",
            f"no share of the scans: '{shard}'",
            "--shard",
            "give i/n with i from 1 to n, as in 3/10",
        )
    return jobs[number - 1 :: n_shares]
