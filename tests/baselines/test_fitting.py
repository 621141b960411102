"""Every method trains and scores; the loop is deterministic and resumes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from normnet.baselines.fitting import count_iterations, load_network, train_baseline, tune
from normnet.baselines.methods import METHODS
from normnet.baselines.score import compute_anomaly, score_slices
from normnet.training.checkpoints import load_newest
from tests.baselines.conftest import CONFIG, TINY


def train(name, cases, folder=None, seed=0, stop_after=None, settings=TINY):
    seen = []
    return train_baseline(
        METHODS[name],
        cases,
        CONFIG,
        settings,
        seed=seed,
        checkpoints=folder,
        on_step=lambda step, loss: seen.append(step),
        stop=lambda: len(seen) == stop_after,
    )


def same(one, other):
    tensors = [
        (state.network[name], other.network[name]) for state in (one,) for name in one.network
    ]
    tensors += [(part[k], other.optimizer[i][k]) for i, part in one.optimizer.items() for k in part]
    return one.losses == other.losses and all(a.equal(b) for a, b in tensors)


@pytest.mark.parametrize("name", METHODS)
def test_every_method(name, cases, sick, tmp_path):
    """It trains, is stored and loaded, and scores; the same seed gives the same map."""
    method = METHODS[name]
    train(name, cases, tmp_path)
    state = load_newest(tmp_path)
    assert state.step == count_iterations(method, TINY) == 3 * (2 if name == "f-anogan" else 1)
    assert np.isfinite(state.losses).all()
    network = load_network(method, TINY, state)
    tuned = tune(method, network, cases, CONFIG, TINY)
    assert (tuned.value > 0) == (name in ("kl-grad", "vae-restoration"))
    wanted = np.flatnonzero(sick.lung_mask.any(axis=(1, 2))).tolist()
    scored = list(score_slices(method, network, sick, CONFIG.window, TINY, tuned, wanted))
    assert [z for z, *_ in scored] == wanted
    for z, shown, score in scored:
        assert shown.shape == score.shape == sick.thorax.shape[1:]
        assert np.isfinite(shown).all()
        assert score.min() >= 0 and score.max() <= 1
        assert not score[~sick.lung_mask[z]].any()
    assert any(score.any() for *_, score in scored)
    anomaly = compute_anomaly(scored, sick.lung_mask)
    assert anomaly.shape == sick.thorax.shape and anomaly.max() <= 100
    assert not anomaly[~sick.lung_mask].any()
    anew = load_network(method, TINY, train(name, cases))
    assert tune(method, anew, cases, CONFIG, TINY) == tuned
    again = score_slices(method, anew, sick, CONFIG.window, TINY, tuned, wanted)
    assert np.array_equal(compute_anomaly(again, sick.lung_mask), anomaly)


@pytest.mark.parametrize("name", ["ae", "vae"])
def test_an_easy_set_is_learned(name, cases):
    settings = replace(TINY, batch=8, iterations=25, learning_rate=3e-3)
    losses = train(name, [cases[0]], settings=settings).losses
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


@pytest.mark.parametrize("name", ["bayesian-vae", "f-anogan"])
def test_same_seed_same_bytes(name, cases):
    one = train(name, cases)
    assert same(one, train(name, cases))
    assert not same(one, train(name, cases, seed=1))


@pytest.mark.parametrize(("name", "stop_after"), [("vae", 1), ("f-anogan", 2), ("f-anogan", 5)])
def test_resumed(name, stop_after, cases, tmp_path):
    """A stop in either stage changes nothing."""
    assert train(name, cases, tmp_path, stop_after=stop_after).step == stop_after
    resumed = train(name, cases, tmp_path)
    assert resumed.step == count_iterations(METHODS[name], TINY)
    assert same(resumed, train(name, cases))


def test_statistics_are_learned_and_then_fixed(cases):
    state = train("ae", cases)
    means = state.network["encode.encoder.levels.0.1.running_mean"]
    assert means.abs().max() > 0
    network = load_network(METHODS["ae"], TINY, state)
    images = torch.rand(2, 1, 32, 32)
    rng = torch.Generator()
    one, both = network.encode(images[:1], rng).mean, network.encode(images, rng).mean
    assert torch.allclose(one[0], both[0], atol=1e-5)
