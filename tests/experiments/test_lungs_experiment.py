"""Lungs in cross-validation: no fold sees what it is scored on, and nothing is done twice."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch

from normnet.errors import InputError, ValueRangeError
from normnet.experiments import lungs
from normnet.experiments.bench import Bench, Interrupted, find_data
from normnet.experiments.catalogue import find_experiment, load_scale
from normnet.io.formats.nifti import write_image
from normnet.training.lungs import segmenter
from tests.datasets import trees
from tests.phantoms import thorax_phantom, write_nifti

SHAPE, SPACING_MM = (32, 64, 64), (5.0, 5.0, 5.0)
TINY = {"channels": [8, 16], "n_res_units": 1, "crop_px": 64}
DRAWN = slice(10, 20)  # slices in which the lungs of the test CT are drawn


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three CTs to train on, one held out, and one Coronacases with lungs drawn in ten slices."""
    folder = tmp_path_factory.mktemp("data")
    rows = ["case_id,file,split,lung_mask,lesion_mask"]
    for seed, name in enumerate(["a", "b", "c", "heldout", "coronacases_001"]):
        phantom = thorax_phantom(SHAPE, SPACING_MM, lesions=seed == 4, seed=seed)
        drawn = phantom.lung_mask.copy()
        if seed == 4:
            drawn[: DRAWN.start] = drawn[DRAWN.stop :] = False
        write_nifti(phantom.scan, folder / f"{name}.nii.gz")
        write_image(folder / f"{name}_lung.nii.gz", drawn, phantom.scan.geometry)
        split = "train" if seed < 3 else "dev"
        rows.append(
            f"{name},{name}.nii.gz,{split},{name}_lung.nii.gz,"
            + (f"{name}_lesion.nii.gz" if seed == 4 else "")
        )
    write_image(
        folder / "coronacases_001_lesion.nii.gz", phantom.lesion_mask, phantom.scan.geometry
    )
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def own_bench(folder, tmp_path):
    return Bench(find_data([folder], []), tmp_path / "out")


@pytest.fixture
def run(own_bench, tiny_scale, tmp_path):
    def run(bench=own_bench, iterations=2):
        scale = load_scale(str(tiny_scale))
        tiny = {**TINY, "iterations": iterations}
        coarse = {**scale.settings, "lungs": {"pixel_mm": 5.0}, "lungs_training": tiny}
        scale = scale.model_copy(update={"settings": coarse})
        paths = lungs.run_lungs(tmp_path / "tables", find_experiment("lungs"), scale, bench)
        texts = {path.suffix: path.read_text() for path in paths}
        return list(csv.DictReader(texts[".csv"].splitlines())), texts

    return run


def true_lungs(scan, networks, config, device="cpu"):
    """Segments the right lung alone and notes the networks; nothing is learned."""
    mask = thorax_phantom(scan.shape, scan.geometry.spacing_mm, vessels=False).lung_mask
    mask[:, :, scan.shape[2] // 2 :] = False
    return mask.astype(np.uint8)


def test_dice_in_the_slices_with_a_reference(run, monkeypatch):
    """One lung of two equal ones: 2 x 1 / (1 + 2)."""
    monkeypatch.setattr(lungs, "segment_lungs", true_lungs)
    records, texts = run()
    assert [(line["case"], line["networks"]) for line in records] == [
        ("a", "fold 1"),
        ("b", "fold 2"),
        ("c", "fold 3"),
        ("coronacases_001", "all folds"),
    ]
    assert {line["dice"] for line in records} == {"66.67"}
    assert "| csv, held out | 3 | 66.7 | 0.0 | 66.7 | - |" in texts[".md"]
    assert "| Coronacases | 1 | 66.7 | - | 66.7 | > 98 |" in texts[".md"]
    assert "3 folds of 2 iterations. Trained on 3 CTs of csv." in texts[".md"]
    assert "66.7 & 0.0 & 66.7" in texts[".tex"]


def test_no_fold_has_seen_what_it_is_scored_on(run, own_bench, monkeypatch):
    """Slices tell by their noise whose they are."""
    seen, scored = [], []
    real = segmenter.train_lungs

    def train_lungs(slices, config, training, **options):
        seen.append({item.image_hu.tobytes() for item in slices})
        return real(slices, config, training, **options)

    def segment(scan, networks, config, device):
        scored.append((len(networks), networks[0].state_dict()))
        return true_lungs(scan, networks, config)

    monkeypatch.setattr(segmenter, "train_lungs", train_lungs)
    monkeypatch.setattr(lungs, "segment_lungs", segment)
    run()
    assert len(seen) == 3
    assert [n for n, _ in scored] == [1, 1, 1, 3]
    assert not seen[0] & seen[1] & seen[2]  # every slice is missing in one fold
    assert all(seen[k] & seen[k - 1] for k in range(3))
    every = seen[0] | seen[1] | seen[2]
    assert sum(len(every - fold) for fold in seen) == len(every)
    weights = [next(iter(state.values())) for _, state in scored[:3]]
    assert not torch.equal(weights[0], weights[1])


def test_a_trained_network_finds_lungs(run, monkeypatch):
    real = segmenter.train_lungs
    faster = {"batch": 4, "learning_rate": 1e-2, "sick_share": 0.0}

    def train_lungs(slices, config, training, **options):
        return real(slices, config, training.model_copy(update=faster), **options)

    monkeypatch.setattr(segmenter, "train_lungs", train_lungs)
    records, _ = run(iterations=60)
    dice = [float(line["dice"]) for line in records]
    assert dice[-1] > 80, dice  # all folds; a single one of so few steps may find nothing
    assert max(dice[:-1]) > 80, dice


def test_no_lung_found_is_a_dice_of_zero(run, monkeypatch):
    def segment(*args):
        raise ValueRangeError("NN-VAL-020", "no lung found")

    monkeypatch.setattr(lungs, "segment_lungs", segment)
    records, _ = run()
    assert {line["dice"] for line in records} == {"0.00"}


def test_nothing_is_done_twice(run, own_bench, folder, monkeypatch):
    monkeypatch.setattr(lungs, "segment_lungs", true_lungs)
    first = run()

    def never(*args, **kwargs):
        raise AssertionError("made again")

    monkeypatch.setattr(segmenter, "train_lungs", never)
    monkeypatch.setattr(lungs, "segment_lungs", never)
    monkeypatch.setattr(lungs, "read_scan", never)
    assert run() == first
    with pytest.raises(AssertionError, match="made again"):
        run(iterations=3)


def test_a_stopped_run_goes_on(run, own_bench, monkeypatch):
    """Stopped in the second fold: the first is there and is not trained again."""
    trained = []
    real = segmenter.train_lungs

    def train_lungs(slices, config, training, **options):
        trained.append(training.seed)
        return real(slices, config, training, **options)

    monkeypatch.setattr(segmenter, "train_lungs", train_lungs)
    monkeypatch.setattr(lungs, "segment_lungs", true_lungs)
    monkeypatch.setattr(own_bench, "stop", lambda: len(trained) == 2)
    with pytest.raises(Interrupted):
        run()
    assert trained == [0, 1]
    monkeypatch.setattr(own_bench, "stop", lambda: False)
    run()
    assert trained == [0, 1, 1, 2]


def test_stopped_between_scores(run, own_bench, monkeypatch):
    scored = []

    def segment(scan, networks, config, device):
        scored.append(len(networks))
        return true_lungs(scan, networks, config)

    monkeypatch.setattr(lungs, "segment_lungs", segment)
    monkeypatch.setattr(own_bench, "stop", lambda: len(scored) == 2)
    with pytest.raises(Interrupted):
        run()
    monkeypatch.setattr(own_bench, "stop", lambda: False)
    run()
    assert scored == [1, 1, 1, 3]


def test_the_papers_sets_by_their_folders(tmp_path):
    trees.structseg(tmp_path / "structseg")
    trees.msd_lung(tmp_path / "msd")
    trees.nsclc(tmp_path / "nsclc")  # two patients, one without lungs
    trees.luna16(tmp_path / "luna16")  # normal CTs with lungs, not for this
    names = ("structseg", "msd", "nsclc", "luna16")
    bench = Bench(
        find_data([tmp_path / name for name in names], ["structseg_10"]), tmp_path / "out"
    )
    found = lungs.find_lung_cases(bench)
    assert [(item.set_name, item.case.case_id) for item in found] == [
        ("structseg", "structseg_01"),
        ("structseg", "structseg_02"),
        ("msd-lung", "msd_lung_001"),
        ("msd-lung", "msd_lung_003"),
        ("nsclc", "LUNG1-001"),
    ]


def test_of_many_cts_fewer_slices_each(run, monkeypatch):
    """Three CTs of 63 slices each, thin and thick, at most 30 in all: every seventh."""
    counted = []
    real = segmenter.train_lungs

    def train_lungs(slices, config, training, **options):
        counted.append(len(slices))
        return real(slices, config, training, **options)

    monkeypatch.setattr(segmenter, "train_lungs", train_lungs)
    monkeypatch.setattr(lungs, "segment_lungs", true_lungs)
    run()
    assert counted == [2 * 63] * 3
    monkeypatch.setattr(lungs, "MOST_SLICES", 30)
    run()
    assert counted[3:] == [2 * 9] * 3


def test_two_cts_are_needed(run, own_bench):
    few = Bench(replace(own_bench.data, left_out=frozenset({"a", "b"})), own_bench.out)
    with pytest.raises(InputError) as caught:
        run(few)
    assert caught.value.code == "NN-EXP-021"


def test_cts_of_a_patient_are_in_one_fold(folder, tmp_path):
    """The letter after the last digit tells the CTs of one patient apart."""
    names = {"a": "p1a", "b": "p1b", "c": "p2"}
    head, *rows = (folder / "cases.csv").read_text().splitlines()
    renamed = [
        ",".join([names.get(row[0], row.split(",")[0]), *row.split(",")[1:]]) for row in rows
    ]
    listed = folder / "patients.csv"
    listed.write_text("\n".join([head, *renamed]) + "\n")
    bench = Bench(find_data([listed], []), tmp_path / "out")
    config = load_scale("small").config()
    cases = lungs.find_lung_cases(bench)
    folds = lungs._make_folds(cases, config.lungs, config.lungs_training, bench)
    found = [[item.case.case_id for item in fold.held_out] for fold in folds]
    assert found == [["p1a", "p1b"], ["p2"]]
