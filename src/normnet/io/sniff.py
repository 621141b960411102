"""The format of a file, by its first bytes; file names and suffixes may be wrong."""

from __future__ import annotations

from pathlib import Path

from normnet.errors import InputError
from normnet.io.formats import ImageFormat, image_formats, image_suffixes, one_of
from normnet.io.payload import Inflated, read_up_to

_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"


def format_of(path: Path) -> ImageFormat | None:
    """The format of an image file; None for a DICOM file.

    Raises:
        InputError: NN-FILE-001 not readable, 002 empty, 003 not known, 005 or 006 broken gzip.
    """
    head, gzipped = _first_bytes(path)
    if not head and not gzipped:
        raise InputError(
            "NN-FILE-002", "the file is empty (0 bytes)", path.name, "copy or download it again"
        )
    zipped = head.startswith(_ZIP)
    if starts_as_dicom(head) and not (gzipped or zipped):
        return None
    for known in image_formats():
        if (known.gzipped or not gzipped) and known.recognises(head):
            return known
    if gzipped:
        inside = one_of([known.name for known in image_formats() if known.gzipped])
        found = f"gzip, but not of a {inside} file"
    elif zipped:
        found = "a zip archive, not unpacked"
    else:
        found = f"not {one_of(['DICOM', *(known.name for known in image_formats())])}"
    raise InputError(
        "NN-FILE-003", found, path.name, f"give {one_of(['a DICOM folder', *image_suffixes()])}"
    )


def _first_bytes(path: Path) -> tuple[bytes, bool]:
    """The first bytes of a file, inflated if it is gzip-compressed, and whether it is."""
    try:
        if path.exists() and not path.is_file():
            raise InputError(
                "NN-FILE-001", "not a regular file", path.name, "give a file or folder"
            )
        with path.open("rb") as handle:
            head = handle.read(512)
            if not head.startswith(_GZIP):
                return head, False
            handle.seek(0)
            return read_up_to(Inflated(handle, path.name), 132).tobytes(), True
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise InputError(
            "NN-FILE-001",
            "no such file" if missing else "the file cannot be opened",
            path.name,
            "check the path and its permissions",
        ) from error


def starts_as_dicom(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a DICOM file."""
    return head[128:132] == b"DICM"
