"""``normnet segment``: find the lesions of one scan or of many."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import numpy as np

    from normnet.cli.texts import Bar
    from normnet.config import Config
    from normnet.errors import NormNetError
    from normnet.io.census import Item
    from normnet.models import Model
    from normnet.scan import Scan


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


def segment(
    context: typer.Context,
    scans: Annotated[
        list[Path],
        typer.Argument(
            help="CTs: DICOM folders, image files such as .nii.gz, zips, or folders of these.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the results, one folder per scan.")
    ],
    model: Annotated[Path | None, typer.Option(help="Folder made by 'normnet train'.")] = None,
    lungs: Annotated[
        Path | None, typer.Option(help="Lung mask of one scan: 0/1, or 1 right, 2 left.")
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
) -> int:
    """Segment lesions: masks, maps, volumes and a picture per scan, and results.csv of all scans.

    Masks and other modalities among the CTs of a folder are left out, with a line that says so. A
    second run with the same --out goes on where the first stopped. Research use only, not a medical
    device.
    """
    from normnet.cli.devices import choose_device
    from normnet.cli.settings import override_config
    from normnet.cli.texts import progress_bar
    from normnet.errors import ConfigError
    from normnet.io.output_folder import check_output, locked
    from normnet.models import load_model, read_lung_manifest, settings_of, shipped, with_lungs
    from normnet.network.weights import read_manifest
    from normnet.results.folder import is_done, output_folder, read_owners, result_key
    from normnet.results.names import result_names
    from normnet.results.table import write_table

    items = find_cts(scans, series)
    if lungs is not None and len(items) != 1:
        raise ConfigError(
            "NN-CLI-002", f"--lungs with {len(items)} scans", "--lungs", "give one scan"
        )
    given = {"normnet": model, "lungs": lung_model, "lesions": lesion_model}
    folders = {kind: folder or shipped(kind) for kind, folder in given.items()}
    manifests = [
        read_lung_manifest(folder) if kind == "lungs" else read_manifest(folder, kind)
        for kind, folder in folders.items()
    ]
    own, _ = settings_of(manifests[0], folders["normnet"])  # load_model warns of unknown settings
    own = with_lungs(own, manifests[1])
    settings = override_config(own, config)
    if fast:
        alone = settings.inference.model_copy(update={"max_members": 1, "min_votes": "majority"})
        settings = settings.model_copy(update={"inference": alone})
    check_output(out, scans)
    with locked(out):
        taken: set[Path] = set()
        owners = read_owners(out)
        jobs = []
        names = result_names([item.path for item in items], [item.root for item in items])
        for item, name in zip(items, names, strict=True):
            key = result_key(item.path, manifests, settings, lungs, item)
            folder = output_folder(out, item.path, taken, key, name, owners)
            jobs.append(Job(item, name, folder, key))
        waiting = [job for job in jobs if overwrite or not is_done(job.folder, job.key)]
        if not waiting:
            write_table(out)
            return _sum_up(jobs, {}, len(jobs))
        loaded = load_model(model, lung_model, lesion_model)
        torch_device = choose_device(device)
        failed: dict[Path, NormNetError] = {}  # by folder of the result
        try:
            with progress_bar() as bar:
                for job in jobs:
                    if job not in waiting:
                        _print_line(job, "done already")
                    elif error := _segment_one(
                        job, loaded, settings, torch_device, lungs, bar, context.obj
                    ):
                        failed[job.folder] = error
        finally:  # also when a signal stops the run
            write_table(out)
        return _sum_up(jobs, failed, len(jobs) - len(waiting))


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


def _segment_one(
    job: Job,
    model: Model,
    config: Config,
    device: str,
    lungs: Path | None,
    bar: Bar,
    debug: bool,
) -> NormNetError | None:
    """Read, segment and write one scan; a failure is recorded in its folder and returned."""
    from normnet.cli.failures import as_named_error
    from normnet.cli.texts import warn
    from normnet.io.read import read_item
    from normnet.pipeline import segment as segment_scan
    from normnet.results.folder import write_failure, write_results

    start = time.perf_counter()
    name, source = job.name, str(job.item.source)
    try:
        bar(f"{name}: reading", 0, 1)
        scan = read_item(job.item, name)
        reading = round(time.perf_counter() - start, 3)
        labels = None if lungs is None else read_lungs(lungs, scan)
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
        result = write_results(
            found, scan, job.folder, model, config=config, key=job.key, source=source
        )
    except Exception as caught:
        if debug:
            traceback.print_exception(caught)
        error = as_named_error(caught, job.item.path.name)
        write_failure(job.folder, name, error, key=job.key, source=source)
        warn(f"{job.folder.name}: {error}")
        return error
    _print_line(job, "ok", result, time.perf_counter() - start)
    return None


def read_lungs(path: Path, scan: Scan) -> np.ndarray:
    """A lung mask as labels, 1 right and 2 left; a mask without sides is split into two lungs.

    Args:
        path: Mask of 0 and 1, or of 1 right and 2 left.
        scan: Its scan.

    Returns:
        uint8 of the scan's shape.

    Raises:
        ValueRangeError: If it is empty.
        GeometryError: If it lies on another grid.
    """
    import numpy as np

    from normnet.errors import ValueRangeError
    from normnet.io.masks import read_labels
    from normnet.lungs.anatomy import split_left_right
    from normnet.preparation.orient import Orientation

    labels = read_labels(path, scan)
    values = set(np.unique(labels).tolist()) - {0}
    if not values:
        raise ValueRangeError(
            "NN-VAL-021", "the lung mask is empty", path.name, "give a mask with lung in it"
        )
    if values == {1, 2}:
        return labels
    orientation = Orientation.of(scan.geometry)
    return np.ascontiguousarray(orientation.undo(split_left_right(orientation.apply(labels > 0))))


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
