"""Methods that learn from lesion masks: folds, and the lesions of every CT that was left out.

Results of these methods are supervised ones, and are marked so wherever they are shown: the
networks have seen lesion masks of other patients. They are made to be compared with; nothing of
them ships. Below the output folder:

    supervised/<key>/network.safetensors   the network of a fold
    supervised/<key>/training.json         how it was trained
    supervised/<key>/masks/<key>.npz       lesions of a CT that it has not seen
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from normnet.baselines.supervised import (
    Labelled,
    Supervised,
    SupervisedSettings,
    Trained,
    as_trained,
    cut_slices,
    describe,
    find_supervised,
    load_trained,
    predict_lesions,
    save_trained,
    slice_size,
    train_supervised,
)
from normnet.datasets.manifest import Case
from normnet.errors import InputError
from normnet.experiments.bench import (
    Bench,
    Interrupted,
    Subject,
    digest,
    loss_line,
    patient_of,
    read_stored,
)
from normnet.experiments.catalogue import Scale
from normnet.experiments.thresholds import reference_on_grid
from normnet.io.atomic import replacing
from normnet.io.json_files import write_json

VERSION = 2  # of the networks, the folds and the masks
Scheme = Literal["patients", "sets"]


class Fold(NamedTuple):
    """A network to train, and the CTs that it is tested on.

    Attributes:
        name: Of the fold.
        trained_on: CTs to learn from.
        held_out: The other CTs, of other patients.
    """

    name: str
    trained_on: list[Case]
    held_out: list[Case]


def folds(
    cases: dict[str, list[Case]], scheme: Scheme = "patients", n_folds: int = 2
) -> list[Fold]:
    """Split labelled CTs, the same for every supervised method.

    A CT's fold depends on the names of the CTs of its data set alone, not on their order.

    Args:
        cases: CTs by data set.
        scheme: ``patients``: no patient is in two folds, every data set is in all of them where it
            has enough patients. ``sets``: one fold per data set, trained on all the others.
        n_folds: Number of folds of patients.

    Raises:
        InputError: NN-EXP-022 if nothing would be left to learn from.
    """
    everything = [
        (name, case)
        for name in sorted(cases)
        for case in sorted(cases[name], key=lambda case: _in_order(case.case_id))
    ]
    if scheme == "sets":
        place = {name: n for n, name in enumerate(sorted(filter(cases.get, cases)))}
        fold_of = {case.case_id: place[name] for name, case in everything}
        names = [f"without {name}" for name in place]
    else:
        patients: dict[tuple[str, str], list[str]] = {}
        for name, case in everything:
            patients.setdefault((name, patient_of(case.case_id)), []).append(case.case_id)
        fold_of = _spread(patients, n_folds)
        names = [f"fold {n + 1}" for n in range(n_folds)]
    split = [
        Fold(
            label,
            [case for _, case in everything if fold_of[case.case_id] != n],
            [case for _, case in everything if fold_of[case.case_id] == n],
        )
        for n, label in enumerate(names)
    ]
    if not all(fold.trained_on for fold in split) or not split:
        what = "data sets" if scheme == "sets" else "patients"
        raise InputError(
            "NN-EXP-022",
            f"no CTs with lesion masks of two {what}, one to learn from and one to test",
            "--data",
            "give more",
        )
    return split


def _in_order(case_id: str) -> list[tuple[int, str]]:
    """For sorting: ``case_2`` before ``case_10``."""
    return [
        (int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", case_id)
    ]


def _spread(patients: dict[tuple[str, str], list[str]], n_folds: int) -> dict[str, int]:
    """Each patient goes to the fold with fewer CTs of the data set."""
    fold_of: dict[str, int] = {}
    sizes: dict[tuple[str, int], int] = {}
    for (name, _), case_ids in patients.items():
        fold = min(range(n_folds), key=lambda n: sizes.get((name, n), 0))
        fold_of |= dict.fromkeys(case_ids, fold)
        sizes[name, fold] = sizes.get((name, fold), 0) + len(case_ids)
    return fold_of


def supervised_settings(scale: Scale) -> SupervisedSettings:
    """Size and length of a training at a scale."""
    sizes = scale.supervised
    return SupervisedSettings(sizes.size, sizes.batch, sizes.iterations, sizes.learning_rate)


def predict_left_out(
    name: str, scale: Scale, bench: Bench, folds: Sequence[Fold], seed: int = 0
) -> Iterator[tuple[Subject, np.ndarray]]:
    """Lesions of every labelled CT by the network that has not seen its patient.

    Networks and masks that are missing are made.

    Args:
        name: ``cople-net`` or ``inf-net``.
        scale: Size.
        bench: CTs, and the results of earlier runs.
        folds: One network is trained per fold.
        seed: Of the training.

    Yields:
        The CT, and (z, y, x) bool on its prepared grid, inside the lungs.

    Raises:
        ConfigError: NN-BAS-020 if there is no such method.
        Interrupted: If the run shall stop; the checkpoint and finished masks stay.
    """
    method, config = find_supervised(name), scale.config()
    for fold in folds:
        folder, trained = fold_folder(method, scale, bench, fold, seed), None
        for case in fold.held_out:
            if bench.stop():
                raise Interrupted
            path = mask_path(folder, case, scale, bench)
            lesion_mask = load_mask(path)
            if lesion_mask is None:
                trained = trained or _train_or_load(method, scale, bench, fold, seed)
            subject = bench.subject(case, config)
            if lesion_mask is None and trained is not None:
                lesion_mask = predict_lesions(trained, subject.prepared, bench.device)
                store_mask(path, lesion_mask)
                bench.say(f"{name}: {case.case_id} segmented")
            assert lesion_mask is not None
            yield subject, lesion_mask


def fold_folder(method: Supervised, scale: Scale, bench: Bench, fold: Fold, seed: int = 0) -> Path:
    """The folder of a fold; its name is a hash of all that the network depends on."""
    config = scale.config()
    parts = [
        VERSION,
        method.name,
        asdict(supervised_settings(scale)),
        config.preparation.model_dump(),
        bench.lungs_key(config),
        [bench.case_key(case) for case in fold.trained_on],
        seed,
    ]
    return bench.out / "supervised" / digest(parts)


def mask_path(folder: Path, case: Case, scale: Scale, bench: Bench) -> Path:
    """Where the lesions of a CT by the network of this folder are stored."""
    return (
        folder / "masks" / f"{digest([bench.case_key(case), bench.lungs_key(scale.config())])}.npz"
    )


def store_mask(path: Path, lesion_mask: np.ndarray) -> None:
    """Write a bool mask.

    Raises:
        OutputError: If it cannot be written whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as handle:
        np.savez_compressed(handle, bits=np.packbits(lesion_mask), shape=lesion_mask.shape)


def load_mask(path: Path) -> np.ndarray | None:
    """Read what ``store_mask`` wrote; None if there is none or it is damaged."""
    stored = read_stored(path, "bits", "shape")
    if stored is None:
        return None
    bits, shape = stored
    lesion_mask: np.ndarray = np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape) > 0
    return lesion_mask


def _train_or_load(
    method: Supervised, scale: Scale, bench: Bench, fold: Fold, seed: int
) -> Trained:
    folder = fold_folder(method, scale, bench, fold, seed)
    path = folder / "network.safetensors"
    if path.exists():
        return load_trained(path, bench.device)
    settings = supervised_settings(scale)
    size, start = slice_size(method, settings), time.perf_counter()
    state = train_supervised(
        method,
        _read_slices(method, fold.trained_on, scale, bench, size),
        settings,
        seed=seed,
        device=bench.device,
        checkpoints=folder / "checkpoints",
        on_step=loss_line(bench.say, f"{method.name}, {fold.name}", settings.iterations),
        stop=bench.stop,
    )
    if state.step < settings.iterations:
        raise Interrupted
    trained = as_trained(method, state, size, bench.device)
    save_trained(path, trained)
    about = {
        "fold": fold.name,
        "trained_on": [case.case_id for case in fold.trained_on],
        "size": size,
        "batch": settings.batch,
        "device": bench.device,
        "seconds_of_last_run": round(time.perf_counter() - start),
    }
    write_json(folder / "training.json", {**describe(state), **about})
    shutil.rmtree(folder / "checkpoints")
    return trained


def _read_slices(
    method: Supervised, cases: list[Case], scale: Scale, bench: Bench, size: int
) -> list[Labelled]:
    learned = []
    for case in cases:
        if bench.stop():
            raise Interrupted
        subject = bench.subject(case, scale.config())
        learned.append(cut_slices(method, subject.prepared, reference_on_grid(subject), size))
    return learned
