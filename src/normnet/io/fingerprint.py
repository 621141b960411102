"""sha256 sums of files, folders, bytes and values."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from normnet.errors import NormNetError
from normnet.io.archive import Archive, is_archive, split_member
from normnet.io.formats import is_detached_header
from normnet.io.sniff import format_of
from normnet.io.tree import walk


def sha256_of(content: Path | bytes) -> str:
    """sha256 of a file's bytes, or of bytes in memory, in hexadecimal digits.

    Raises:
        OSError: If the file cannot be read.
    """
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest_of(value: Any, *, sort_keys: bool = True) -> str:
    """sha256 of a value as JSON, in hexadecimal digits.

    Args:
        value: Numbers, texts, lists and dictionaries.
        sort_keys: Whether the order of keys makes no difference.
    """
    return sha256_of(json.dumps(value, sort_keys=sort_keys).encode())


def fingerprint(path: Path, files: Sequence[Path] = ()) -> str:
    """sha256 of a scan: of a file, of a header and the data beside it, or of files of a folder.

    Files that cannot be read are left out: reading the scan will fail with their error. A file that
    is larger than its header allows is refused by every reader; its size counts, not its bytes.

    Args:
        path: The scan: a file, a folder, or a member of a zip archive.
        files: The files of the scan, where they are known; else all files of a folder.
    """
    place = (path, "") if files and is_archive(path) else split_member(path)
    if place is not None:
        return _fingerprint_of_members(*place, files)
    digest = hashlib.sha256()
    in_folder = path.is_dir()
    files = list(files)
    if not files and in_folder:
        with suppress(NormNetError, OSError):
            files = walk(path).files
    elif not in_folder and is_detached_header(path):
        files = [file for file in path.parent.glob("*") if file.stem.split(".")[0] == path.stem]
    elif not in_folder:
        files = files or [path]
    if not in_folder and _is_too_large(path):
        return digest_of([[file.stat().st_size, file.stat().st_mtime_ns] for file in files])
    for file in sorted(files):
        with suppress(OSError):
            if not file.is_file():
                continue
            if in_folder:
                digest.update(os.fsencode(os.path.relpath(file, path)))
            digest.update(bytes.fromhex(sha256_of(file)))
    return digest.hexdigest()


def _fingerprint_of_members(archive: Path, folder: str, files: Sequence[Path]) -> str:
    """From the names, sizes and check sums that a zip archive states; it may hold many scans."""
    digest = hashlib.sha256()
    wanted = {file.relative_to(archive).as_posix() for file in files}
    with suppress(NormNetError), Archive(archive) as members:
        for name, (crc, n_bytes) in sorted(members.sums().items()):
            if name in wanted if wanted else _is_below(name, folder):
                digest.update(f"{name} {crc} {n_bytes}\n".encode())
    return digest.hexdigest()


def _is_below(name: str, folder: str) -> bool:
    return name == folder or name.startswith(f"{folder}/")


def _is_too_large(path: Path) -> bool:
    """Whether an image file has more bytes than its header allows."""
    try:
        known = format_of(path)
        if known is None or known.peek is None:
            return False
        header = known.peek(path)
        return header.data.stat().st_size > header.max_bytes
    except (NormNetError, OSError):
        return False
