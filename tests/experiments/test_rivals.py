"""Table III on phantoms, every row of it; the supervised networks are doubles."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from normnet import read_ct
from normnet.cli.main import main
from normnet.config import LungsConfig
from normnet.errors import ConfigError, InputError
from normnet.experiments.bench import Bench, Interrupted, find_data
from normnet.experiments.catalogue import Experiment, Row, find_experiment, load_scale
from normnet.experiments.rival_runs import RivalRun, finished_rivals, run_rivals
from normnet.experiments.rivals import find_rival, rivals
from normnet.experiments.tables import to_markdown
from normnet.experiments.thresholds import choose_threshold, count_hundredths, reference_on_grid
from normnet.io.formats.nifti import read_nifti
from tests.experiments.conftest import SHAPE, make_data
from tests.phantoms import phantom_lungs

CASES = ("coronacases_001", "coronacases_004", "radiopaedia_5")
TABLE3 = find_experiment("table3")
NO_PAPER = ("hu-threshold", "hu-band", "mean-hu")
NAMES = ["dsc", "precision", "sensitivity"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two patients of Coronacases, one of Radiopaedia."""
    cases = [("healthy1", "train"), *((name, "dev") for name in CASES)]
    return make_data(tmp_path_factory.mktemp("rivals"), cases)


@pytest.fixture
def scale(tiny_scale):
    return load_scale(str(tiny_scale))


def some_rows(*names):
    rows = tuple(row for row in TABLE3.rows if row.id in names)
    return TABLE3.model_copy(update={"rows": rows})


def run(table, scale, bench):
    return len(list(run_rivals(table, list(table.rows), scale, bench)))


def lines_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_reproduce_table3(data, tiny_scale, supervised, tmp_path, capsys, monkeypatch):
    """All rows; again, nothing is made anew."""
    arguments = ["reproduce", "table3", "--data", data, "--out", tmp_path, "--scale", tiny_scale]
    arguments = [str(part) for part in (*arguments, "--device", "cpu", "--seeds", "1")]
    assert main(arguments) == 0
    lines = lines_of(tmp_path / "tiny/table3.csv")
    with_threshold = {name for name, rival in rivals().items() if rival.kind != "supervised"}
    seen = {(line["row"], line["set"], line["choice"]) for line in lines}
    for row in TABLE3.rows:
        expected = {("coronacases", ""), ("radiopaedia", "")}
        if row.id in with_threshold:  # a set of one patient has no other one
            expected = {(name, "in-sample") for name in ("coronacases", "radiopaedia")}
            expected |= {("coronacases", "leave-one-patient-out")}
        assert {own[1:] for own in seen if own[0] == row.id} == expected, row.id
    for line in lines:
        assert (line["threshold"] != "") == (line["choice"] != "")
        assert (line["upper_threshold"] != "") == (line["row"] == "hu-band")
        assert (line["paper"] == "") == (
            line["choice"] == "leave-one-patient-out" or line["row"] in NO_PAPER
        )
        assert line["n_cases"] == ("2" if line["set"] == "coronacases" else "1")
    found = {(line["row"], line["set"], line["choice"], line["score"]): line for line in lines}
    network = found["cople-net", "coronacases", "", "precision"]
    assert float(network["mean"]) > 80  # that of the double
    hu = found["hu-threshold", "coronacases", "in-sample", "dsc"]
    assert -1000 <= float(hu["threshold"]) <= 0
    text = (tmp_path / "tiny/table3.md").read_text()
    assert "| Coronacases | AE | in-sample | 0." in text
    assert "| Coronacases | AE | leave-one-patient-out | 0." in text
    assert "in-sample" in (tmp_path / "tiny/table3.tex").read_text()
    assert sorted(supervised) == sorted(n for n, r in rivals().items() if r.kind == "supervised")

    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for name in ("bench.Bench.subject", "baselines.train_baseline", "bench.train_member"):
        monkeypatch.setattr(f"normnet.experiments.{name}", lambda *a, **k: pytest.fail("again"))
    supervised.clear()
    capsys.readouterr()
    assert main(arguments) == 0
    assert not supervised
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_threshold_is_the_best_one_and_the_scores_are_those_above_it(bench, scale):
    """Left out, each of two patients gets the best threshold of the other one."""
    run_ = RivalRun(find_rival("hu-threshold"), scale, bench)
    assert run_.score_missing(NAMES)
    cases = bench.data.tests["coronacases"]
    subjects = [bench.subject(case, scale.config()) for case in cases]
    counts = []
    for subject in subjects:
        prepared = subject.prepared
        hu = np.where(prepared.lung_mask, prepared.volume_hu, -1000)
        score_map = ((hu + 1000) / 1000).clip(0).astype(np.float32)
        counts.append(count_hundredths(score_map, reference_on_grid(subject)))
    best, left_out = run_.choose(cases)
    assert best == choose_threshold(counts)[0]
    assert left_out == [choose_threshold([own])[0] for own in reversed(counts)]
    in_sample, without = run_.results(Row(id="r", label="r"), NAMES)
    assert (in_sample.choice, without.choice) == ("in-sample", "leave-one-patient-out")
    assert set(without.sets) == {"coronacases"}
    for result, ends in ((in_sample, [best, best]), (without, left_out)):
        for case, threshold in zip(cases, ends, strict=True):
            shown = result.thresholds["coronacases"][case.case_id]
            assert shown.low == pytest.approx(-1000 + 1000 * threshold.low)
            assert math.isinf(shown.high)
            assert result.sets["coronacases"][case.case_id] == run_.scores(case, threshold)


def test_left_out_differs_from_in_sample(bench, scale, monkeypatch):
    """One patient's lesion scores 0.15, the other one's 0.45, healthy lung 0.05 less.

    Together the best is 0.1, where the paler lesion is whole; alone it is 0.1 and 0.4.
    """
    high = bench.data.tests["coronacases"][1].case_id

    def score_map(self, subject):
        top = 0.45 if subject.case.case_id == high else 0.15
        image = np.where(reference_on_grid(subject), top, top - 0.05)
        return np.where(subject.prepared.lung_mask, image, 0).astype(np.float32)

    monkeypatch.setattr(RivalRun, "score_map", score_map)
    run_ = RivalRun(find_rival("hu-threshold"), scale, bench)
    run_.score_missing(NAMES)
    best, left_out = run_.choose(bench.data.tests["coronacases"])
    assert best.low == 0.1
    assert [own.low for own in left_out] == [0.4, 0.1]
    in_sample, without = run_.results(Row(id="r", label="r"), NAMES)
    pale = bench.data.tests["coronacases"][0].case_id
    assert in_sample.sets["coronacases"][pale]["dsc"] > 0.8
    assert without.sets["coronacases"][pale]["dsc"] == 0


def test_stopped_in_the_middle_it_goes_on(bench, scale, tmp_path):
    """Stopped after every few questions, the scores are those of a run that was never stopped."""
    table = some_rows("hu-band", "kl-grad")
    run(table, scale, bench)
    wanted = finished_rivals(table, scale, bench)
    attempts, said = 0, []
    while attempts < 20:
        attempts += 1
        answers = iter([False] * 40 + [True] * 1000)
        stopped = Bench(
            bench.data, tmp_path / "stopped", say=said.append, stop=lambda a=answers: next(a)
        )
        try:
            run(table, scale, stopped)
        except Interrupted:
            continue
        break
    assert 2 < attempts < 20
    assert finished_rivals(table, scale, stopped) == wanted
    done = [line for line in said if line.endswith(" scored")]
    assert len(done) == len(set(done)) == len(CASES)


def test_a_supervised_method_that_cannot_run_keeps_no_other_from_it(bench, scale, monkeypatch):
    def predict_left_out(name, *rest):
        raise ConfigError("NN-BAS-099", "nothing there", name, "install it")
        yield

    monkeypatch.setattr("normnet.experiments.supervised.predict_left_out", predict_left_out)
    said = []
    bench.say = said.append
    table = some_rows("cople-net", "hu-threshold", "inf-net")
    with pytest.raises(ConfigError, match="NN-BAS-099: nothing there; cople-net"):
        run(table, scale, bench)
    assert {result.row.id for result in finished_rivals(table, scale, bench)} == {"hu-threshold"}
    assert sum("not done: NN-BAS-099" in line for line in said) == 2


def test_supervised_scores_depend_on_all_cases(bench, scale, supervised):
    """The folds do."""
    table = some_rows("cople-net")
    run(table, scale, bench)
    assert run(table, scale, bench) == 0
    fewer = {**bench.data.tests, "radiopaedia": []}
    run(table, scale, Bench(replace(bench.data, tests=fewer), bench.out))
    assert supervised == ["cople-net"] * 2


@pytest.mark.parametrize("module", ["supervised", "nnunet"])
def test_another_version_is_scored_anew(bench, scale, monkeypatch, module):
    first = RivalRun(find_rival("cople-net"), scale, bench).key
    monkeypatch.setattr(f"normnet.experiments.{module}.VERSION", 1000)
    assert RivalRun(find_rival("cople-net"), scale, bench).key != first


def test_scores_depend_on_who_is_in_a_fold(bench, scale):
    """Two CTs that turn out to be of one patient come into one fold."""

    def key_of(*names):
        cases = [case for own in bench.data.tests.values() for case in own]
        named = [replace(case, case_id=name) for case, name in zip(cases, names, strict=True)]
        own = Bench(replace(bench.data, tests={"coronacases": named}), bench.out)
        return RivalRun(find_rival("cople-net"), scale, own).key

    assert key_of("c_1", "c_2", "c_3") != key_of("c_1a", "c_1b", "c_3")


def test_one_patient_is_no_error_of_what_is_stored(bench, scale):
    alone = {"coronacases": bench.data.tests["coronacases"][:1]}
    own = Bench(replace(bench.data, tests=alone), bench.out)
    assert finished_rivals(some_rows("cople-net"), scale, own) == []
    with pytest.raises(InputError, match="NN-EXP-022"):
        run(some_rows("cople-net"), scale, own)


def test_a_set_is_shown_once_it_is_complete(bench, scale, supervised):
    """The mean of some CTs beside that of all would mislead."""
    table = some_rows("cople-net")
    run(table, scale, bench)
    (result,) = finished_rivals(table, scale, bench)
    assert set(result.sets) == {"coronacases", "radiopaedia"}
    case = bench.data.tests["coronacases"][1]
    RivalRun(find_rival("cople-net"), scale, bench)._path(case).unlink()
    (result,) = finished_rivals(table, scale, bench)
    assert set(result.sets) == {"radiopaedia"}


def test_other_tables_take_such_rows(bench, scale):
    """Columns of the bright voxels stay empty."""
    table = Experiment(
        name="t",
        kind="scores",
        title="T",
        where="Table 0",
        scores=("dsc", "auc"),
        rows=(Row(id="hu", label="HU", method="hu-threshold"),),
    )
    run(table, scale, bench)
    text = to_markdown(table, scale, finished_rivals(table, scale, bench))
    assert text.splitlines()[-1].startswith("| Radiopaedia | HU | in-sample |")
    assert "| - | - | - |" in text.splitlines()[-1]


# --- the command ---


@pytest.fixture
def baseline(data, tiny_scale, tmp_path):
    def command(*arguments):
        given = ("--data", data, "--out", tmp_path, "--scale", tiny_scale, "--device", "cpu")
        return main([str(part) for part in ("baseline", *arguments, *given)])

    return command


def test_list(baseline, capsys):
    assert main(["baseline", "list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in rivals())
    assert " trained" not in printed  # constrained-vae is there
    assert baseline("train", "vae") == 0
    capsys.readouterr()
    assert baseline("list") == 0
    rows = {
        line.split()[0]: line.split()[-1]
        for line in capsys.readouterr().out.splitlines()
        if line.strip()
    }
    assert (rows["vae"], rows["kl-grad"], rows["ae"], rows["hu-band"]) == ("yes", "yes", "no", "-")


def test_train_and_score_share_their_work_with_tables(
    baseline, data, tiny_scale, tmp_path, capsys, monkeypatch
):
    assert baseline("train", "ae", "--iterations", "3") == 0
    assert "trained: " in capsys.readouterr().out
    assert baseline("score", "ae") == 0  # two iterations: another network
    assert len(list((tmp_path / "baselines").iterdir())) == 2
    monkeypatch.setattr(
        "normnet.experiments.baselines.train_baseline", lambda *a, **k: pytest.fail("again")
    )
    assert baseline("score", "ae", "--maps") == 0
    lines = lines_of(tmp_path / "tiny/baseline-ae.csv")
    assert [(line["case"], line["choice"]) for line in lines] == [
        *((name, "in-sample") for name in CASES),
        *((name, "leave-one-patient-out") for name in CASES[:2]),
    ]
    assert all(0 <= float(line[name]) <= 1 for line in lines for name in ("threshold", "dsc"))
    arguments = ["reproduce", "table3", "--row", "ae", "--data", data, "--out", tmp_path]
    assert main([str(part) for part in (*arguments, "--scale", tiny_scale)]) == 0
    (mean,) = (
        line["mean"]
        for line in lines_of(tmp_path / "tiny/table3.csv")
        if (line["row"], line["set"], line["choice"], line["score"])
        == ("ae", "coronacases", "in-sample", "dsc")
    )
    dsc = [float(line["dsc"]) for line in lines[:2]]
    assert float(mean) == pytest.approx(50 * sum(dsc), abs=0.02)
    for name in CASES:
        score_map = read_nifti(tmp_path / f"tiny/maps-ae/{name}.nii.gz").voxels
        assert score_map.shape == SHAPE
        assert 0 < score_map.max() <= 1
        scan = read_ct(data / f"{name}.nii.gz")
        assert not score_map[phantom_lungs(scan, [], LungsConfig()) == 0].any()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "nothing"], "NN-BAS-001"),
        (["train", "hu-band"], "NN-BAS-010: 'hu-band' learns nothing"),
        (["train", "inf-net"], "NN-BAS-010: 'inf-net' is trained fold by fold"),
        (["train", "ae", "--size", "1"], "NN-EXP-003"),
        (["score", "nnunet-2d", "--iterations", "3"], "NN-BAS-012"),
        (["score", "mean-hu", "--learning-rate", "1e-3"], "NN-BAS-012: 'mean-hu' has no such size"),
        (["list", "ae"], "takes no method"),
        (["score"], "needs a method"),
    ],
)
def test_bad_arguments(baseline, arguments, says, capsys):
    assert baseline(*arguments) == 2
    assert says in capsys.readouterr().err


def test_sizes_of_supervised_methods(baseline, monkeypatch):
    seen = []

    def predict_left_out(name, scale, *rest):
        seen.append(scale.supervised)
        return iter(())

    monkeypatch.setattr("normnet.experiments.supervised.predict_left_out", predict_left_out)
    sizes = ("--iterations", "7", "--size", "32", "--batch", "3", "--learning-rate", "0.01")
    assert baseline("score", "cople-net", *sizes) == 0
    (own,) = seen
    assert (own.iterations, own.size, own.batch, own.learning_rate) == (7, 32, 3, 0.01)


def test_maps_of_supervised_methods(baseline, supervised, capsys):
    assert baseline("score", "inf-net", "--maps") == 2
    assert "NN-BAS-011" in capsys.readouterr().err


def test_a_method_needs_folders(capsys):
    assert main(["baseline", "score", "ae"]) == 2
    assert "needs --data and --out" in capsys.readouterr().err


def test_without_ct(data, tiny_scale, tmp_path, capsys):
    """Simple methods need no normal CT; scores need a CT with a lesion mask."""
    options = [part for name in CASES for part in ("--leave-out", name)]
    arguments = ["baseline", "score", "ae", "--data", data, "--out", tmp_path, *options]
    assert main([str(part) for part in (*arguments, "--scale", tiny_scale)]) == InputError.exit_code
    assert "NN-EXP-006" in capsys.readouterr().err


def test_tables_without_a_normal_ct(data, tiny_scale, tmp_path, capsys):
    """What needs none is scored and written."""
    arguments = ["--data", data, "--out", tmp_path, "--scale", tiny_scale]
    arguments = [str(part) for part in (*arguments, "--leave-out", "healthy1")]
    assert main(["reproduce", "table3", "--row", "hu-threshold", *arguments]) == 0
    assert {line["row"] for line in lines_of(tmp_path / "tiny/table3.csv")} == {"hu-threshold"}
    assert main(["baseline", "list", *arguments]) == 0
    assert " ae " in capsys.readouterr().out


def test_simple_methods_need_no_normal_ct(data, scale, tmp_path):
    bench = Bench(find_data([data], ["healthy1"]), tmp_path)
    assert RivalRun(find_rival("mean-hu"), scale, bench).score_missing(NAMES)
    with pytest.raises(InputError, match="NN-TRN-011"):
        RivalRun(find_rival("ae"), scale, bench)
    stored = [json.loads(path.read_text()) for path in (tmp_path / "rivals").iterdir()]
    assert sum(isinstance(content, list) for content in stored) == len(CASES)
