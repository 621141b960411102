"""Fig. 7 on phantoms, with networks that hardly learn."""

import json

import numpy as np
import pytest

from normnet.baselines.fitting import BaselineSettings
from normnet.baselines.methods import METHODS
from normnet.experiments.baselines import baseline_settings, score_or_load, train_or_load
from normnet.experiments.bench import Interrupted
from normnet.experiments.catalogue import load_scale
from normnet.experiments.figures import draw_figure, save_figure

TINY = BaselineSettings(size=32, batch=4, iterations=2, restore_steps=2)


@pytest.fixture
def scale(tiny_scale, monkeypatch):
    monkeypatch.setattr("normnet.experiments.baselines.baseline_settings", lambda scale: TINY)
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


def test_map(scale, bench):
    baseline = train_or_load(METHODS["vae"], scale, bench)
    subject = bench.subject(bench.data.tests["coronacases"][0], scale.config())
    new, stored = (score_or_load(baseline, subject, bench) for _ in range(2))
    assert new.shape == subject.prepared.thorax.shape
    assert np.array_equal(new, stored)
    assert new.dtype == np.float32
    assert 0 < new.max() <= 1
    assert not new[~subject.prepared.lung_mask].any()


def test_tuned_values_are_stored(scale, bench):
    weight = train_or_load(METHODS["vae-restoration"], scale, bench)
    assert weight.tuned.n_steps == TINY.restore_steps
    (path,) = weight.folder.glob("tuned-vae-restoration-*.json")
    path.write_text(json.dumps(7.0))
    again = train_or_load(METHODS["vae-restoration"], scale, bench)
    assert (again.tuned.value, again.folder) == (
        7.0,
        train_or_load(METHODS["vae"], scale, bench).folder,
    )


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
    assert baseline.folder == folder
    assert [path.name for path in folder.rglob("*.ckpt")] == ["step-000002.ckpt"]
    subject = bench.subject(bench.data.tests["coronacases"][0], scale.config())
    bench.stop = lambda: True
    with pytest.raises(Interrupted):
        score_or_load(baseline, subject, bench)
    assert not list(folder.rglob("*.npz"))


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("paper", {}, BaselineSettings(512, 16, 6000, 3e-4, 150)),
        (
            "small",
            {"iterations": 1500, "slab_vox": [32, 160, 160]},
            BaselineSettings(128, 16, 400, 1e-3, 10),
        ),
        (
            "mine",
            {"iterations": 4, "slab_vox": [16, 32, 32]},
            BaselineSettings(32, 16, 4, 1e-3, 10),
        ),
        (
            "mine",
            {"iterations": 4, "slab_vox": [16, 16, 16]},
            BaselineSettings(32, 16, 4, 1e-3, 10),
        ),
    ],
)
def test_settings(name, settings, expected):
    scale = load_scale("paper").model_copy(
        update={"name": name, "settings": {"training": settings}}
    )
    assert baseline_settings(scale) == expected
