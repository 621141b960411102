"""sha256 sums of files, folders, bytes and values."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from normnet.io.formats import is_detached_header


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


def fingerprint(path: Path) -> str:
    """sha256 of a scan: of a file, of a header and the data beside it, or of all files of a folder.

    Files that cannot be read are left out: reading the scan will fail with their error.
    """
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
    with suppress(OSError):
        for file in files:
            if path.is_dir():
                digest.update(os.fsencode(file.relative_to(path)))
            digest.update(bytes.fromhex(sha256_of(file)))
    return digest.hexdigest()
