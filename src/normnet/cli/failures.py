"""Any exception as an error with an id that a user can understand."""

from __future__ import annotations

import traceback

from normnet.errors import NormNetError, ResourceError

_MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")


def as_named_error(error: Exception, where: str) -> NormNetError:
    """Turn an exception into an error with an id.

    Args:
        error: What was caught.
        where: File that was being worked on.

    Returns:
        The error itself if it has an id, NN-RES-004 for a lack of memory, NN-BUG-001 for all else.
    """
    if isinstance(error, NormNetError):
        return error
    text = str(error).lower()
    if isinstance(error, MemoryError) or any(word in text for word in _MEMORY_WORDS):
        return ResourceError(
            "NN-RES-004", "not enough memory", where, "free memory, or use --device cpu"
        )
    frames = traceback.extract_tb(error.__traceback__)
    # The text of the exception is left out: it may hold paths.
    at = f" in {frames[-1].name}, line {frames[-1].lineno}" if frames else ""
    return NormNetError(
        "NN-BUG-001", f"{type(error).__name__}{at}", where, "please report it with --debug's output"
    )
