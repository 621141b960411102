"""Pixels of single slices: read by numpy; if compressed, decoded by pydicom in a child process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from types import TracebackType
from typing import Any

import numpy as np

from normnet.errors import InputError
from normnet.io.dicom.header import DEFLATED_SYNTAX, Slice, quiet_pydicom, shown_uid
from normnet.io.dicom.worker import READY

MAX_SECONDS = 20.0  # for one slice
MAX_START_SECONDS = 60.0  # for the child to import its libraries
_NATIVE = {
    "1.2.840.10008.1.2": "<",
    "1.2.840.10008.1.2.1": "<",
    DEFLATED_SYNTAX: "<",
    "1.2.840.10008.1.2.2": ">",
}
_PIXEL_GROUP = 0x7FE0
_AGAIN = "copy or export the series again"
_WORKER = "import sys; sys.path[:] = {path!a}; from normnet.io.dicom.worker import serve; serve()"


class SliceDecoder:
    """Decodes slices; a context manager, because the child process must end with it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> SliceDecoder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def decode(self, item: Slice) -> np.ndarray:
        """(rows, columns) stored values, before rescaling.

        Bits above BitsStored are no part of a value: they may hold an overlay, or anything.

        Raises:
            InputError: NN-FILE-005 too few or too many bytes, 011 no decoder, 012 not decodable,
                013 no pixels.
        """
        pixels = _native(item) if item.syntax in _NATIVE else self._compressed(item)
        shift = pixels.dtype.itemsize * 8 - item.bits_stored
        if shift <= 0:
            return pixels
        # Of signed values the shift to the right repeats the sign, of others it fills in zeros.
        return (pixels << shift) >> shift

    def _compressed(self, item: Slice) -> np.ndarray:
        _check_available(item)
        name = item.path.name
        reply, data = self._ask(item)
        if reply.get("error") == "NN-FILE-013":
            raise InputError("NN-FILE-013", "no complete pixels in the file", name, _AGAIN)
        shape = (item.rows, item.columns)
        dtype = np.dtype(reply.get("dtype", "V1"))
        if (
            dtype.kind not in "iu"
            or tuple(reply["shape"]) != shape
            or len(data) != dtype.itemsize * np.prod(shape)
        ):
            raise InputError("NN-FILE-012", "the compressed pixels are corrupt", name, _AGAIN)
        return np.frombuffer(data, dtype).reshape(shape)

    def _ask(self, item: Slice) -> tuple[dict[str, Any], bytes]:
        """The child's reply; empty if it crashed or took too long."""
        process = self._process
        if process is None or process.poll() is not None:
            process = self._process = _start(item)
        assert process.stdin is not None and process.stdout is not None
        clock = threading.Timer(MAX_SECONDS, process.kill)
        clock.start()
        try:
            process.stdin.write(json.dumps(str(item.path.absolute())).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
            reply = json.loads(line) if line else {}
            n_bytes = (
                np.dtype(reply["dtype"]).itemsize * int(np.prod(reply["shape"]))
                if "dtype" in reply
                else 0
            )
            return reply, process.stdout.read(n_bytes)
        except OSError:  # the child has ended: BrokenPipeError, on Windows also EINVAL
            return {}, b""
        finally:
            clock.cancel()
            if process.poll() is not None:
                process.communicate()
                self._process = None


def _start(item: Slice) -> subprocess.Popen[bytes]:
    path = [
        os.fsdecode(entry) for entry in sys.path if isinstance(entry, str | bytes | os.PathLike)
    ]
    process, started = None, False
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _WORKER.format(path=path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1"),
        )
        assert process.stdout is not None
        clock = threading.Timer(MAX_START_SECONDS, process.kill)
        clock.start()
        started = process.stdout.readline() == READY
        clock.cancel()
    except OSError as error:  # no memory, no process, or no open file is left
        raise _not_started(item) from error
    finally:
        if process is not None and not started:
            process.kill()
            process.communicate()
    if not started:
        raise _not_started(item)
    return process


def _not_started(item: Slice) -> InputError:
    return InputError(
        "NN-FILE-011",
        "the decoder process does not start",
        item.path.name,
        "decompress it first",
    )


def _check_available(item: Slice) -> None:
    from pydicom.pixels.decoders.base import get_decoder

    with quiet_pydicom(item.path):
        try:
            available = get_decoder(item.syntax).is_available
        except NotImplementedError:
            available = False
    if not available:
        found = f"no decoder for transfer syntax {shown_uid(item.syntax)}"
        raise InputError("NN-FILE-011", found, item.path.name, "decompress it first")


def _native(item: Slice) -> np.ndarray:
    from pydicom import dcmread

    with quiet_pydicom(item.path):
        dataset = dcmread(item.path)
        if "PixelData" not in dataset:
            raise InputError("NN-FILE-013", "no pixels in the file", item.path.name, _AGAIN)
        element: Any = dataset.get_item("PixelData")
        data = element.value or b""
        if item.syntax != DEFLATED_SYNTAX:
            _check_end(item, element.value_tell + len(data))
    dtype = np.dtype(
        f"{_NATIVE[item.syntax]}{'i' if item.signed else 'u'}{item.bits_allocated // 8}"
    )
    n_bytes = item.rows * item.columns * dtype.itemsize
    if not n_bytes <= len(data) <= n_bytes + n_bytes % 2:  # DICOM pads to an even length
        found = f"pixels need {n_bytes} bytes, the file has {len(data)}"
        raise InputError("NN-FILE-005", found, item.path.name, _AGAIN)
    pixels = np.frombuffer(data, dtype, item.rows * item.columns).reshape(item.rows, item.columns)
    return pixels.astype(dtype.newbyteorder("="), copy=False)


def _check_end(item: Slice, end: int) -> None:
    """Refuse pixels after which there is neither the end of the file nor another element.

    One byte too many before the pixels shifts all of them, and the last byte is left over.

    Raises:
        InputError: NN-FILE-005.
    """
    with item.path.open("rb") as handle:
        handle.seek(end)
        rest = handle.read(2**16)
    group_type = f"{_NATIVE[item.syntax]}u2"
    is_element = len(rest) >= 8 and np.frombuffer(rest[:2], group_type)[0] >= _PIXEL_GROUP
    is_padding = len(rest) % 2 == 0 and not any(rest)
    if not is_element and not is_padding:
        found = f"{len(rest)} bytes after the pixels that belong to nothing"
        raise InputError("NN-FILE-005", found, item.path.name, _AGAIN)
