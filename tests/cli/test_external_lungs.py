"""``--lung-model`` with a model of another program, through the whole command."""

import json

import pytest

from normnet.cli.main import main
from normnet.lungs import learned
from tests.lungs.stand_ins import StandIns, write_lungmask, write_nnunet

REAL = (
    learned.find_lungs,
    learned.segment_lungs,
)  # before conftest puts the phantom's lungs in its place


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    monkeypatch.setattr("normnet.pipeline.find_lungs", REAL[0])
    for place in ("lungs.learned", "training.normals"):
        monkeypatch.setattr(f"normnet.{place}.segment_lungs", REAL[1])
    found = StandIns(tmp_path, monkeypatch)
    found.behave("one")
    return found


@pytest.fixture
def run(stand_ins, scans, tiny_models, tmp_path):
    def run(command, lung_model, *options, out="out"):
        models = (
            ("--model", tiny_models[0], "--lesion-model", tiny_models[2])
            if command == "segment"
            else ()
        )
        arguments = (
            command,
            scans / "a.nii.gz",
            "--out",
            tmp_path / out,
            "--lung-model",
            lung_model,
            *models,
        )
        return main([str(a) for a in (*arguments, "--device", "cpu", *options)])

    return run


def _told(tmp_path):
    return json.loads((tmp_path / "out/a/result.json").read_text())


def test_segment(run, tmp_path, capsys):
    model = write_nnunet(tmp_path / "nnunet")
    assert run("segment", model) == 0
    told = _told(tmp_path)
    assert told["model"]["lungs"] == "nnU-Net Dataset007_Lung nnunet"
    assert min(told["volumes"][side]["lung_ml"] for side in ("right", "left")) > 500
    assert str(tmp_path) not in json.dumps(told)
    assert run("segment", model) == 0
    assert "0 segmented, 1 done already" in capsys.readouterr().out
    (model / "fold_0/checkpoint_final.pth").write_bytes(b"trained again")
    assert run("segment", model) == 0
    assert "a: ok" in capsys.readouterr().out


def test_a_given_mask_is_named(run, tmp_path):
    model = write_lungmask(tmp_path / "w.pth", 2)
    assert run("segment", model, "--lungs", tmp_path / "a_lungs.nii.gz") == 0
    assert _told(tmp_path)["model"]["lungs"] == "given mask"


def test_failures_are_told_and_recorded(run, stand_ins, tmp_path, capsys):
    model = write_lungmask(tmp_path / "w.pth", 2)
    stand_ins.behave("fails")
    assert run("segment", model) == 6
    assert _told(tmp_path)["error"]["id"] == "NN-EXT-004"
    stand_ins.behave("finds nothing")
    assert run("segment", model) == 5
    assert _told(tmp_path)["status"] == "no_lung"
    capsys.readouterr()
    stand_ins.uninstall()
    assert run("segment", model) == 6
    assert capsys.readouterr().err.startswith(
        "NN-EXT-003: no command 'lungmask'; w.pth; install lungmask"
    )


def test_prepared_cases_follow_the_lung_model(run, tmp_path, capsys):
    model = tmp_path / "w.pth"
    for value, told in ((0, "a: prepared"), (0, "a: up to date"), (1, "a: prepared")):
        write_lungmask(model, 2, value)
        assert run("prepare", model, out="cache") == 0
        assert told in capsys.readouterr().out
