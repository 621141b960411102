"""Faults while a training runs: killed processes, signals, a full disk, divergence."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from normnet.baselines.fitting import train_baseline
from normnet.baselines.methods import METHODS
from normnet.cli.signals import Stopped, stopping_on_signals
from normnet.config import LungsConfig
from normnet.errors import ModelError, NormNetError, OutputError, ResourceError
from normnet.training import divergence
from normnet.training.checkpoints import load_newest
from normnet.training.ensemble import train_ensemble
from normnet.training.lungs import segmenter
from normnet.training.lungs.slices import volume_slices
from normnet.training.member import train_member
from normnet.training.slabs import SlabSampler
from normnet.training.workers import make_in_order
from tests.baselines.conftest import CONFIG as BASELINE_CONFIG
from tests.baselines.conftest import TINY
from tests.phantoms import thorax_phantom
from tests.training.lungs.test_segmenter import tiny
from tests.training.test_member import AVERAGING, CONFIG, bytes_of
from tests.training.test_slabs import make_case
from tests.waiting import is_running, wait_until

ROOT = Path(__file__).parents[2]
CASES = [make_case(shape=(20, 40, 40))]
SCRIPT = """
import sys
from pathlib import Path
from multiprocessing import active_children
from normnet.training.member import train_member
from tests.training.test_member import CONFIG
from tests.training.test_slabs import make_case

def report(step, loss):
    print(step, *(child.pid for child in active_children()), flush=True)

cases, folder, workers = [make_case(shape=(20, 40, 40))], Path(sys.argv[1]), int(sys.argv[2])
train_member(cases, CONFIG, seed=0, workers=workers, checkpoints=folder, on_step=report)
"""


@pytest.fixture(scope="module")
def uninterrupted():
    return train_member(CASES, CONFIG, seed=0)


def start(folder: Path, workers: int = 0) -> subprocess.Popen:
    """A training in another process that prints each iteration and its workers."""
    arguments = [sys.executable, "-c", SCRIPT, str(folder), str(workers)]
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


# --- processes that are killed ---


def test_killed_at_random_times(tmp_path, uninterrupted):
    """At most one interval is lost each time, and nothing of the result is another."""
    rng = random.Random(4)
    done = 0
    for _ in range(3):
        process = start(tmp_path)
        steps = [int(process.stdout.readline()) for _ in range(rng.randint(1, 2)) if done < 5]
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        steps += [int(line) for line in process.stdout.read().split()]
        process.wait()
        newest = load_newest(tmp_path)
        kept = newest.step if newest else 0
        done = max(steps, default=done)
        assert done - kept <= CONFIG.training.checkpoint_every
        if newest:
            assert newest.losses == uninterrupted.losses[:kept]
    assert bytes_of(train_member(CASES, CONFIG, seed=0, checkpoints=tmp_path)) == bytes_of(
        uninterrupted
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR1])
@pytest.mark.parametrize("at_step", [1, 3])
def test_a_killed_worker_is_noticed(tmp_path, uninterrupted, number, at_step):
    """Between two iterations: the state is saved, whole, and no process is left."""
    times = []

    def kill_one(step, loss):
        if step == at_step:
            os.kill(multiprocessing.active_children()[0].pid, number)
            times.append(time.monotonic())

    with pytest.raises(ResourceError) as caught:
        train_member(CASES, CONFIG, seed=0, workers=2, checkpoints=tmp_path, on_step=kill_one)
    assert time.monotonic() - times[0] < 5
    assert caught.value.code == "NN-TRN-021"
    assert caught.value.exit_code == 8
    assert multiprocessing.active_children() == []
    kept = load_newest(tmp_path)
    assert at_step <= kept.step < CONFIG.training.iterations
    assert kept.losses == uninterrupted.losses[: kept.step]
    again = train_member(CASES, CONFIG, seed=0, checkpoints=tmp_path)
    assert bytes_of(again) == bytes_of(uninterrupted)


def test_workers_end_with_the_training(tmp_path):
    process = start(tmp_path, workers=2)
    _, *pids = map(int, process.stdout.readline().split())
    assert len(pids) == 2
    assert all(map(is_running, pids))
    process.kill()
    process.wait()
    wait_until(lambda: not any(map(is_running, pids)), within_s=5)
    process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_for_all_processes_stops_the_training_alone(tmp_path, uninterrupted, number):
    """A terminal and many schedulers signal the whole group."""
    with pytest.raises(Stopped), stopping_on_signals() as stop:

        def signal_all(step, loss):
            if step == 2:
                for child in multiprocessing.active_children():
                    os.kill(child.pid, number)
                os.kill(os.getpid(), number)

        train_member(
            CASES,
            CONFIG,
            seed=0,
            workers=2,
            checkpoints=tmp_path,
            on_step=signal_all,
            stop=stop,
        )
    assert load_newest(tmp_path).step == 2
    assert multiprocessing.active_children() == []
    again = train_member(CASES, CONFIG, seed=0, workers=1, checkpoints=tmp_path)
    assert bytes_of(again) == bytes_of(uninterrupted)


def test_a_second_signal_ends_the_training_at_once(tmp_path):
    def signal_twice(step, loss):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("goes on")

    with pytest.raises(Stopped), stopping_on_signals() as stop:
        train_member(
            CASES,
            CONFIG,
            seed=0,
            workers=2,
            checkpoints=tmp_path,
            on_step=signal_twice,
            stop=stop,
        )
    assert multiprocessing.active_children() == []


def failing(error: Exception, step: int) -> int:
    if step == 3:
        raise error
    return step


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError("no memory"), MemoryError),
        (ModelError("NN-MOD-001", "a", "b", "c"), ModelError),
        (ZeroDivisionError("nothing"), RuntimeError),
        (subprocess.CalledProcessError(3, "x"), RuntimeError),
    ],
)
def test_errors_of_workers_are_raised_in_their_place(error, kind):
    found = []
    with pytest.raises(kind) as caught:
        found.extend(make_in_order(partial(failing, error), range(1, 9), 2))
    assert str(error) in str(caught.value)
    assert multiprocessing.active_children() == []


class Unshareable:
    """As a tensor when the shared memory is full."""

    def __init__(self, step: int):
        self.step = step

    def __reduce__(self):
        raise RuntimeError("unable to allocate shared memory")


def test_no_shared_memory_for_a_batch():
    with pytest.raises(MemoryError, match="shared memory"):
        list(make_in_order(Unshareable, range(1, 4), 2))
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("n_workers", [0, 1, 3, 20])
@pytest.mark.parametrize("steps", [range(1, 12), range(5, 6), range(4, 4)])
def test_workers_keep_the_order(n_workers, steps):
    assert list(make_in_order(str, steps, n_workers)) == [str(step) for step in steps]


# --- disks ---


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk(tmp_path, uninterrupted, monkeypatch, number):
    """In the second checkpoint: exit code 7, and the first is still good."""
    real, calls = os.fsync, []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) > 2:  # the file and its folder, then the next file
            raise OSError(number, os.strerror(number))
        real(descriptor)

    with monkeypatch.context() as context:
        context.setattr(os, "fsync", fsync)
        with pytest.raises(OutputError) as caught:
            train_member(CASES, CONFIG, seed=0, checkpoints=tmp_path)
    assert caught.value.exit_code == 7
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002.ckpt"]
    again = train_member(CASES, CONFIG, seed=0, checkpoints=tmp_path)
    assert bytes_of(again) == bytes_of(uninterrupted)


def test_no_room_for_a_checkpoint(tmp_path, uninterrupted):
    """A real limit on the size of files."""
    import resource

    train_member(CASES, CONFIG, seed=0, checkpoints=tmp_path, stop=lambda: True)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(OutputError) as caught:
            train_member(CASES, CONFIG, seed=0, checkpoints=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.code == "NN-OUT-001"
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001.ckpt"]
    again = train_member(CASES, CONFIG, seed=0, checkpoints=tmp_path)
    assert bytes_of(again) == bytes_of(uninterrupted)


# --- divergence ---


def with_rate(rate: float, config=CONFIG):
    """Three iterations, the last two with so high a learning rate that nothing is left."""
    update = {"learning_rate": rate, "schedule": "constant", "checkpoint_every": 1}
    return config.model_copy(update={"training": config.training.model_copy(update=update)})


@pytest.mark.parametrize("rate", [1e6, 1e12, 1e30])
@pytest.mark.parametrize("config", [CONFIG, AVERAGING])
def test_a_training_that_diverges_stops(tmp_path, rate, config):
    """NaN, infinity, and weights that the float16 of a model folder cannot hold."""
    with pytest.raises(ModelError) as caught:
        train_ensemble(CASES, with_rate(rate, config), tmp_path)
    assert caught.value.code == "NN-TRN-020"
    assert not list(tmp_path.glob("*.safetensors"))
    assert not (tmp_path / "manifest.json").exists()
    assert load_newest(tmp_path / "checkpoints/member-1") is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_last_good_checkpoint_stays(tmp_path, monkeypatch, uninterrupted, value):
    """One slab holds such a voxel."""
    real, seen = SlabSampler.sample, []

    def sample(self, rng):
        pair = real(self, rng)
        seen.append(pair)
        if len(seen) == 2 * 4:  # iteration 4
            pair.image[8, 16, 16] = value
        return pair

    with monkeypatch.context() as context:
        context.setattr(SlabSampler, "sample", sample)
        with pytest.raises(ModelError) as caught:
            train_member(CASES, CONFIG, seed=0, checkpoints=tmp_path)
    assert caught.value.code == "NN-TRN-020"
    assert "iteration 4" in str(caught.value)
    kept = load_newest(tmp_path)
    assert kept.step == 2
    assert kept.losses == uninterrupted.losses[:2]
    again = train_member(CASES, CONFIG, seed=0, checkpoints=tmp_path)
    assert bytes_of(again) == bytes_of(uninterrupted)


@pytest.mark.parametrize("rate", [1e8, 1e20, 1e30])
def test_the_training_of_lungs_that_diverges_stops(tmp_path, rate):
    lungs = LungsConfig(pixel_mm=3.0, neighbours_mm=(6.0,))
    phantom = thorax_phantom((8, 64, 64), (16.0, 5.0, 5.0), lesions=False, vessels=False)
    slices = volume_slices(phantom.scan, phantom.lung_mask, lungs)
    with pytest.raises(NormNetError) as caught:
        segmenter.train_lungs(slices, lungs, tiny(learning_rate=rate), checkpoints=tmp_path)
    assert caught.value.code == "NN-TRN-020"
    assert load_newest(tmp_path) is None


@pytest.mark.parametrize("name", ["ae", "vae", "f-anogan"])
def test_a_baseline_that_diverges_stops(tmp_path, name):
    from dataclasses import replace

    from normnet.preparation.cache import prepare_normal

    phantom = thorax_phantom((24, 64, 64), (6.0, 5.0, 5.0), lesions=False)
    cases = [prepare_normal(phantom.scan, phantom.lung_mask, BASELINE_CONFIG)]
    settings = replace(TINY, learning_rate=1e30)
    with pytest.raises(ModelError) as caught:
        train_baseline(METHODS[name], cases, BASELINE_CONFIG, settings, checkpoints=tmp_path)
    assert caught.value.code == "NN-TRN-020"
    assert load_newest(tmp_path) is None


def test_what_counts_as_diverged():
    for loss in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ModelError, match="iteration 7"):
            divergence.check_loss(loss, 7)
    divergence.check_loss(1e30, 7)
    divergence.check_weights({"a": torch.tensor([1.0]), "running_var": torch.tensor([1e9])}, 7)
    divergence.check_weights({"steps": torch.tensor(2**40)}, 7)
    for name, value in (("a", 1e9), ("a", float("nan")), ("running_var", float("inf"))):
        with pytest.raises(ModelError, match="weights"):
            divergence.check_weights({name: torch.tensor([0.0, value])}, 7)
    with pytest.raises(ModelError, match="gradients"):
        divergence.check_moments({0: {"exp_avg_sq": torch.tensor([float("inf")])}}, 7)


def test_losses_stay_readable(tmp_path, uninterrupted):
    """The log of the losses is in the checkpoint, one number per iteration."""
    train_member(CASES, CONFIG, seed=0, checkpoints=tmp_path)
    text = (tmp_path / "step-000006.ckpt").read_bytes()[32:]
    header = json.loads(text[8 : 8 + int.from_bytes(text[:8], "little")])
    assert json.loads(header["__metadata__"]["losses"]) == uninterrupted.losses
