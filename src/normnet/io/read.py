"""From a path to a ``Scan``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from normnet.errors import InputError
from normnet.io.acceptance import accept
from normnet.io.archive import Archive, split_member, unpacked
from normnet.io.census import Item, take_census
from normnet.io.choice import candidates, choose_one
from normnet.io.formats import image_suffixes, is_detached_header
from normnet.io.joining import join_slices
from normnet.io.sniff import format_of
from normnet.io.values import Stored, rescale
from normnet.memory import lack_of_memory
from normnet.scan import Scan


def read_ct(path: Path | str, series_uid: str | None = None) -> Scan:
    """Read one chest CT.

    Args:
        path: A DICOM folder (sub-folders too), an image file of a format in ``io.formats``, or a
            zip archive of one of these.
        series_uid: Which series to read, if a DICOM folder holds several; ``"auto"`` for the one
            that ``io.choice`` proposes.

    Returns:
        The scan in HU, in stored order; DICOM slices ascend along their patient axis.

    Raises:
        InputError: Missing, truncated or corrupt.
        GeometryError: Not one regular volume.
        ValueRangeError: Not a CT in HU.
        ResourceError: Larger than the limits, or than the memory.
    """
    with _named_errors(Path(path)):
        return read_item(find_item(path, series_uid))


def find_item(path: Path | str, series_uid: str | None = None) -> Item:
    """The one scan at a path; arguments and errors as ``read_ct``.

    Scans that lie in the folder itself come before those of its sub-folders, and DICOM series
    before image files.
    """
    census = take_census([path])
    path = Path(path)
    found = candidates(census, series_uid)
    for part in (
        [item for item in found if item.path == path],
        [item for item in found if item.kind == "DICOM"],
        found,
    ):
        if part:
            item = choose_one(part, series_uid, path)
            break
    left_out = [other for other in census.items if other.why_not and other.kind == "DICOM"]
    n_other = sum(len(other.files) for other in left_out if other is not item)
    if not n_other:
        return item
    note = f"{path.name}: {n_other} localizers and objects without images were ignored"
    return replace(item, warnings=(*item.warnings, note))


def read_item(item: Item, case_id: str = "") -> Scan:
    """Read one item of a census.

    Args:
        item: What to read.
        case_id: Name of the scan; the name of the item where it is empty.

    Raises:
        NormNetError: As ``read_ct``.
    """
    if item.error is not None:
        raise item.error
    case_id = case_id or case_id_of(item.path)
    with _named_errors(item.path), unpacked(_with_data(item)) as files:
        if item.kind != "DICOM" and (known := format_of(files[0])) is not None:
            scan = _read_image(known.read(files[0]), item, case_id)
        else:
            from normnet.io.dicom.series import read_dicom

            scan = read_dicom(files, item.path.name, case_id, item.warnings)
            thickness_mm = item.thickness_mm if item.thickness_mm > 0 else None
            scan = replace(scan, thickness_mm=thickness_mm, kernel=item.kernel)
        return join_slices(scan, item.path.name)


def _read_image(stored: Stored, item: Item, case_id: str) -> Scan:
    volume_hu = rescale(stored, item.path.name, in_place=True)
    warnings = (*item.warnings, *stored.warnings)
    return accept(Scan(volume_hu, stored.geometry, case_id, warnings), item.path.name)


def _with_data(item: Item) -> list[Path]:
    """The files of an item, with the data file of a detached header in an archive."""
    place = split_member(item.path) if is_detached_header(item.path) else None
    if place is None:
        return list(item.files)
    with Archive(place[0]) as archive:
        beside = [place[0] / name for name in archive.sizes]
    stem = item.path.stem
    others = [
        path
        for path in beside
        if path.parent == item.path.parent and path.stem.split(".")[0] == stem
    ]
    return [item.path, *(path for path in others if path != item.path)]


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Turn a lack of memory and errors of the system into named ones."""
    try:
        yield
    except MemoryError as error:
        raise lack_of_memory(path.name) from error
    except OSError as error:
        raise InputError(
            "NN-FILE-001", "the file cannot be read", path.name, "check disk and permissions"
        ) from error


def read_stored(path: Path) -> Stored:
    """The voxels of an image file as they are stored, with geometry and scale factors.

    The values are not checked.

    Raises:
        NormNetError: As the reader of the format; NN-FILE-009 for a DICOM file.
    """
    known = format_of(path)
    if known is None:
        raise InputError(
            "NN-FILE-009",
            "a DICOM file where an image file is needed",
            path.name,
            "give NIfTI or NRRD",
        )
    return known.read(path)


def case_id_of(path: Path | str) -> str:
    """Name of a file without its suffix, or of a folder, as the user named it."""
    path = Path(path)
    name = path.resolve().name if path.name in ("", "..") else path.name
    suffixes = [end for end in (*image_suffixes(), ".dcm", ".zip") if name.lower().endswith(end)]
    if not suffixes or path.is_dir():
        return name
    return name[: -max(map(len, suffixes))] or name
