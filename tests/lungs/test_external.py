"""Lung models of other programs: recognised by content, called as documented, clear failures."""

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from normnet.config import LungsConfig
from normnet.errors import ModelError, NormNetError, ResourceError, ValueRangeError
from normnet.lungs import processes
from normnet.lungs.external import EITHER, LEFT, RIGHT
from normnet.lungs.learned import segment_lungs
from normnet.lungs.programs import all_programs, find_external
from normnet.lungs.programs.nnunet import sides_named
from normnet.models import load_lungs, read_lung_manifest, shipped
from normnet.scan import Joined
from tests.lungs.stand_ins import StandIns, write_lungmask, write_nnunet
from tests.phantoms import ORIENTATIONS, reorient, thorax_phantom
from tests.waiting import is_running, wait_until

NNUNET = "nnUNetTrainer__nnUNetPlans__3d_fullres"
PROGRAMS = {program.name: program for program in all_programs()}
SIDES = {"background": 0, "Right lung": 1, "left_lung": 2}


@pytest.fixture(scope="module")
def phantom():
    return thorax_phantom((32, 64, 64), (5.0, 5.0, 5.0), vessels=False, lesions=False, noise_hu=0)


@pytest.fixture(scope="module")
def expected(phantom):
    return np.where(phantom.lung_mask, np.where(np.arange(64) < 32, RIGHT, LEFT), 0).astype(
        np.uint8
    )


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where temporary folders are made; empty when all are gone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


@pytest.fixture
def stand_ins(tmp_path, monkeypatch, temporary):
    return StandIns(tmp_path, monkeypatch)


# --- recognised by content ---


def test_every_program_is_one_file():
    folder = Path(processes.__file__).parent / "programs"
    assert set(PROGRAMS) == {path.stem for path in folder.glob("[a-z]*.py")} >= {"lungmask"}


def test_own_models_are_no_external_ones(tmp_path):
    assert find_external(shipped("lungs")) is None
    assert find_external(tmp_path) is None
    assert find_external(tmp_path / "nowhere") is None
    write_nnunet(tmp_path / "both")
    (tmp_path / "both/manifest.json").write_text("{}")
    assert find_external(tmp_path / "both") is None
    with pytest.raises(ModelError, match="NN-MOD-001"):
        load_lungs(tmp_path)


@pytest.mark.parametrize("suffix", [".pth", ".weights"])
@pytest.mark.parametrize(
    ("n_classes", "sides"),
    [
        (3, {1: RIGHT, 2: LEFT}),
        (6, {1: LEFT, 2: LEFT, 3: RIGHT, 4: RIGHT, 5: RIGHT}),
        (2, {1: EITHER}),
    ],
)
def test_lungmask_weights(tmp_path, n_classes, sides, suffix):
    found = find_external(write_lungmask(tmp_path / f"mine{suffix}", n_classes))
    assert (found.program.name, found.sides) == ("lungmask", sides)
    assert found.manifest["name"] == f"lungmask mine{suffix}"


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"a mask"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ModelError, match=r"NN-EXT-001: .*; x\.pth; "):
        find_external(tmp_path / "x.pth")


def test_weights_that_would_run_code_are_refused(tmp_path):
    import torch

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"last.bias": Trap()}, tmp_path / "x.pth")
    with pytest.raises(ModelError, match="NN-EXT-001"):
        find_external(tmp_path / "x.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("files", "options"),
    [
        (["fold_0/checkpoint_final.pth"], ("-f", "0", "-chk", "checkpoint_final.pth")),
        (["fold_2/checkpoint_final.pth", "fold_0/checkpoint_final.pth",
          "fold_1/checkpoint_best.pth", "fold_all/checkpoint_final.pth"],
         ("-f", "0", "2", "-chk", "checkpoint_final.pth")),
        (["fold_all/checkpoint_final.pth", "fold_0/checkpoint_best.pth"],
         ("-f", "all", "-chk", "checkpoint_final.pth")),
        (["fold_1/checkpoint_best.pth"], ("-f", "1", "-chk", "checkpoint_best.pth")),
    ],
)  # fmt: skip
def test_folds_of_an_nnunet(tmp_path, files, options):
    found = find_external(write_nnunet(tmp_path / NNUNET, files=tuple(files)))
    assert found.options == options
    assert found.manifest["name"] == f"nnU-Net Dataset007_Lung {NNUNET}"
    used = {f"fold_{fold}/{options[-1]}" for fold in options[1:-2]}
    assert set(found.manifest["files"]) == {"dataset.json", "plans.json"} | used


@pytest.mark.parametrize(
    ("dataset", "told"),
    [
        ({"file_ending": ".mha"}, "1 channels in .mha"),
        ({"channel_names": {"0": "CT", "1": "PET"}}, "2 channels"),
        ({"labels": {"background": 0}}, "without a label of lung"),
        ({"labels": {"0": "background", "1": "lung"}}, "readable dataset.json"),
        ({"labels": {"background": 0, "lung": 300}}, "readable dataset.json"),
        ({"labels": None}, "readable dataset.json"),
        ({"channel_names": None}, "readable dataset.json"),
    ],
)
def test_an_nnunet_that_cannot_be_used(tmp_path, dataset, told):
    folder = write_nnunet(tmp_path / "model")
    good = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**good, **dataset}))
    with pytest.raises(ModelError, match=rf"NN-EXT-002: .*{told}.*; model; "):
        find_external(folder)


@pytest.mark.parametrize("missing", ["dataset.json", "plans.json", "fold_0/checkpoint_final.pth"])
def test_an_incomplete_nnunet(tmp_path, missing):
    folder = write_nnunet(tmp_path / "model")
    (folder / missing).unlink()
    with pytest.raises(ModelError, match="NN-EXT-002"):
        find_external(folder)


@pytest.mark.parametrize(
    ("labels", "sides"),
    [
        ({"background": 0, "lung": 1}, {1: EITHER}),
        ({"background": 0, "foreground": 1, "ignore": 2}, {1: EITHER}),
        (SIDES, {1: RIGHT, 2: LEFT}),
        ({"background": 0, "left": 1, "right": 2}, {1: LEFT, 2: RIGHT}),
        ({"background": 0, "lung": 1, "COVID lesion": 2, "trachea": 3}, {1: EITHER, 2: EITHER}),
        ({"background": 0, "both lungs": [1, 2], "left lung": 2}, {1: EITHER, 2: LEFT}),
        ({"background": 0, "liver": 5, "lung_upper_lobe_left": 10, "lung_middle_lobe_right": 13},
         {10: LEFT, 13: RIGHT}),
    ],
)  # fmt: skip
def test_sides_by_the_names_of_labels(labels, sides):
    assert sides_named(labels) == sides


@pytest.mark.parametrize("changed", ["dataset.json", "plans.json", "fold_0/checkpoint_final.pth"])
def test_the_manifest_follows_every_file_that_is_used(tmp_path, changed):
    folder = write_nnunet(tmp_path / "model")
    before = read_lung_manifest(folder)
    assert read_lung_manifest(folder) == before
    assert str(tmp_path) not in json.dumps(before)
    content = (folder / changed).read_bytes()
    (folder / changed).write_bytes(content + b" ")
    assert read_lung_manifest(folder) != before


def test_the_manifest_follows_the_weights(tmp_path):
    one, other = (
        read_lung_manifest(write_lungmask(tmp_path / "w.pth", value=value)) for value in (0, 1)
    )
    assert one["name"] == other["name"]
    assert one != other
    assert str(tmp_path) not in json.dumps(one)


# --- called as documented ---


def _model(tool: str, folder: Path, **options):
    if tool == "lungmask":
        return find_external(write_lungmask(folder / "w.pth", **options))
    return find_external(write_nnunet(folder / NNUNET, **options))


@pytest.mark.parametrize(
    ("tool", "options", "kind"),
    [
        ("lungmask", {}, "sides"),
        ("lungmask", {"n_classes": 6}, "lobes"),
        ("lungmask", {"n_classes": 2}, "one"),
        ("lungmask", {}, "mirrored"),
        ("nnunet", {}, "one"),
        ("nnunet", {"labels": SIDES}, "sides"),
        (
            "nnunet",
            {"labels": {"background": 0, "spine": 1, "right lung": 7, "left lung": 8}},
            "organs",
        ),
    ],
)
def test_labels_become_right_and_left(
    stand_ins, temporary, tmp_path, phantom, expected, tool, options, kind
):
    stand_ins.behave(kind)
    found = segment_lungs(phantom.scan, _model(tool, tmp_path, **options), LungsConfig())
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS[5::12])
@pytest.mark.parametrize("kind", ["one", "sides"])
def test_any_storage(stand_ins, tmp_path, phantom, expected, order, flips, kind):
    stand_ins.behave(kind)
    scan = reorient(phantom.scan, order, flips)
    found = processes.segment_externally(
        scan, _model("nnunet", tmp_path, labels=None if kind == "one" else SIDES)
    )
    moved = np.flip(expected.transpose(order), [axis for axis, flip in enumerate(flips) if flip])
    np.testing.assert_array_equal(found, moved)


def test_averaged_slices(stand_ins, tmp_path, phantom, expected):
    """The program gets the averages, so that its result has the slices of these."""
    stand_ins.behave("sides")
    scan = replace(phantom.scan, joined=Joined(0, 4, 126))
    found = processes.segment_externally(scan, _model("nnunet", tmp_path, labels=SIDES))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("tool", ["lungmask", "nnunet"])
def test_what_the_program_is_given(stand_ins, temporary, tmp_path, phantom, tool, monkeypatch):
    stand_ins.behave("sides")
    model = _model(tool, tmp_path)
    monkeypatch.chdir(
        model.path.parent
    )  # a model given by a relative path is found from any folder
    processes.segment_externally(phantom.scan, find_external(Path(model.path.name)))
    call = stand_ins.call()
    assert call["hu"] == int(phantom.scan.volume_hu.sum())
    assert Path(call["image"]).name == "ct_0000.nii.gz"
    assert Path(call["image"]).is_relative_to(temporary)
    assert phantom.scan.case_id not in Path(call["image"]).relative_to(temporary).as_posix()
    assert call["mode"].endswith("700")
    assert Path(call["environment"]["TMPDIR"]).is_relative_to(temporary)
    assert call["environment"]["HF_HUB_OFFLINE"] == "1"
    if tool == "lungmask":
        assert (call["modelpath"], call["cpu"]) == (str(model.path), True)
    else:
        assert (call["m"], call["f"], call["device"]) == (str(model.path), ["0"], "cpu")


@pytest.mark.parametrize(
    ("device", "visible", "expected"),
    [("cuda", None, None), ("cuda:1", None, "1"), ("cuda:1", "4,6", "6")],
)
def test_a_gpu_by_its_number(stand_ins, tmp_path, phantom, monkeypatch, device, visible, expected):
    stand_ins.behave("one")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for tool in ("nnunet", "lungmask"):
        processes.segment_externally(phantom.scan, _model(tool, tmp_path), device)
        call = stand_ins.call()
        assert call["environment"].get("CUDA_VISIBLE_DEVICES") == expected
        assert not call["cpu"] if tool == "lungmask" else call["device"] == "cuda"


# --- every failure ---


@pytest.mark.parametrize("tool", ["lungmask", "nnunet"])
@pytest.mark.parametrize(
    ("kind", "error", "told"),
    [
        (
            "fails",
            ModelError,
            "NN-EXT-004: COMMAND failed with exit code 1: "
            "RuntimeError: no room for ct_0000.nii.gz;",
        ),
        ("is killed", ModelError, "NN-EXT-004: COMMAND was ended by signal 9: it said nothing;"),
        ("writes nothing", ModelError, "NN-EXT-006: COMMAND wrote no result; phantom;"),
        (
            "other grid",
            ModelError,
            "NN-EXT-006: the result of COMMAND does not fit the scan (mask of",
        ),
        (
            "fractions",
            ModelError,
            "NN-EXT-006: the result of COMMAND does not fit the scan (a mask with values",
        ),
        ("finds nothing", ValueRangeError, "NN-VAL-020: no lung found by COMMAND; phantom;"),
    ],
)
def test_failures(stand_ins, temporary, tmp_path, phantom, tool, kind, error, told):
    stand_ins.behave(kind)
    with pytest.raises(error) as caught:
        processes.segment_externally(phantom.scan, _model(tool, tmp_path))
    assert str(caught.value).startswith(told.replace("COMMAND", PROGRAMS[tool].command))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("tool", ["lungmask", "nnunet"])
def test_a_program_that_is_not_installed(stand_ins, temporary, tmp_path, phantom, tool):
    model = _model(tool, tmp_path)
    stand_ins.uninstall()
    for attempt in (
        lambda: load_lungs(model.path),
        lambda: processes.segment_externally(phantom.scan, model),
    ):
        with pytest.raises(ModelError, match=f"NN-EXT-003: .*; install {PROGRAMS[tool].package}, "):
            attempt()
    assert list(temporary.iterdir()) == []


def test_a_program_that_does_not_start(stand_ins, temporary, tmp_path, phantom):
    (stand_ins.folder / "lungmask").write_text("#!/nowhere/python\n")
    with pytest.raises(ModelError, match="NN-EXT-004: lungmask does not start"):
        processes.segment_externally(phantom.scan, _model("lungmask", tmp_path))
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("stopped_by", [ResourceError, KeyboardInterrupt])
def test_what_the_program_started_ends_with_it(
    stand_ins, temporary, tmp_path, phantom, monkeypatch, stopped_by
):
    stand_ins.behave("hangs")
    started = []

    def wait(process, seconds=None, wait=processes.subprocess.Popen.wait):
        if seconds is None:
            return wait(process)
        log = stand_ins.log_file
        wait_until(lambda: log.is_file() and log.read_text().isdecimal())
        started.append(int(stand_ins.log_file.read_text()))
        if stopped_by is KeyboardInterrupt:
            raise KeyboardInterrupt
        return wait(process, 0.1)

    monkeypatch.setattr(processes.subprocess.Popen, "wait", wait)
    with pytest.raises(stopped_by) as caught:
        processes.segment_externally(phantom.scan, _model("lungmask", tmp_path))
    if isinstance(caught.value, NormNetError):
        assert str(caught.value).startswith("NN-EXT-005: lungmask took more than 7200 s")
    wait_until(lambda: not is_running(started[0]))
    assert list(temporary.iterdir()) == []
