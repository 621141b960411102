"""Fig. 7 on phantoms, with networks that hardly learn."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from normnet.baselines.methods import METHODS
from normnet.experiments.baselines import (
    baseline_folder,
    is_trained,
    map_path,
    score_or_load,
    train_or_load,
)
from normnet.experiments.bench import Bench, Interrupted, find_data
from normnet.experiments.catalogue import load_scale
from normnet.experiments.figures import draw_figure, save_figure


@pytest.fixture
def scale(tiny_scale):
    return load_scale(str(tiny_scale))


def test_figure(scale, bench, tmp_path, monkeypatch):
    said = []
    bench.say = said.append
    figure = draw_figure("figure7", scale, bench)
    panels = [axis for axis in figure.axes if axis.images]
    assert len(panels) == 4 * len(METHODS)
    assert {text.get_text() for axis in panels for text in axis.texts} >= {
        m.label for m in METHODS.values()
    }
    assert len(list((bench.out / "baselines").glob("*/step-*.ckpt"))) == 9
    assert not list((bench.out / "baselines").rglob("checkpoints"))
    assert sum("scored" in line for line in said) == len(METHODS)  # one CT in that data set
    save_figure(figure, tmp_path / "a.png")

    monkeypatch.setattr(
        "normnet.experiments.baselines.train_baseline", lambda *a, **k: pytest.fail("trained again")
    )
    said.clear()
    save_figure(draw_figure("figure7", scale, bench), tmp_path / "b.png")
    assert not said
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def never():
    raise AssertionError("no network is needed")


def test_map(scale, bench):
    method = METHODS["vae"]
    subject = bench.subject(bench.data.tests["coronacases"][0], scale.config())
    new = score_or_load(method, subject, scale, bench, partial(train_or_load, method, scale, bench))
    stored = score_or_load(method, subject, scale, bench, never)
    assert new.shape == subject.prepared.thorax.shape
    assert np.array_equal(new, stored)
    assert new.dtype == np.float32
    assert 0 < new.max() <= 1
    assert not new[~subject.prepared.lung_mask].any()


def test_a_map_and_a_network_from_elsewhere(scale, bench, data, tmp_path, monkeypatch):
    """They are found by another bench, whose CTs lie elsewhere; damaged maps are made anew."""
    method = METHODS["ae"]
    train_or_load(method, scale, bench)
    copied = Path(shutil.copytree(data, tmp_path / "copied"))
    other = Bench(find_data([copied], []), tmp_path / "other")
    folder = baseline_folder(method, scale, other)
    assert not is_trained(method, scale, other)
    folder.parent.mkdir(parents=True)
    shutil.copytree(baseline_folder(method, scale, bench), folder)
    assert is_trained(method, scale, other)
    monkeypatch.setattr("normnet.experiments.baselines.train_baseline", lambda *a, **k: never())
    train = partial(train_or_load, method, scale, other)
    case = other.data.tests["coronacases"][0]
    subject, path = other.subject(case, scale.config()), map_path(method, scale, other, case)
    lung_mask = subject.prepared.lung_mask
    path.parent.mkdir()
    np.savez_compressed(path, hundredths=np.where(lung_mask, np.uint8(7), np.uint8(0)))
    placed = score_or_load(method, subject, scale, other, never)
    assert set(np.unique(placed)) == {np.float32(0), np.float32(0.07)}
    np.savez_compressed(path, hundredths=np.zeros((2, 2, 2), np.uint8))
    made = score_or_load(method, subject, scale, other, train)
    assert made.shape == lung_mask.shape
    path.write_bytes(b"PK\x03\x04 broken")
    assert np.array_equal(score_or_load(method, subject, scale, other, train), made)


def test_what_a_key_depends_on(scale, bench):
    ae, vae, grad = (METHODS[name] for name in ("ae", "vae", "kl-grad"))
    case, other = (cases[0] for cases in bench.data.tests.values() if cases)
    longer = scale.model_copy(
        update={"baselines": scale.baselines.model_copy(update={"iterations": 3})}
    )
    more_steps = scale.model_copy(
        update={"baselines": scale.baselines.model_copy(update={"restore_steps": 3})}
    )
    folder = baseline_folder(vae, scale, bench)
    assert baseline_folder(grad, scale, bench) == folder  # of the VAE's network
    assert baseline_folder(vae, more_steps, bench) == folder
    others = [
        baseline_folder(ae, scale, bench),
        baseline_folder(vae, longer, bench),
        baseline_folder(vae, scale, bench, seed=1),
    ]
    assert len({folder, *others}) == 4
    maps = [
        map_path(vae, scale, bench, case),
        map_path(vae, scale, bench, other),
        map_path(grad, scale, bench, case),
        map_path(vae, more_steps, bench, case),
    ]
    assert len(set(maps)) == 4
    assert {path.parent for path in maps} == {folder / "maps"}


def test_tuned_values_are_stored(scale, bench):
    method = METHODS["vae-restoration"]
    weight = train_or_load(method, scale, bench)
    assert weight.tuned.n_steps == scale.baselines.restore_steps
    (path,) = baseline_folder(method, scale, bench).glob("tuned-vae-restoration-*.json")
    path.write_text(json.dumps(7.0))
    assert train_or_load(method, scale, bench).tuned.value == 7.0


def test_stopped(scale, bench):
    """In a training, which goes on from its checkpoint, and between the slices of a CT."""
    bench.normals(scale.config())
    bench.stop = lambda: True
    with pytest.raises(Interrupted):
        train_or_load(METHODS["ae"], scale, bench)
    (folder,) = (bench.out / "baselines").iterdir()
    assert [path.name for path in folder.rglob("*.ckpt")] == ["step-000001.ckpt"]
    bench.stop = lambda: False
    baseline = train_or_load(METHODS["ae"], scale, bench)
    assert baseline_folder(METHODS["ae"], scale, bench) == folder
    assert [path.name for path in folder.rglob("*.ckpt")] == ["step-000002.ckpt"]
    subject = bench.subject(bench.data.tests["coronacases"][0], scale.config())
    bench.stop = lambda: True
    with pytest.raises(Interrupted):
        score_or_load(METHODS["ae"], subject, scale, bench, lambda: baseline)
    assert not list(folder.rglob("*.npz"))
