"""``torchrun -m normnet train``: printed and written once; errors and signals end all."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from normnet.cli.main import main
from normnet.io.lock import LOCK

ROOT = Path(__file__).parents[2]
SETTINGS = """
[preparation]
spacing_mm = [5, 5, 5]
[network]
channels = [4, 8]
n_res_units = 1
[training]
slab_vox = [16, 32, 32]
batch = 2
iterations = {iterations}
members = 2
checkpoint_every = 1000
"""


@pytest.fixture
def arguments(tiny_models, scans, tmp_path):
    """``train`` with its options, but for the output; two prepared cases."""
    (scans / "a_lesion.nii.gz").unlink()
    settings = tmp_path / "settings.toml"
    settings.write_text(SETTINGS.format(iterations=4))
    options = ["--config", settings, "--lung-model", tiny_models[1], "--device", "cpu"]
    assert main([str(a) for a in ("prepare", scans, "--out", tmp_path / "cache", *options)]) == 0
    return [str(a) for a in ("train", tmp_path / "cache", *options)]


def torchrun(*arguments: str) -> subprocess.Popen:
    """Two processes on this machine; torchrun itself says nothing of their failures."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "normnet", *arguments]
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def own_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if re.match(r"NN-|normnet:|stopped", line)]


def test_one_model_is_written_and_said_once(arguments, tmp_path, capsys):
    capsys.readouterr()
    process = torchrun(*arguments, "--out", str(tmp_path / "two"))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert main([*arguments, "--out", str(tmp_path / "one")]) == 0
    lines, alone = out.splitlines(), capsys.readouterr().out.splitlines()
    assert lines[0] == f"{alone[0]} in 2 processes"
    assert [line.replace("/two", "/one") for line in lines[1:-1]] == alone[1:-1]
    assert lines[-1] == f"model ready: {tmp_path / 'two'}"
    files = [
        sorted(
            str(path.relative_to(tmp_path / name))
            for path in (tmp_path / name).rglob("*")
            if "tensorboard" not in str(path)
        )
        for name in ("one", "two")
    ]
    assert files[0] == files[1]
    assert LOCK not in files[0]
    assert len(list((tmp_path / "two/tensorboard").glob("*"))) == 1
    assert (tmp_path / "one/run.json").read_bytes() == (tmp_path / "two/run.json").read_bytes()
    for member in ("member-1.safetensors", "member-2.safetensors"):
        one, two = load_file(tmp_path / "one" / member), load_file(tmp_path / "two" / member)
        name = "model.0.conv.unit0.conv.weight"
        assert abs(one[name].float() - two[name].float()).max() < 1e-3  # float16
    process = torchrun(*arguments, "--out", str(tmp_path / "two"))
    assert "done already" in process.communicate(timeout=120)[0]
    assert process.returncode == 0


def test_ctrl_c_saves_one_checkpoint_and_ends_all(arguments, tmp_path):
    (tmp_path / "settings.toml").write_text(SETTINGS.format(iterations=150))
    model = tmp_path / "model"
    process = torchrun(*arguments, "--out", str(model), "--members", "1")
    assert process.stdout is not None
    assert "in 2 processes" in process.stdout.readline()
    while "iteration 100" not in (line := process.stdout.readline()):
        assert line
    process.send_signal(signal.SIGINT)  # torchrun passes it on
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert own_lines(err) == ["stopped by SIGINT; the same command goes on from here"]
    (kept,) = (model / "checkpoints/member-1").iterdir()
    assert 100 <= int(kept.stem.split("-")[1]) < 150
    assert not (model / LOCK).exists()
    assert main([*arguments, "--out", str(model), "--members", "1"]) == 0


@pytest.mark.parametrize(
    ("batch", "options", "code"),
    [(1, (), "NN-TRN-031"), (2, ("--leave-out", "nobody"), "NN-TRN-010")],
    ids=["in all processes", "in the first alone"],
)
def test_an_error_is_said_once(arguments, tmp_path, batch, options, code):
    text = SETTINGS.format(iterations=4).replace("batch = 2", f"batch = {batch}")
    (tmp_path / "settings.toml").write_text(text)
    process = torchrun(*arguments, *options, "--out", str(tmp_path / "model"))
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    (line,) = own_lines(err)
    assert line.startswith(f"{code}: ")


def test_the_training_of_lungs_is_refused(monkeypatch, capsys, tmp_path):
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    for name, value in zip(names, ("0", "2", "0", "127.0.0.1", "29500"), strict=True):
        monkeypatch.setenv(name, value)
    assert main(["train-lungs", "list.csv", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("NN-TRN-032: train-lungs runs as one process")
