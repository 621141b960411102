"""Child process that decodes compressed DICOM slices.

The C++ decoders behind pydicom can crash or take all memory on a corrupt file; here they take only this process
along. One JSON line with a path comes in, one JSON line goes out, followed by the pixels if there are any.
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
    import pydicom.pixels  # noqa: F401 - all that is slow, before the clock of the first slice runs

    warnings.simplefilter("ignore")  # this process is ours alone
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
    except Exception:  # whatever a foreign decoder says of hostile bytes
        return {"error": "NN-FILE-012"}, None
    return {"dtype": pixels.dtype.str, "shape": pixels.shape}, pixels


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES if hard < 0 else min(MAX_BYTES, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
