"""Odd surroundings end no command as a bug, lose no batch, and cost no file of the user."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import normnet
from normnet.cli.failures import as_named_error
from normnet.cli.main import main
from normnet.cli.streams import Stream, lasting_streams
from normnet.errors import InputError, ModelError, NormNetError
from normnet.io import lock
from normnet.io.lock import LOCK, locked_folder
from normnet.io.output_folder import locked
from normnet.results.schema import FILES, RESULT
from normnet.results.table import TABLE

SOURCE = str(Path(normnet.__file__).parents[1])


def python(code, *arguments, **options):
    """Run Python code in a process of its own, with the package on its path."""
    env = {**os.environ, "PYTHONPATH": SOURCE, **options.pop("env", {})}
    call = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(call, capture_output=True, env=env, **options)


def status(folder):
    return json.loads((folder / RESULT).read_text())["status"]


# --- what is not ours ---


@pytest.mark.parametrize("name", ["lesions.nii.gz", "lungs.nii.gz", "preview.png", RESULT])
@pytest.mark.parametrize("readable", [True, False])
def test_files_of_the_user_stay(segment, scans, tmp_path, capsys, name, readable):
    if not readable:
        (scans / "a.nii.gz").write_bytes(b"")
    (tmp_path / "out/a").mkdir(parents=True)
    (tmp_path / "out/a" / name).write_bytes(b"mine")
    assert segment(scans) == 9
    assert "a: NN-OUT-015: " in capsys.readouterr().err
    assert (tmp_path / "out/a" / name).read_bytes() == b"mine"
    assert [path.name for path in (tmp_path / "out/a").iterdir()] == [name]
    assert status(tmp_path / "out/b") == "ok"


def test_a_ct_is_not_replaced_by_its_result(segment, scans, tmp_path, capsys):
    for name in ("lungs", "lesions", "votes"):
        ct = tmp_path / "out" / name / f"{name}.nii.gz"
        ct.parent.mkdir(parents=True)
        shutil.copy(scans / "a.nii.gz", ct)
        before = ct.read_bytes()
        assert segment(ct) == 7
        assert f"{name}/{name}.nii.gz" in capsys.readouterr().err
        assert ct.read_bytes() == before


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("readable", [True, False])
def test_a_given_mask_is_not_replaced(segment, scans, tmp_path, capsys, edited, readable):
    ct, mask = scans / "a.nii.gz", tmp_path / "out/a/lungs.nii.gz"
    assert segment(ct) == 0
    if edited:
        mask.write_bytes(mask.read_bytes() + b"\0")
    if not readable:
        ct.write_bytes(ct.read_bytes()[:1000])
    before = {path.name: path.read_bytes() for path in mask.parent.iterdir()}
    assert segment(ct, "--lungs", mask) == 7
    assert "NN-OUT-011" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in mask.parent.iterdir()} == before


def test_a_table_of_the_user_is_noticed_before_any_work(segment, scans, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / TABLE).write_text("patient,age\n1,50\n")
    assert segment(scans) == 7
    assert "NN-OUT-015" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == [TABLE]


@pytest.mark.parametrize("place", [".lock", "a/.lock", "results.csv", "a"])
def test_links_in_the_output_are_not_followed(segment, scans, tmp_path, capsys, place):
    own = tmp_path / "own"
    if place == "a":
        own.mkdir()
    else:
        own.write_bytes(b"mine")
    (tmp_path / "out" / place).parent.mkdir(parents=True)
    (tmp_path / "out" / place).symlink_to(own)
    assert segment(scans / "a.nii.gz") == 7
    assert "NN-OUT-01" in capsys.readouterr().err
    assert own.is_dir() or own.read_bytes() == b"mine"
    assert not own.is_dir() or list(own.iterdir()) == []


@pytest.mark.parametrize(
    "case_id", ["../../x", "/tmp/x", "a/b", "..", "", "a\\b", "a\tb", "x" * 300]
)
@pytest.mark.parametrize("command", ["prepare", "train"])
def test_no_case_leads_out_of_the_output(scans, tmp_path, capsys, command, case_id):
    listed = tmp_path / "cases.csv"
    listed.write_text(f'case_id,folder,file\n"{case_id}",scans,a.nii.gz\n')
    before = sorted(tmp_path.rglob("*"))
    out = tmp_path / "deep/er/out"
    assert main([command, str(listed), "--out", str(out)]) == 3
    assert "NN-DAT-006" in capsys.readouterr().err
    assert sorted(set(tmp_path.rglob("*")) - {out, *out.parents}) == before


@pytest.mark.parametrize("option", ["--csv", "--slices"])
def test_evaluate_does_not_replace_the_list(scans, tmp_path, capsys, option):
    listed = tmp_path / "cases.csv"
    listed.write_text("case_id,folder,file,lesion_mask\na,scans,a.nii.gz,a_lesion.nii.gz\n")
    before = listed.read_bytes()
    assert main(["evaluate", str(scans), str(listed), option, str(listed)]) == 7
    assert "NN-OUT-011" in capsys.readouterr().err
    assert listed.read_bytes() == before


def test_prepare_keeps_a_file_of_the_user(scans, tmp_path, tiny_models, capsys):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/a.npz").write_bytes(b"mine")
    arguments = [scans / "a.nii.gz", "--out", tmp_path / "cache", "--lung-model", tiny_models[1]]
    assert main(["prepare", *map(str, arguments)]) == 7
    assert "NN-OUT-015" in capsys.readouterr().err
    assert (tmp_path / "cache/a.npz").read_bytes() == b"mine"


@pytest.mark.parametrize("n_moved", [0, 1, 3])
def test_maps_of_a_killed_run_are_no_scans(segment, scans, tmp_path, capsys, n_moved):
    assert segment(scans, out="scans/out") == 0
    folder = scans / "out/a"
    stage = folder / ".normnet-0badcafe"
    stage.mkdir()
    for path in [folder / RESULT, *(folder / name for name in FILES[n_moved:])]:
        path.rename(stage / path.name)
    capsys.readouterr()
    assert segment(scans, out="scans/out") == 0
    assert "2 scans: 1 segmented, 1 done already" in capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == {*FILES, RESULT}


def test_temporary_files_of_killed_runs_are_removed(tmp_path):
    ours = [".run.json.0badcafe.tmp", "checkpoints/.step-000001.ckpt.12345678.tmp"]
    theirs = [".notes.tmp", "x.0badcafe.tmp", ".x.0badcafe.TMP", ".x.nothex12.tmp"]
    for name in ours + theirs:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    with locked(tmp_path):
        pass
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(theirs)


# --- two processes ---


def test_two_runs_share_one_output(segment, scans, tmp_path, capsys):
    (tmp_path / "out/a").mkdir(parents=True)
    with locked_folder(tmp_path / "out/a"):
        assert segment(scans) == 9
    told = capsys.readouterr()
    assert f"a: NN-OUT-012: process {os.getpid()} writes there" in told.err
    assert "2 scans: 1 segmented, 0 done already, 1 failed" in told.out
    assert status(tmp_path / "out/b") == "ok"
    assert segment(scans) == 0


def test_another_scan_of_that_name_is_segmented_elsewhere(segment, scans, tmp_path):
    (tmp_path / "out/a").mkdir(parents=True)
    with locked_folder(tmp_path / "out/a", note="anotherplace"):
        assert segment(scans / "a.nii.gz") == 0
    assert status(tmp_path / "out/a_2") == "ok"
    assert not list((tmp_path / "out/a").iterdir())


def test_the_table_is_waited_for(tmp_path):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from normnet.io.lock import locked_folder\n"
        "with locked_folder(Path(sys.argv[1])): print('locked', flush=True); time.sleep(1)"
    )
    env = {**os.environ, "PYTHONPATH": SOURCE}
    call = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(call, stdout=subprocess.PIPE, env=env) as process:
        assert process.stdout.readline() == b"locked\n"
        error = f"NN-OUT-012: process {process.pid}"
        with pytest.raises(NormNetError, match=error), locked_folder(tmp_path):
            pass
        with locked_folder(tmp_path, wait_s=30):
            pass
    assert process.returncode == 0


def test_a_lock_ends_with_its_process(tmp_path):
    code = (
        "import os, sys; from pathlib import Path\n"
        "from normnet.io.lock import locked_folder\n"
        "with locked_folder(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    assert python(code, tmp_path).returncode == -signal.SIGKILL
    assert (tmp_path / LOCK).exists()
    with locked_folder(tmp_path):
        assert lock.holder_of(tmp_path).pid == str(os.getpid())
    assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks(segment, scans, tmp_path, capsys, monkeypatch, number):
    def no_lock(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", no_lock)
    assert segment(scans) == 0
    told = capsys.readouterr()
    assert "2 segmented" in told.out
    assert "warning: this file system has no locks" in told.err
    assert {path.name for path in (tmp_path / "out/a").iterdir()} - {LOCK} == {*FILES, RESULT}


@pytest.mark.parametrize("readable", [True, False])
def test_a_lock_file_of_another_user(segment, scans, tmp_path, capsys, monkeypatch, readable):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOCK).write_bytes(b"normnet 1\n")
    real = os.open

    def denied(path, flags, *mode, **options):
        if str(path).endswith(f"out/{LOCK}") and (flags & os.O_RDWR or not readable):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, flags, *mode, **options)

    monkeypatch.setattr(os, "open", denied)
    assert segment(scans / "a.nii.gz") == 0
    assert ("belongs to another user" in capsys.readouterr().err) is not readable
    assert (tmp_path / "out" / TABLE).exists()


@pytest.mark.parametrize("content", [b"mine", b"{}", b"#!/bin/sh"])
def test_a_lock_file_of_another_program(tmp_path, content):
    (tmp_path / LOCK).write_bytes(content)
    with pytest.raises(NormNetError, match="NN-OUT-015"), locked(tmp_path):
        pass
    assert (tmp_path / LOCK).read_bytes() == content


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to nothing"])
def test_a_lock_that_is_no_file(tmp_path, kind):
    path = tmp_path / LOCK
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "nothing")
    before = path.lstat()
    with pytest.raises(NormNetError, match="NN-OUT-015"), locked(tmp_path):
        pass
    assert path.lstat() == before
    assert list(tmp_path.iterdir()) == [path]


# --- what is printed ---


class Broken:
    """A stream that can be written ``n`` times."""

    encoding = "utf-8"

    def __init__(self, error, n=0):
        self.error, self.n = error, n

    def write(self, text):
        self.n -= 1
        if self.n < 0:
            raise self.error

    def flush(self):
        if self.n < 0:
            raise self.error

    def isatty(self):
        return False

    def fileno(self):
        raise OSError(errno.EBADF, "no descriptor")


FULL, PIPE = OSError(errno.ENOSPC, "No space left on device"), BrokenPipeError(errno.EPIPE, "pipe")


@pytest.mark.parametrize(
    ("error", "code"),
    [(FULL, 7), (OSError(errno.EIO, "I/O error"), 7), (ValueError("closed"), 7), (PIPE, 0)],
)
@pytest.mark.parametrize("n", [0, 2])
def test_an_output_that_breaks_loses_no_batch(
    segment, scans, tmp_path, monkeypatch, capsys, error, code, n
):
    monkeypatch.setattr(sys, "stdout", Broken(error, n))
    assert segment(scans) == code
    assert ("NN-OUT-005" in capsys.readouterr().err) == (code == 7)
    assert [status(tmp_path / "out" / name) for name in "ab"] == ["ok", "ok"]


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_closed_output(segment, scans, tmp_path, monkeypatch, name):
    monkeypatch.setattr(sys, name, None)
    (scans / "c.nii.gz").write_bytes(b"")
    assert segment(scans) == 9
    assert status(tmp_path / "out/b") == "ok"


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252"])
@pytest.mark.parametrize("name", ["患者 01", "Łukasz", "пациент"])
def test_names_that_the_terminal_does_not_know(
    segment, scans, tmp_path, monkeypatch, encoding, name
):
    import io

    (scans / "a.nii.gz").rename(scans / f"{name}.nii.gz")
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding))
    for told in (f"{name}: ok;", "2 scans: 0 segmented, 2 done already"):
        assert segment(scans) == 0
        sys.stdout.flush()
        assert told.encode(encoding, "backslashreplace") in printed.getvalue()
    assert status(tmp_path / "out" / name) == "ok"


@pytest.mark.parametrize("arguments", [["info", "--config"], ["--help"], ["datasets", "list"]])
@pytest.mark.parametrize("kind", ["pipe", "full", "closed", "all closed"])
def test_a_real_output_that_ends(arguments, kind):
    code = "import sys; from normnet.__main__ import main; sys.exit(main())"
    shell = {
        "pipe": "{} | head -n 1; exit ${{PIPESTATUS[0]}}",
        "full": "{} > /dev/full",
        "closed": "{} >&-",
        "all closed": "{} >&- 2>&- <&-",
    }[kind].format(f"'{sys.executable}' -c '{code}' {' '.join(arguments)}")
    if kind == "full" and not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    env = {**os.environ, "PYTHONPATH": SOURCE}
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=env)
    assert done.returncode == (7 if kind == "full" else 0), done.stderr
    assert done.stderr.count("\n") == (1 if kind == "full" else 0), done.stderr


def test_a_stream_writes_what_it_can():
    import io

    raw = io.BytesIO()
    stream = Stream(io.TextIOWrapper(raw, "ascii"))
    assert stream.write("é\n") == 2
    stream.flush()
    assert raw.getvalue() == b"\\xe9\n"
    with lasting_streams() as out:
        assert sys.stdout is out
    assert sys.stdout is not out


# --- the process ---


@pytest.mark.parametrize("moment", ["typer", "normnet.cli.main", "normnet.cli.train"])
def test_ctrl_c_while_modules_are_loaded(moment):
    code = f"""
import os, signal, sys
class Press:
    def find_spec(self, name, *_):
        if name == {moment!r}: os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Press())
from normnet.__main__ import main
sys.exit(main())
"""
    done = python(code, "info", "--config")
    assert (done.returncode, done.stderr) == (130, b"")


def test_the_program_starts_without_slow_modules():
    """Before its signal handler is set, Ctrl-C would print a traceback."""
    code = (
        "import sys; before = set(sys.modules); import normnet.__main__\n"
        "print(*sys.modules.keys() - before)"
    )
    loaded = set(python(code).stdout.decode().split())
    assert loaded <= {"normnet", "normnet.__main__", "normnet.version", "_signal"}


@pytest.mark.parametrize("variables", [{}, {"USER": "", "LOGNAME": ""}, {"HOME": "/"}])
def test_a_user_without_a_name(variables):
    code = """
import pwd
def nobody(uid): raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = nobody
from normnet.config import NetworkConfig
from normnet.network.unet import build_unet
build_unet(NetworkConfig(channels=(4, 8), n_res_units=1))
"""
    names = ("LOGNAME", "USER", "LNAME", "USERNAME")
    env = {name: value for name, value in os.environ.items() if name not in names}
    call = [sys.executable, "-c", code]
    env = {**env, "PYTHONPATH": SOURCE, **variables}
    done = subprocess.run(call, capture_output=True, text=True, env=env, cwd="/")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("places", [[Path("/nowhere")], [b"/nowhere"], [3, Path(), Path("a'b")]])
def test_anything_may_stand_in_sys_path(tmp_path, monkeypatch, places):
    from normnet.io.dicom.header import Slice
    from normnet.io.dicom.pixels import _start

    monkeypatch.setattr(sys, "path", [*sys.path, *places])
    item = Slice.__new__(Slice)
    process = _start(item)
    process.kill()
    process.communicate()


# --- memory and open files ---


@pytest.mark.parametrize("limit_gb", [0.3, 0.5, 0.8, 1.2, 1.6])
@pytest.mark.parametrize("arguments", [["segment", "x.nii.gz", "--out", "out"], ["info"]])
def test_a_limit_of_memory(tmp_path, limit_gb, arguments):
    pytest.importorskip("resource")
    code = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({int(limit_gb * 1e9)},) * 2)
from normnet.__main__ import main
sys.exit(main())
"""
    done = python(code, *arguments, cwd=tmp_path)
    assert done.returncode == 8
    assert done.stderr.decode().startswith("NN-RES-005: the memory is limited to")
    assert "at least 2 GB" in done.stderr.decode()
    assert list(tmp_path.iterdir()) == []


def caused_by(cause, error):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("std::bad_alloc"),
        RuntimeError("can't start new thread"),
        RuntimeError("could not create a memory object"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        caused_by(MemoryError(), ModelError("NN-MOD-006", "weights do not fit the network")),
        caused_by(MemoryError(), InputError("NN-FILE-001", "cannot be read", "x")),
    ],
)
def test_a_lack_of_memory_names_the_need(error):
    named = as_named_error(error, "ct.nii.gz")
    assert (named.code, named.exit_code) == ("NN-RES-004", 8)
    assert "2 GB" in str(named)
    assert "\n" not in str(named)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "NN-RES-006"),
        (OSError(errno.ENFILE, "Too many open files in system"), "NN-RES-006"),
        (ImportError("libc.so: cannot open: Error 24: Too many open files"), "NN-RES-006"),
        (OSError(errno.EIO, "Input/output error"), "NN-OUT-003"),
        (OSError(errno.ENOSPC, "No space left on device"), "NN-OUT-001"),
        (ModelError("NN-MOD-006", "weights do not fit the network"), "NN-MOD-006"),
    ],
)
def test_an_error_of_the_system_is_no_bug(error, code):
    assert as_named_error(error, "ct.nii.gz").code == code


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_that_cannot_sync(segment, scans, tmp_path, monkeypatch, number):
    def no_sync(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", no_sync)
    assert segment(scans) == 0
    assert status(tmp_path / "out/a") == "ok"


def test_a_full_disk_ends_no_batch(segment, scans, tmp_path, monkeypatch, capsys):
    """One scan cannot be written, and its failure cannot either; the next one can."""
    real = os.fsync
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) < 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert segment(scans) == 9
    assert "a: NN-OUT-001" in capsys.readouterr().err
    assert status(tmp_path / "out/b") == "ok"
    assert not list((tmp_path / "out/a").iterdir())
