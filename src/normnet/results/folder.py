"""One folder of results a scan: masks and maps on the scan's own grid, a picture, and ``result.json`` last.

``result.json`` is written after everything else, so where it is, the result is complete; it holds the sha256 of
every file. Its keys:

    normnet      version of the package
    notice       research use only
    status       "ok", "no_lung" or "error"
    case_id      name of the input as the user gave it
    key          sha256 of the input, the model, the settings and a given lung mask: what the result follows from
    scan         shape_zyx and spacing_mm_zyx of the input's own grid
    volumes      lung_ml, lesion_ml and lesion_percent (% of the lung) for both, right and left
    certainty    lesion_ml_range, the volume at the larger and the smaller of share_range; healthy_hu, disease_hu and
                 boundary_hu, the densities between which the edge is drawn, in a deep inspiration; tissue_in_air, the
                 share that was taken out for that
    labels       what the values of the images mean
    model        name, version, n_members, min_votes, prob_normal, the sha256 of all manifests, what found the lungs
    warnings     one line each
    files        sha256 of each file beside it
    error        status other than "ok": id, message and exit_code
    seconds      time of each stage; the only key that differs between two equal runs

Error ids: NN-OUT-010 no folder can be made or written there, 011 the output is an input, 012 another process
writes there.
"""

from __future__ import annotations

import fcntl
import io
import itertools
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from normnet import __version__
from normnet.errors import NormNetError, OutputError
from normnet.io.atomic import replacing
from normnet.io.fingerprint import digest_of, fingerprint, sha256_of
from normnet.io.images import write_image
from normnet.io.read import case_id_of

if TYPE_CHECKING:
    from normnet.config import Config
    from normnet.models import Model
    from normnet.pipeline import Segmentation
    from normnet.scan import Scan

NOTICE = "Research use only, not a medical device."
RESULT = "result.json"
FILES = ("lesions.nii.gz", "lungs.nii.gz", "anomaly.nii.gz", "votes.nii.gz", "preview.png")
LABELS = {
    "lesions.nii.gz": {"0": "no lesion", "1": "lesion"},
    "lungs.nii.gz": {"0": "outside", "1": "right lung", "2": "left lung"},
    "anomaly.nii.gz": "probability of anomaly in the lungs: 1 - mean probability of normal where they are bright, "
    "averaged with the lesion networks where those are asked, which speak alone elsewhere, else 0; stored / 255",
    "votes.nii.gz": "members of the ensemble that voted normal where the lung is bright, else 0",
}
NO_LUNG = "NN-VAL-020"


def write_results(
    segmentation: Segmentation,
    scan: Scan,
    folder: str | Path,
    model: Model,
    *,
    config: Config | None = None,
    key: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Write masks, maps, picture and ``result.json`` of one scan.

    Args:
        segmentation: Of ``scan``, on its grid.
        scan: As read.
        folder: Created; older results in it are replaced.
        model: What segmented it.
        config: Settings used; the model's own where None.
        key: As made by ``result_key``; lets a later run see that nothing has to be done.

    Returns:
        The content of ``result.json``.

    Raises:
        OutputError: If a file cannot be written whole; then no result file is left.
    """
    from normnet.results.preview import draw_preview

    start = time.perf_counter()
    folder, config = Path(folder), config or model.config
    _make(folder)
    clear_results(folder)
    images: dict[str, tuple[np.ndarray, float]] = {
        "lesions.nii.gz": (segmentation.lesion_mask, 1.0),
        "lungs.nii.gz": (segmentation.lung_labels, 1.0),
        "anomaly.nii.gz": (_as_codes(segmentation.prob_anomaly), 1 / 255),
        "votes.nii.gz": (segmentation.n_votes_normal, 1.0),
    }
    try:
        with ThreadPoolExecutor(len(images)) as pool:  # zlib works outside the interpreter lock
            written = [
                pool.submit(
                    write_image,
                    folder / name,
                    array.astype(np.uint8, copy=False),
                    scan.geometry,
                    slope,
                )
                for name, (array, slope) in images.items()
            ]
            picture = io.BytesIO()
            draw_preview(scan, segmentation, model_label(model, config)).save(
                picture, "PNG", optimize=False
            )
            for image in written:
                image.result()
        with replacing(folder / "preview.png") as handle:
            handle.write(picture.getvalue())
        seconds = {**segmentation.seconds, "writing": round(time.perf_counter() - start, 3)}
        return _write_json(
            folder,
            {
                **_head("ok", scan.case_id, key),
                "scan": {
                    "shape_zyx": list(scan.shape),
                    "spacing_mm_zyx": [round(v, 6) for v in scan.geometry.spacing_mm],
                },
                "volumes": segmentation.volumes,
                "certainty": segmentation.certainty,
                "labels": LABELS,
                "model": {**_describe(model, config), "lungs": segmentation.lungs_by},
                "warnings": list(dict.fromkeys((*scan.warnings, *segmentation.warnings))),
                "files": {name: sha256_of(folder / name) for name in FILES},
                "seconds": seconds,
            },
        )
    except BaseException:
        with suppress(OSError):
            clear_results(folder)
        raise


def _as_codes(prob: np.ndarray) -> np.ndarray:
    """0 to 1 as 0 to 255, uint8; slice by slice, to spare memory."""
    codes = np.zeros(prob.shape, np.uint8)
    for plane, code in zip(prob, codes, strict=True):
        if plane.any():
            code[:] = np.rint(plane * np.float32(255))
    return codes


def write_failure(
    folder: Path, case_id: str, error: NormNetError, *, key: dict[str, str] | None = None
) -> dict[str, Any]:
    """Record why a scan has no result; results of an earlier run are removed.

    Raises:
        OutputError: If it cannot be written.
    """
    _make(folder)
    clear_results(folder)
    status = "no_lung" if error.code == NO_LUNG else "error"
    found = {"id": error.code, "message": str(error), "exit_code": error.exit_code}
    return _write_json(folder, {**_head(status, case_id, key), "error": found})


def clear_results(folder: Path) -> None:
    """Remove the result files of an earlier run, ``result.json`` first, and what a killed run left behind."""
    try:
        for name in (RESULT, *FILES):
            (folder / name).unlink(missing_ok=True)
            for left_over in folder.glob(f".{name}.*.tmp"):
                left_over.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            "NN-OUT-010",
            f"an old result cannot be removed ({error.strerror})",
            folder.name,
            "choose another folder",
        ) from error


def read_result(folder: Path) -> dict[str, Any] | None:
    """The ``result.json`` of a folder, or None if there is none that can be read."""
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) else None


def is_done(folder: Path, key: dict[str, str]) -> bool:
    """Whether a folder holds a whole result that follows from the same input, model and settings.

    Every file is read and compared with its sha256.
    """
    result = read_result(folder)
    if result is None or result.get("status") != "ok" or result.get("normnet") != __version__:
        return False
    if {**result.get("key", {}), "place": ""} != {**key, "place": ""} or set(
        result.get("files", {})
    ) != set(FILES):
        return False
    try:
        return all(sha256_of(folder / name) == result["files"][name] for name in FILES)
    except OSError:
        return False


def result_key(
    path: Path,
    manifests: list[dict[str, Any]],
    config: Config,
    lungs: Path | None = None,
    series_uid: str | None = None,
) -> dict[str, str]:
    """What a result follows from, as sha256 sums.

    Args:
        path: The scan.
        manifests: Of the ensemble and the lung model.
        config: Settings used.
        lungs: A lung mask given by the user.
        series_uid: A DICOM series chosen by the user.
    """
    key = {
        "input": fingerprint(path)
        if series_uid is None
        else digest_of([fingerprint(path), series_uid]),
        "model": digest_of(manifests),
        "config": digest_of(config.model_dump(mode="json")),
        "place": digest_of(str(path.resolve()))[
            :16
        ],  # tells inputs of one name apart without naming their folders
    }
    return key if lungs is None else {**key, "lungs": fingerprint(lungs)}


def output_folder(out: Path, path: Path, taken: set[Path], key: dict[str, str]) -> Path:
    """The folder for a scan's results: its name, or ``name_2``, ``name_3`` … for other inputs of that name.

    A folder that belongs to the same input (same place or same content) is used again; one that
    holds the whole result of another input is left alone.

    Args:
        out: Where the folders lie.
        path: The scan.
        taken: Folders given to earlier scans of this run; the new one is added.
        key: As made by ``result_key``.

    Raises:
        OutputError: NN-OUT-011 if that folder is the scan itself.
    """
    name = case_id_of(path)
    if name in {"", ".", ".."}:
        name = path.resolve().name or "scan"
    free: Path | None = None
    for n in itertools.count(1):
        folder = out / (name if n == 1 else f"{name}_{n}")
        if folder in taken:
            continue
        result = read_result(folder) or {}
        owner = result.get("key") or {}
        if any(owner.get(part) == key[part] for part in ("place", "input")):
            free = folder
            break
        if free is None and result.get("status") != "ok":
            free = folder
        if not folder.exists():
            break
    assert free is not None  # the last one does not exist and is not taken
    if free.resolve() == path.resolve():
        raise OutputError(
            "NN-OUT-011",
            "the result would be written into the input",
            free.name,
            "choose another --out",
        )
    taken.add(free)
    return free


def check_output(out: Path, inputs: list[Path]) -> None:
    """Make the output folder and see that it can be written and is no input.

    Raises:
        OutputError: NN-OUT-010 or 011.
    """
    place = out.resolve()
    for path in inputs:
        source = path.resolve()
        if place == source or (
            source.is_dir() and place.is_relative_to(source) and _is_one_scan(source)
        ):
            raise OutputError(
                "NN-OUT-011",
                "the output is inside an input",
                out.name or str(out),
                "choose another --out",
            )
    _make(out)
    try:
        with replacing(out / ".writable"):
            pass
        (out / ".writable").unlink()
    except OSError as error:
        raise OutputError(
            "NN-OUT-010", f"cannot write ({error.strerror})", out.name, "choose another --out"
        ) from error


def is_result_file(path: Path) -> bool:
    """Whether a file found in a folder is a result of normnet and no scan."""
    return path.name in FILES and (path.parent / RESULT).is_file()


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold an output folder for this process.

    Raises:
        OutputError: NN-OUT-012 if another process holds it; names its process id.
    """
    path = out / ".lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise OutputError(
            "NN-OUT-010", f"cannot write ({error.strerror})", out.name, "choose another --out"
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(handle, 32).decode("ascii", "replace").strip() or "unknown"
            raise OutputError(
                "NN-OUT-012",
                f"process {holder} writes there",
                out.name or str(out),
                "wait for it, or choose another --out",
            ) from error
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(
            handle
        )  # lets go of the lock; the file stays, or a third process could lock another one


def model_label(model: Model, config: Config) -> str:
    """One line that names a model: name, version, members asked, first digits of its sha256."""
    manifest = model.ensemble.manifest
    name = " ".join(
        filter(None, (str(manifest.get("name", "normnet")), str(manifest.get("version", ""))))
    )
    n_members = len(model.voters(config.inference))
    return f"{name}, {n_members} member{'s' if n_members > 1 else ''}, {digest_of(manifest)[:8]}"


def _describe(model: Model, config: Config) -> dict[str, Any]:
    n_members = len(model.voters(config.inference))
    needed = config.inference.min_votes
    return {
        "name": str(model.ensemble.manifest.get("name", "normnet")),
        "version": str(
            model.ensemble.manifest.get("version", model.ensemble.manifest.get("normnet", ""))
        ),
        "n_members": n_members,
        "min_votes": needed if needed is not None else n_members // 2 + 1,
        "prob_normal": config.inference.prob_normal,
        "sha256": digest_of(model.ensemble.manifest),
        "lungs_sha256": digest_of(model.lungs.manifest),
        "lesions_sha256": digest_of(model.lesions.manifest),
    }


def _head(status: str, case_id: str, key: dict[str, str] | None) -> dict[str, Any]:
    return {
        "normnet": __version__,
        "notice": NOTICE,
        "status": status,
        "case_id": case_id,
        "key": key or {},
    }


def _write_json(folder: Path, result: dict[str, Any]) -> dict[str, Any]:
    with replacing(folder / RESULT) as handle:
        handle.write((json.dumps(result, indent=2) + "\n").encode())
    return result


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            "NN-OUT-010",
            f"no folder can be made ({error.strerror})",
            folder.name,
            "choose another --out",
        ) from error


def _is_one_scan(folder: Path) -> bool:
    from normnet.io.read import find_scans

    try:
        return find_scans([folder]) == [folder]
    except NormNetError:  # nothing in it is a scan
        return False
