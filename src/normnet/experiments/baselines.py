"""The baselines' networks and maps of anomaly; each is made once and stored.

Below the output folder:

    baselines/<key>/step-*.ckpt   a trained network; several methods can share it
    baselines/<key>/tuned-*.json  the value that a method chose on healthy slices
    baselines/<key>/maps/*.npz    maps of anomaly, in hundredths

A network or a map that was made on another machine is used like one that was made here, if it lies
where ``baseline_folder`` and ``map_path`` say. Both names are hashes of settings, of the contents
of the CTs and of the lung model; where the files lie makes no difference, nor does the device. A
map lies on the grid that the lungs of its CT give, so take the folder ``lungs/`` along, too. A map
of another shape is computed anew. Where all maps are there, no network is needed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
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
from normnet.datasets.manifest import Case
from normnet.experiments.bench import Bench, Interrupted, Subject, digest, loss_line, read_stored
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
    """

    method: Method
    settings: BaselineSettings
    config: Config
    network: nn.Module
    tuned: Tuned
    seed: int


def baseline_settings(scale: Scale) -> BaselineSettings:
    """Size and length of the trainings at a scale."""
    return BaselineSettings(**scale.baselines.model_dump())


def baseline_folder(method: Method, scale: Scale, bench: Bench, seed: int = 0) -> Path:
    """Where the trained network of a method lies, whether it is there or not.

    Raises:
        InputError: NN-TRN-011 without normal CTs.
    """
    config, settings = scale.config(), asdict(baseline_settings(scale))
    settings.pop("restore_steps")  # not of the training
    trained = method.trained_as or method.name
    normals = bench.normals_key(config)
    key = digest([VERSION, trained, settings, config.window.model_dump(), normals, seed])
    return bench.out / "baselines" / key


def map_path(method: Method, scale: Scale, bench: Bench, case: Case, seed: int = 0) -> Path:
    """Where the map of anomaly of a CT lies, whether it is there or not.

    It is an npz file with the array ``hundredths``, as ``compute_anomaly`` returns it.

    Raises:
        InputError: NN-TRN-011 without normal CTs.
    """
    steps, lungs = scale.baselines.restore_steps, bench.lungs_key(scale.config())
    key = digest([VERSION, method.name, steps, bench.case_key(case), lungs])
    return baseline_folder(method, scale, bench, seed) / "maps" / f"{key}.npz"


def is_trained(method: Method, scale: Scale, bench: Bench, seed: int = 0) -> bool:
    """Whether the trained network of a method is there."""
    return load_newest(baseline_folder(method, scale, bench, seed)) is not None


def train_or_load(method: Method, scale: Scale, bench: Bench, seed: int = 0) -> Baseline:
    """A baseline; it is trained if it is missing.

    Raises:
        InputError: NN-TRN-011 without normal CTs, NN-BAS-003 if none has a slice with lung.
        Interrupted: If the run shall stop; the checkpoint stays.
    """
    config, settings = scale.config(), baseline_settings(scale)
    trained = find_method(method.trained_as or method.name)
    folder = baseline_folder(method, scale, bench, seed)
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
    return Baseline(method, settings, config, network, Tuned(value, settings.restore_steps), seed)


def score_or_load(
    method: Method,
    subject: Subject,
    scale: Scale,
    bench: Bench,
    trained: Callable[[], Baseline],
    seed: int = 0,
) -> np.ndarray:
    """The map of anomaly of a CT; it is computed if it is missing.

    Args:
        method: The baseline.
        subject: The CT.
        scale: Size.
        bench: Results of earlier runs.
        trained: Gives the trained network; called only if the map is missing.
        seed: Of the training.

    Returns:
        (z, y, x) float32 in [0, 1] on the prepared grid, whole hundredths, 0 outside the lungs.

    Raises:
        OutputError: If it cannot be stored.
        Interrupted: If the run shall stop.
    """
    path, lung_mask = map_path(method, scale, bench, subject.case, seed), subject.prepared.lung_mask
    hundredths = _read_map(path, lung_mask.shape)
    if hundredths is None:
        baseline = trained()
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


def _read_map(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """A stored map of this shape; None if there is none or it is damaged."""
    stored = read_stored(path, "hundredths")
    return stored[0] if stored is not None and stored[0].shape == shape else None


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
