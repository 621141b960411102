"""Folds that keep patients apart, and the lesions of CTs that were left out."""

import json
from pathlib import Path

import numpy as np
import pytest

from normnet.datasets.manifest import Case
from normnet.errors import InputError
from normnet.experiments import supervised
from normnet.experiments.bench import Interrupted
from normnet.experiments.catalogue import load_scale
from normnet.experiments.supervised import (
    fold_folder,
    folds,
    load_mask,
    patient_of,
    predict_left_out,
    store_mask,
)


def make_cases(*names):
    return [Case(name, Path(f"{name}.nii")) for name in names]


CASES = {
    "b": make_cases("b_10", "b_2", "b_1"),
    "a": make_cases("a_1", "a_2B", "a_2a", "a_3"),
    "empty": [],
}


def held_out(split):
    return [[case.case_id for case in fold.held_out] for fold in split]


def test_two_folds_of_patients():
    split = folds(CASES)
    assert held_out(split) == [["a_1", "a_3", "b_1", "b_10"], ["a_2B", "a_2a", "b_2"]]
    for fold, other in (split, split[::-1]):
        assert fold.trained_on == other.held_out


def test_folds_do_not_depend_on_the_order():
    turned = {name: cases[::-1] for name, cases in reversed(CASES.items())}
    assert folds(turned) == folds(CASES)


def test_a_set_is_split_alike_beside_others():
    alone = held_out(folds({"b": CASES["b"]}))
    assert alone == [["b_1", "b_10"], ["b_2"]]


def test_one_fold_per_set():
    split = folds(CASES, "sets")
    assert [fold.name for fold in split] == ["without a", "without b"]
    assert held_out(split) == [["a_1", "a_2B", "a_2a", "a_3"], ["b_1", "b_2", "b_10"]]
    assert split[0].trained_on == split[1].held_out


def test_patients():
    assert patient_of("lungdx_a0001B") == patient_of("lungdx_a0001L")
    assert patient_of("coronacases_001") != patient_of("coronacases_002")


@pytest.mark.parametrize(
    ("cases", "scheme"),
    [({}, "patients"), ({"a": make_cases("a_1")}, "patients"), ({"a": CASES["a"]}, "sets")],
)
def test_nothing_to_learn_from(cases, scheme):
    with pytest.raises(InputError, match="NN-EXP-022"):
        folds(cases, scheme)


def test_mask_file(tmp_path):
    mask = np.random.default_rng(0).random((3, 5, 7)) < 0.5
    store_mask(tmp_path / "masks" / "a.npz", mask)
    path = tmp_path / "masks" / "a.npz"
    assert (load_mask(path) == mask).all()
    path.write_bytes(path.read_bytes()[:-30])
    assert load_mask(path) is None
    assert load_mask(tmp_path / "none.npz") is None


@pytest.fixture
def short(monkeypatch):
    """Three iterations; lists of the CTs that networks were trained on."""
    learned = []
    read = supervised._read_slices

    def spy(method, cases, scale, bench, size):
        learned.append([case.case_id for case in cases])
        return read(method, cases, scale, bench, size)

    monkeypatch.setattr(supervised, "_read_slices", spy)
    return learned


@pytest.mark.parametrize("scheme", ["patients", "sets"])
def test_predict_left_out(bench, tiny_scale, short, scheme):
    """Both CTs of the fixtures are of a data set of their own: each is predicted by the other."""
    bench.data.tests["coronacases"].append(bench.data.tests["radiopaedia"][0])
    if scheme == "patients":
        bench.data.tests["radiopaedia"].clear()
    else:
        bench.data.tests["coronacases"].pop()
    scale = load_scale(str(tiny_scale))
    split = folds(bench.data.tests, scheme, scale.supervised.folds)
    first = list(predict_left_out("cople-net", scale, bench, split))
    assert [subject.case.case_id for subject, _ in first] == ["coronacases_001", "radiopaedia_5"]
    assert short == [["radiopaedia_5"], ["coronacases_001"]]
    for subject, mask in first:
        assert mask.dtype == bool
        assert mask.shape == subject.prepared.thorax.shape
        assert not (mask & ~subject.prepared.lung_mask).any()
    method = supervised.find_supervised("cople-net")
    folders = [fold_folder(method, scale, bench, fold) for fold in split]
    about = [json.loads((folder / "training.json").read_text()) for folder in folders]
    assert [one["trained_on"] for one in about] == short
    assert [one["iterations"] for one in about] == ["4", "4"]
    for path in bench.out.glob("supervised/*/network.safetensors"):
        path.unlink()  # masks are enough
    again = list(predict_left_out("cople-net", scale, bench, split))
    assert len(short) == 2
    assert all((one == other).all() for (_, one), (_, other) in zip(first, again, strict=True))


def test_interrupted(bench, tiny_scale):
    """The run stops after an iteration; a later one goes on from there."""
    bench.data.tests["coronacases"].extend(bench.data.tests.pop("radiopaedia"))
    scale, steps = load_scale(str(tiny_scale)), iter([False, False, True])
    bench.stop = lambda: next(steps, False)
    split = folds(bench.data.tests)
    with pytest.raises(Interrupted):
        list(predict_left_out("cople-net", scale, bench, split))
    assert list(bench.out.glob("supervised/*/checkpoints/step-000001.ckpt"))
    assert len(list(predict_left_out("cople-net", scale, bench, split))) == 2
    assert not list(bench.out.glob("supervised/*/checkpoints"))
