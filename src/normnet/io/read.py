"""From a path to a ``Scan``, and from a folder to the scans in it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from normnet.errors import InputError, ResourceError
from normnet.io.acceptance import accept
from normnet.io.formats import image_formats, image_suffixes, one_of
from normnet.io.limits import MAX_FILES
from normnet.io.sniff import format_of, is_dicom
from normnet.io.values import Stored, rescale
from normnet.memory import lack_of_memory
from normnet.scan import Scan


def read_ct(path: Path | str, series_uid: str | None = None) -> Scan:
    """Read one chest CT.

    Args:
        path: A DICOM folder (sub-folders too), or an image file of a format in ``io.formats``.
        series_uid: Which series to read, if a DICOM folder holds several.

    Returns:
        The scan in HU, in stored order; DICOM slices ascend along their patient axis.

    Raises:
        InputError: Missing, truncated or corrupt.
        GeometryError: Not one regular volume.
        ValueRangeError: Not a CT in HU.
        ResourceError: Larger than the limits, or than the memory.
    """
    path = Path(path)
    case_id = case_id_of(path)
    try:
        known = None if path.is_dir() else format_of(path)
        if known is None:
            from normnet.io.dicom.series import read_dicom

            return read_dicom(path, case_id, series_uid)
        stored = known.read(path)
        volume_hu = rescale(stored, path.name)
        return accept(Scan(volume_hu, stored.geometry, case_id, stored.warnings), path.name)
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


def has_image_suffix(path: Path) -> bool:
    """Whether a file's name ends as those of image files do."""
    return path.name.lower().endswith(image_suffixes())


def case_id_of(path: Path | str) -> str:
    """Name of a file without its image suffix, or of a folder, as the user named it."""
    path = Path(path)
    name = path.resolve().name if path.name in ("", "..") else path.name
    suffixes = [end for end in (*image_suffixes(), ".dcm") if name.lower().endswith(end)]
    if not suffixes or path.is_dir():
        return name
    return name[: -max(map(len, suffixes))] or name


def find_scans(paths: Iterable[Path | str]) -> list[Path]:
    """The scans below some paths, each readable with ``read_ct``, in the order of their names.

    A file is a scan. A folder that holds DICOM files is one scan. Any other folder is a batch: its
    image files are scans, and so are the scans of its sub-folders.

    Raises:
        InputError: NN-FILE-001 for a path that is missing, NN-FILE-008 for a folder without scans.
        ResourceError: NN-RES-002 if a folder holds too many files.
    """
    scans: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise InputError("NN-FILE-001", "no such file or folder", path.name, "check the path")
        found = [path] if path.is_file() else _scans_in(path)
        if not found:
            formats = one_of(["DICOM", *(known.name for known in image_formats())])
            raise InputError("NN-FILE-008", "no CT in the folder", path.name, f"give {formats}")
        scans += found
    return list(dict.fromkeys(scans))


def _scans_in(folder: Path) -> list[Path]:
    found: list[Path] = []
    n_files = 0
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        files = [Path(root, name) for name in sorted(names) if not name.startswith(".")]
        n_files += len(files)
        if n_files > MAX_FILES:
            raise ResourceError(
                "NN-RES-002", f"more than {MAX_FILES} files", folder.name, "give smaller folders"
            )
        images = [file for file in files if has_image_suffix(file)]
        if any(is_dicom(file) for file in files if file not in images):
            folders.clear()  # what lies below belongs to the same scan
            found.append(Path(root))
        else:
            found += images
    return found
