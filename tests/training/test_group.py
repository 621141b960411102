"""Several processes train one network: same slabs, same weights, and none outlives the others."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import multiprocessing, nn

from normnet.config import Config, NetworkConfig
from normnet.errors import ConfigError, InputError, NormNetError, ResourceError
from normnet.network.losses import dice_cross_entropy
from normnet.network.unet import build_unet
from normnet.training.checkpoints import Checkpoint, load_newest
from normnet.training.group import ALONE, Group, refuse_group
from normnet.training.member import batches, train_member
from normnet.training.slabs import SlabSampler
from normnet.training.statistics import SharedBatchNorm, share_statistics
from tests.training.test_lesion_slabs import CASE as LESION_CASE
from tests.training.test_lesion_slabs import config_with
from tests.training.test_member import AVERAGING, CONFIG
from tests.training.test_slabs import make_case

CASES = [make_case(shape=(20, 40, 40))]


def config_of(base: Config = CONFIG, **training) -> Config:
    return base.model_copy(update={"training": base.training.model_copy(update=training)})


def together(size: int, act, *arguments) -> list:
    """What ``act(group, *arguments)`` returns in each process; None where it was killed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    with TemporaryDirectory() as folder:
        files = [Path(folder, str(rank)) for rank in range(size)]
        processes = [
            context.Process(target=_act, args=(Group(rank, size, rank), port, file, act, arguments))
            for rank, file in enumerate(files)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        hanging = [process for process in processes if process.exitcode is None]
        for process in hanging:
            process.kill()
        assert not hanging
        return [pickle.loads(file.read_bytes()) if file.exists() else None for file in files]


def _act(group, port, file, act, arguments):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    try:
        with group.connected("cpu"):
            result = act(group, *arguments)
    except NormNetError as error:
        result = error
    file.write_bytes(pickle.dumps(result))


# --- slabs ---


def _slabs(group, config, workers):
    sampler = SlabSampler(CASES, config)
    return list(batches(sampler, config, 5, 3, "cpu", workers, group))


@pytest.mark.parametrize(("size", "batch", "workers"), [(2, 3, 0), (2, 2, 1), (3, 4, 0)])
def test_the_slabs_are_those_of_one_process(size, batch, workers):
    """From iteration 3 to 9: the processes do not make the same number of batches."""
    config = config_of(batch=batch, iterations=9)
    whole = _slabs(ALONE, config, 0)
    shares = together(size, _slabs, config, workers)
    assert len(whole) == 7
    for share in shares:
        counts = [len(image) for image, _, _ in share]
        assert set(counts) <= {batch // size, -(-batch // size)}
    for step, batch_of_one in enumerate(whole):
        parts = [share[step] for share in shares]
        for kind, tensor in enumerate(batch_of_one):
            assert torch.equal(torch.cat([part[kind] for part in parts]), tensor)


# --- sums ---


def _share(group: Group, n: int) -> slice:
    return slice(n * group.rank // group.size, n * (group.rank + 1) // group.size)


def _loss_and_gradient(group, inside_first):
    """Of three slabs; the mask lets many voxels of the first and few of the others count."""
    rng = torch.Generator().manual_seed(1)
    logits = torch.randn((3, 1, 4, 8, 8), generator=rng)
    target = torch.rand(logits.shape, generator=rng) < 0.3
    inside = torch.rand(logits.shape, generator=rng) < 0.1
    inside[0] = True
    if not inside_first:
        inside[:1] = False
    own = _share(group, 3)
    scale = torch.tensor(0.7, requires_grad=True)
    loss = dice_cross_entropy(scale * logits[own], target[own], inside[own], group.total)
    loss.backward()
    gradient = group.total(scale.grad / group.size)
    return loss.item(), gradient.item()


@pytest.mark.parametrize("inside_first", [True, False])
def test_the_loss_is_that_of_the_whole_batch(inside_first):
    """Also where a process has no voxel that counts."""
    whole = _loss_and_gradient(ALONE, inside_first)
    for loss in together(2, _loss_and_gradient, inside_first):
        assert loss == pytest.approx(whole, rel=1e-5)


def _normalised(group, dims):
    """Output, gradients and running statistics after two batches of five."""
    rng = torch.Generator().manual_seed(2)
    own = _share(group, 5)
    kind = nn.BatchNorm3d if dims == 3 else nn.BatchNorm2d
    network = nn.Sequential(kind(2))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([1.5, 0.5]))
    share_statistics(network, group)
    assert isinstance(network[0], SharedBatchNorm) == (group.size > 1)
    for _ in range(2):
        images = 3 + 2 * torch.randn((5, 2, *[4] * dims), generator=rng)
        images[0] += 4
        weights = torch.randn(images.shape, generator=rng)[own]
        images = images[own].requires_grad_()
        out = network(images)
        network.zero_grad()
        group.total((out.square() * weights).sum()).backward()
        group.average_gradients(network)
    gradients = [parameter.grad for parameter in network.parameters()]
    return out.detach(), images.grad / group.size, gradients, network.state_dict()


@pytest.mark.parametrize("dims", [2, 3])
def test_batch_normalisation_sees_the_whole_batch(dims):
    out, image_gradient, gradients, state = _normalised(ALONE, dims)
    found = together(2, _normalised, dims)
    torch.testing.assert_close(torch.cat([part[0] for part in found]), out)
    torch.testing.assert_close(torch.cat([part[1] for part in found]), image_gradient)
    for part in found:
        torch.testing.assert_close(part[2], gradients)
        assert list(part[3]) == list(state)
        torch.testing.assert_close(dict(part[3]), dict(state))


def test_a_batch_in_which_no_voxel_counts():
    """A crop may lie in excluded slices alone: nothing is learned, and nothing diverges."""
    logits = torch.randn((2, 1, 4, 4, 4), requires_grad=True)
    loss = dice_cross_entropy(logits, torch.zeros_like(logits), torch.zeros_like(logits) > 0)
    loss.backward()
    assert float(loss.detach()) == 0
    assert not logits.grad.any()


# --- weights ---


def _train(group, config, cases, folder, stop_after, workers):
    """Rank 1 alone asks to stop."""
    seen = []

    def stop():
        seen.append(1)
        return group.rank == group.size - 1 and len(seen) == stop_after

    return train_member(
        cases, config, seed=0, group=group, checkpoints=folder, stop=stop, workers=workers
    )


def trained(size, config, cases=CASES, folder=None, stop_after=None, workers=0) -> Checkpoint:
    arguments = (config, cases, folder, stop_after, workers)
    if size == 1:
        return _train(ALONE, *arguments)
    states = together(size, _train, *arguments)
    assert all(state.losses == states[0].losses for state in states)
    for state in states:
        assert all(torch.equal(state.network[k], v) for k, v in states[0].network.items())
    return states[0]


def check_equal(one: Checkpoint, other: Checkpoint, config: Config) -> None:
    """Weights within float error.

    A bias before a batch normalisation is subtracted again: its gradient is zero but for rounding,
    of which Adam makes steps. It and the running mean, which follows it, do not change what the
    network says in training.
    """
    assert one.step == other.step
    assert one.losses == pytest.approx(other.losses, abs=1e-4)
    network = build_unet(config.network)
    normed = [f"{name}.adn.N" for name, child in network.named_modules() if hasattr(child, "adn")]
    free = [name.removesuffix("adn.N") + "conv.bias" for name in normed]
    free += [f"{name}.running_mean" for name in normed]
    assert 0 < len(free) < len(one.network) / 3
    for states in ((one.network, other.network), (one.average, other.average)):
        assert list(states[0]) == list(states[1])
        for name, value in states[0].items():
            if name not in free:
                torch.testing.assert_close(value, states[1][name], rtol=1e-4, atol=5e-5, msg=name)
    image = torch.rand(
        (2, 1, *config.training.slab_vox), generator=torch.Generator().manual_seed(3)
    )
    said = []
    for state in (one, other):
        network.load_state_dict(state.network)
        with torch.no_grad():
            said.append(torch.sigmoid(network.train()(image)))
    torch.testing.assert_close(said[0], said[1], rtol=0, atol=1e-4)


LESIONS = config_with(iterations=20, batch=3, members=1, average=0.3).model_copy(
    update={"network": NetworkConfig(channels=(4, 8), n_res_units=0, rare_start=True)}
)


@pytest.mark.parametrize(
    ("size", "config", "cases"),
    [
        (2, config_of(iterations=20), CASES),
        (2, config_of(AVERAGING, iterations=20, batch=3), CASES),
        (2, LESIONS, [LESION_CASE]),
    ],
    ids=["ensemble", "uneven batch", "lesion networks"],
)
def test_equal_weights_after_20_iterations(size, config, cases):
    one = trained(1, config, cases)
    assert one.step == 20
    check_equal(trained(size, config, cases), one, config)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_resumed_with_another_number_of_processes(tmp_path, before, after):
    config = config_of(AVERAGING, iterations=10)
    early = trained(before, config, folder=tmp_path, stop_after=5)
    assert early.step == load_newest(tmp_path).step == 5
    resumed = trained(after, config, folder=tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-000008.ckpt", "step-000010.ckpt"]
    check_equal(resumed, trained(1, config), config)


# --- ends ---


def _losing(group, config, folder, how):
    """Process 1 ends in the third iteration, by an error of its own or killed."""

    def stop():
        stop.calls += 1
        if group.rank == 1 and stop.calls == 3:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise InputError("NN-FILE-001", "a", "b", "c")
        return False

    stop.calls = 0
    return train_member(CASES, config, seed=0, group=group, checkpoints=folder, stop=stop)


@pytest.mark.parametrize("how", ["killed", "an error"])
def test_a_process_that_ends_ends_all(tmp_path, how):
    """At once, and what was saved is whole."""
    start = time.monotonic()
    first, second = together(2, _losing, CONFIG, tmp_path, how)
    assert time.monotonic() - start < 60
    assert isinstance(first, ResourceError)
    assert first.code == "NN-TRN-033"
    assert first.exit_code == 8
    assert second is None if how == "killed" else second.code == "NN-FILE-001"
    assert load_newest(tmp_path).step == 2
    check_equal(trained(1, CONFIG, folder=tmp_path), trained(1, CONFIG), CONFIG)


def _killed_worker(group, config, folder):
    def report(step, loss):
        if group.rank == 1 and step == 3:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    return train_member(
        CASES, config, seed=0, group=group, checkpoints=folder, on_step=report, workers=1
    )


def test_a_killed_worker_ends_all(tmp_path):
    config = config_of(iterations=12, checkpoint_every=100)
    first, second = together(2, _killed_worker, config, tmp_path)
    assert (first.code, second.code) == ("NN-TRN-033", "NN-TRN-021")
    assert load_newest(tmp_path).step >= 3  # lost between two iterations: saved


def _told(group, folder: Path):
    made = group.from_first(lambda: (folder / "made").write_text("x"))

    def read():
        if group.is_first:
            time.sleep(0.3)
            (folder / "later").write_text("y")
        return (folder / "later").read_text()

    return made, group.after_first(read), group.any(group.rank == 1), group.any(False)


def test_what_the_first_process_says(tmp_path):
    assert together(2, _told, tmp_path) == [(1, "y", True, False)] * 2
    assert _told(ALONE, tmp_path) == (1, "y", False, False)


def _differing(group, key):
    group.check_same({"config": {"seed": 0}, "cases": {"a": group.rank if key else 0}})


def test_processes_with_other_cases():
    assert together(2, _differing, False) == [None, None]
    assert together(2, _differing, True)[1].code == "NN-TRN-034"


# --- the environment ---

WHOLE = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.fixture
def environment(monkeypatch):
    for name in WHOLE:
        monkeypatch.delenv(name, raising=False)

    def set_to(values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_to


def test_the_environment_of_torchrun(environment):
    assert Group.from_environment() == ALONE
    refuse_group("train-lungs")
    environment(WHOLE)
    group = Group.from_environment()
    assert group == Group(1, 2, 1)
    assert not group.is_first
    assert group.device("cpu") == "cpu"
    assert group.device("cuda") == "cuda:1"
    assert ALONE.device("cuda") == "cuda"
    with pytest.raises(ConfigError, match="NN-TRN-035"):
        group.device("cuda:0")
    with pytest.raises(ConfigError, match="NN-TRN-032: train-lungs runs as one process, not as 2"):
        refuse_group("train-lungs")
    group.check_batch(2)
    with pytest.raises(ConfigError, match="NN-TRN-031: 2 processes for a batch of 1"):
        group.check_batch(1)
    environment({"WORLD_SIZE": "1"})
    assert Group.from_environment() == ALONE


@pytest.mark.parametrize("changes", [{name: ""} for name in WHOLE if name != "WORLD_SIZE"])
def test_an_incomplete_environment(environment, changes):
    environment(WHOLE | changes)
    with pytest.raises(ConfigError, match=f"NN-TRN-030.*{next(iter(changes))} is missing"):
        Group.from_environment()


@pytest.mark.parametrize(
    "changes",
    [{"WORLD_SIZE": "two"}, {"WORLD_SIZE": "-2"}, {"RANK": "2"}, {"LOCAL_RANK": "5"}],
)
def test_an_impossible_environment(environment, changes):
    environment(WHOLE | changes)
    with pytest.raises(ConfigError, match="NN-TRN-030"):
        Group.from_environment()
