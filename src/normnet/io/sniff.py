"""What a file is, by its first bytes; names and suffixes may lie."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from normnet.errors import InputError
from normnet.io.payload import Inflated, read_up_to

Kind = Literal["dicom", "nifti", "nrrd", "metaimage"]

_META_IMAGE = re.compile(rb"^\s*(ObjectType|ObjectSubType|NDims|Comment|Name|ID)\s*=")
_NIFTI_SIZES = (348, 540)


def kind_of(path: Path) -> Kind:
    """The format of a file.

    Raises:
        InputError: NN-FILE-001 not readable, 002 empty, 003 not known, 006 broken gzip.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(
                "NN-FILE-001", "not a regular file", path.name, "give a file or folder"
            )
        with path.open("rb") as handle:
            head = handle.read(512)
            if head.startswith(b"\x1f\x8b"):
                handle.seek(0)
                kind = _kind_of_bytes(read_up_to(Inflated(handle, path.name), 132).tobytes())
                return (
                    "nifti" if kind == "nifti" else _unknown(path, "gzip, but not of a NIfTI file")
                )
    except OSError as error:
        reason = (
            "no such file" if isinstance(error, FileNotFoundError) else "the file cannot be opened"
        )
        raise InputError(
            "NN-FILE-001", reason, path.name, "check the path and its permissions"
        ) from error
    if not head:
        raise InputError(
            "NN-FILE-002", "the file is empty (0 bytes)", path.name, "copy or download it again"
        )
    if head.startswith(b"PK\x03\x04"):
        return _unknown(path, "a zip archive, not unpacked")
    return _kind_of_bytes(head) or _unknown(path, "not DICOM, NIfTI, NRRD or MetaImage")


def is_dicom(path: Path) -> bool:
    """Whether the file carries the DICOM magic bytes; never raises for odd files."""
    try:
        if not path.is_file():  # a pipe would block
            return False
        with path.open("rb") as handle:
            return handle.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _kind_of_bytes(head: bytes) -> Kind | None:
    if head[128:132] == b"DICM":
        return "dicom"
    if head.startswith(b"NRRD000"):
        return "nrrd"
    if any(
        head[:4] in (size.to_bytes(4, "little"), size.to_bytes(4, "big")) for size in _NIFTI_SIZES
    ):
        return "nifti"
    return "metaimage" if _META_IMAGE.match(head) else None


def _unknown(path: Path, found: str) -> Kind:
    raise InputError(
        "NN-FILE-003",
        found,
        path.name,
        "give a DICOM folder, .nii, .nii.gz, .nrrd, .nhdr, .mha or .mhd",
    )
