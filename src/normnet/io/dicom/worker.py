"""Child process that decodes compressed DICOM slices.

The C++ decoders behind pydicom can crash or use up all memory on a corrupt file; here that ends
only this process. A request is one JSON line with a path. The reply is one JSON line, followed by
the pixels if there are any.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from typing import Any

import numpy as np

MAX_BYTES = 4 * 2**30  # of address space; a slice needs a few million
READY = b'"ready"\n'


def serve() -> None:
    """Answer requests until standard input ends."""
    import pydicom.pixels  # noqa: F401 - slow, so before the time limit of the first slice begins

    warnings.simplefilter("ignore")  # this process does nothing else
    with os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(2, 1)  # a decoder that prints must not disturb the replies
        _limit_memory()
        replies.write(READY)
        replies.flush()
        for line in sys.stdin.buffer:
            reply, pixels = _decode(json.loads(line))
            replies.write(json.dumps(reply).encode() + b"\n")
            if pixels is not None:
                replies.write(pixels.data)
            replies.flush()


def _decode(path: str) -> tuple[dict[str, Any], np.ndarray | None]:
    from pydicom import dcmread

    try:
        dataset = dcmread(path)
        if "PixelData" not in dataset:
            return {"error": "NN-FILE-013"}, None
        pixels = np.ascontiguousarray(dataset.pixel_array)
    except Exception:  # a decoder may raise anything on corrupt bytes
        return {"error": "NN-FILE-012"}, None
    return {"dtype": pixels.dtype.str, "shape": pixels.shape}, pixels


def _limit_memory() -> None:
    """Limit the memory of this process; Windows has no such limit, and no module ``resource``."""
    try:
        import resource
    except ImportError:
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES if hard < 0 else min(MAX_BYTES, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
