"""``normnet segment``: find the lesions of one scan or of many."""

from __future__ import annotations

import re
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from normnet.cli.texts import Bar
    from normnet.config import Config
    from normnet.errors import NormNetError
    from normnet.models import Model

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
    from normnet.cli.devices import choose_device
    from normnet.cli.settings import override_config
    from normnet.cli.texts import progress_bar
    from normnet.errors import ConfigError
    from normnet.io.output_folder import check_output, locked
    from normnet.models import load_model, read_lung_manifest, settings_of, shipped, with_lungs
    from normnet.network.weights import read_manifest
    from normnet.results.folder import is_done, output_folder, result_key
    from normnet.results.table import write_table

    paths = find_cts(scans)
    if lungs is not None and len(paths) != 1:
        raise ConfigError(
            "NN-CLI-002", f"--lungs with {len(paths)} scans", "--lungs", "give one scan"
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
        jobs = []
        for path in paths:
            key = result_key(path, manifests, settings, lungs, series)
            jobs.append(Job(path, output_folder(out, path, taken, key), key))
        waiting = [job for job in jobs if overwrite or not is_done(job.folder, job.key)]
        if not waiting:
            write_table(out)
            return _sum_up(jobs, {}, len(jobs))
        loaded = load_model(model, lung_model, lesion_model)
        torch_device = choose_device(device)
        failed: dict[Path, NormNetError] = {}
        try:
            with progress_bar() as bar:
                for job in jobs:
                    if job not in waiting:
                        _print_line(job, "done already")
                    elif error := _segment_one(
                        job, loaded, settings, torch_device, lungs, series, bar, context.obj
                    ):
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


def _segment_one(
    job: Job,
    model: Model,
    config: Config,
    device: str,
    lungs: Path | None,
    series: str | None,
    bar: Bar,
    debug: bool,
) -> NormNetError | None:
    """Read, segment and write one scan; a failure is recorded in its folder and returned."""
    from normnet.cli.failures import as_named_error
    from normnet.cli.texts import warn
    from normnet.io.masks import read_labels
    from normnet.io.read import case_id_of, read_ct
    from normnet.pipeline import segment as segment_scan
    from normnet.results.folder import write_failure, write_results

    start = time.perf_counter()
    name = case_id_of(job.path)
    try:
        bar(f"{name}: reading", 0, 1)
        scan = read_ct(job.path, series)
        reading = round(time.perf_counter() - start, 3)
        labels = None if lungs is None else read_labels(lungs, scan)
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
        result = write_results(found, scan, job.folder, model, config=config, key=job.key)
    except Exception as caught:
        if debug:
            traceback.print_exception(caught)
        error = as_named_error(caught, job.path.name)
        write_failure(job.folder, name, error, key=job.key)
        warn(f"{job.folder.name}: {error}")
        return error
    _print_line(job, "ok", result, time.perf_counter() - start)
    return None


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
