"""From a path to a ``Scan``: what a file is, is decided by its content."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from normnet.errors import InputError, ResourceError
from normnet.io.limits import MAX_FILES
from normnet.io.sniff import is_dicom, kind_of
from normnet.scan import Scan

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")


def read_ct(path: Path | str, series_uid: str | None = None) -> Scan:
    """Read one chest CT.

    Args:
        path: A DICOM folder (sub-folders too), or a NIfTI, NRRD or MetaImage file.
        series_uid: Which series of a DICOM folder that holds several.

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
        if path.is_dir() or kind_of(path) == "dicom":
            from normnet.io.dicom.series import read_dicom

            return read_dicom(path, case_id, series_uid)
        from normnet.io.images import read_image

        return read_image(path, case_id)
    except MemoryError as error:
        raise ResourceError(
            "NN-RES-004", "not enough memory to read it", path.name, "give more memory"
        ) from error
    except OSError as error:
        raise InputError(
            "NN-FILE-001", "the file cannot be read", path.name, "check disk and permissions"
        ) from error


def case_id_of(path: Path | str) -> str:
    """Name of a file without its image suffix, or of a folder, as the user named it."""
    path = Path(path)
    name = path.name or path.resolve().name
    for suffix in (*IMAGE_SUFFIXES, ".dcm"):
        if name.lower().endswith(suffix) and not path.is_dir():
            return name[: -len(suffix)] or name
    return name


def find_scans(paths: Iterable[Path | str]) -> list[Path]:
    """The scans below some paths, each readable with ``read_ct``, in the order of their names.

    A file is a scan. A folder that holds DICOM files is one scan. Any other folder is a batch:
        every image
    file in it is a scan, and so are the scans of its sub-folders.

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
            raise InputError(
                "NN-FILE-008",
                "no CT in the folder",
                path.name,
                "give DICOM, NIfTI, NRRD or MetaImage",
            )
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
        images = [file for file in files if file.name.lower().endswith(IMAGE_SUFFIXES)]
        if any(is_dicom(file) for file in files if file not in images):
            folders.clear()  # what lies below belongs to the same scan
            found.append(Path(root))
        else:
            found += images
    return found
