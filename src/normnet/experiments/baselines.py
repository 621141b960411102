"""The baselines' networks and maps of anomaly; each is made once and stored.

Below the output folder:

    baselines/<key>/              a trained network; several methods can share it
    baselines/<key>/tuned-*.json  the value that a method chose on healthy slices
    baselines/<key>/maps/         maps of anomaly, in hundredths
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from torch import nn

from normnet.baselines.fitting import (
    BaselineSettings,
    count_iterations,
    load_network,
    train_baseline,
    tune,
)
from normnet.baselines.methods import Method, Tuned, find_method
from normnet.baselines.score import Scored, compute_anomaly, score_slices
from normnet.config import Config
from normnet.experiments.bench import Bench, Interrupted, Subject, digest, loss_line
from normnet.experiments.catalogue import Scale
from normnet.io.atomic import replacing
from normnet.io.json_files import read_or_make
from normnet.training.checkpoints import load_newest, save_checkpoint

VERSION = 3  # of the networks and of how they score


@dataclass(frozen=True)
class Baseline:
    """A method ready to score CTs.

    Attributes:
        method: The method.
        settings: Size and length of its training.
        config: Window and spacing.
        network: Trained.
        tuned: The value that it chose on healthy slices.
        seed: Of the training and of the random numbers that scoring needs.
        folder: Where all of it is stored.
    """

    method: Method
    settings: BaselineSettings
    config: Config
    network: nn.Module
    tuned: Tuned
    seed: int
    folder: Path


def baseline_settings(scale: Scale) -> BaselineSettings:
    """The paper's settings at scale ``paper``; smaller ones at other scales.

    These are 128 pixels, 400 iterations, a higher learning rate and 10 steps of restoration. A
    slice has at most as many pixels as the crop that NormNet is trained on, rounded down to a power
    of two, and there are at most as many iterations as for NormNet.
    """
    if scale.name == "paper":
        return BaselineSettings()
    training = scale.config().training
    size = 1 << (min(128, training.slab_vox[1]).bit_length() - 1)
    iterations = min(400, training.iterations)
    return BaselineSettings(
        size=max(32, size), iterations=iterations, learning_rate=1e-3, restore_steps=10
    )


def train_or_load(method: Method, scale: Scale, bench: Bench, seed: int = 0) -> Baseline:
    """A baseline; it is trained if it is missing.

    Raises:
        InputError: NN-TRN-011 without normal CTs, NN-BAS-003 if none has a slice with lung.
        Interrupted: If the run shall stop; the checkpoint stays.
    """
    config, settings = scale.config(), baseline_settings(scale)
    trained = find_method(method.trained_as or method.name)
    training = {name: value for name, value in asdict(settings).items() if name != "restore_steps"}
    key = digest(
        [
            VERSION,
            trained.name,
            training,
            config.window.model_dump(),
            bench.normals_key(config),
            seed,
        ]
    )
    folder = bench.out / "baselines" / key
    state = load_newest(folder)
    if state is None:
        n_steps = count_iterations(trained, settings)
        state = train_baseline(
            trained,
            bench.normals(config),
            config,
            settings,
            seed=seed,
            device=bench.device,
            checkpoints=folder / "checkpoints",
            on_step=loss_line(bench.say, trained.name, n_steps),
            stop=bench.stop,
        )
        if state.step < n_steps:
            raise Interrupted
        save_checkpoint(folder, state)
        shutil.rmtree(folder / "checkpoints")
    network = load_network(trained, settings, state, bench.device)

    def choose() -> float:
        cases = bench.normals(config)
        return tune(method, network, cases, config, settings, seed=seed, device=bench.device).value

    path = folder / f"tuned-{method.name}-{settings.restore_steps}.json"
    value = read_or_make(path, choose) if method.tune else 0.0
    return Baseline(
        method, settings, config, network, Tuned(value, settings.restore_steps), seed, folder
    )


def score_or_load(baseline: Baseline, subject: Subject, bench: Bench) -> np.ndarray:
    """The map of anomaly of a CT; it is computed if it is missing.

    Returns:
        (z, y, x) float32 in [0, 1] on the prepared grid, whole hundredths, 0 outside the lungs.

    Raises:
        OutputError: If it cannot be stored.
        Interrupted: If the run shall stop.
    """
    config, method = baseline.config, baseline.method
    parts = [
        VERSION,
        method.name,
        baseline.tuned,
        bench.case_key(subject.case),
        bench.lungs_key(config),
    ]
    path = baseline.folder / "maps" / f"{digest(parts)}.npz"
    if path.exists():
        with np.load(path) as file:
            hundredths = file["hundredths"]
    else:
        lung_mask = subject.prepared.lung_mask
        slices = np.flatnonzero(lung_mask.any(axis=(1, 2))).tolist()

        def scored() -> Iterator[Scored]:
            for found in score_subject_slices(baseline, subject, slices, bench.device):
                yield found
                if bench.stop():
                    raise Interrupted

        hundredths = compute_anomaly(scored(), lung_mask)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as handle:
            np.savez_compressed(handle, hundredths=hundredths)
        bench.say(f"{method.name}: {subject.case.case_id} scored")
    anomaly: np.ndarray = hundredths.astype(np.float32) / np.float32(100)
    return anomaly


def score_subject_slices(
    baseline: Baseline, subject: Subject, slices: list[int], device: str
) -> Iterator[Scored]:
    """``score_slices`` of these slices of a CT."""
    return score_slices(
        baseline.method,
        baseline.network,
        subject.prepared,
        baseline.config.window,
        baseline.settings,
        baseline.tuned,
        slices,
        seed=baseline.seed,
        device=device,
    )
