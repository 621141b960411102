"""What a caught exception means to a user."""

from __future__ import annotations

import traceback

from normnet.errors import NormNetError, ResourceError

_MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")


def as_named_error(error: Exception, where: str) -> NormNetError:
    """The error itself, a lack of memory under its own name, or NN-BUG-001 for anything unforeseen."""
    if isinstance(error, NormNetError):
        return error
    text = str(error).lower()
    if isinstance(error, MemoryError) or any(word in text for word in _MEMORY_WORDS):
        return ResourceError(
            "NN-RES-004", "not enough memory", where, "free memory, or use --device cpu"
        )
    frames = traceback.extract_tb(error.__traceback__)
    at = (
        f" in {frames[-1].name}, line {frames[-1].lineno}" if frames else ""
    )  # no text of it: it may hold paths
    return NormNetError(
        "NN-BUG-001", f"{type(error).__name__}{at}", where, "please report it with --debug's output"
    )
