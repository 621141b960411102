"""The loop: same seed, same bytes; resumed equals uninterrupted; damaged checkpoints."""

from __future__ import annotations

import warnings
from itertools import pairwise

import pytest
import torch
from safetensors.torch import save

from normnet.config import Config, NetworkConfig, SynthesisConfig, TrainingConfig
from normnet.errors import OutputError
from normnet.io.fingerprint import sha256_of
from normnet.training.checkpoints import Checkpoint, load_newest, save_checkpoint
from normnet.training.member import learning_rate, train_member
from normnet.training.slabs import SlabSampler
from tests.training.test_slabs import make_case

CONFIG = Config(
    network=NetworkConfig(channels=(4, 8), n_res_units=1),
    synthesis=SynthesisConfig(axes_medium_vox=(4, 8), axes_large_vox=(8, 12)),
    training=TrainingConfig(
        slab_vox=(16, 32, 32),
        batch=2,
        iterations=6,
        checkpoint_every=2,
        learning_rate=1e-2,
        schedule="cosine",
        flip=True,
    ),
)


def train(folder=None, seed=0, stop_after=None, config=CONFIG) -> Checkpoint:
    seen = []
    return train_member(
        [make_case(shape=(20, 40, 40))],
        config,
        seed=seed,
        checkpoints=folder,
        on_step=lambda step, loss: seen.append(step),
        stop=lambda: len(seen) == stop_after,
    )


def bytes_of(state: Checkpoint) -> bytes:
    tensors = state.network | {f"average.{name}": value for name, value in state.average.items()}
    tensors |= {f"{i}.{k}": v for i, part in state.optimizer.items() for k, v in part.items()}
    return (
        save({name: tensor.contiguous() for name, tensor in tensors.items()})
        + repr((state.step, state.losses)).encode()
    )


@pytest.fixture(scope="module")
def uninterrupted() -> Checkpoint:
    return train()


def test_same_seed_same_bytes(uninterrupted):
    assert uninterrupted.step == len(uninterrupted.losses) == 6
    assert bytes_of(train()) == bytes_of(uninterrupted)
    assert bytes_of(train(seed=1)) != bytes_of(uninterrupted)


def test_members_see_different_slabs(monkeypatch):
    """torch's CPU generator takes the lower 32 bits of a seed only."""
    seen: dict[int, list[torch.Tensor]] = {0: [], 1: [], 2**20: []}
    sample = SlabSampler.sample
    for seed, images in seen.items():

        def record(self, rng, images=images):
            images.append(sample(self, rng).image)
            return sample(self, rng)

        monkeypatch.setattr(SlabSampler, "sample", record)
        train(seed=seed, stop_after=2)
    every = [image for images in seen.values() for image in images]
    assert len(every) == 3 * 2 * CONFIG.training.batch
    assert not any(torch.equal(one, other) for k, one in enumerate(every) for other in every[:k])


@pytest.mark.parametrize("stop_after", [3, 5])
def test_resumed_equals_uninterrupted(tmp_path, uninterrupted, stop_after):
    early = train(tmp_path, stop_after=stop_after)
    assert early.step == load_newest(tmp_path).step == stop_after
    resumed = train(tmp_path)
    assert bytes_of(resumed) == bytes_of(uninterrupted)


AVERAGING = CONFIG.model_copy(
    update={"training": CONFIG.training.model_copy(update={"average": 0.4})}
)


def test_the_average_of_the_weights(uninterrupted):
    """Mean of the first two states, since the shares are 1 and 1/2; then 0.4 of each step."""
    states = [train(stop_after=steps).network for steps in (1, 2, 3)]
    averages = [train(stop_after=steps, config=AVERAGING) for steps in (1, 2, 3)]
    name = "model.0.conv.unit0.adn.N.running_mean"
    mean = (states[0][name] + states[1][name]) / 2
    torch.testing.assert_close(averages[0].average[name], states[0][name])
    torch.testing.assert_close(averages[1].average[name], mean)
    torch.testing.assert_close(averages[2].average[name], 0.6 * mean + 0.4 * states[2][name])
    for state, averaged in zip(states, averages, strict=True):
        assert all(torch.equal(value, averaged.network[key]) for key, value in state.items())
        assert averaged.weights is averaged.average
    assert uninterrupted.weights is uninterrupted.network


def test_resumed_with_an_average_equals_uninterrupted(tmp_path):
    train(tmp_path, stop_after=3, config=AVERAGING)
    assert bytes_of(train(tmp_path, config=AVERAGING)) == bytes_of(train(config=AVERAGING))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_the_same_slabs(tmp_path, uninterrupted, workers):
    case = make_case(shape=(20, 40, 40))
    early = train_member(
        [case], CONFIG, seed=0, workers=workers, checkpoints=tmp_path, stop=lambda: True
    )
    assert early.step == 1
    assert bytes_of(
        train_member([case], CONFIG, seed=0, workers=workers, checkpoints=tmp_path)
    ) == bytes_of(uninterrupted)


def test_what_is_done_is_done(tmp_path, uninterrupted):
    train(tmp_path)
    assert bytes_of(train(tmp_path)) == bytes_of(uninterrupted)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "step-000004.ckpt",
        "step-000006.ckpt",
    ]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-100],
        lambda data: data[:20],
        lambda data: b"",
        lambda data: data[:-1] + b"\xaa",
    ],
)
def test_damaged_newest_falls_back(tmp_path, uninterrupted, damage):
    train(tmp_path, stop_after=4)
    newest = tmp_path / "step-000004.ckpt"
    newest.write_bytes(damage(newest.read_bytes()))
    with pytest.warns(UserWarning, match="step-000004.ckpt is damaged"):
        resumed = train(tmp_path)
    assert bytes_of(resumed) == bytes_of(uninterrupted)


def as_folder(path):
    path.unlink()
    (path / "own").mkdir(parents=True)


def as_link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def as_broken_link(path):
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


def as_other(data: bytes):
    def write(path):
        path.write_bytes(bytes.fromhex(sha256_of(data)) + data)

    return write


def with_losses(text: str):
    def write(path):
        tensors = {"network.x": torch.zeros(2)}
        as_other(save(tensors, metadata={"step": "4", "losses": text}))(path)

    return write


@pytest.mark.parametrize(
    "damage",
    [
        as_folder,
        as_link,
        as_broken_link,
        as_other(b""),
        as_other(b"no safetensors at all"),
        as_other(save({"x": torch.zeros(2)})),
        with_losses("[1, 2]"),
        with_losses("{"),
        with_losses("4"),
    ],
)
def test_what_is_no_checkpoint_is_left_aside(tmp_path, uninterrupted, damage):
    """It gets another name, and what lies there is not lost."""
    train(tmp_path, stop_after=4)
    damage(tmp_path / "step-000004.ckpt")
    with pytest.warns(UserWarning, match=r"step-000004.ckpt is damaged, the one before it is used"):
        resumed = train(tmp_path)
    assert bytes_of(resumed) == bytes_of(uninterrupted)
    assert len(list(tmp_path.glob("damaged-*-step-000004.ckpt"))) == 1
    assert len(list(tmp_path.glob("step-*.ckpt"))) == 2


def test_without_any_whole_checkpoint_it_begins_anew(tmp_path, uninterrupted):
    train(tmp_path, stop_after=2)
    (tmp_path / "step-000002.ckpt").write_bytes(b"")
    with pytest.warns(UserWarning, match="is damaged, the training begins anew"):
        assert bytes_of(train(tmp_path)) == bytes_of(uninterrupted)


def test_other_files_among_the_checkpoints_stay(tmp_path):
    """Also one that would be the oldest checkpoint."""
    own = {"step-000001.ckpt": b"mine", "step-last.ckpt": b"mine", "notes.txt": b"mine"}
    for name, data in own.items():
        (tmp_path / name).write_bytes(data)
    with pytest.warns(UserWarning, match="step-000001.ckpt is damaged"):
        train(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    kept = [name for name in names if (tmp_path / name).read_bytes() == b"mine"]
    assert [name.split("-", 2)[-1] for name in kept] == [
        "step-000001.ckpt",
        "notes.txt",
        "last.ckpt",
    ]


def test_checkpoints_of_another_network(tmp_path):
    train(tmp_path, stop_after=2)
    network = CONFIG.network.model_copy(update={"channels": (8, 16)})
    for other in (CONFIG.model_copy(update={"network": network}), AVERAGING):
        with pytest.raises(OutputError) as caught:
            train(tmp_path, config=other)
        assert caught.value.code == "NN-OUT-013"


def test_checkpoint_round_trip(tmp_path, uninterrupted):
    save_checkpoint(tmp_path, uninterrupted)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bytes_of(load_newest(tmp_path)) == bytes_of(uninterrupted)
    assert load_newest(tmp_path / "nothing") is None


def test_it_learns(tmp_path):
    """Thirty steps on one easy case bring the loss down."""
    easy = CONFIG.model_copy(
        update={
            "training": CONFIG.training.model_copy(
                update={"iterations": 30, "schedule": "constant"}
            )
        }
    )
    losses = train(config=easy).losses
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_learning_rates():
    constant = Config(training=TrainingConfig(learning_rate=3e-4, schedule="constant"))
    assert {learning_rate(step, constant) for step in (1, 1000, 2000)} == {3e-4}
    cosine = Config(training=TrainingConfig(learning_rate=1e-3, schedule="cosine", iterations=1000))
    rates = [learning_rate(step, cosine) for step in range(1, 1001)]
    assert rates[0] < rates[49] > rates[-1]
    assert all(a > b for a, b in pairwise(rates[50:]))
    assert rates[-1] == pytest.approx(2e-5)
