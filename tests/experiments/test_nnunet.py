"""nnU-Net as a rival: its layout, its folds, its command lines, and what goes wrong with it.

Stand-ins take the place of its programs. One test runs nnU-Net itself. It needs some minutes and an
environment with ``nnunetv2``; name its folder: ``make nnunet NORMNET_NNUNET=FOLDER``.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from normnet.errors import ModelError
from normnet.experiments import nnunet
from normnet.experiments.bench import Interrupted
from normnet.experiments.catalogue import load_scale
from tests.waiting import is_running, wait_until

PROGRAM = """#!{python}
import json, os, socket, subprocess, sys, tempfile, time
from pathlib import Path

import nibabel
import numpy as np

# Its processes talk through sockets, whose address must not be long.
socket.socket(socket.AF_UNIX).bind(tempfile.mkdtemp(prefix="pymp-") + "/listener-12345678")
program, arguments = Path(sys.argv[0]).name, sys.argv[1:]
parts = ("raw", "preprocessed", "results")
folders = {{part: Path(os.environ["nnUNet_" + part]) for part in parts}}
notes = Path("{notes}")
with (notes / "calls").open("a") as file:
    file.write(json.dumps([program, *arguments]) + "\\n")
kind = (notes / "kind").read_text() if (notes / "kind").exists() else ""
raw, own = (folders[part] / "Dataset001_lesions" for part in ("raw", "preprocessed"))
if kind == "hangs":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (notes / "pid.part").write_text(str(child.pid))
    (notes / "pid.part").rename(notes / "pid")
    time.sleep(600)
if kind == "fails":
    sys.exit("RuntimeError: no memory in /some/where/file.py")
if program == "nnUNetv2_plan_and_preprocess":
    own.mkdir(parents=True)
else:
    configuration, fold = arguments[1:3]
    trainer = arguments[arguments.index("-tr") + 1]
    split = json.loads((own / "splits_final.json").read_text())[int(fold)]
    assert not set(split["train"]) & set(split["val"])
    model = f"{{trainer}}__nnUNetPlans__{{configuration}}"
    place = folders["results"] / "Dataset001_lesions" / model
    (place / f"fold_{{fold}}" / "validation").mkdir(parents=True)
    log = place / f"fold_{{fold}}" / "training_log_1.txt"
    log.write_text("12:00: train_loss -0.25\\n12:00: val_loss 0.5\\n12:00: Pseudo dice [nan]\\n")
    for name in split["val"] if kind != "no result" else ():
        image = nibabel.load(raw / "imagesTr" / f"{{name}}_0000.nii.gz")
        found = (np.asarray(image.dataobj) > -500).astype(np.uint8)
        found = found[1:] if kind == "other grid" else found
        result = place / f"fold_{{fold}}" / "validation" / f"{{name}}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(found, image.affine), result)
"""


class Programs:
    """Stand-ins for nnU-Net's programs."""

    def __init__(self, folder: Path):
        self.notes, self.bin = folder / "notes", folder / "bin"
        for path in (self.notes, self.bin):
            path.mkdir()
        for command in (nnunet.PLAN, nnunet.TRAIN):
            path = self.bin / command
            path.write_text(PROGRAM.format(python=sys.executable, notes=self.notes))
            path.chmod(0o755)

    def behave(self, kind: str) -> None:
        """Let the programs go wrong from now on."""
        (self.notes / "kind").write_text(kind)

    def calls(self) -> list[list[str]]:
        """The command lines so far."""
        path = self.notes / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def programs(tmp_path, monkeypatch):
    found = Programs(tmp_path)
    monkeypatch.setenv("PATH", str(found.bin), prepend=os.pathsep)
    return found


@pytest.fixture
def scale(tiny_scale):
    return load_scale(str(tiny_scale)).model_copy(
        update={"nnunet_trainer": "nnUNetTrainer_5epochs"}
    )


@pytest.fixture
def folds(bench):
    """Each of the two CTs is left out once."""
    first, second = (case for own in bench.data.tests.values() for case in own)
    return [("fold 1", [first], [second]), ("fold 2", [second], [first])]


def test_data_in_the_layout_of_nnunet(bench, scale, folds):
    run = nnunet.find_run("nnunet-2d", scale, bench, folds)
    subjects = {case.case_id: bench.subject(case, scale.config()) for case in run.cases()}
    nnunet.write_data_set(run, subjects.values())
    raw = run.work / "raw" / "Dataset001_lesions"
    assert sorted(path.name for path in (raw / "imagesTr").iterdir()) == [
        "ct_0000_0000.nii.gz",
        "ct_0001_0000.nii.gz",
    ]
    description = json.loads((raw / "dataset.json").read_text())
    assert description["labels"] == {"background": 0, "lesion": 1}
    assert (description["numTraining"], description["file_ending"]) == (2, ".nii.gz")
    assert description["channel_names"] == {"0": "CT"}  # nnU-Net then normalises HU
    for case_id, name in run.names().items():
        prepared = subjects[case_id].prepared
        image = nibabel.load(raw / "imagesTr" / f"{name}_0000.nii.gz")
        label = nibabel.load(raw / "labelsTr" / f"{name}.nii.gz")
        assert image.header.get_zooms() == pytest.approx(prepared.spacing_mm[::-1])
        assert np.array_equal(image.affine, label.affine)
        hu, lesions = (np.asarray(item.dataobj).T for item in (image, label))
        assert np.abs(hu - prepared.volume_hu).max() <= 0.5
        own = prepared.restore_mask(lesions > 0)
        reference = subjects[case_id].reference
        assert 2 * (own & reference).sum() > 0.9 * (own.sum() + reference.sum())
        assert set(np.unique(lesions)) == {0, 1}


def test_splits_are_the_given_folds(bench, scale, folds):
    run = nnunet.find_run("nnunet-2d", scale, bench, folds)
    names = run.names()
    assert run.splits() == [
        {"train": [names[learned[0].case_id]], "val": [names[left_out[0].case_id]]}
        for _, learned, left_out in folds
    ]


@pytest.mark.parametrize(
    ("name", "configuration"),
    [("nnunet-2d", "2d"), ("nnunet-3d", "3d_fullres"), ("nnunet-unseen", "2d")],
)
def test_every_ct_is_predicted_by_the_fold_that_left_it_out(
    bench, scale, folds, programs, name, configuration
):
    found = list(nnunet.predict_left_out_nnunet(name, scale, bench, folds))
    assert [subject.case for subject, _ in found] == [left_out[0] for _, _, left_out in folds]
    for subject, lesion_mask in found:
        prepared = subject.prepared
        expected = (np.rint(prepared.volume_hu) > -500) & prepared.lung_mask
        assert lesion_mask.dtype == bool
        assert expected.any()
        assert np.array_equal(lesion_mask, expected)
    training = [nnunet.TRAIN, "1", configuration]
    trainer = ["-tr", "nnUNetTrainer_5epochs", "-device", "cpu", "--c"]
    calls = programs.calls()
    assert calls == [
        [nnunet.PLAN, "-d", "1", "-c", configuration, "-np", "1", "-npfp", "1"],
        [*training, "0", *trainer],
        [*training, "1", *trainer],
    ]
    run = nnunet.find_run(name, scale, bench, folds)
    trainings = json.loads((run.folder / "trainings.json").read_text())
    assert [about["val_loss"] for about in trainings.values()] == [[0.5], [0.5]]
    assert trainings[folds[0][0]]["trained_on"] == [folds[0][1][0].case_id]

    again = list(nnunet.predict_left_out_nnunet(name, scale, bench, folds))
    assert programs.calls() == calls  # the stored masks are used
    for (_, first), (_, second) in zip(found, again, strict=True):
        assert np.array_equal(first, second)


def test_the_key_changes_with_what_the_networks_depend_on(bench, scale, folds):
    runs = [
        nnunet.find_run("nnunet-2d", scale, bench, folds),
        nnunet.find_run("nnunet-3d", scale, bench, folds),
        nnunet.find_run("nnunet-2d", scale, bench, folds, seed=1),
        nnunet.find_run("nnunet-2d", scale, bench, folds[:1]),
        nnunet.find_run(
            "nnunet-2d", scale.model_copy(update={"nnunet_trainer": "other"}), bench, folds
        ),
    ]
    assert len({run.folder for run in runs}) == len(runs)


def test_nnunet_is_not_installed(bench, scale, folds, monkeypatch):
    monkeypatch.setenv("PATH", "")
    message = (
        "NN-EXT-003: no command 'nnUNetv2_plan_and_preprocess'; nnunet-2d; install nnunetv2, "
        "in an environment of its own, and put its commands on the PATH"
    )
    with pytest.raises(ModelError) as caught:
        next(nnunet.predict_left_out_nnunet("nnunet-2d", scale, bench, folds))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("fails", "NN-EXT-004: nnUNetv2_plan_and_preprocess failed with exit code 1: RuntimeError"),
        ("no result", "NN-EXT-006: nnUNetv2_train left no mask that fits the CT"),
        ("other grid", "NN-EXT-006: nnUNetv2_train left no mask that fits the CT"),
    ],
)
def test_what_goes_wrong_is_one_line(bench, scale, folds, programs, tmp_path, kind, message):
    programs.behave(kind)
    with pytest.raises(ModelError) as caught:
        next(nnunet.predict_left_out_nnunet("nnunet-2d", scale, bench, folds))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_long_path_does_not_part_its_processes(bench, scale, folds, programs, tmp_path):
    far = replace(bench, out=tmp_path / ("long" * 30))
    assert len(list(nnunet.predict_left_out_nnunet("nnunet-2d", scale, far, folds))) == 2


def test_a_stopped_run_goes_on(bench, scale, folds, programs):
    next(nnunet.predict_left_out_nnunet("nnunet-2d", scale, bench, folds))
    programs.behave("hangs")
    pid = programs.notes / "pid"
    bench.stop = pid.exists
    with pytest.raises(Interrupted):
        list(nnunet.predict_left_out_nnunet("nnunet-2d", scale, bench, folds))
    child = int(pid.read_text())
    wait_until(lambda: not is_running(child), within_s=30)  # nothing that nnU-Net started stays
    programs.behave("")
    bench.stop = lambda: False
    found = list(nnunet.predict_left_out_nnunet("nnunet-2d", scale, bench, folds))
    assert len(found) == 2
    assert [call[0] for call in programs.calls()].count(nnunet.PLAN) == 1


def test_losses_of_every_epoch():
    log = "train_loss -0.5\nval_loss -0.25\nEpoch 1\ntrain_loss -0.75\nval_loss nan\n"
    losses = nnunet.read_losses(log)
    assert losses["train_loss"] == [-0.5, -0.75]
    assert losses["val_loss"][0] == -0.25
    assert np.isnan(losses["val_loss"][1])


@pytest.mark.slow
@pytest.mark.skipif("NORMNET_NNUNET" not in os.environ, reason="NORMNET_NNUNET names no folder")
def test_nnunet_itself(bench, scale, folds, monkeypatch):
    """One epoch of two iterations on phantoms: nnU-Net plans, trains, stores and predicts."""
    environment = Path(os.environ["NORMNET_NNUNET"])
    monkeypatch.setenv("PATH", str(environment / "bin"), prepend=os.pathsep)
    trainer = Path(__file__).parent / "nnunet_trainer"
    monkeypatch.setenv("nnUNet_extTrainer", str(trainer))
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    tiny = scale.model_copy(update={"nnunet_trainer": "nnUNetTrainer_2iterations"})
    found = list(nnunet.predict_left_out_nnunet("nnunet-2d", tiny, bench, folds))
    assert len(found) == 2
    for subject, lesion_mask in found:
        assert lesion_mask.shape == subject.prepared.thorax.shape
        assert not (lesion_mask & ~subject.prepared.lung_mask).any()
    run = nnunet.find_run("nnunet-2d", tiny, bench, folds)
    for about in json.loads((run.folder / "trainings.json").read_text()).values():
        assert about["epochs"] == 1
        assert np.isfinite(about["val_loss"]).all()
