"""The commands, in-process: what they write, what they say, how they end."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

import normnet
from normnet.cli.main import main
from normnet.errors import GeometryError
from normnet.io.output_folder import locked
from normnet.io.read import read_ct, read_stored
from normnet.results.schema import FILES, RESULT

COMMANDS = [
    "segment",
    "prepare",
    "train",
    "train-lungs",
    "synthesize",
    "evaluate",
    "datasets",
    "info",
]


def _result(folder):
    return json.loads((folder / RESULT).read_text())


def _table(out):
    return list(csv.DictReader((out / "results.csv").open(encoding="utf-8", newline="")))


def _bytes(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != RESULT}


# --- the whole command line ---


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    assert "Usage: normnet" in capsys.readouterr().out


def test_help_imports_nothing_heavy():
    loaded = (
        "import sys, normnet.cli.main as m; m.main(['segment', '--help'])\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    modules = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, check=True
    ).stderr.split()
    assert "normnet.cli.segment" in modules
    assert not {"torch", "monai", "SimpleITK", "numpy", "scipy", "pydicom", "PIL"} & set(modules)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"normnet {normnet.__version__}"


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["segment"], ["segment", "x"], ["segment", "x", "--out", "y", "--nonsense"],
     ["train", "x", "--out", "y", "--members", "0"], ["train", "x", "--out", "y", "--seed", "one"]],
)  # fmt: skip
def test_usage_errors(arguments, capsys):
    assert main(arguments) == 2
    assert re.fullmatch(r"NN-CLI-001: [^\n]+\n", capsys.readouterr().err)


def test_a_bug_is_one_line(monkeypatch, capsys):
    def broken(path, series=None):
        raise ZeroDivisionError("division by zero in /home/someone/secret")

    monkeypatch.setattr("normnet.io.read.read_ct", broken)
    assert main(["info", "x"]) == 70
    told = capsys.readouterr().err
    assert re.fullmatch(
        r"NN-BUG-001: ZeroDivisionError in broken, line \d+; please report[^\n]+\n", told
    )
    assert main(["info", "x", "--debug"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_out_of_memory_is_a_lack_of_resources(monkeypatch, capsys):
    def greedy(path, series=None):
        raise RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        )

    monkeypatch.setattr("normnet.io.read.read_ct", greedy)
    assert main(["info", "x"]) == 8
    assert capsys.readouterr().err.startswith("NN-RES-004: not enough memory")


def test_names_with_control_characters_are_shown_harmlessly(tmp_path, capsys):
    (tmp_path / "a\x1b[31m\nb.nii.gz").write_bytes(b"")
    assert main(["info", str(tmp_path / "a\x1b[31m\nb.nii.gz")]) == 3
    told = capsys.readouterr().err
    assert "\x1b" not in told
    assert told.count("\n") == 1


# --- segment ---


def test_segment_a_batch(segment, scans, tmp_path, capsys):
    assert segment(scans, tmp_path / "series") == 0
    told = capsys.readouterr().out
    for name in ("a", "b", "series"):
        folder = tmp_path / "out" / name
        assert {path.name for path in folder.iterdir()} == {*FILES, RESULT}
        assert _result(folder)["status"] == "ok"
        assert _result(folder)["certainty"] == {
            "tissue_in_air": 0.0
        }  # the tiny model knows no boundary
        assert re.search(
            rf"^{name}: ok; lesions [\d.]+ ml, [\d.]+ % of the lung; [\d.]+ s$", told, re.MULTILINE
        )
    assert "1 files hold labels, not HU" in told
    assert "3 scans: 3 segmented, 0 done already, 0 failed" in told
    assert next(iter(_result(tmp_path / "out/a")["seconds"])) == "reading"
    rows = _table(tmp_path / "out")
    assert [row["folder"] for row in rows] == ["a", "b", "series"]
    assert float(rows[0]["lung_ml"]) == _result(tmp_path / "out/a")["volumes"]["both"]["lung_ml"]


def test_rerun_does_only_what_is_missing(segment, scans, tmp_path, capsys, monkeypatch):
    assert segment(scans) == 0
    before = _bytes(tmp_path / "out/a"), _bytes(tmp_path / "out/b")
    (tmp_path / "out/b/votes.nii.gz").unlink()
    capsys.readouterr()
    assert segment(scans) == 0
    told = capsys.readouterr().out
    assert "a: done already" in told
    assert "b: ok" in told
    assert (_bytes(tmp_path / "out/a"), _bytes(tmp_path / "out/b")) == before

    def not_again(*_):
        raise AssertionError("loaded though nothing is to be done")

    monkeypatch.setattr("normnet.models.load_model", not_again)
    (tmp_path / "out/results.csv").unlink()
    assert segment(scans / "a.nii.gz") == 0
    assert [row["folder"] for row in _table(tmp_path / "out")] == ["a", "b"]
    assert segment(scans) == 0
    assert "2 done already" in capsys.readouterr().out
    monkeypatch.undo()


def test_overwrite_and_other_settings_run_again(segment, scans, tmp_path, capsys):
    scan = scans / "a.nii.gz"
    settings = tmp_path / "mine.toml"
    settings.write_text("[postprocessing]\ndilation_vox = 0\n")
    assert segment(scan) == 0
    for arguments in (("--overwrite",), ("--config", settings)):
        capsys.readouterr()
        assert segment(scan, *arguments) == 0
        assert "a: ok" in capsys.readouterr().out


def test_two_scans_of_one_name(segment, scans, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (scans / "b.nii.gz").rename(other / "a.nii.gz")
    assert segment(scans / "a.nii.gz", other / "a.nii.gz") == 0
    assert segment(other / "a.nii.gz") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == [
        "other",
        "scans",
    ]


def test_a_failed_scan_is_recorded_and_the_batch_goes_on(segment, scans, tmp_path, capsys):
    (scans / "aa.nii.gz").write_bytes(b"")
    assert segment(scans) == 9
    caught = capsys.readouterr()
    assert re.search(r"^aa: NN-FILE-002: [^\n]+$", caught.err, re.MULTILINE)
    assert "2 segmented, 0 done already, 1 failed" in caught.out
    assert _result(tmp_path / "out/aa")["error"]["exit_code"] == 3
    assert _result(tmp_path / "out/b")["status"] == "ok"
    assert [(row["case_id"], row["status"], row["error"]) for row in _table(tmp_path / "out")] == [
        ("a", "ok", ""),
        ("aa", "error", "NN-FILE-002"),
        ("b", "ok", ""),
    ]
    assert segment(scans / "aa.nii.gz") == 3


def test_no_lung_is_told(segment, scans, tmp_path, monkeypatch):
    from normnet.errors import ValueRangeError

    def no_lung(*_):
        raise ValueRangeError("NN-VAL-020", "no lung found", "a")

    monkeypatch.setattr("normnet.pipeline.find_lungs", no_lung)
    assert segment(scans / "a.nii.gz") == 5
    assert _result(tmp_path / "out/a")["status"] == "no_lung"
    assert not (tmp_path / "out/a/lesions.nii.gz").exists()


@pytest.mark.parametrize("labels", [1, 2])
def test_lungs_of_the_user(segment, scans, tmp_path, labels):
    from normnet.io.formats.nifti import write_image
    from normnet.io.masks import read_labels
    from tests.phantoms import phantom_lungs

    scan = read_ct(scans / "a.nii.gz")
    mask = tmp_path / "mine.nii.gz"
    expected = phantom_lungs(scan, [], None)
    swapped = np.where(expected > 0, 3 - expected, 0).astype(np.uint8)
    write_image(mask, swapped if labels == 2 else expected > 0, scan.geometry)
    assert segment(scans / "a.nii.gz", "--lungs", mask) == 0
    np.testing.assert_array_equal(read_labels(tmp_path / "out/a/lungs.nii.gz", scan), expected)
    told = [line for line in _result(tmp_path / "out/a")["warnings"] if "label 1" in line]
    assert len(told) == (labels == 2)  # the sides follow from the place


def test_lobes_of_the_user(segment, scans, tmp_path, capsys):
    """Numbers of TotalSegmentator; volumes and score per lobe, and errors of the mask."""
    from normnet.io.formats.nifti import write_image
    from tests.phantoms import phantom_lungs

    scan, mask = read_ct(scans / "a.nii.gz"), tmp_path / "lobes.nii.gz"
    sides = phantom_lungs(scan, [], None)
    lower = np.arange(scan.shape[0])[:, None, None] < 16
    lobes = np.select([sides == 2, sides == 1], [np.where(lower, 11, 10), np.where(lower, 14, 12)])
    write_image(mask, lobes.astype(np.uint8), scan.geometry)
    assert segment(scans / "a.nii.gz", "--lobes", mask) == 0
    result = _result(tmp_path / "out/a")
    rows, severity = (result["quantification"][key] for key in ("lobes", "severity"))
    voxel_ml = scan.geometry.voxel_ml
    for name, label in (("left_upper", 10), ("left_lower", 11), ("right_upper", 12)):
        expected_ml = voxel_ml * np.count_nonzero(lobes == label)
        assert rows[name]["lung_ml"] == pytest.approx(expected_ml, abs=0.01)
    lesion_ml = sum(row["lesion_ml"] for row in rows.values())
    assert lesion_ml == pytest.approx(result["volumes"]["both"]["lesion_ml"], abs=0.01)
    assert severity["lobes_score"] == sum(severity["lobes"].values())
    assert _table(tmp_path / "out")[0]["lobes_score"] == str(severity["lobes_score"])
    assert "lobes" in result["key"]  # another lobe mask is another result
    write_image(mask, np.where(lobes > 0, 7, 0).astype(np.uint8), scan.geometry)
    assert segment(scans / "a.nii.gz", "--lobes", mask) == 5
    assert "NN-VAL-023" in capsys.readouterr().err
    assert segment(scans, "--lobes", mask) == 2
    assert "NN-CLI-002" in capsys.readouterr().err


def test_lungs_need_one_scan_of_their_grid(segment, scans, tmp_path, capsys):
    assert segment(scans, "--lungs", tmp_path / "a_lungs.nii.gz") == 2
    assert "NN-CLI-002" in capsys.readouterr().err
    from normnet.io.formats.nifti import write_image
    from normnet.scan import Geometry

    write_image(tmp_path / "small.nii.gz", np.ones((4, 4, 4), bool), Geometry())
    assert (
        segment(scans / "a.nii.gz", "--lungs", tmp_path / "small.nii.gz") == GeometryError.exit_code
    )
    write_image(
        tmp_path / "none.nii.gz", np.zeros((32, 64, 64), bool), read_ct(scans / "a.nii.gz").geometry
    )
    assert segment(scans / "a.nii.gz", "--lungs", tmp_path / "none.nii.gz") == 5
    assert "NN-VAL-021" in capsys.readouterr().err
    scan = read_ct(scans / "a.nii.gz")
    write_image(tmp_path / "spine.nii.gz", 51 * np.uint8(scan.volume_hu > 250), scan.geometry)
    assert segment(scans / "a.nii.gz", "--lungs", tmp_path / "spine.nii.gz") == 5
    told = capsys.readouterr().err
    assert "NN-VAL-022" in told
    assert "51 (heart in TotalSegmentator)" in told


@pytest.mark.parametrize(
    ("arguments", "exit_code", "error_id"),
    [
        (["nowhere.nii.gz"], 3, "NN-FILE-001"),
        (["SCAN", "--config", "nowhere.toml"], 2, "NN-CFG-003"),
        (["SCAN", "--device", "tpu"], 2, "NN-CFG-010"),
        (["SCAN", "--device", "cpu:"], 2, "NN-CFG-010"),
        (["SCAN", "--device", "cuda:²"], 2, "NN-CFG-010"),
        (["SCAN", "--device", "cuda:99"], 2, "NN-CFG-011"),
        (["SCAN", "--model", "nowhere"], 6, "NN-MOD-001"),
    ],
)
def test_wrong_options(scans, tiny_models, tmp_path, capsys, arguments, exit_code, error_id):
    given = [str(scans / "a.nii.gz") if a == "SCAN" else a for a in arguments]
    model = [] if "--model" in given else ["--model", str(tiny_models[0])]
    assert (
        main(
            [
                "segment",
                *given,
                *model,
                "--lung-model",
                str(tiny_models[1]),
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == exit_code
    )
    assert re.fullmatch(rf"{error_id}: [^\n]+\n", capsys.readouterr().err)
    assert not list(tmp_path.glob(f"out/*/{RESULT}"))


def test_unknown_setting_names_the_nearest(segment, scans, tmp_path, capsys):
    (tmp_path / "mine.toml").write_text("[postprocessing]\ndilation = 2\n")
    assert segment(scans / "a.nii.gz", "--config", tmp_path / "mine.toml") == 2
    assert "dilation_vox" in capsys.readouterr().err


def test_output_in_the_input_or_in_use(segment, scans, tmp_path, capsys):
    assert segment(scans, out="scans") == 7
    assert segment(tmp_path / "series", out="series/results") == 7
    (tmp_path / "out/a").mkdir(parents=True)
    with locked(tmp_path / "out/a"):
        assert segment(scans / "a.nii.gz") == 7
    assert f"process {os.getpid()}" in capsys.readouterr().err


def test_results_in_a_folder_of_scans_are_no_scans(segment, scans, capsys):
    for told in ("2 segmented", "2 done already"):
        assert segment(scans, out="scans/results") == 0
        assert told in capsys.readouterr().out


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_whole_results_only(
    segment, scans, tmp_path, monkeypatch, capsys, number, exit_code
):
    from normnet.results import preview

    draw = preview.draw_preview
    drawn = []

    def stop_at_second(*arguments):
        drawn.append(arguments)
        if len(drawn) == 2:
            os.kill(os.getpid(), number)
        return draw(*arguments)

    monkeypatch.setattr(preview, "draw_preview", stop_at_second)
    handler = signal.getsignal(number)
    assert segment(scans) == exit_code
    assert signal.getsignal(number) is handler
    assert capsys.readouterr().err.startswith("stopped by SIG")
    assert _result(tmp_path / "out/a")["status"] == "ok"
    assert list((tmp_path / "out/b").iterdir()) == []
    assert [row["folder"] for row in _table(tmp_path / "out")] == ["a"]
    assert segment(scans) == 0
    assert "1 segmented, 1 done already" in capsys.readouterr().out


def test_progress_on_a_terminal(segment, scans, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert segment(scans / "a.nii.gz") == 0
    assert "a: " in capsys.readouterr().err


# --- prepare, train ---

SETTINGS = """
[preparation]
spacing_mm = [5, 5, 5]
[network]
channels = [4, 8]
n_res_units = 1
[training]
slab_vox = [16, 32, 32]
batch = 1
iterations = 4
members = 2
checkpoint_every = 2
"""


@pytest.fixture
def settings(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text(SETTINGS)
    return path


@pytest.fixture
def run(tiny_models, settings):
    def run(command, *arguments):
        options = ("--config", settings, "--lung-model", tiny_models[1], "--device", "cpu")
        return main([str(a) for a in (command, *arguments, *options)])

    return run


def test_prepare_from_a_list(run, scans, tmp_path, capsys):
    from normnet.preparation.cache import load_case

    (scans / "list.csv").write_text(
        "case_id,file,split,suspect_slices\none,a.nii.gz,train,12;13\ntwo,b.nii.gz,train,\nthree,b.nii.gz,heldout,\n"
    )
    arguments = ("prepare", scans / "list.csv", "--out", tmp_path / "cache", "--leave-out", "two")
    assert run(*arguments) == 0
    assert [path.name for path in (tmp_path / "cache").glob("*.npz")] == ["one.npz"]
    case = load_case(tmp_path / "cache/one.npz")
    assert (~case.usable).sum() == 2
    assert "one: prepared" in capsys.readouterr().out
    assert run(*arguments) == 0
    assert "one: up to date" in capsys.readouterr().out
    (scans / "list.csv").write_text("case_id,file,split,suspect_slices\none,a.nii.gz,train,12\n")
    assert run("prepare", scans / "list.csv", "--out", tmp_path / "cache") == 0
    assert "one: prepared" in capsys.readouterr().out


def test_prepare_tells_what_is_wrong(run, scans, tmp_path, capsys):
    (scans / "broken.nii.gz").write_bytes(b"")
    (scans / "a_lesion.nii.gz").unlink()
    assert run("prepare", scans, "--out", tmp_path / "cache") == 9
    caught = capsys.readouterr()
    assert "broken: NN-FILE-002" in caught.err
    assert "2 of 3 normal CTs ready" in caught.out
    assert run("prepare", scans, "--out", tmp_path / "cache", "--leave-out", "nobody") == 3
    (scans / "a.nii.gz").rename(scans / "b.nii")
    assert run("prepare", scans, "--out", tmp_path / "cache") == 3
    assert "two CTs are called 'b'" in capsys.readouterr().err


def test_train_is_resumed_as_if_never_stopped(run, scans, tmp_path, monkeypatch, capsys):
    from normnet.cli import train

    (scans / "a_lesion.nii.gz").unlink()
    assert run("train", scans, "--out", tmp_path / "straight") == 0
    reporter = train.step_reporter

    class Stopping:
        def __init__(self, *arguments):
            self.inner = reporter(*arguments)

        def __enter__(self):
            on_step = self.inner.__enter__()

            def kill_at_third(member, step, loss):
                on_step(member, step, loss)
                if (member, step) == (2, 3):
                    os.kill(os.getpid(), signal.SIGTERM)

            return kill_at_third

        def __exit__(self, *arguments):
            return self.inner.__exit__(*arguments)

    monkeypatch.setattr(train, "step_reporter", Stopping)
    assert run("train", scans, "--out", tmp_path / "stopped") == 143
    assert not (tmp_path / "stopped/manifest.json").exists()
    monkeypatch.setattr(train, "step_reporter", reporter)
    capsys.readouterr()
    assert run("train", scans, "--out", tmp_path / "stopped") == 0
    assert "a: up to date" in capsys.readouterr().out
    for name in ("manifest.json", "member-1.safetensors", "member-2.safetensors"):
        assert (tmp_path / "stopped" / name).read_bytes() == (
            tmp_path / "straight" / name
        ).read_bytes(), name


def test_train_from_a_cache_and_segment_with_it(run, scans, tmp_path, tiny_models, capsys):
    (scans / "a_lesion.nii.gz").unlink()
    assert run("prepare", scans, "--out", tmp_path / "cache") == 0
    options = (
        "--out",
        tmp_path / "model",
        "--members",
        1,
        "--iterations",
        2,
        "--seed",
        7,
        "--leave-out",
        "b",
    )
    assert run("train", tmp_path / "cache", *options) == 0
    manifest = json.loads((tmp_path / "model/manifest.json").read_text())
    assert manifest["training"]["cases"] == ["a"]
    assert manifest["training"]["seeds"] == [7]
    assert manifest["provenance"]["training"]["iterations"] == 2
    assert (
        run("train", tmp_path / "cache", *options[:4], "--iterations", 3, "--leave-out", "b") == 7
    )
    assert "NN-OUT-013" in capsys.readouterr().err
    arguments = [
        "segment",
        scans / "b.nii.gz",
        "--model",
        tmp_path / "model",
        "--lung-model",
        tiny_models[1],
    ]
    assert main([str(a) for a in (*arguments, "--out", tmp_path / "found")]) == 0


def test_train_refuses_a_damaged_cache(run, tmp_path, capsys):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/x.npz").write_bytes(b"PK")
    assert run("train", tmp_path / "cache", "--out", tmp_path / "model") == 3
    assert "NN-TRN-013" in capsys.readouterr().err


def test_train_lungs(scans, tmp_path, monkeypatch, capsys):
    import torch

    from normnet.models import load_members
    from normnet.training.checkpoints import Checkpoint
    from normnet.training.lungs import segmenter as library

    calls = {}

    def quick(slices, lungs, training, *, on_step, start_from, device, checkpoints, stop):
        calls.update(n=len(slices), iterations=training.iterations, seed=training.seed)
        on_step(1, 0.5)
        torch.manual_seed(training.seed)
        network = library.build_unet(library.lung_network(lungs, training))
        return Checkpoint(training.iterations, network.state_dict(), {}, [0.5])

    monkeypatch.setattr(library, "train_lungs", quick)
    (scans / "list.csv").write_text(
        "case_id,file,lung_mask\none,a.nii.gz,../a_lungs.nii.gz\ntwo,b.nii.gz,\n"
    )
    arguments = [
        "train-lungs",
        str(scans / "list.csv"),
        "--out",
        str(tmp_path / "lungs"),
        "--iterations",
        "5",
    ]
    assert main([*arguments, "--seed", "3", "--device", "cpu"]) == 0
    assert calls["n"] > 0
    assert (calls["iterations"], calls["seed"]) == (5, 3)
    networks, manifest = load_members(tmp_path / "lungs", "lungs")
    assert len(networks) == 1
    assert manifest["training"]["final_loss"] == 0.5
    assert manifest["inference"]["lungs"]["pixel_mm"] == 1.5
    assert "lung model ready" in capsys.readouterr().out


# --- evaluate, info, synthesize ---


def test_evaluate_a_list_with_auc(segment, scans, tmp_path, capsys):
    (scans / "list.csv").write_text("case_id,file,lesion_mask\na,a.nii.gz,a_lesion.nii.gz\n")
    assert segment(scans) == 0
    capsys.readouterr()
    table = tmp_path / "scores.csv"
    assert (
        main(["evaluate", str(tmp_path / "out"), str(scans / "list.csv"), "--csv", str(table)]) == 0
    )
    caught = capsys.readouterr()
    assert "AUC" in caught.out
    assert "no partner for result b" in caught.err
    rows = {row["case"]: row for row in csv.DictReader(table.open(encoding="utf-8"))}
    assert list(rows) == [
        "a",
        "mean",
        "sd",
        "ci95_low",
        "ci95_high",
        "n",
        "pooled",
        "loa_low",
        "loa_high",
    ]
    assert 0 <= float(rows["a"]["dsc"]) <= 1
    for column in ("dsc", "precision", "sensitivity", "auc"):
        assert rows["mean"][column] == rows["a"][column]
        assert rows["sd"][column] == rows["ci95_low"][column] == ""
    assert rows["pooled"]["bright_specificity"] == rows["a"]["bright_specificity"] != ""
    assert main(["evaluate", str(tmp_path / "out"), str(tmp_path / "nowhere")]) == 3


def test_evaluate_against_another_method(segment, scans, tmp_path, capsys):
    assert segment(scans) == 0
    capsys.readouterr()
    out, curves = str(tmp_path / "out"), tmp_path / "curves.csv"
    limits = ["--tolerance-mm", "4", "--min-lesion-ml", "0.5", "--slices", str(curves)]
    assert main(["evaluate", out, str(scans), "--against", out, *limits]) == 0
    told = capsys.readouterr().out
    assert "tolerance 4 mm) and lesions of at least 0.5 ml" in told
    assert "volume error: bias" in told
    dsc = next(
        line.split()
        for line in told[told.index("out against out") :].splitlines()
        if " dsc " in line
    )
    assert dsc[1] == "1"
    assert dsc[4:] == ["0.000", "-", "1.000"]
    assert len(curves.read_text().splitlines()) == 1 + 32
    assert main(["evaluate", out, str(scans), "--against", str(tmp_path / "nowhere")]) == 3
    assert "NN-EVA-001" in capsys.readouterr().err


def test_info(scans, tmp_path, capsys):
    assert main(["info"]) == 0
    told = capsys.readouterr().out
    assert f"normnet {normnet.__version__}" in told
    assert "paper.toml" in told
    assert main(["info", str(tmp_path / "series")]) == 0
    told = capsys.readouterr().out
    assert "voxels: 32 x 64 x 64" in told
    assert "spacing: 5 x 5 x 5 mm" in told
    assert "Secret" not in told


def test_synthesize(scans, tiny_models, settings, tmp_path, monkeypatch, capsys):
    import types

    from PIL import Image

    drawn = []

    def draw_sheet(case, config, seed):
        drawn.append((case.case_id, seed))
        return Image.new("RGB", (8, 8))

    monkeypatch.setitem(
        sys.modules, "normnet.report.synthesis_sheet", types.SimpleNamespace(draw_sheet=draw_sheet)
    )
    options = [
        "--lung-model",
        str(tiny_models[1]),
        "--config",
        str(settings),
        "--device",
        "cpu",
        "--seed",
        "5",
    ]
    scan = str(scans / "a.nii.gz")
    assert main(["synthesize", scan, "--out", str(tmp_path / "sheet.png"), *options]) == 0
    assert drawn == [("a", 5)]
    assert Image.open(tmp_path / "sheet.png").size == (8, 8)
    paper = ["--lung-model", str(tiny_models[1]), "--config", "paper", "--device", "cpu"]
    assert main(["synthesize", scan, "--out", str(tmp_path / "sheet.png"), *paper]) == 0
    assert main(["synthesize", scan, "--out", str(tmp_path / "sheet.txt"), *options]) == 7
    assert main(["synthesize", scan, "--out", str(tmp_path / "no/sheet.png"), *options]) == 7


# --- Python ---


def test_public_names_are_few_and_explained():
    assert len(normnet.__all__) <= 15
    for name in set(normnet.__all__) - {"__version__"}:
        assert getattr(normnet, name).__module__.startswith("normnet.")
        assert f"- ``{name}``: " in normnet.__doc__
    assert set(dir(normnet)) == set(normnet.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = normnet.nonsense


def test_the_same_in_python(segment, scans, tiny_models, tmp_path):
    assert segment(scans / "a.nii.gz") == 0
    scan = normnet.read_ct(scans / "a.nii.gz")
    model = normnet.load_model(*tiny_models)
    found = normnet.segment(scan, model)
    normnet.write_results(found, scan, tmp_path / "python", model)
    assert _bytes(tmp_path / "python") == _bytes(tmp_path / "out/a")


def test_a_lung_model_that_sees_one_slice_is_refused(scans, tmp_path, capsys):
    from normnet.config import NetworkConfig
    from normnet.network.unet import build_unet
    from normnet.network.weights import save_model

    flat = NetworkConfig(spatial_dims=2, channels=(4, 8), n_res_units=1)
    save_model(
        tmp_path / "old",
        {"member-1": build_unet(flat).state_dict()},
        "lungs",
        flat,
        {"name": "old"},
    )
    arguments = [
        "segment",
        str(scans / "a.nii.gz"),
        "--out",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    assert main([*arguments, "--lung-model", str(tmp_path / "old")]) == 6
    assert "NN-MOD-008" in capsys.readouterr().err


def test_lungs_are_found_with_their_models_own_settings(scans, tiny_models, tmp_path, monkeypatch):
    """Whatever the ensemble says; the user has the last word."""
    from normnet import pipeline

    lungs, real, seen = tmp_path / "lungs", pipeline.find_lungs, []
    shutil.copytree(tiny_models[1], lungs)
    manifest = json.loads((lungs / "manifest.json").read_text()) | {
        "inference": {"lungs": {"threshold": 0.45}}
    }
    (lungs / "manifest.json").write_text(json.dumps(manifest))

    def find_lungs(scan, networks, config, *others):
        seen.append(config.threshold)
        return real(scan, networks, config, *others)

    monkeypatch.setattr(pipeline, "find_lungs", find_lungs)
    (tmp_path / "mine.toml").write_text("[lungs]\nthreshold = 0.3\n")
    arguments = [
        "segment",
        str(scans / "a.nii.gz"),
        "--out",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    arguments += [
        "--model",
        str(tiny_models[0]),
        "--lung-model",
        str(lungs),
        "--lesion-model",
        str(tiny_models[2]),
    ]
    assert main(arguments) == 0
    assert main([*arguments, "--config", str(tmp_path / "mine.toml")]) == 0
    assert seen == [0.45, 0.3]


def test_a_breath_out_is_warned_of(segment, scans, tmp_path, capsys):
    """The lungs of the phantom are at -850 HU: far more tissue than at -950."""
    settings = tmp_path / "mine.toml"
    settings.write_text("[preparation]\ninspired_hu = -950.0\nbreath_limits = [-0.06, 0.15]\n")
    assert segment(scans / "a.nii.gz", "--config", settings) == 0
    told = _result(tmp_path / "out/a")
    assert told["certainty"]["tissue_in_air"] == pytest.approx(0.1, abs=0.015)
    assert ["breath out" in line for line in told["warnings"]] == [True]
    caught = capsys.readouterr()
    assert "breath out" in caught.out + caught.err


def test_an_old_model_is_told_of_in_one_line(old_model, scans, tiny_models, tmp_path, capfd):
    arguments = [
        "segment",
        str(scans / "a.nii.gz"),
        "--out",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    arguments += ["--model", str(old_model()), "--lung-model", str(tiny_models[1])]
    arguments += ["--lesion-model", str(tiny_models[2])]
    assert main(arguments) == 0
    caught = capfd.readouterr()
    assert re.fullmatch(
        r"warning: model old_normnet: [^\n]*haze, [^\n]*postprocessing\.thick_slice_mm\n",
        caught.err,
    )
    assert "a: ok" in caught.out
    assert _result(tmp_path / "out/a")["model"]["prob_normal"] == 0.9
    (tmp_path / "mine.toml").write_text("[postprocessing]\nthick_slice_mm = 4.5\n")
    assert main([*arguments, "--config", str(tmp_path / "mine.toml")]) == 2
    assert capfd.readouterr().err.startswith(
        "NN-CFG-001: unknown setting 'postprocessing.thick_slice_mm'; "
    )


def test_a_setting_asks_one_member(scans, tiny_models, tmp_path):
    (tmp_path / "one.toml").write_text("[inference]\nmax_members = 1\n")
    arguments = [
        "segment",
        str(scans / "a.nii.gz"),
        "--out",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    arguments += ["--model", str(tiny_models[0]), "--lung-model", str(tiny_models[1])]
    arguments += ["--lesion-model", str(tiny_models[2])]
    for options, n_members in (([], 2), (["--config", str(tmp_path / "one.toml")], 1)):
        assert main([*arguments, *options]) == 0
        told = json.loads((tmp_path / "out" / "a" / RESULT).read_text())
        assert told["model"]["n_members"] == n_members
        assert told["model"]["min_votes"] == n_members // 2 + 1
        votes = read_stored(tmp_path / "out" / "a" / "votes.nii.gz").voxels
        assert votes.max() <= n_members


def test_info_prints_every_setting_with_its_source(tiny_models, tmp_path, capsys):
    import tomllib

    from normnet.config import load_config, parse_config

    def told(*arguments) -> tuple[dict, dict]:
        assert main(["info", "--config", *arguments]) == 0
        text = capsys.readouterr().out
        sources = dict(re.findall(r"^(\w+) = .*  # (.+)$", text, re.MULTILINE))
        return tomllib.loads(text), sources

    values, sources = told()
    assert parse_config(values, "") == load_config()
    assert (sources["n_small"], sources["share_range"]) == ("paper.toml", "default.toml")
    values, sources = told("lesions")
    assert parse_config(values, "") == load_config("lesions")
    assert sources["prob_mottled"] == "lesions.toml"
    path = tmp_path / "mine.toml"
    path.write_text("extends = 'paper'\n[training]\nmembers = 2\n")
    values, sources = told(str(path))
    assert parse_config(values, "") == load_config(path)
    assert (sources["members"], sources["k_d"]) == (str(path), "paper.toml")
    assert sources["usable_share"] == "config.py"
    values, sources = told(str(tiny_models[0]))
    assert values["preparation"]["spacing_mm"] == [5, 5, 5]
    assert sources["spacing_mm"] == "ensemble/manifest.json"
    values, sources = told("model")
    assert values["lungs"]["neighbours_mm"] == [6, 20, 50]
    assert (sources["neighbours_mm"], sources["k_d"]) == (
        "lungs/manifest.json",
        "normnet/manifest.json",
    )
    assert main(["info", "--config", str(tmp_path / "nowhere.toml")]) == 2


def test_segment_with_a_file_that_extends(tiny_models):
    """Without ``extends`` single keys of the model change; with it all but network and lungs."""
    from normnet.cli.settings import override_config
    from normnet.config import load_config

    base = load_config().model_copy(update={"network": load_config("paper").network})
    paper = override_config(base, "paper")
    assert paper.postprocessing == load_config("paper").postprocessing
    assert (paper.network, paper.lungs) == (base.network, base.lungs)


@pytest.mark.parametrize(
    ("text", "k_d", "dilation_vox", "neighbours_mm"),
    [
        ("[postprocessing]\nk_d = 5", 5, 5, (6, 20, 50)),
        ("extends = 'paper'\n[postprocessing]\nk_d = 5", 5, 4, (6, 20, 50)),
        ("extends = 'b.toml'\n[lungs]\nneighbours_mm = []", 3, 5, ()),
    ],
)
def test_override_config(tmp_path, text, k_d, dilation_vox, neighbours_mm):
    from normnet.cli.settings import override_config
    from normnet.config import load_config

    (tmp_path / "a.toml").write_text(text)
    (tmp_path / "b.toml").write_text("[postprocessing]\nk_d = 3")
    found = override_config(load_config(), str(tmp_path / "a.toml"))
    assert (found.postprocessing.k_d, found.postprocessing.dilation_vox) == (k_d, dilation_vox)
    assert found.lungs.neighbours_mm == neighbours_mm


def test_train_lungs_is_resumed_as_if_never_stopped(scans, tmp_path, monkeypatch, capsys):
    from normnet.training.lungs import segmenter

    (scans / "list.csv").write_text("case_id,file,lung_mask\none,a.nii.gz,../a_lungs.nii.gz\n")
    settings = tmp_path / "settings.toml"
    settings.write_text(
        "[lungs_training]\nchannels = [4, 8]\nn_res_units = 0\ncrop_px = 32\nbatch = 2\n"
        "iterations = 5\ncheckpoint_every = 2\n"
    )

    def run(out, *options) -> int:
        arguments = ("train-lungs", scans / "list.csv", "--out", tmp_path / out, *options)
        return main([str(a) for a in (*arguments, "--config", settings, "--device", "cpu")])

    assert run("straight") == 0
    real, steps = segmenter.sample_batch, []

    def interrupted(*arguments):
        steps.append(1)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(segmenter, "sample_batch", interrupted)
    assert run("stopped") == 130
    assert len(steps) == 3
    assert not (tmp_path / "stopped/manifest.json").exists()
    assert "the same command goes on from here" in capsys.readouterr().err
    assert run("stopped", "--seed", 1) == 7
    assert "NN-OUT-013" in capsys.readouterr().err
    assert run("stopped") == 0
    assert len(steps) == 5
    for name in ("manifest.json", "member-1.safetensors"):
        assert (tmp_path / "stopped" / name).read_bytes() == (
            tmp_path / "straight" / name
        ).read_bytes(), name
