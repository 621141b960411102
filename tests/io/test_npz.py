"""Archives of arrays from anywhere: read whole, or refused before memory is used."""

from __future__ import annotations

import io
import os
import pickle
import resource
import time
import zipfile

import numpy as np
import pytest

from normnet.errors import ResourceError
from normnet.io.npz import read_npz


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array)
    return buffer.getvalue()


def header(text: str) -> bytes:
    """An ``.npy`` file with any text as its header, and no data."""
    line = text.encode().ljust(118 - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line


def write(path, members: dict[str, bytes], method=zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(tmp_path, save):
    arrays = {
        "codes": np.arange(60, dtype=np.uint8).reshape(3, 4, 5),
        "column_first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "flags": np.array([True, False]),
        "none": np.zeros((0, 3)),
        "text": np.array("case"),
        "one": np.array(6.5),
    }
    save(tmp_path / "a.npz", **arrays)
    found = read_npz(tmp_path / "a.npz")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


class Harmful:
    """Something that writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("as_object", [True, False])
def test_pickles_are_never_loaded(tmp_path, as_object):
    path, mark = tmp_path / "a.npz", tmp_path / "mark"
    if as_object:
        np.savez(path, x=np.array([Harmful(mark)], dtype=object))
    else:
        write(path, {"x.npy": pickle.dumps(Harmful(mark))})
    with pytest.raises(ValueError):
        read_npz(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x05\x06",
        npy(np.zeros(9))[:-1],
        npy(np.zeros(9)) + b"x",
        npy(np.zeros(9))[:20],
        header("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000,), }"),
        header("{'descr': '|u1', 'fortran_order': False, 'shape': (-1,), }"),
        header("{'descr': '|O', 'fortran_order': False, 'shape': (0,), }"),
        header("{'descr': 'nonsense', 'fortran_order': False, 'shape': (0,), }"),
        header("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (0,), }"),
        header("((((((((("),
        header("__import__('os')"),
        b"\x93NUMPY\x09\x00" + bytes(60),
    ],
)
def test_members_that_are_no_array(tmp_path, data):
    write(tmp_path / "a.npz", {"x.npy": data})
    with pytest.raises(ValueError):
        read_npz(tmp_path / "a.npz")


def test_what_is_no_archive(tmp_path):
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "array.npy", np.zeros(3))
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "zero.npz").symlink_to("/dev/zero")
    names = ("empty.npz", "text.npz", "array.npy", "pipe.npz", "zero.npz", "nothing.npz", ".")
    for name in names:
        with pytest.raises(ValueError):
            read_npz(tmp_path / name)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_bombs_are_refused_before_they_inflate(tmp_path, method):
    write(tmp_path / "a.npz", {"x.npy": npy(np.zeros(2**26, np.uint8))}, method)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(ResourceError) as caught:
        read_npz(tmp_path / "a.npz")
    assert caught.value.code == "NN-RES-003"
    assert time.monotonic() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB


def test_a_forged_directory_does_not_help_a_bomb(tmp_path):
    """The directory says 1000 bytes; no more than those are inflated."""
    path = tmp_path / "a.npz"
    write(path, {"x.npy": npy(np.zeros(2**26, np.uint8))}, zipfile.ZIP_DEFLATED)
    size = (2**26 + 128).to_bytes(4, "little")
    data = path.read_bytes()
    assert size in data
    path.write_bytes(data.replace(size, (1000).to_bytes(4, "little")))
    with pytest.raises(ValueError):
        read_npz(path)


def test_overlapping_members_are_refused(tmp_path):
    """Many names for the same bytes."""
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", npy(np.zeros(2**20, np.uint8)))
        for n in range(300):
            info = zipfile.ZipInfo(f"y{n}.npy")
            first = archive.filelist[0]
            for name in ("CRC", "compress_size", "file_size", "header_offset"):
                setattr(info, name, getattr(first, name))
            archive.filelist.append(info)
    with pytest.raises((ValueError, ResourceError)):
        read_npz(path)
