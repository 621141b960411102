"""sha256 sums of files, folders and values."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from normnet.io.formats import is_detached_header


def fingerprint(path: Path) -> str:
    """sha256 of a file, of a header with the data beside it, or of all files of a folder."""
    digest = hashlib.sha256()
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
    elif is_detached_header(path):
        files = sorted(
            file
            for file in path.parent.glob("*")
            if file.is_file() and file.stem.split(".")[0] == path.stem
        )
    with suppress(OSError):  # a file that cannot be read fails when the scan is read
        for file in files:
            if path.is_dir():
                digest.update(os.fsencode(file.relative_to(path)))
            digest.update(bytes.fromhex(sha256_of(file)))
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """sha256 of the bytes of a file, in hexadecimal digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest_of(value: Any) -> str:
    """sha256 of a value as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
