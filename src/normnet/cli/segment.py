"""``normnet segment``: find the lesions of one scan or of many."""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    import numpy as np

    from normnet.cli.texts import Bar
    from normnet.config import Config
    from normnet.errors import NormNetError
    from normnet.models import Model
    from normnet.scan import Scan

Outcome = TypeVar("Outcome")

MASK_NAME = re.compile(r"lesion|lung|lobe|nodule|infection|mask|label|seg", re.IGNORECASE)
MAX_LABELS = 20


@dataclass(frozen=True)
class Job:
    """One scan of a run.

    Attributes:
        path: The scan.
        folder: Where its result goes.
        key: What the result follows from, see ``result_key``.
    """

    path: Path
    folder: Path
    key: dict[str, str]


def segment(
    context: typer.Context,
    scans: Annotated[
        list[Path],
        typer.Argument(
            help="CTs: DICOM folders, image files such as .nii.gz, or folders of these.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the results, one folder per scan.")
    ],
    model: Annotated[Path | None, typer.Option(help="Folder made by 'normnet train'.")] = None,
    lungs: Annotated[
        Path | None, typer.Option(help="Lung mask of one scan: one value, two sides, or lobes.")
    ] = None,
    lung_model: Annotated[
        Path | None, typer.Option(help="Folder of train-lungs or nnU-Net, or lungmask file.")
    ] = None,
    lesion_model: Annotated[
        Path | None, typer.Option(help="Folder made by 'normnet train --config lesions'.")
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="TOML file; its keys override the model's settings.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    series: Annotated[
        str | None, typer.Option(help="SeriesInstanceUID, where a DICOM folder holds several.")
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="One member votes instead of the ensemble.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Segment again what is done already.")
    ] = False,
) -> int:
    """Segment lesions: masks, maps, volumes and a picture per scan, and results.csv of all scans.

    Masks that lie among the CTs of a folder are passed over. A second run with the same --out goes
    on where the first stopped. Research use only, not a medical device.
    """
    from normnet.memory import check_memory

    check_memory()
    from normnet.cli.devices import choose_device
    from normnet.cli.settings import override_config
    from normnet.cli.texts import progress_bar
    from normnet.errors import ConfigError
    from normnet.io.output_folder import check_output
    from normnet.models import load_model, read_manifests, settings_of, shipped, with_lungs
    from normnet.results.folder import is_done, output_folder, result_key
    from normnet.results.table import check_table, write_table

    paths = find_cts(scans)
    if lungs is not None and len(paths) != 1:
        raise ConfigError(
            "NN-CLI-002", f"--lungs with {len(paths)} scans", "--lungs", "give one scan"
        )
    manifests = read_manifests(model, lung_model, lesion_model)
    own, _ = settings_of(manifests[0], model or shipped("normnet"))  # load_model warns of others
    own = with_lungs(own, manifests[1])
    settings = override_config(own, config)
    if fast:
        alone = settings.inference.model_copy(update={"max_members": 1, "min_votes": "majority"})
        settings = settings.model_copy(update={"inference": alone})
    votes = settings.inference
    votes.votes_needed(votes.members_voting(len(manifests[0]["members"])))
    if device != "auto":
        choose_device(device)
    check_output(out, scans)
    check_table(out)
    taken: set[Path] = set()
    jobs = []
    for path in paths:
        key = result_key(path, manifests, settings, lungs, series)
        jobs.append(Job(path, output_folder(out, path, taken, key), key))
    waiting = [job for job in jobs if overwrite or not is_done(job.folder, job.key)]
    if not waiting:
        write_table(out)
        return _sum_up(jobs, {}, len(jobs))

    @cache  # called when the first CT has been read, so that a bad file is refused soon
    def load() -> tuple[Model, str]:
        return load_model(model, lung_model, lesion_model), choose_device(device)

    read = [*paths, *([lungs] if lungs else []), *([Path(config)] if config else [])]
    inputs = {path.resolve() for path in read}
    failed: dict[Path, NormNetError] = {}
    try:
        with progress_bar() as bar:

            def work(job: Job) -> NormNetError | None:
                return _segment_one(job, load, settings, lungs, series, bar, context.obj)

            for job in jobs:
                if job not in waiting:
                    _print_line(job, "done already")
                elif error := _claim_and(work, job, out, taken, inputs):
                    failed[job.path] = error
    finally:  # also when a signal stops the run
        write_table(out)
    return _sum_up(jobs, failed, len(jobs) - len(waiting))


def find_cts(scans: list[Path]) -> list[Path]:
    """The CTs among what the user gave; masks and results in a folder are passed over.

    Raises:
        InputError: If there is nothing to read, or masks only.
    """
    from normnet.cli.texts import say
    from normnet.errors import InputError
    from normnet.io.read import find_scans
    from normnet.results.folder import is_result_file

    found = find_scans(scans)
    paths = [
        path
        for path in found
        if path in scans or not (is_result_file(path) or is_label_image(path))
    ]
    if not paths:
        raise InputError(
            "NN-FILE-008",
            f"no CT among {len(found)} images, masks only",
            scans[0].name,
            "give a CT",
        )
    if len(paths) < len(found):
        say(f"{len(found) - len(paths)} masks passed over")
    return paths


def _claim_and(
    work: Callable[[Job], NormNetError | None],
    job: Job,
    out: Path,
    taken: set[Path],
    inputs: Set[Path],
) -> NormNetError | None:
    """Do the work on one scan, in a folder that no other process uses.

    Returns:
        The error of the work. If the folder cannot be used, that error; it is recorded nowhere but
        on the screen.
    """
    from normnet.cli.texts import warn
    from normnet.errors import OutputError
    from normnet.results.folder import claimed_folder

    taken.discard(job.folder)
    try:
        with claimed_folder(out, job.path, taken, job.key, inputs) as folder:
            taken.add(folder)
            return work(replace(job, folder=folder))
    except OutputError as error:
        taken.add(job.folder)
        warn(f"{job.folder.name}: {error}")
        return error


def _segment_one(
    job: Job,
    load: Callable[[], tuple[Model, str]],
    config: Config,
    lungs: Path | None,
    series: str | None,
    bar: Bar,
    debug: bool,
) -> NormNetError | None:
    """Read, segment and write one scan; a failure is recorded in its folder and returned.

    Args:
        job: The scan.
        load: Loads the model and chooses the device; its errors are not those of the scan.
        config: Settings.
        lungs: A lung mask, if there is one.
        series: As ``read_ct`` takes it.
        bar: Shows the progress.
        debug: Whether to print the traceback of a failure.

    Raises:
        OutputError: If a failure cannot be recorded.
    """
    from normnet.errors import NormNetError
    from normnet.io.masks import read_labels
    from normnet.io.read import case_id_of, read_ct
    from normnet.pipeline import segment as segment_scan
    from normnet.results.folder import write_results

    start = time.perf_counter()
    name = case_id_of(job.path)
    bar(f"{name}: reading", 0, 1)

    def read() -> tuple[Scan, np.ndarray | None]:
        scan = read_ct(job.path, series)
        return scan, None if lungs is None else read_labels(lungs, scan)

    def find_and_write() -> dict[str, Any]:
        found = segment_scan(
            scan,
            model,
            config,
            lung_labels=labels,
            device=device,
            on_progress=lambda stage, done, total: bar(f"{name}: {stage}", done, total),
        )
        found = replace(found, seconds={"reading": reading, **found.seconds})
        bar(f"{name}: writing", 0, 1)
        return write_results(found, scan, job.folder, model, config=config, key=job.key)

    inputs = _try(job, read, debug)
    if isinstance(inputs, NormNetError):
        return inputs
    scan, labels = inputs
    reading = round(time.perf_counter() - start, 3)
    model, device = load()
    result = _try(job, find_and_write, debug)
    if isinstance(result, NormNetError):
        return result
    _print_line(job, "ok", result, time.perf_counter() - start)
    return None


def _try(job: Job, work: Callable[[], Outcome], debug: bool) -> Outcome | NormNetError:
    """What the work returns, or its failure, which is then recorded in the folder of the scan."""
    from normnet.cli.failures import as_named_error
    from normnet.cli.texts import warn
    from normnet.io.read import case_id_of
    from normnet.results.folder import write_failure

    try:
        return work()
    except Exception as caught:
        if debug:
            traceback.print_exception(caught)
        error = as_named_error(caught, job.path.name)
        warn(f"{job.folder.name}: {error}")
        write_failure(job.folder, case_id_of(job.path), error, key=job.key)
        return error


def is_label_image(path: Path) -> bool:
    """Whether an image has the name of a mask and holds only a few labels."""
    import numpy as np

    from normnet.errors import NormNetError
    from normnet.io.read import read_stored
    from normnet.io.values import labels_of

    if path.is_dir() or not MASK_NAME.search(path.name):
        return False
    try:
        labels = labels_of(read_stored(path), path.name)
    except NormNetError:
        return False
    return len(np.flatnonzero(np.bincount(labels.ravel()))) <= MAX_LABELS


def _print_line(
    job: Job, status: str, result: dict[str, Any] | None = None, seconds: float | None = None
) -> None:
    from normnet.cli.texts import say
    from normnet.results.schema import read_result

    result = result or read_result(job.folder) or {}
    both = result.get("volumes", {}).get("both", {})
    parts = [f"{job.folder.name}: {status}"]
    if both:
        parts.append(
            f"lesions {both['lesion_ml']:.1f} ml, {both['lesion_percent']:.2f} % of the lung"
        )
    if seconds is not None:
        parts.append(f"{seconds:.1f} s")
    say("; ".join(parts))
    for warning in result.get("warnings", []) if seconds is not None else []:
        say(f"{job.folder.name}: warning: {warning}")


def _sum_up(jobs: list[Job], failed: dict[Path, NormNetError], n_skipped: int) -> int:
    from normnet.cli.texts import say

    if len(jobs) > 1 or n_skipped:
        n_new = len(jobs) - n_skipped - len(failed)
        say(f"{len(jobs)} scans: {n_new} segmented, {n_skipped} done already, {len(failed)} failed")
    if not failed:
        return 0
    return next(iter(failed.values())).exit_code if len(jobs) == 1 else 9
