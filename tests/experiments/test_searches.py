"""The search of the post-processing's values and of thresholds: exact, and never done twice."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from normnet.config import PostprocessingConfig
from normnet.errors import InputError
from normnet.evaluation.metrics import compute_overlap
from normnet.experiments import searches
from normnet.experiments.bench import Bench, Data, Interrupted
from normnet.experiments.catalogue import find_experiment, load_scale
from normnet.experiments.searches import (
    K_D,
    K_F,
    PAPER,
    T_D,
    T_F,
    dice_on_grid,
    search_postprocessing,
    search_threshold,
    write_search,
)
from normnet.experiments.thresholds import reference_on_grid
from normnet.postprocessing import postprocess

SEARCHES = {"search-postprocessing": search_postprocessing, "search-threshold": search_threshold}


@pytest.fixture
def scale(tiny_scale):
    return load_scale(str(tiny_scale))


# --- the grid ---


def test_all_at_once_is_what_each_alone_gives(bench, scale):
    """At points all over the grid; the thorax is padded as in the paper, so the box is cut out."""
    padded = {**scale.settings["preparation"], "pad_to": [96, 96]}
    config = scale.model_copy(
        update={"settings": {**scale.settings, "preparation": padded}}
    ).config()
    subject = bench.subject(bench.data.tests["coronacases"][0], config)
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.random((8, 24, 24)), np.ones((4, 4, 4)))[
        : subject.prepared.lung_mask.shape[0]
    ]
    thorax = (blocks**2 * subject.prepared.lung_mask).astype(
        np.float32
    )  # bright blocks up to the lungs' edge
    prepared = replace(subject.prepared, thorax=thorax)
    subject = subject._replace(prepared=prepared)
    reference = reference_on_grid(subject)
    normal_mask = rng.random(prepared.lung_mask.shape) < 0.4
    points = list(product(K_D, K_F, T_D, T_F))
    for settings, tried in (
        (PostprocessingConfig(), points[::3]),
        (PostprocessingConfig(normalised=True), points[::7]),
        (PostprocessingConfig(dimensions=2, dilation_vox=1), points[::17]),
    ):
        found = dice_on_grid(subject, normal_mask, config.window.tau, settings)
        assert found.shape == (4, 4, 5, 4)
        assert len(np.unique(found)) > 50
        for point in tried:
            k_d, k_f, t_d, t_f = point
            alone = settings.model_copy(update={"k_d": k_d, "k_f": k_f, "t_d": t_d, "t_f": t_f})
            core = postprocess(
                prepared.thorax,
                prepared.volume_hu,
                prepared.lung_mask,
                normal_mask,
                config.window.tau,
                alone,
            ).core
            place = K_D.index(k_d), K_F.index(k_f), T_D.index(t_d), T_F.index(t_f)
            assert found[place] == compute_overlap(core, reference).dsc, point


def test_the_reference_on_the_prepared_grid(bench, scale):
    """The same spacing here, so it is the reference itself, in the lungs' box."""
    subject = bench.subject(bench.data.tests["coronacases"][0], scale.config())
    np.testing.assert_array_equal(
        subject.prepared.restore_mask(reference_on_grid(subject)), subject.reference
    )


def test_three_cases_of_the_sets_in_turn(bench, scale, monkeypatch):
    """Of three and one: one, one, and the first set's second."""
    scored = []

    def each_case(cases, what, score, scale, bench):
        scored.extend(cases)
        return "key", [(case, np.zeros((4, 4, 5, 4)).tolist()) for case in cases]

    (corona,), (radio,) = bench.data.tests["coronacases"], bench.data.tests["radiopaedia"]
    monkeypatch.setattr(searches, "_each_case", each_case)
    bench.data.tests.update(coronacases=[corona, corona, corona], radiopaedia=[radio])
    search_postprocessing(scale, bench)
    assert scored == [corona, radio, corona]


# --- as experiments ---


def test_every_point_of_the_grid(bench, scale):
    rows = search_postprocessing(scale, bench)
    assert len(rows) == 4 * 4 * 5 * 4
    means = [row["mean"] for row in rows]
    assert means == sorted(means, reverse=True)
    assert rows[0]["note"].startswith("best")
    (paper,) = [row for row in rows if "paper" in row["note"]]
    assert (paper["k_d"], paper["k_f"], paper["t_d"], paper["t_f"]) == PAPER
    for row in rows:
        assert row["mean"] == pytest.approx((row["coronacases_001"] + row["radiopaedia_5"]) / 2)
        assert 0 <= row["mean"] <= 100


def test_thresholds_of_every_set_and_map(bench, scale):
    rows = search_threshold(scale, bench)
    assert [(row["set"], row["map"]) for row in rows] == list(
        product(["Coronacases", "Radiopaedia"], searches.MAPS)
    )
    for row in rows:
        assert 0 <= row["threshold"] < 1
        assert row["n_cases"] == 1
    # bright tissue of the lungs is vessels and lesions: a threshold on the HU finds much of it
    assert rows[1]["dsc"] > 30


@pytest.mark.parametrize("name", SEARCHES)
def test_nothing_is_done_twice(bench, scale, name, monkeypatch):
    first = SEARCHES[name](scale, bench)

    def never(*args, **kwargs):
        raise AssertionError("made again")

    monkeypatch.setattr(Bench, "network", never)
    monkeypatch.setattr(Bench, "subject", never)
    assert SEARCHES[name](scale, bench) == first
    longer = {**scale.settings, "training": {**scale.settings["training"], "iterations": 5}}
    with pytest.raises(AssertionError, match="made again"):
        SEARCHES[name](scale.model_copy(update={"settings": longer}), bench)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_stopped_search_keeps_what_it_has(bench, scale, name, monkeypatch):
    bench.network(scale.config(), 0)
    stored = bench.out / "searches"
    monkeypatch.setattr(bench, "stop", lambda: stored.exists())
    with pytest.raises(Interrupted):
        SEARCHES[name](scale, bench)
    (first,) = stored.iterdir()
    before = first.stat().st_mtime_ns
    monkeypatch.setattr(bench, "stop", lambda: False)
    SEARCHES[name](scale, bench)
    assert len(list(stored.iterdir())) == 2
    assert first.stat().st_mtime_ns == before


@pytest.mark.parametrize("name", SEARCHES)
def test_without_lesion_masks(scale, name, tmp_path):
    with pytest.raises(InputError) as caught:
        SEARCHES[name](scale, Bench(Data([], {"coronacases": []}, []), tmp_path))
    assert caught.value.code == "NN-EXP-020"


def test_tables_of_the_grid(bench, scale, tmp_path):
    rows = search_postprocessing(scale, bench)
    paths = write_search(tmp_path, find_experiment("search-postprocessing"), scale, rows)
    texts = {path.suffix: path.read_text() for path in paths}
    assert texts[".csv"].count("\n") == 321
    assert "config,note,k_d,k_f,t_d,t_f,mean,coronacases_001,radiopaedia_5\n" in texts[".csv"]
    assert "the paper's: (k_d, k_f) = (9, 7), (t_d, t_f) = (0.2, 0.15) with DSC" in texts[".md"]
    assert "2 cases: coronacases_001, radiopaedia_5." in texts[".md"]
    assert rows[0]["config"][:8] in texts[".md"]
    assert texts[".md"].count("\n| ") in (
        11,
        12,
    )  # heading, ten best, the paper's if not among them
    assert r"k\_d & k\_f" in texts[".tex"]


def test_tables_of_thresholds(bench, scale, tmp_path):
    paths = write_search(
        tmp_path, find_experiment("search-threshold"), scale, search_threshold(scale, bench)
    )
    texts = {path.suffix: path.read_text() for path in paths}
    assert "Coronacases: 1 cases; Radiopaedia: 1 cases." in texts[".md"]
    assert texts[".csv"].count("windowed HU") == texts[".md"].count("| windowed HU |") == 2
