"""``normnet segment``: find the lesions of one scan or of many."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from normnet.cli.arguments import Device, KeepIdentity, LesionModel, LungModel, ModelFolder, Series

if TYPE_CHECKING:
    from collections.abc import Sequence, Set

    from normnet.config import Config
    from normnet.io.census import Item
    from normnet.models import Model


def segment(
    context: typer.Context,
    out: Annotated[
        str,
        typer.Option(
            "--out", "-o", help="Folder or s3:// address for the results, one folder per scan."
        ),
    ],
    scans: Annotated[
        list[str] | None,
        typer.Argument(
            help="CTs: DICOM folders, image files such as .nii.gz, zips, folders of these, or "
            "s3:// addresses; none with --dicomweb.",
            show_default=False,
        ),
    ] = None,
    model: ModelFolder = None,
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
    lung_model: LungModel = None,
    lesion_model: LesionModel = None,
    config: Annotated[
        str | None, typer.Option(help="TOML file; its keys override the model's settings.")
    ] = None,
    device: Device = "auto",
    series: Series = None,
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
    keep_identity: KeepIdentity = False,
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
    parquet: Annotated[
        bool, typer.Option("--parquet", help="Write results.parquet beside results.csv.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="So many processes of this machine, or of the Ray cluster."),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="i/n: only the i-th of n shares of the scans, as in 3/10.")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster that does the work, or auto.")
    ] = None,
) -> int:
    """Segment lesions: masks, maps, volumes and a picture per scan, and results.csv of all scans.

    Masks and other modalities among the CTs of a folder are left out, with a line that says so. A
    second run with the same --out goes on where the first stopped. Research use only, not a medical
    device.
    """
    from normnet.memory import check_memory

    check_memory()
    from normnet.cli.batch.driver import mark_done, work
    from normnet.cli.batch.jobs import Run, plan, share_of
    from normnet.cli.batch.options import choose_workers, open_output, split_inputs
    from normnet.cli.devices import choose_device
    from normnet.cli.exchange import choose_exports, choose_server, inputs_of
    from normnet.io.output_folder import check_output
    from normnet.models import read_manifests
    from normnet.results.folder import read_owners, shared_key

    share_of([], shard)  # refuses a wrong one before any work
    start = choose_workers(workers, ray, dicomweb)
    exports = choose_exports(
        dicom_seg, dicom_sr, dicom_anomaly, seg_nrrd, keep_identity, empty_frames
    )
    server = choose_server(scans, dicomweb, study, store, exports)
    paths, addresses = split_inputs(inputs_of(context, scans, server, study, series))
    items = find_cts(paths, series, addresses)
    masks = {"--lungs": lungs, "--lobes": lobes}
    _check_masks(masks, len(items))
    manifests = read_manifests(model, lung_model, lesion_model)
    settings = _settings(manifests, model, config)
    if device != "auto" and ray is None:
        choose_device(device)
    folder, remote = open_output(context, out, needs_files=report or report_pdf or store)
    check_output(folder, paths)
    pages = _check_tables(folder, parquet, report, report_pdf)
    read = [*(item.path for item in items), *filter(None, masks.values())]
    run = Run(
        out=folder,
        config=settings,
        load=partial(load_networks, model, lung_model, lesion_model, device),
        shared_key=shared_key(manifests, settings, lungs, lobes),
        exports=exports,
        lungs=lungs,
        lobes=lobes,
        series=series,
        inputs={path.resolve() for path in (*read, *([Path(config)] if config else []))},
        owners=read_owners(folder),
        debug=context.obj,
        server=dicomweb if store else None,
        pages=pages,
        parquet=parquet,
        remote=remote,
    )
    jobs = share_of(plan(items, run), shard)
    return work(jobs if overwrite else mark_done(jobs, run), run, start)


def load_networks(
    model: Path | None, lung_model: Path | None, lesion_model: Path | None, device: str
) -> tuple[Model, str]:
    """Load the models and choose the device, when the first CT has been read."""
    from normnet.cli.devices import choose_device
    from normnet.models import load_model

    return load_model(model, lung_model, lesion_model), choose_device(device)


def _check_masks(masks: dict[str, Path | None], n_scans: int) -> None:
    """See that a mask of the user comes with the one scan that it belongs to."""
    from normnet.errors import ConfigError

    for option, mask in masks.items():
        if mask is not None and n_scans != 1:
            raise ConfigError(
                "NN-CLI-002", f"{option} with {n_scans} scans", option, "give one scan"
            )


def _settings(manifests: list[dict[str, Any]], model: Path | None, config: str | None) -> Config:
    """The settings of the models, with those of the user."""
    from normnet.cli.settings import override_config
    from normnet.models import settings_of, shipped, with_lungs

    own, _ = settings_of(manifests[0], model or shipped("normnet"))  # load_model warns of others
    settings = override_config(with_lungs(own, manifests[1]), config)
    votes = settings.inference
    votes.votes_needed(votes.members_voting(len(manifests[0]["members"])))
    return settings


def _check_tables(out: Path, parquet: bool, report: bool, report_pdf: bool) -> Set[str]:
    """See that what is written beside the result folders can be; the pages of a scan."""
    from normnet.cli.exchange import check_installed
    from normnet.io.lock import check_lock
    from normnet.results.table import check_table

    if parquet:
        check_installed("pyarrow", "cluster")
    check_lock(out)
    check_table(out)
    return _pages(report, report_pdf, out)


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


def find_cts(
    scans: list[Path], series: str | None = None, addresses: Sequence[str] = ()
) -> list[Item]:
    """The CTs among what the user gave; one line is printed per kind of thing that is left out.

    Args:
        scans: Files, folders, archives.
        series: SeriesInstanceUID, or ``auto``.
        addresses: Of remote files and folders; what they hold is seen when they are fetched.

    Raises:
        InputError: If there is nothing to read, or masks only.
    """
    from normnet.cli.texts import say
    from normnet.io.census import take_census
    from normnet.io.choice import choose_scans, left_out_notes
    from normnet.results.folder import is_result_file

    items: list[Item] = []
    if scans or not addresses:
        census = take_census(scans, is_result_file)
        items = choose_scans(census, series)
        for note in left_out_notes(census, items):
            say(note)
    if addresses:
        from normnet.io.remote import find_remote
        from normnet.results.remote import NOTE
        from normnet.results.schema import FILES, REQUESTED, RESULT

        own = (*FILES, *REQUESTED, RESULT)
        for address in addresses:
            items += find_remote(address, own, (RESULT, NOTE))
    return items
