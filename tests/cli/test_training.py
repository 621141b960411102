"""``train`` and ``train-lungs``: what fits together, what is finished, and what is not theirs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from normnet import read_ct
from normnet.cli.main import main
from normnet.datasets.manifest import read_cases
from normnet.errors import ConfigError, InputError
from normnet.io.formats.nifti import write_image
from tests.cli.test_cli import SETTINGS

CODES = {"NN-TRN-014": 3, "NN-OUT-013": 7, "NN-TRN-022": 7}


@pytest.fixture
def run(tiny_models, tmp_path, capsys):
    """Run a command with tiny settings, which options may change; returns exit code and text."""

    def run(command, *arguments, settings=SETTINGS, lung_model=tiny_models[1]):
        (tmp_path / "settings.toml").write_text(settings)
        options = ["--config", tmp_path / "settings.toml", "--device", "cpu"]
        if lung_model:
            options += ["--lung-model", lung_model]
        code = main([str(a) for a in (command, *arguments, *options)])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


@pytest.fixture
def cache(run, scans, tmp_path):
    (scans / "a_lesion.nii.gz").unlink()
    assert run("prepare", scans, "--out", tmp_path / "cache")[0] == 0
    return tmp_path / "cache"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the lock."""
    files = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".lock")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def check_refused(result: tuple[int, str], code: str, *words: str) -> None:
    assert result[0] == CODES[code]
    line = result[1].strip().splitlines()[-1]
    assert line.startswith(f"{code}: ")
    for word in words:
        assert word in line


# --- caches ---


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ("[preparation]\nspacing_mm = [5, 5, 4]", "preparation.spacing_mm is [5.0, 5.0, 5.0], not"),
        ("[preparation]\nedge_vox = 3\nspacing_mm = [5, 5, 5]", "preparation.edge_vox is 2, not 3"),
        ("[window]\nlow_hu = -1000", "window.low_hu is -800.0, not -1000.0"),
        ("[window]\nbright_hu = -400", "window.bright_hu is -500.0, not -400.0"),
    ],
)
def test_a_cache_of_other_settings(run, cache, tmp_path, changes, words):
    settings = SETTINGS.split("[network]")[1]
    settings = f"[network]{settings}\n{changes}"
    if "[preparation]" not in changes:
        settings += "\n[preparation]\nspacing_mm = [5, 5, 5]\n"
    for inputs in ([cache], sorted(cache.glob("*.npz"))):
        result = run("train", *inputs, "--out", tmp_path / "model", settings=settings)
        check_refused(result, "NN-TRN-014", words, "a.npz", "normnet prepare")
    assert not (tmp_path / "model/run.json").exists()


@pytest.mark.parametrize("of", ["the shipped lung model", "another lung model"])
def test_a_cache_of_other_lungs(run, cache, tmp_path, of, tiny_models):
    other = None
    if of == "another lung model":
        other = tmp_path / "other"
        other.mkdir()
        for path in tiny_models[1].iterdir():
            (other / path.name).write_bytes(path.read_bytes())
        manifest = json.loads((other / "manifest.json").read_text())
        (other / "manifest.json").write_text(json.dumps({**manifest, "name": "other"}))
    result = run("train", cache, "--out", tmp_path / "model", lung_model=other)
    check_refused(result, "NN-TRN-014", "'lung_model' has changed", "--lung-model")


def test_a_cache_of_another_version(run, cache, tmp_path, monkeypatch):
    monkeypatch.setattr("normnet.training.normals.__version__", "9.0")
    result = run("train", cache, "--out", tmp_path / "model")
    check_refused(result, "NN-TRN-014", "not 9.0")


def test_reference_lungs_fit_any_lung_model(run, scans, tmp_path):
    (scans / "a_lungs.nii.gz").write_bytes((tmp_path / "a_lungs.nii.gz").read_bytes())
    (scans / "list.csv").write_text("case_id,file,lung_mask\na,a.nii.gz,a_lungs.nii.gz\n")
    out = tmp_path / "cache"
    assert run("prepare", scans / "list.csv", "--reference-lungs", "--out", out)[0] == 0
    assert run("train", out, "--out", tmp_path / "model", lung_model=None)[0] == 0


def test_an_empty_reference_mask(run, scans, tmp_path):
    scan = read_ct(scans / "a.nii.gz")
    write_image(scans / "a_lungs.nii.gz", np.zeros(scan.shape, np.uint8), scan.geometry)
    (scans / "list.csv").write_text("case_id,file,lung_mask\na,a.nii.gz,a_lungs.nii.gz\n")
    code, text = run("prepare", scans / "list.csv", "--reference-lungs", "--out", tmp_path / "c")
    assert code == InputError.exit_code
    assert "NN-TRN-036: no lung in the lung mask" in text


@pytest.mark.parametrize("slices", ["3;x", "1,2", "12.0", "-4"])
def test_slices_of_a_list_that_are_none(run, scans, tmp_path, slices):
    (scans / "list.csv").write_text(f'case_id,file,suspect_slices\na,a.nii.gz,"{slices}"\n')
    code, text = run("prepare", scans / "list.csv", "--out", tmp_path / "c")
    assert code == InputError.exit_code
    assert "NN-DAT-008" in text and "in suspect_slices of row 1" in text


def test_ranges_of_slices(scans):
    (scans / "list.csv").write_text(
        'case_id,file,suspect_slices,nodule_slices\na,a.nii.gz,"3; 10-12 ;",7\n'
    )
    (case,) = read_cases(scans / "list.csv")
    assert case.excluded_slices == {3, 7, 10, 11, 12}


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("train", ("--members", "101")),
        ("train", ("--seed", "99999999999999999999")),
        ("train-lungs", ("--learning-rate", "-1")),
        ("train-lungs", ("--iterations", "1000000")),
    ],
)
def test_options_have_the_ranges_of_their_settings(run, cache, scans, tmp_path, command, options):
    """And leave nothing that refuses the corrected command."""
    given = cache if command == "train" else scans / "list.csv"
    (scans / "list.csv").write_text("case_id,file,lung_mask\na,a.nii.gz,a_lungs.nii.gz\n")
    code, text = run(command, given, "--out", tmp_path / "model", *options)
    assert code == ConfigError.exit_code
    assert "NN-CFG-" in text or "NN-CLI-001" in text
    assert not (tmp_path / "model").exists()


def test_two_prepared_cases_of_one_name(run, cache, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more/a.npz").write_bytes((cache / "a.npz").read_bytes())
    code, text = run("train", cache, tmp_path / "more", "--out", tmp_path / "model")
    assert code == 3
    assert "NN-TRN-012" in text


@pytest.mark.parametrize(
    "content",
    [b"", b"PK", b"text", np.zeros(3).tobytes()],
    ids=["empty", "short", "text", "numbers"],
)
def test_what_is_no_prepared_case(run, cache, tmp_path, content):
    (cache / "a.npz").write_bytes(content)
    code, text = run("train", cache, "--out", tmp_path / "model")
    assert code == 3
    assert "NN-TRN-013" in text


@pytest.mark.parametrize("command", ["prepare", "train"])
def test_own_files_at_the_place_of_a_prepared_case(run, scans, tmp_path, command):
    (scans / "a_lesion.nii.gz").unlink()
    out = tmp_path / "out"
    folder = out if command == "prepare" else out / "cache"
    folder.mkdir(parents=True)
    np.savez(folder / "a.npz", mine=np.arange(3))
    before = (folder / "a.npz").read_bytes()
    code, text = run(command, scans, "--out", out)
    assert code == (9 if command == "prepare" else 7)
    assert "NN-OUT-015" in text
    assert (folder / "a.npz").read_bytes() == before


# --- resumed and finished trainings ---


def stopped(run, *arguments, **options) -> None:
    """A training that is stopped after its first checkpoint."""
    from normnet.training import member

    real, n_calls = member.check_loss, []

    def interrupt(loss, step):
        n_calls.append(step)
        if len(n_calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        real(loss, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(member, "check_loss", interrupt)
        assert run(*arguments, **options)[0] == 143


@pytest.mark.parametrize("prepared", [True, False])
def test_a_ct_that_is_replaced_under_its_name(run, scans, tmp_path, prepared):
    """The next command sees it, whether it prepares the CT or another command has done it."""
    from normnet.training.normals import _fingerprint

    (scans / "a_lesion.nii.gz").unlink()
    inputs = tmp_path / "cache" if prepared else scans

    def prepare() -> None:
        _fingerprint.cache_clear()  # as in another process
        if prepared:
            assert run("prepare", scans, "--out", tmp_path / "cache")[0] == 0

    prepare()
    stopped(run, "train", inputs, "--out", tmp_path / "model")
    before = contents(tmp_path / "model/checkpoints")
    (scans / "a.nii.gz").write_bytes((scans / "b.nii.gz").read_bytes())
    prepare()
    result = run("train", inputs, "--out", tmp_path / "model")
    check_refused(result, "NN-OUT-013", "'cases.a' has changed")
    assert contents(tmp_path / "model/checkpoints") == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--seed", 3), "config.training.seed is 0, not 3"),
        (("--iterations", 9), "config.training.iterations is 4, not 9"),
        (("--leave-out", "b"), "'cases.b' is missing"),
    ],
)
def test_another_training_in_one_folder(run, cache, tmp_path, options, words):
    stopped(run, "train", cache, "--out", tmp_path / "model")
    before = contents(tmp_path / "model")
    result = run("train", cache, "--out", tmp_path / "model", *options)
    check_refused(result, "NN-OUT-013", words)
    assert contents(tmp_path / "model") == before


def test_a_finished_model_is_not_written_again(run, cache, tmp_path):
    out = tmp_path / "model"
    assert run("train", cache, "--out", out, "--members", 2)[0] == 0
    before = contents(out)
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    code, text = run("train", cache, "--out", out, "--members", 2)
    assert code == 0
    assert "done already" in text
    assert contents(out) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times
    result = run("train", cache, "--out", out, "--members", 1)
    check_refused(result, "NN-OUT-013", "a finished model of 2 members", "--members 2")
    assert contents(out) == before
    (out / "member-2.safetensors").write_bytes(b"damaged")
    assert run("train", cache, "--out", out, "--members", 2)[0] == 0
    assert contents(out)["member-2.safetensors"] == before["member-2.safetensors"]
    assert run("train", cache, "--out", out, "--members", 3)[0] == 0
    after = contents(out)
    assert len(json.loads(after["manifest.json"])["members"]) == 3
    assert after["member-1.safetensors"] == before["member-1.safetensors"]


@pytest.mark.parametrize("name", ["manifest.json", "member-1.safetensors", "member-7.safetensors"])
@pytest.mark.parametrize("command", ["train", "train-lungs"])
def test_files_that_are_not_of_the_training(run, cache, scans, tmp_path, name, command):
    """A model of someone else, or any file of a name that a model has."""
    out = tmp_path / "model"
    out.mkdir()
    (out / name).write_bytes(b"mine")
    (scans / "list.csv").write_text("case_id,file,lung_mask\none,a.nii.gz,../a_lungs.nii.gz\n")
    if command == "train":
        result = run("train", cache, "--out", out)
    else:
        result = run("train-lungs", scans / "list.csv", "--out", out, lung_model=None)
    check_refused(result, "NN-OUT-013", f"'{name}'")
    assert contents(out) == {name: b"mine"}


def test_a_link_at_the_place_of_the_record(run, cache, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "own.json").write_text("{}")
    (tmp_path / "model/run.json").symlink_to(tmp_path / "own.json")
    check_refused(run("train", cache, "--out", tmp_path / "model"), "NN-TRN-022")
    assert (tmp_path / "own.json").read_text() == "{}"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"seed": 0', '"seed": 1'),
        lambda text: text.replace("{", "\0", 1),
    ],
)
def test_a_damaged_record(run, cache, tmp_path, damage):
    """It is called damaged, and deleting it lets the training go on."""
    assert run("train", cache, "--out", tmp_path / "whole")[0] == 0
    out = tmp_path / "model"
    stopped(run, "train", cache, "--out", out)
    record = out / "run.json"
    record.write_text(damage(record.read_text()))
    before = contents(out)
    result = run("train", cache, "--out", out)
    check_refused(
        result, "NN-TRN-022", "model/run.json", "delete it", "goes on from the checkpoints"
    )
    assert contents(out) == before
    record.unlink()
    assert run("train", cache, "--out", out)[0] == 0
    for name in ("manifest.json", "member-1.safetensors", "run.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_damaged_record_of_a_finished_model(run, cache, tmp_path):
    """The model stays, whatever is done to the record."""
    out = tmp_path / "model"
    assert run("train", cache, "--out", out)[0] == 0
    (out / "run.json").write_text("{")
    before = contents(out)
    check_refused(run("train", cache, "--out", out), "NN-TRN-022", "the model stays")
    assert contents(out) == before
    (out / "run.json").unlink()
    check_refused(run("train", cache, "--out", out), "NN-OUT-013", "'manifest.json'")


def test_damaged_checkpoints_of_a_training(run, cache, tmp_path):
    assert run("train", cache, "--out", tmp_path / "whole")[0] == 0
    stopped(run, "train", cache, "--out", tmp_path / "model")
    newest = max((tmp_path / "model/checkpoints/member-1").glob("step-*.ckpt"))
    newest.unlink()
    newest.mkdir()
    code, text = run("train", cache, "--out", tmp_path / "model")
    assert code == 0
    assert f"warning: checkpoint {newest.name} is damaged, the one before it is used" in text
    name = "member-1.safetensors"
    assert (tmp_path / "model" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def diverging(monkeypatch, place: str, at_step: int) -> None:
    """The loss is NaN from one iteration on."""
    import math

    from normnet.network.losses import dice_cross_entropy

    calls = []

    def loss(*arguments):
        calls.append(1)
        factor = math.nan if len(calls) >= at_step else 1.0
        return factor * dice_cross_entropy(*arguments)

    monkeypatch.setattr(f"normnet.training.{place}.dice_cross_entropy", loss)


def test_a_training_that_diverges(run, cache, tmp_path, monkeypatch):
    """In the first member or in the second: no model is written, checkpoints stay."""
    for at_step, out, kept in ((4, "one", 1), (8, "two", 2)):
        with monkeypatch.context() as patch:
            diverging(patch, "member", at_step)
            code, text = run("train", cache, "--out", tmp_path / out)
        assert code == 6
        assert "NN-TRN-020" in text
        assert "iteration 4" in text
        assert not (tmp_path / out / "manifest.json").exists()
        assert not list((tmp_path / out).glob("*.safetensors"))
        assert len(list((tmp_path / out).glob(f"checkpoints/member-{kept}/step-000002.ckpt"))) == 1


# --- lungs ---

LUNGS = """[lungs_training]
channels = [4, 8]
n_res_units = 0
crop_px = 32
batch = 2
iterations = 3
checkpoint_every = 2
"""


def test_a_finished_lung_model_is_not_written_again(run, scans, tmp_path):
    from shutil import rmtree

    (scans / "list.csv").write_text("case_id,file,lung_mask\none,a.nii.gz,../a_lungs.nii.gz\n")
    out = tmp_path / "lungs"

    def train(*options):
        inputs = scans / "list.csv"
        return run("train-lungs", inputs, "--out", out, *options, settings=LUNGS, lung_model=None)

    assert train()[0] == 0
    rmtree(out / "checkpoints")
    before = contents(out)
    code, text = train()
    assert code == 0
    assert "done already" in text
    check_refused(train("--seed", 5), "NN-OUT-013", "lungs_training.seed is 0, not 5")
    (scans / "a.nii.gz").write_bytes((scans / "b.nii.gz").read_bytes())
    check_refused(train(), "NN-OUT-013", "'inputs.1: list.csv.one' has changed")
    assert contents(out) == before


def test_lungs_that_diverge(run, scans, tmp_path, monkeypatch):
    diverging(monkeypatch, "lungs.segmenter", 3)
    (scans / "list.csv").write_text("case_id,file,lung_mask\none,a.nii.gz,../a_lungs.nii.gz\n")
    arguments = ("train-lungs", scans / "list.csv", "--out", tmp_path / "lungs")
    code, text = run(*arguments, settings=LUNGS, lung_model=None)
    assert code == 6
    assert "NN-TRN-020" in text
    assert not (tmp_path / "lungs/manifest.json").exists()
    assert (tmp_path / "lungs/checkpoints/step-000002.ckpt").is_file()


# --- the whole process ---


def test_two_trainings_in_one_folder(run, cache, tmp_path):
    """The second one names the process that is at work there."""
    from normnet.io.output_folder import locked

    (tmp_path / "model").mkdir()
    holder = (
        "import sys; from pathlib import Path; from normnet.io.output_folder import locked\n"
        "with locked(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    )
    arguments = [sys.executable, "-c", holder, str(tmp_path / "model")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        code, text = run("train", cache, "--out", tmp_path / "model")
        assert code == 7
        assert "NN-OUT-012" in text
        assert str(process.pid) in text
        process.stdin.close()
    with locked(tmp_path / "model"):
        pass


def test_a_worker_that_is_killed(run, cache, tmp_path, monkeypatch):
    import multiprocessing

    from normnet.training import member

    real = member.check_loss

    def kill_one(loss, step):
        if step == 1:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        real(loss, step)

    monkeypatch.setattr(member, "check_loss", kill_one)
    code, text = run("train", cache, "--out", tmp_path / "model", "--workers", 2)
    assert code == 8
    assert "NN-TRN-021" in text
    assert "killed" in text
    assert list((tmp_path / "model/checkpoints/member-1").glob("step-*.ckpt"))
