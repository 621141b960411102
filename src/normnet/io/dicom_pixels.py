"""The pixels of one slice: uncompressed by numpy, the rest by pydicom's decoders, never more than asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

from normnet.errors import InputError, ValueRangeError
from normnet.io.dicom_header import DEFLATED_SYNTAX, Slice, quiet_pydicom, shown_uid

_NATIVE = {"1.2.840.10008.1.2": "<", "1.2.840.10008.1.2.1": "<", DEFLATED_SYNTAX: "<", "1.2.840.10008.1.2.2": ">"}
_AGAIN = "copy or export the series again"


def decode_slice(item: Slice) -> np.ndarray:
    """(rows, columns) stored values, before rescaling.

    Raises:
        InputError: NN-FILE-005 too few bytes, 011 no decoder, 012 not decodable, 013 no pixels.
        ValueRangeError: NN-VAL-010 values beyond BitsStored.
    """
    from pydicom import dcmread

    with quiet_pydicom(item.path):
        dataset = dcmread(item.path)
        if "PixelData" not in dataset:
            raise InputError("NN-FILE-013", "no pixels in the file", item.path.name, _AGAIN)
        data = dataset.PixelData
    pixels = _native(item, data) if item.syntax in _NATIVE else _compressed(item, dataset, data)
    if item.signed and item.bits_stored < item.bits_allocated:  # the bits above may be empty
        shift = pixels.dtype.itemsize * 8 - item.bits_stored
        return (pixels << shift) >> shift
    if not item.signed and int(pixels.max()) >> item.bits_stored:
        raise ValueRangeError(
            "NN-VAL-010", f"values of more than {item.bits_stored} bits (BitsStored)", item.path.name, _AGAIN
        )
    return pixels


def _native(item: Slice, data: bytes) -> np.ndarray:
    dtype = np.dtype(f"{_NATIVE[item.syntax]}{'i' if item.signed else 'u'}{item.bits_allocated // 8}")
    n_bytes = item.rows * item.columns * dtype.itemsize
    if len(data) < n_bytes:
        found = f"pixels need {n_bytes} bytes, the file has {len(data)}"
        raise InputError("NN-FILE-005", found, item.path.name, _AGAIN)
    pixels = np.frombuffer(data, dtype, item.rows * item.columns).reshape(item.rows, item.columns)
    return pixels.astype(dtype.newbyteorder("="), copy=False)


def _compressed(item: Slice, dataset: Any, data: bytes) -> np.ndarray:
    from pydicom.pixels import get_decoder

    name = item.path.name
    try:
        available = get_decoder(item.syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise InputError(
            "NN-FILE-011", f"no decoder for transfer syntax {shown_uid(item.syntax)}", name, "decompress it first"
        )
    size = _codestream_size(data)
    if size is not None and size != (item.rows, item.columns):
        found = f"compressed image of {size[0]} x {size[1]}, header says {item.rows} x {item.columns}"
        raise InputError("NN-FILE-012", found, name, _AGAIN)
    try:
        with quiet_pydicom(item.path):
            pixels = dataset.pixel_array
    except InputError as error:
        raise InputError("NN-FILE-012", "the compressed pixels are corrupt", name, _AGAIN) from error
    if pixels.shape != (item.rows, item.columns):
        raise InputError("NN-FILE-012", f"the pixels decode to the shape {pixels.shape}", name, _AGAIN)
    return pixels


def _codestream_size(data: bytes) -> tuple[int, int] | None:
    """(rows, columns) in the first JPEG frame header or JPEG 2000 SIZ marker; None if there is neither.

    Compared before decoding, so that no decoder allocates what a forged codestream asks for.
    """
    start = data.find(b"\xff\x4f\xff\x51", 0, 4096)
    if start >= 0:
        x1, y1, x0, y0 = (int.from_bytes(data[start + 8 + 4 * k : start + 12 + 4 * k], "big") for k in range(4))
        return y1 - y0, x1 - x0
    at = data.find(b"\xff\xd8\xff", 0, 4096) + 2
    while 2 <= at < len(data) - 9 and data[at] == 0xFF:
        marker = data[at + 1]
        # Start of frame: all of C0-CF but DHT, JPG and DAC; F7 of JPEG-LS.
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
