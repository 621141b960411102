"""Child process that decodes compressed DICOM slices.

The C++ decoders behind pydicom can crash or use up all memory on a corrupt file; here that ends
only this process. A request is one JSON line with a path. The reply is one JSON line, followed by
the pixels if there are any.

Decoders conceal damage and only warn of it; here such a warning is an error.
"""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from typing import Any

import numpy as np

MAX_BYTES = 4 * 2**30  # of address space; a slice needs a few million
READY = b'"ready"\n'
_DAMAGE = re.compile(rb"corrupt|premature", re.IGNORECASE)  # libjpeg says so on standard error
_RLE_LENGTH = re.compile(r"padding - (\d+) vs\. (\d+) bytes")
# JPEG and JPEG-LS: markers of a frame header, which holds the size of the image.
_FRAME_HEADERS = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})


def serve() -> None:
    """Answer requests until standard input ends."""
    import pydicom.pixels  # noqa: F401 - slow, so before the time limit of the first slice begins

    printed, printer = os.pipe()
    with os.fdopen(os.dup(1), "wb") as replies:
        for descriptor in (1, 2):  # a decoder that prints must not disturb the replies
            os.dup2(printer, descriptor)
        _limit_memory()
        replies.write(READY)
        replies.flush()
        for line in sys.stdin.buffer:
            reply, pixels = _decode(json.loads(line))
            os.write(printer, b"\n")  # so that there is something to read
            if _DAMAGE.search(os.read(printed, 2**20)):
                reply, pixels = {"error": "NN-FILE-012"}, None
            replies.write(json.dumps(reply).encode() + b"\n")
            if pixels is not None:
                replies.write(pixels.data)
            replies.flush()


def _decode(path: str) -> tuple[dict[str, Any], np.ndarray | None]:
    from pydicom import dcmread
    from pydicom.encaps import generate_frames

    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            dataset = dcmread(path)
            if "PixelData" not in dataset:
                return {"error": "NN-FILE-013"}, None
            pixels = np.ascontiguousarray(dataset.pixel_array)
            stream = next(generate_frames(dataset.PixelData, number_of_frames=1))
        damaged = any(_is_damage(str(warning.message)) for warning in caught)
        if damaged or _size_of(stream) not in (None, pixels.shape):
            return {"error": "NN-FILE-012"}, None
    except Exception:  # a decoder may raise anything on corrupt bytes
        return {"error": "NN-FILE-012"}, None
    return {"dtype": pixels.dtype.str, "shape": pixels.shape}, pixels


def _is_damage(message: str) -> bool:
    """Whether a warning of pydicom says that run-length data has another length than its image.

    One byte more may be padding.
    """
    lengths = _RLE_LENGTH.search(message)
    return lengths is not None and int(lengths[1]) > int(lengths[2]) + 1


def _size_of(stream: bytes) -> tuple[int, int] | None:
    """(rows, columns) that a JPEG or JPEG-LS stream says itself; None for other streams."""
    at = 2
    while stream[:2] == b"\xff\xd8" and stream[at : at + 1] == b"\xff":
        if stream[at + 1] in _FRAME_HEADERS:
            rows, columns = (int.from_bytes(stream[at + n : at + n + 2], "big") for n in (5, 7))
            return rows, columns
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return None


def _limit_memory() -> None:
    """Limit the memory of this process; Windows has no such limit, and no module ``resource``."""
    try:
        import resource
    except ImportError:
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES if hard < 0 else min(MAX_BYTES, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
