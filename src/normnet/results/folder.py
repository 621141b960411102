"""The result folder of a scan: which one it is, whether its result is complete, writing it.

Error ids: NN-OUT-011 the output is an input, 012 another process writes there, 016 a link.
"""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Container, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from normnet.errors import NormNetError, OutputError
from normnet.io.atomic import write_bytes
from normnet.io.fingerprint import digest_of, fingerprint, sha256_of
from normnet.io.formats.nifti import write_image
from normnet.io.json_files import write_json
from normnet.io.lock import holder_of, locked_folder
from normnet.io.output_folder import check_no_input, make_folder
from normnet.results.exports import NOTHING, Exports, check_slices, write_exports
from normnet.results.names import own_name
from normnet.results.schema import (
    FILES,
    REQUESTED,
    RESULT,
    Result,
    describe_failure,
    describe_result,
    model_label,
    read_result,
    write_caption,
)
from normnet.results.staging import check_own, is_started, remove_leftovers, staged
from normnet.version import __version__

if TYPE_CHECKING:
    from normnet.config import Config
    from normnet.io.census import Item
    from normnet.models import Model
    from normnet.pipeline import Segmentation
    from normnet.scan import Scan
PNG_LEVEL = 3  # a third of the time of the usual 6, for no more bytes


def place_of(path: Path) -> str:
    """The path of a scan as a sum: it tells inputs of one name apart without naming folders."""
    return digest_of(str(path.resolve()))[:16]


def shared_key(
    manifests: list[dict[str, Any]],
    config: Config,
    lungs: Path | None = None,
    lobes: Path | None = None,
) -> dict[str, str]:
    """What all results of a run follow from, as sha256 sums.

    Args:
        manifests: Of all models.
        config: Settings used.
        lungs: A lung mask given by the user.
        lobes: A lobe mask given by the user.
    """
    key = {"model": digest_of(manifests), "config": digest_of(config.model_dump(mode="json"))}
    masks = {"lungs": lungs, "lobes": lobes}
    return key | {name: fingerprint(mask) for name, mask in masks.items() if mask is not None}


def result_key(path: Path, shared: dict[str, str], item: Item | None = None) -> dict[str, str]:
    """What a result follows from, as sha256 sums: ``input``, ``place_of``, and what is shared.

    Args:
        path: The scan, which is read as a whole.
        shared: As made by ``shared_key``.
        item: The scan in the census; one that cannot be read is not hashed.
    """
    place = place_of(path)
    readable = item is None or item.error is None
    if item is not None and item.content:
        content = item.content
    else:
        content = fingerprint(path, item.files if item else ()) if readable else digest_of([place])
    first = {"input": content, "model": shared["model"], "config": shared["config"]}
    return {**first, "place": place, **shared}


def read_owners(out: Path) -> dict[str, list[Path]]:
    """The result folders in ``out`` by the place of their input, see ``result_key``."""
    owners: dict[str, list[Path]] = {}
    for file in sorted(out.glob(f"*/{RESULT}")):
        result = read_result(file.parent) or {}
        key = result.get("key")
        if isinstance(key, dict) and isinstance(key.get("place"), str):
            owners.setdefault(key["place"], []).append(file.parent)
    return owners


def output_folder(
    out: Path,
    path: Path,
    taken: Container[Path],
    key: dict[str, str],
    name: str = "",
    owners: Mapping[str, Sequence[Path]] | None = None,
    by_content: bool = False,
) -> Path:
    """The folder for a scan's result: its name, or ``name_2``, ``name_3`` … if that is taken.

    A folder that belongs to the same input (same place or same content) is used again; one that
    holds the complete result of another input is left alone.

    Args:
        out: Where the folders lie.
        path: The scan.
        taken: Folders of earlier scans of this run.
        key: As made by ``result_key``. Its ``input`` is looked up only if another scan's result
            lies in a folder of that name.
        name: As made by ``result_names``; the name of the file or folder where it is empty.
        owners: As made by ``read_owners``: names stay as they are when scans are added later.
        by_content: Other scans have the same place, such as the series of one folder: only their
            contents tell their folders apart.

    Raises:
        OutputError: NN-OUT-011 if that folder is the scan itself.
    """
    name = name or own_name(path)
    own = [folder for folder in (owners or {}).get(key["place"], ()) if folder not in taken]
    if by_content or len(own) > 1:
        own = [f for f in own if _key_of(read_result(f)).get("input") == key["input"]]
    free = own[0] if own else _free_folder(out, name, taken, key, by_content)
    if free.resolve() == path.resolve():
        raise OutputError(
            "NN-OUT-011",
            "the result would be written into the input",
            free.name,
            "choose another --out",
        )
    return free


def _key_of(result: Result | None) -> dict[str, str]:
    """The key of a result; empty if there is none."""
    return (result or {}).get("key") or {}


def _free_folder(
    out: Path, name: str, taken: Container[Path], key: dict[str, str], by_content: bool
) -> Path:
    """The first folder of a name that belongs to the input of the key, or to none."""
    parts = ("input",) if by_content else ("place", "input")
    free: Path | None = None
    for n in itertools.count(1):
        folder = out / (name if n == 1 else f"{name}_{n}")
        if folder in taken:
            continue
        result = read_result(folder)
        owner = _key_of(result)
        if owner and any(owner.get(part) == key[part] for part in parts):
            free = folder
            break
        if free is None and (result or {}).get("status") != "ok":
            free = folder
        if not folder.exists():
            break
    assert free is not None  # the last folder neither exists nor is taken
    return free


@contextmanager
def claimed_folder(
    out: Path,
    path: Path,
    taken: Container[Path],
    key: dict[str, str],
    inputs: Set[Path] = frozenset(),
    name: str = "",
    owners: Mapping[str, Sequence[Path]] | None = None,
    by_content: bool = False,
    wait_s: float = 0.0,
) -> Iterator[Path]:
    """The folder for a scan's result, locked for this process while the block runs.

    Another process may have claimed the folder that ``output_folder`` named before: for the same
    scan that is an error, for another scan of the same name the next free folder is used.

    Args:
        out: Where the folders lie.
        path: The scan.
        taken: Folders of the other scans of this run.
        key: As made by ``result_key``.
        inputs: Resolved paths of all that the run reads.
        name: As ``output_folder`` takes it.
        owners: As ``output_folder`` takes it.
        by_content: As ``output_folder`` takes it.
        wait_s: How long to wait for another process that segments this scan.

    Yields:
        The folder, which exists. All that a result would replace in it is ours.

    Raises:
        OutputError: NN-OUT-012 if another process segments this scan, 015 or 016 if there is
            something in the folder that is not ours, 011 if that is an input.
    """
    unusable = _Taken(taken)
    note = "-".join([key["place"], *([key["input"]] if by_content else [])])
    with ExitStack() as lock:
        while True:
            folder = output_folder(out, path, unusable, key, name, owners, by_content)
            if folder.is_symlink():
                found = "a link has the name of the result folder"
                raise OutputError("NN-OUT-016", found, folder.name, "choose another --out")
            make_folder(folder)
            try:
                lock.enter_context(locked_folder(folder, wait_s, note=note))
            except OutputError as error:
                if error.code != "NN-OUT-012" or holder_of(folder).note in ("", note):
                    raise
                unusable.busy.add(folder)
                continue
            if output_folder(out, path, unusable, key, name, owners, by_content) == folder:
                break
            lock.close()  # meanwhile another process has written a result there
        for file in (RESULT, *FILES, *REQUESTED):
            check_no_input(folder / file, inputs)
        remove_leftovers(folder)
        check_own(folder)
        yield folder


class _Taken:
    """The folders that a run has planned, and those that other processes hold."""

    def __init__(self, planned: Container[Path]):
        self.planned = planned
        self.busy: set[Path] = set()

    def __contains__(self, folder: object) -> bool:
        return folder in self.planned or folder in self.busy


def is_done(folder: Path, key: dict[str, str], exports: Exports = NOTHING) -> bool:
    """Whether a folder holds a complete result of this version, input, model and settings.

    Every file is read and compared with its sha256. The result may hold more than is asked for.
    """
    result = read_result(folder)
    if result is None or not is_current(result, key, exports):
        return False
    files = result["files"]
    try:
        return all(sha256_of(folder / name) == files[name] for name in files)
    except OSError:
        return False


def is_current(result: Result, key: dict[str, str], exports: Exports = NOTHING) -> bool:
    """Whether a result is of this version, input, model and settings; its files are not read."""
    if result.get("status") != "ok" or result.get("normnet") != __version__:
        return False
    if {**result.get("key", {}), "place": ""} != {**key, "place": ""}:
        return False
    if exports.dicom and result.get("dicom") != exports.describe()["dicom"]:
        return False
    return {*FILES, *exports.files} <= set(result.get("files", {})) <= {*FILES, *REQUESTED}


def is_result_file(path: Path) -> bool:
    """Whether a file found in a folder is a result of normnet and no scan."""
    return path.name in (*FILES, *REQUESTED) and is_started(path.parent)


def write_results(
    segmentation: Segmentation,
    scan: Scan,
    folder: str | Path,
    model: Model,
    *,
    config: Config | None = None,
    key: dict[str, str] | None = None,
    source: str = "",
    exports: Exports = NOTHING,
    dicom_files: Sequence[Path] = (),
) -> Result:
    """Write masks, maps, picture and ``result.json`` of one scan.

    Args:
        segmentation: Of ``scan``, on its grid.
        scan: As read.
        folder: Made where it is missing. An older result in it is replaced, when the new one is
            complete.
        model: What segmented it.
        config: Settings used; the model's own where None.
        key: As made by ``result_key``; a later run sees by it that the result is complete.
        source: Path of the input, for people; empty if it is unknown.
        exports: What else is written.
        dicom_files: Of the series that the scan was read from; DICOM objects refer to them.

    Returns:
        The content of ``result.json``.

    Raises:
        OutputError: If a file cannot be written; then an older result stays. NN-OUT-015 or 016 if
            a file is in the way that normnet did not write.
    """
    described = describe_result(segmentation, scan, model, config or model.config, key, source)
    return write_described(described, segmentation, scan, Path(folder), exports, dicom_files)


def write_described(
    described: Result,
    segmentation: Segmentation,
    scan: Scan,
    folder: Path,
    exports: Exports = NOTHING,
    dicom_files: Sequence[Path] = (),
) -> Result:
    """Write a result whose ``result.json`` is described already; else as ``write_results``.

    Args:
        described: As made by ``describe_result``.
        segmentation: Of ``scan``, on its grid.
        scan: As read.
        folder: Of the result.
        exports: What else is written.
        dicom_files: Of the series that the scan was read from.
    """
    from normnet.results.preview import draw_preview

    check_slices(exports, scan)
    start = time.perf_counter()
    result = described | exports.describe()
    images: dict[str, tuple[np.ndarray, float]] = {
        "lesions.nii.gz": (segmentation.lesion_mask, 1.0),
        "lungs.nii.gz": (segmentation.lung_labels, 1.0),
        "anomaly.nii.gz": (segmentation.anomaly_codes, 1 / 255),
        "votes.nii.gz": (segmentation.n_votes_normal, 1.0),
    }
    with staged(folder) as new:
        with ThreadPoolExecutor(len(images)) as pool:  # zlib works outside the interpreter lock
            written = [
                pool.submit(
                    write_image,
                    new / name,
                    array if array.dtype == bool else array.astype(np.uint8, copy=False),
                    scan.geometry,
                    slope,
                    joined=scan.joined,
                )
                for name, (array, slope) in images.items()
            ]
            picture = io.BytesIO()
            draw_preview(
                scan, segmentation, write_caption(result), model_label(result["model"])
            ).save(picture, "PNG", compress_level=PNG_LEVEL)
            for image in written:
                image.result()
        write_bytes(new / "preview.png", picture.getvalue())
        write_exports(new, exports, segmentation, scan, result, dicom_files)
        result["files"] = {name: sha256_of(new / name) for name in (*FILES, *exports.files)}
        seconds = round(time.perf_counter() - start, 3)
        result["seconds"] = {**segmentation.seconds, "writing": seconds}
        write_json(new / RESULT, result)
    return result


def add_files(folder: Path, new: Mapping[str, bytes]) -> None:
    """Add files to a complete result, or replace them; ``result.json`` then lists them.

    Args:
        folder: With a complete result, locked by the caller.
        new: By their names, which are among ``PAGES``.

    Raises:
        OutputError: As ``write_results``.
    """
    result = read_result(folder) or {}
    with staged(folder) as stage:
        for name in ({*FILES, *REQUESTED} & set(result["files"])) - set(new):
            _copy(folder / name, stage / name)
        for name, data in new.items():
            write_bytes(stage / name, data)
        result["files"] |= {name: sha256_of(data) for name, data in new.items()}
        write_json(stage / RESULT, result)


def _copy(file: Path, copy: Path) -> None:
    """A second name of a file where the disk has links, else a copy."""
    try:
        copy.hardlink_to(file)
    except OSError:
        write_bytes(copy, file.read_bytes())


def write_failure(
    folder: Path,
    case_id: str,
    error: NormNetError,
    *,
    key: dict[str, str] | None = None,
    source: str = "",
) -> Result:
    """Record why a scan has no result; the result of an earlier run is removed.

    Raises:
        OutputError: As ``write_results``.
    """
    result = describe_failure(case_id, error, key, source)
    with staged(folder) as new:
        write_json(new / RESULT, result)
    return result
