"""JSON files: complete or absent when written; a damaged one is read as if it were missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from normnet.io.atomic import write_bytes


def read_json(path: Path) -> Any | None:
    """The content of a file, or None if it is missing, not a regular file, or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None


def write_json(path: Path, content: Any) -> None:
    """Write a file; missing parent folders are made.

    Raises:
        OutputError: If it cannot be written whole.
    """
    write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())


def read_or_make(path: Path, make: Callable[[], Any]) -> Any:
    """The content of a cache file; if there is none, call ``make`` and write what it returns.

    Args:
        path: Its name holds a hash of all that the content depends on.
        make: Returns what JSON can hold, but not None.

    Raises:
        OutputError: If the file cannot be written whole.
    """
    content = read_json(path)
    if content is None:
        content = make()
        write_json(path, content)
    return content
