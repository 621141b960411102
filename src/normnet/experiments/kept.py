"""Numbers that are worked out once and kept as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from normnet.io.atomic import write_bytes


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What the file holds; where it is missing or damaged, what ``make`` returns, written there.

    Args:
        path: Named by a hash of all that its content depends on.
        make: Gives what JSON can hold.

    Raises:
        OutputError: If it cannot be written.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        content = make()
        write_bytes(path, (json.dumps(content) + "\n").encode())
        return content
