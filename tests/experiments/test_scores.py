import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from normnet.errors import InputError
from normnet.experiments.bench import (
    Bench,
    Interrupted,
    Opposite,
    find_data,
    read_stored,
    set_of,
)
from normnet.experiments.catalogue import Experiment, Row, load_scale
from normnet.experiments.scores import finished_rows, run_rows

ROWS = (
    Row(id="base", label="base", paper={"coronacases": (69.8,)}),
    Row(id="k_d", label="k_d = 7", settings={"postprocessing": {"k_d": 3}}),
    Row(
        id="lesions",
        label="lesions",
        settings={"training": {"target": "lesions"}, "inference": {"prob_normal": 0.5}},
    ),
    Row(id="areas", label="areas", settings={"training": {"target": "areas"}}),
    Row(id="vote", label="vote", votes=(0, 1, 2)),
    Row(id="cap", label="cap", reading="cap"),
)
TABLE = Experiment(
    name="t", kind="scores", title="T", where="Table 0", compared_with="base", rows=ROWS
)


@pytest.fixture
def scale(tiny_scale):
    return load_scale(str(tiny_scale))


def results(bench, scale):
    return {(result.row.id, result.seed): result for result in finished_rows(TABLE, scale, bench)}


def test_data_are_sorted_by_what_they_are_for(data):
    found = find_data([data], ["healthy2"])
    assert [case.case_id for case in found.normals] == ["healthy1"]
    assert {name: len(cases) for name, cases in found.tests.items()} == {
        "coronacases": 1,
        "radiopaedia": 1,
        "uestc": 0,
    }
    with pytest.raises(InputError, match="no case 'nobody'"):
        find_data([data], ["nobody"])


def test_every_row_and_seed_is_scored(bench, scale):
    list(run_rows(TABLE, list(ROWS), scale, bench))
    found = results(bench, scale)
    assert set(found) == {(row.id, seed) for row in ROWS for seed in range(2)}
    for result in found.values():
        assert set(result.sets) == {"coronacases", "radiopaedia"}
        assert 0 <= result.sets["coronacases"]["coronacases_001"]["dsc"] <= 1
    assert found["base", 0].key != found["base", 1].key != found["k_d", 0].key
    assert found["base", 0].key == found["cap", 0].key  # one run, another mask of it
    # rows that share networks share them: 2 seeds of base, lesions and areas; of the votes of
    # 0, 1, 2 and of 5, 6, 7 the first two are there already
    assert len(list((bench.out / "networks").iterdir())) == 10


def test_finished_rows_are_not_repeated(bench, scale, monkeypatch):
    list(run_rows(TABLE, list(ROWS[:2]), scale, bench))
    before = {path: path.read_bytes() for path in bench.out.rglob("*") if path.is_file()}

    def never(*args, **kwargs):
        raise AssertionError("made again")

    for name in ("train_member", "predict_normal", "segment_lungs"):
        monkeypatch.setattr(f"normnet.experiments.bench.{name}", never)
    again = Bench(bench.data, bench.out)
    assert list(run_rows(TABLE, list(ROWS[:2]), scale, again)) == []
    assert {path: path.read_bytes() for path in bench.out.rglob("*") if path.is_file()} == before


def test_stopped_in_the_middle_it_goes_on(bench, scale, data, tmp_path):
    """Stopped after every few questions, the scores are those of a run that was never stopped."""
    list(run_rows(TABLE, list(ROWS[:1]), scale, bench))
    wanted = results(bench, scale)
    out = tmp_path / "stopped"
    attempts = 0
    while attempts < 40:
        attempts += 1
        answers = iter([False] * 2 + [True] * 1000)
        stopped = Bench(bench.data, out, stop=lambda answers=answers: next(answers))
        try:
            list(run_rows(TABLE, list(ROWS[:1]), scale, stopped))
        except Interrupted:
            continue
        break
    assert 3 < attempts < 40
    assert {key: result.sets for key, result in results(stopped, scale).items()} == {
        key: result.sets for key, result in wanted.items()
    }


def test_a_changed_mask_is_scored_anew(bench, scale, data, tmp_path):
    from normnet.io.formats.nifti import write_image
    from normnet.io.read import read_ct

    list(run_rows(TABLE, list(ROWS[:1]), scale, bench))
    case = bench.data.tests["coronacases"][0]
    other = tmp_path / "other.nii.gz"
    scan = read_ct(case.image)
    write_image(other, np.zeros(scan.shape, bool), scan.geometry)
    tests = {**bench.data.tests, "coronacases": [replace(case, lesion_mask=other)]}
    changed = Bench(replace(bench.data, tests=tests), bench.out)
    assert "coronacases" not in results(changed, scale)["base", 0].sets
    list(run_rows(TABLE, list(ROWS[:1]), scale, changed))
    assert results(changed, scale)["base", 0].sets["coronacases"]["coronacases_001"]["dsc"] in (
        0,
        1,
    )


def test_a_constant_rate_goes_on_from_the_shorter_training(bench, scale, monkeypatch):
    rows = [
        Row(id="short", label="s", votes=(0,), length=0.5),
        Row(id="long", label="l", votes=(0,)),
    ]
    steps = []
    from normnet.experiments import bench as module

    train = module.train_member

    def counting(*args, on_step, **kwargs):
        return train(
            *args, on_step=lambda step, loss: (steps.append(step), on_step(step, loss)), **kwargs
        )

    monkeypatch.setattr(module, "train_member", counting)
    list(run_rows(TABLE, rows, scale, bench))
    assert steps == [1, 2, 3, 4] * 2  # of each seed


def test_the_opposite_turns_probabilities_round():
    network = torch.nn.Conv3d(1, 1, 1)
    image = torch.randn(1, 1, 4, 4, 4)
    total = torch.sigmoid(network(image)) + torch.sigmoid(Opposite(network)(image))
    assert torch.allclose(total, torch.ones_like(total))


def test_scores_are_stored_with_their_settings(bench, scale):
    list(run_rows(TABLE, list(ROWS[:1]), scale, bench))
    [result, _] = finished_rows(TABLE, scale, bench)[:2]
    stored = json.loads((bench.out / "scores" / f"{result.key}.json").read_text())
    assert stored["config"]["network"]["channels"] == [4, 8]
    assert stored["seeds"] == [0]
    assert len(stored["cases"]) == 2


def test_how_a_ct_is_read_belongs_to_its_key(bench):
    case = bench.data.tests["coronacases"][0]
    others = (
        {"lesion_labels": frozenset({3})},
        {"window_hu": (-1400.0, 100.0)},
        {"mask_follows_array": True},
    )
    keys = {bench.case_key(replace(case, **other)) for other in ({}, *others)}
    assert len(keys) == 4


def test_ct_of_one_patient_are_of_one_set():
    """A letter after the number tells the CTs of one patient apart, as ``patient_of`` says."""
    assert {set_of(name) for name in ("case_1a", "case_1B", "case_2", "Case")} == {"case", "Case"}
    assert set_of("coronacases_001") == "coronacases"


def test_damaged_files_are_made_anew(tmp_path):
    path = tmp_path / "lungs.npz"
    assert read_stored(path, "labels") is None
    np.savez_compressed(path, labels=np.arange(1000))
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[:200] + bytes(50) + whole[250:]):
        path.write_bytes(damaged)
        assert read_stored(path, "labels") is None
    path.write_bytes(whole)
    assert (read_stored(path, "labels")[0] == np.arange(1000)).all()


def test_a_set_is_shown_once_it_is_complete(bench, scale):
    """The mean of some CTs beside that of all would mislead."""
    list(run_rows(TABLE, list(ROWS[:1]), scale, bench))
    assert set(results(bench, scale)["base", 0].sets) == {"coronacases", "radiopaedia"}
    cases = bench.data.tests["coronacases"]
    cases.append(replace(cases[0], case_id="coronacases_002", lesion_labels=frozenset({9})))
    assert set(results(bench, scale)["base", 0].sets) == {"radiopaedia"}


def test_without_normal_cts(bench, scale):
    empty = Bench(replace(bench.data, normals=[]), bench.out)
    with pytest.raises(InputError, match="NN-TRN-011"):
        list(run_rows(TABLE, list(ROWS[:1]), scale, empty))
