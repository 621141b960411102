"""What a refusal costs: settings and manifests first, then the CT, and the networks last."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import normnet
from normnet.cli.main import main


def never(*arguments, **options):
    raise AssertionError("called")


def segment_with(model, others, scans, out) -> int:
    """Segment a CT with another ensemble than that of the fixtures."""
    models = ("--model", model, "--lung-model", others[1], "--lesion-model", others[2])
    return main([str(a) for a in ("segment", scans / "a.nii.gz", *models, "--out", out)])


@pytest.mark.parametrize("content", [b"", b"no image", b"\x1f\x8b\x08\x00 broken"])
def test_no_network_is_loaded_for_a_bad_file(tmp_path, content):
    """Not even torch, which takes most of the time."""
    (tmp_path / "ct.nii.gz").write_bytes(content)
    arguments = ["segment", str(tmp_path / "ct.nii.gz"), "--out", str(tmp_path / "out")]
    code = (
        f"import sys; sys.path[:] = {[str(Path(normnet.__file__).parents[1]), *sys.path]!r}\n"
        f"from normnet.cli.main import main; print(main({arguments!r}))\n"
        "print({'torch', 'monai', 'SimpleITK'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["3", "set()"], done.stderr
    assert done.stderr.startswith("ct: NN-FILE-00")


@pytest.mark.parametrize("fault", ["missing", "no manifest", "weights missing", "lies"])
def test_a_bad_model_is_found_before_the_ct_is_read(
    scans, tiny_models, tmp_path, monkeypatch, capsys, fault
):
    model = tmp_path / "model"
    if fault != "missing":
        shutil.copytree(tiny_models[0], model)
    if fault == "no manifest":
        (model / "manifest.json").unlink()
    if fault == "weights missing":
        (model / "member-2.safetensors").unlink()
    if fault == "lies":
        manifest = json.loads((model / "manifest.json").read_text())
        manifest["network"]["n_res_units"] = 10**6
        (model / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr("normnet.io.read.read_ct", never)
    assert segment_with(model, tiny_models, scans, tmp_path / "out") == 6
    assert "NN-MOD-0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_altered_weights_are_no_fault_of_the_scan(scans, tiny_models, tmp_path, capsys):
    shutil.copytree(tiny_models[0], tmp_path / "model")
    path = tmp_path / "model" / "member-2.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    out = tmp_path / "out"
    assert segment_with(tmp_path / "model", tiny_models, scans, out) == 6
    assert "NN-MOD-005" in capsys.readouterr().err
    assert not (out / "a" / "result.json").exists()


def test_an_empty_config(segment, scans, capsys):
    assert segment(scans / "a.nii.gz", "--config", "") == 2
    assert capsys.readouterr().err.startswith("NN-CLI-003: an empty argument")


@pytest.mark.parametrize("kind", ["folder", "pipe", "endless", "nothing"])
def test_configs_that_are_no_files(segment, scans, tmp_path, monkeypatch, capsys, kind):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    assert segment(scans / "a.nii.gz", "--config", kind) == 2
    assert capsys.readouterr().err.startswith("NN-CFG-003: no such config")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[inference]\nmin_votes = 3", "inference.min_votes"),  # of two members
        ("[inference]\nmin_votes = 2\nmax_members = 1", "inference.min_votes"),
        ("[inference]\nslab_vox = -32", "inference.slab_vox"),
        ("[inference]\nprob_normal = nan", "inference.prob_normal"),
    ],
)
def test_settings_that_mean_nothing(segment, scans, tmp_path, monkeypatch, capsys, text, key):
    monkeypatch.setattr("normnet.io.read.read_ct", never)
    (tmp_path / "mine.toml").write_text(text)
    assert segment(scans / "a.nii.gz", "--config", tmp_path / "mine.toml") == 2
    assert f"NN-CFG-002: wrong value of '{key}'" in capsys.readouterr().err
