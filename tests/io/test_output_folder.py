"""An output folder can be written, is no input, and belongs to one process at a time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import normnet
from normnet.errors import OutputError
from normnet.io.output_folder import check_output, locked


def _lock_elsewhere(out):
    """What another process is told that tries to lock the folder."""
    code = (
        "from pathlib import Path; from normnet.io.output_folder import locked\n"
        f"try:\n  with locked(Path({str(out)!r})): print('locked')\n"
        "except Exception as e: print(e)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(normnet.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    ).stdout


def test_a_file_where_the_folder_should_be(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(OutputError, match="NN-OUT-010"):
        check_output(file / "out", [tmp_path / "other"])
    with pytest.raises(OutputError, match="NN-OUT-010"), locked(file):
        pass


def test_a_second_process_is_told_who_writes(tmp_path):
    with locked(tmp_path):
        told = _lock_elsewhere(tmp_path)
    assert told.startswith(f"NN-OUT-012: process {os.getpid()} writes there")
    assert _lock_elsewhere(tmp_path) == "locked\n"
    with locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_process_holds_the_folder(tmp_path):
    with locked(tmp_path):
        for content in (b"", b"\xff", b"normnet ", b"normnet x y"):
            (tmp_path / ".lock").write_bytes(content)
            error = "NN-OUT-015" if content == b"\xff" else "NN-OUT-012: process unknown"
            with pytest.raises(OutputError, match=error), locked(tmp_path):
                pass


def test_the_lock_ends_with_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    assert _lock_elsewhere(tmp_path) == "locked\n"
