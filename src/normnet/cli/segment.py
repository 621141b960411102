"""``normnet segment``: find the lesions of one scan or of many."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence, Set
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
    from normnet.io.census import Item
    from normnet.models import Model
    from normnet.results.exports import Exports
    from normnet.scan import Scan

Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Job:
    """One scan of a run.

    Attributes:
        item: The scan.
        name: Its ``case_id``.
        folder: Where its result goes.
        key: What the result follows from, see ``result_key``.
    """

    item: Item
    name: str
    folder: Path
    key: dict[str, str]


@dataclass(frozen=True)
class Run:
    """What the scans of a run share.

    Attributes:
        out: Folder of all results.
        config: Settings.
        load: Loads the model and chooses the device; its errors are not those of a scan.
        lungs: A lung mask, if there is one.
        lobes: A lobe mask, if there is one.
        inputs: Resolved paths of all that the run reads.
        owners: As ``read_owners`` makes it.
        taken: Result folders of the scans of this run.
        debug: Whether to print the traceback of a failure.
        exports: Files that are asked for beside the usual ones.
        store: Sends finished DICOM objects to a server; None where they stay here.
        pages: The pages to write for each scan: none, ``report.html``, and ``report.pdf``.
    """

    out: Path
    config: Config
    load: Callable[[], tuple[Model, str]]
    lungs: Path | None
    lobes: Path | None
    inputs: Set[Path]
    owners: Mapping[str, Path]
    taken: set[Path]
    debug: bool
    exports: Exports
    store: Callable[[Sequence[Path]], None] | None
    pages: Set[str]


def segment(
    context: typer.Context,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the results, one folder per scan.")
    ],
    scans: Annotated[
        list[Path] | None,
        typer.Argument(
            help="CTs: DICOM folders, image files such as .nii.gz, zips, or folders of these; "
            "none with --dicomweb.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Folder made by 'normnet train'.")] = None,
    lungs: Annotated[
        Path | None, typer.Option(help="Lung mask of one scan: one value, two sides, or lobes.")
    ] = None,
    lobes: Annotated[
        Path | None,
        typer.Option(
            help="Lobe mask of one scan: 1 left upper, 2 left lower, 3 right upper, 4 right middle,"
            " 5 right lower, or the numbers of TotalSegmentator."
        ),
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
        str | None,
        typer.Option(help="SeriesInstanceUID, where a folder holds several, or auto: the best."),
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="One member votes instead of the ensemble.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Segment again what is done already.")
    ] = False,
    dicom_seg: Annotated[
        bool, typer.Option("--dicom-seg", help="Also a DICOM SEG of lungs and lesions.")
    ] = False,
    dicom_sr: Annotated[
        bool, typer.Option("--dicom-sr", help="Also the measurements as DICOM SR, and the SEG.")
    ] = False,
    dicom_anomaly: Annotated[
        bool, typer.Option("--dicom-anomaly", help="Also the anomaly map as a fractional SEG.")
    ] = False,
    seg_nrrd: Annotated[
        bool, typer.Option("--seg-nrrd", help="Also a segmentation for 3D Slicer (.seg.nrrd).")
    ] = False,
    keep_identity: Annotated[
        bool,
        typer.Option(
            "--keep-identity", help="DICOM objects name the patient and study, as a PACS needs it."
        ),
    ] = False,
    empty_frames: Annotated[
        bool, typer.Option("--empty-frames", help="A SEG has frames without any voxel, too.")
    ] = False,
    dicomweb: Annotated[
        str | None, typer.Option(help="Address of a DICOMweb server to read the CT from.")
    ] = None,
    study: Annotated[str | None, typer.Option(help="StudyInstanceUID, with --dicomweb.")] = None,
    store: Annotated[
        bool, typer.Option("--store", help="Send the DICOM objects to the server of --dicomweb.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Write report.html per scan, and index.html of all.")
    ] = False,
    report_pdf: Annotated[
        bool, typer.Option("--report-pdf", help="Write report.pdf too, by Chromium.")
    ] = False,
) -> int:
    """Segment lesions: masks, maps, volumes and a picture per scan, and results.csv of all scans.

    Masks and other modalities among the CTs of a folder are left out, with a line that says so. A
    second run with the same --out goes on where the first stopped. Research use only, not a medical
    device.
    """
    from normnet.memory import check_memory

    check_memory()
    from normnet.cli.devices import choose_device
    from normnet.cli.exchange import choose_exports, choose_server, inputs_of
    from normnet.cli.settings import one_member, override_config
    from normnet.errors import ConfigError
    from normnet.io.lock import check_lock
    from normnet.io.output_folder import check_output
    from normnet.models import load_model, read_manifests, settings_of, shipped, with_lungs
    from normnet.results.folder import is_done, read_owners
    from normnet.results.table import check_table

    exports = choose_exports(
        dicom_seg, dicom_sr, dicom_anomaly, seg_nrrd, keep_identity, empty_frames
    )
    server = choose_server(scans, dicomweb, study, store, exports)
    paths = inputs_of(context, scans, server, study, series)
    items = find_cts(paths, series)
    masks = {"--lungs": lungs, "--lobes": lobes}
    for option, mask in masks.items():
        if mask is not None and len(items) != 1:
            raise ConfigError(
                "NN-CLI-002", f"{option} with {len(items)} scans", option, "give one scan"
            )
    manifests = read_manifests(model, lung_model, lesion_model)
    own, _ = settings_of(manifests[0], model or shipped("normnet"))  # load_model warns of others
    settings = override_config(with_lungs(own, manifests[1]), config)
    if fast:
        settings = one_member(settings)
    votes = settings.inference
    votes.votes_needed(votes.members_voting(len(manifests[0]["members"])))
    if device != "auto":
        choose_device(device)
    check_output(out, paths)
    check_lock(out)
    check_table(out)
    pages = _pages(report, report_pdf, out)

    @cache  # called when the first CT has been read, so that a bad file is refused soon
    def load() -> tuple[Model, str]:
        return load_model(model, lung_model, lesion_model), choose_device(device)

    read = [*(item.path for item in items), *filter(None, masks.values())]
    inputs = {path.resolve() for path in (*read, *([Path(config)] if config else []))}
    send = server.store if server and store else None
    owners = read_owners(out)
    run = Run(
        out, settings, load, lungs, lobes, inputs, owners, set(), context.obj, exports, send, pages
    )
    jobs = _plan(items, run, manifests)
    done = {job.folder for job in jobs if not overwrite and is_done(job.folder, job.key, exports)}
    return _work(jobs, done, run)


def _pages(report: bool, report_pdf: bool, out: Path) -> Set[str]:
    """The files that the options ask for, when they can be written."""
    if not (report or report_pdf):
        return frozenset()
    from normnet.report.cohort import check_index
    from normnet.report.printing import find_browser
    from normnet.report.scan_report import PAGE, PRINT

    check_index(out)
    if report_pdf:
        find_browser()
    return {PAGE, PRINT} if report_pdf else {PAGE}


def _plan(items: list[Item], run: Run, manifests: list[dict[str, Any]]) -> list[Job]:
    """A name and a result folder for each scan."""
    from normnet.results.folder import output_folder, result_key
    from normnet.results.names import result_names

    names = result_names([item.path for item in items], [item.root for item in items])
    jobs = []
    for item, name in zip(items, names, strict=True):
        key = result_key(item.path, manifests, run.config, run.lungs, item, run.lobes)
        folder = output_folder(run.out, item.path, run.taken, key, name, run.owners)
        jobs.append(Job(item, name, folder, key))
    return jobs


def _work(jobs: list[Job], done: Set[Path], run: Run) -> int:
    """Segment all scans whose results are not done; the exit code of the command."""
    from normnet.cli.texts import progress_bar
    from normnet.results.table import write_table

    failed: dict[Path, NormNetError] = {}  # by the folder that was planned
    try:
        with progress_bar() as bar:
            for job in jobs:
                if job.folder in done:
                    if len(done) < len(jobs):
                        _print_line(job, "done already")
                    error = _add_pages(job, run) or _store(job, run)
                else:
                    error = _claim_and_segment(job, run, bar)
                if error:
                    failed[job.folder] = error
    finally:  # also when a signal stops the run
        write_table(run.out)
        if run.pages:
            from normnet.report.cohort import write_index

            write_index(run.out)
    return _sum_up(jobs, failed, done)


def find_cts(scans: list[Path], series: str | None = None) -> list[Item]:
    """The CTs among what the user gave; one line is printed per kind of thing that is left out.

    Args:
        scans: Files, folders, archives.
        series: SeriesInstanceUID, or ``auto``.

    Raises:
        InputError: If there is nothing to read, or masks only.
    """
    from normnet.cli.texts import say
    from normnet.io.census import take_census
    from normnet.io.choice import choose_scans, left_out_notes
    from normnet.results.folder import is_result_file

    census = take_census(scans, is_result_file)
    items = choose_scans(census, series)
    for note in left_out_notes(census, items):
        say(note)
    return items


def _claim_and_segment(job: Job, run: Run, bar: Bar) -> NormNetError | None:
    """Segment one scan in a folder that no other process uses.

    Returns:
        The error of the scan. If the folder cannot be used, that error; it is recorded nowhere but
        on the screen.
    """
    from normnet.cli.texts import warn
    from normnet.errors import OutputError
    from normnet.results.folder import claimed_folder

    run.taken.discard(job.folder)
    path, names = job.item.path, (job.name, run.owners)
    try:
        with claimed_folder(run.out, path, run.taken, job.key, run.inputs, *names) as folder:
            run.taken.add(folder)
            return _segment_one(replace(job, folder=folder), run, bar)
    except OutputError as error:
        run.taken.add(job.folder)
        warn(f"{job.folder.name}: {error}")
        return error


def _segment_one(job: Job, run: Run, bar: Bar) -> NormNetError | None:
    """Read, segment and write one scan; a failure is recorded in its folder and returned.

    Raises:
        OutputError: If a failure cannot be recorded.
    """
    from normnet.errors import NormNetError
    from normnet.io.masks import read_labels
    from normnet.io.read import read_item
    from normnet.pipeline import segment as segment_scan
    from normnet.results.exports import check_dicom, check_slices
    from normnet.results.folder import write_results

    start = time.perf_counter()
    bar(f"{job.name}: reading", 0, 1)

    def read() -> tuple[Scan, list[np.ndarray | None]]:
        check_dicom(run.exports, job.item.kind, job.name)
        scan = read_item(job.item, job.name)
        check_slices(run.exports, scan)
        masks = (run.lungs, run.lobes)
        return scan, [None if mask is None else read_labels(mask, scan) for mask in masks]

    def find_and_write() -> dict[str, Any]:
        found = segment_scan(
            scan,
            model,
            run.config,
            lung_labels=lung_labels,
            lobe_labels=lobe_labels,
            device=device,
            on_progress=lambda stage, done, total: bar(f"{job.name}: {stage}", done, total),
        )
        found = replace(found, seconds={"reading": reading, **found.seconds})
        bar(f"{job.name}: writing", 0, 1)
        result = write_results(
            found,
            scan,
            job.folder,
            model,
            config=run.config,
            key=job.key,
            source=_source(job),
            exports=run.exports,
            dicom_files=job.item.files,
        )
        if run.pages:
            from normnet.report.scan_report import PRINT, Maps, write_report

            bar(f"{job.name}: report", 0, 1)
            write_report(job.folder, scan, Maps.of(found), result, PRINT in run.pages)
        return result

    inputs = _try(job, read, run.debug)
    if isinstance(inputs, NormNetError):
        return inputs
    scan, (lung_labels, lobe_labels) = inputs
    reading = round(time.perf_counter() - start, 3)
    model, device = run.load()
    result = _try(job, find_and_write, run.debug)
    if isinstance(result, NormNetError):
        return result
    _print_line(job, "ok", result, time.perf_counter() - start)
    return _store(job, run)


def _store(job: Job, run: Run) -> NormNetError | None:
    """Send the DICOM objects of a finished result, if that was asked for; the failure, if any."""
    from normnet.cli.texts import say, warn
    from normnet.errors import NormNetError

    if run.store is None:
        return None
    names = run.exports.dicom
    try:
        run.store([job.folder / name for name in names])
    except NormNetError as error:
        warn(f"{job.folder.name}: {error}")
        return error
    say(f"{job.folder.name}: stored {', '.join(names)}")
    return None


def _add_pages(job: Job, run: Run) -> NormNetError | None:
    """Write the pages that a finished result lacks; returns the error if that fails."""
    from normnet.cli.failures import as_named_error
    from normnet.cli.report import report_again
    from normnet.cli.texts import warn
    from normnet.report.scan_report import PRINT
    from normnet.results.schema import read_result

    result = read_result(job.folder) or {}
    if run.pages <= set(result["files"]):
        return None
    try:
        report_again(job.folder, result, {job.key["input"]: job.item}, PRINT in run.pages)
    except Exception as caught:
        if run.debug:
            traceback.print_exception(caught)
        error = as_named_error(caught, job.folder.name)
        warn(f"{job.folder.name}: {error}")
        return error
    return None


def _try(job: Job, work: Callable[[], Outcome], debug: bool) -> Outcome | NormNetError:
    """What the work returns, or its failure, which is then recorded in the folder of the scan."""
    from normnet.cli.failures import as_named_error
    from normnet.cli.texts import warn
    from normnet.results.folder import write_failure

    try:
        return work()
    except Exception as caught:
        if debug:
            traceback.print_exception(caught)
        error = as_named_error(caught, job.item.path.name)
        warn(f"{job.folder.name}: {error}")
        write_failure(job.folder, job.name, error, key=job.key, source=_source(job))
        return error


def _source(job: Job) -> str:
    return str(job.item.source)


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


def _sum_up(jobs: list[Job], failed: dict[Path, NormNetError], done: Set[Path]) -> int:
    from normnet.cli.texts import say

    if len(jobs) > 1 or done:
        n_done = len(done - failed.keys())
        n_new = len(jobs) - n_done - len(failed)
        say(f"{len(jobs)} scans: {n_new} segmented, {n_done} done already, {len(failed)} failed")
    if not failed:
        return 0
    return next(iter(failed.values())).exit_code if len(jobs) == 1 else 9
