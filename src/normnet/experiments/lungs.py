"""The lung segmenter in cross-validation (Sec. IV-A3): a 2D U-Net per fold.

Every fold is scored on the CTs that it has not seen. All folds together, their probabilities
averaged, are scored on the test sets. Below the output folder:

    lung-networks/<key>/      the network of a fold
    lung-scores/<key>.json    Dice of a CT
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from normnet.config import LungsConfig, LungsTrainingConfig
from normnet.datasets.manifest import Case
from normnet.datasets.reading import read_lungs, read_scan
from normnet.datasets.registry import DATASETS, with_role
from normnet.errors import InputError, ValueRangeError
from normnet.evaluation.metrics import compute_overlap
from normnet.evaluation.tables import number
from normnet.experiments.bench import Bench, Interrupted, digest, patient_of
from normnet.experiments.catalogue import SETS, Experiment, Scale
from normnet.experiments.pages import write_records
from normnet.io.fingerprint import fingerprint
from normnet.io.json_files import read_or_make
from normnet.lungs.learned import segment_lungs
from normnet.network.weights import load_members, save_model
from normnet.preparation.orient import Orientation
from normnet.training.lungs import segmenter
from normnet.training.lungs.slices import volume_slices
from normnet.version import __version__

LUNG_SETS = tuple(dataset.name for dataset in with_role("lungs"))
PAPER = {"coronacases": "> 98", "radiopaedia": "> 98"}
N_FOLDS = 5
ALL_FOLDS = "all folds"
MOST_SLICES = 10_000  # to learn from, 5 GB; with more CTs there are fewer slices of each


class LungCase(NamedTuple):
    """A CT with a lung mask."""

    set_name: str
    case: Case
    key: str  # of the CT, its mask and how they are read


class Fold(NamedTuple):
    """A part of the CTs and the network that has not seen it."""

    held_out: list[LungCase]
    folder: Path
    key: str


def run_lungs(folder: Path, experiment: Experiment, scale: Scale, bench: Bench) -> list[Path]:
    """Train the folds that are missing, score, and write ``<name>.csv``, ``.md`` and ``.tex``.

    Args:
        folder: Where they are written.
        experiment: Its name and title.
        scale: Size.
        bench: Data sets, and the results of earlier runs.

    Raises:
        InputError: NN-EXP-021 if there are CTs of fewer than two patients to learn from.
        OutputError: If they cannot be written.
        Interrupted: If the run shall stop; finished folds and scores are stored.
    """
    config, training = scale.config().lungs, scale.config().lungs_training
    cases = find_lung_cases(bench)
    folds = _make_folds(cases, config, training, bench)
    _train_missing(folds, cases, config, training, bench)
    scored = [
        (f"fold {n}", item, [fold]) for n, fold in enumerate(folds, 1) for item in fold.held_out
    ]
    scored += [(ALL_FOLDS, item, folds) for item in _test_cases(bench)]
    records = [
        {
            "set": item.set_name,
            "case": item.case.case_id,
            "networks": label,
            "dice": 100 * _score(item, voting, config, bench),
        }
        for label, item, voting in scored
    ]
    sizes = Counter(item.set_name for item in cases)
    about = [
        f"Scale {scale.name}: {len(folds)} folds of {training.iterations} iterations.",
        "Trained on " + ", ".join(f"{n} CTs of {name}" for name, n in sizes.items()) + ".",
        experiment.note,
        f"Config {digest([fold.key for fold in folds])[:8]}.",
    ]
    return write_records(
        folder, experiment, " ".join(filter(None, about)), _summary(records), records
    )


def find_lung_cases(bench: Bench) -> list[LungCase]:
    """CTs to learn lungs from.

    These are the paper's three sets, and the cases of CSV lists that are for training and have no
    lesion mask.
    """
    found = []
    for name, root in bench.data.found:
        for case in DATASETS[name].find(root) if name in (*LUNG_SETS, "csv") else ():
            listed = (
                case.lesion_mask is None
                and case.split in ("", "train")
                and case.image.suffix != ".npz"
            )
            wanted = (
                (name in LUNG_SETS or listed)
                and not case.left_out
                and case.case_id not in bench.data.left_out
            )
            if wanted and _has_lungs(case):
                found.append(_lung_case(name, case, bench))
    return found


def _test_cases(bench: Bench) -> list[LungCase]:
    tests = bench.data.tests
    return [
        _lung_case(name, case, bench) for name in tests for case in tests[name] if _has_lungs(case)
    ]


def _has_lungs(case: Case) -> bool:
    return case.image.exists() and case.lung_mask is not None and case.lung_mask.exists()


def _lung_case(name: str, case: Case, bench: Bench) -> LungCase:
    assert case.lung_mask is not None
    parts = [bench.case_key(case), fingerprint(case.lung_mask), sorted(case.excluded_slices)]
    return LungCase(name, case, digest(parts))


def _make_folds(
    cases: list[LungCase], config: LungsConfig, training: LungsTrainingConfig, bench: Bench
) -> list[Fold]:
    """Spread every set over all folds; all CTs of a patient are in one fold.

    With fewer patients than folds there are fewer folds.
    """
    patients = [(item.set_name, patient_of(item.case.case_id)) for item in cases]
    place_of = {patient: place for place, patient in enumerate(dict.fromkeys(patients))}
    n = min(N_FOLDS, len(place_of))
    if n < 2:
        raise InputError(
            "NN-EXP-021",
            f"CTs of {n} patients with lung masks to learn from, two are needed",
            "--data",
            "give more",
        )
    settings = [
        config.model_dump(),
        segmenter.lung_network(config, training).model_dump(),
        training.model_dump(),
        MOST_SLICES,
        __version__,
    ]
    folds = []
    fold_of = [place_of[patient] % n for patient in patients]
    for k in range(n):
        held_out = [item for item, fold in zip(cases, fold_of, strict=True) if fold == k]
        seen = [item.key for item, fold in zip(cases, fold_of, strict=True) if fold != k]
        key = digest([settings, len(cases), k, seen])
        folds.append(Fold(held_out, bench.out / "lung-networks" / key, key))
    return folds


def _train_missing(
    folds: list[Fold],
    cases: list[LungCase],
    config: LungsConfig,
    training: LungsTrainingConfig,
    bench: Bench,
) -> None:
    iterations = training.iterations
    missing = [
        (n, fold) for n, fold in enumerate(folds) if not (fold.folder / "manifest.json").exists()
    ]
    slices = _read_slices(cases, config, bench) if missing else {}
    for n, fold in missing:
        learned = [part for item in cases if item not in fold.held_out for part in slices[item]]

        def on_step(step: int, loss: float, n: int = n) -> None:
            if step % 100 == 0 or step == iterations:
                fold_name = f"lungs, fold {n + 1} of {len(folds)}"
                bench.say(f"{fold_name}: iteration {step} of {iterations}, loss {loss:.4f}")
            if bench.stop():
                raise Interrupted

        state = segmenter.train_lungs(
            learned,
            config,
            training.model_copy(update={"seed": n}),
            device=bench.device,
            on_step=on_step,
        )
        settings = {"lungs": config.model_dump()}
        card = {
            "inference": settings,
            "training": {"n_slices": len(learned), "iterations": iterations},
        }
        network = segmenter.lung_network(config, training)
        save_model(fold.folder, {"member-1": state.weights}, "lungs", network, card)


def _read_slices(
    cases: list[LungCase], config: LungsConfig, bench: Bench
) -> dict[LungCase, list[segmenter.LungSlice]]:
    slices = {}
    for item in cases:
        if bench.stop():
            raise Interrupted
        scan = read_scan(item.case)
        lung_mask = read_lungs(item.case, scan)
        assert lung_mask is not None
        parts = volume_slices(scan, lung_mask, config, item.case.excluded_slices)
        slices[item] = parts[:: max(1, -(-len(parts) * len(cases) // MOST_SLICES))]
    return slices


def _score(item: LungCase, folds: list[Fold], config: LungsConfig, bench: Bench) -> float:
    """Dice of the folds' mean probability, in the slices in which the reference is drawn."""

    def make() -> float:
        if bench.stop():
            raise Interrupted
        scan = read_scan(item.case)
        reference = read_lungs(item.case, scan)
        assert reference is not None
        networks = [load_members(fold.folder, "lungs")[0][0] for fold in folds]
        try:
            found = segment_lungs(scan, networks, config, bench.device) > 0
        except ValueRangeError:  # no lung found
            found = np.zeros(scan.shape, bool)
        turned, lungs = (Orientation.of(scan.geometry).apply(mask) for mask in (reference, found))
        drawn = turned.any(axis=(1, 2))
        dice = compute_overlap(lungs[drawn], turned[drawn]).dsc
        bench.say(f"{item.case.case_id}: lungs, Dice {dice:.4f}")
        return dice

    key = digest([[fold.key for fold in folds], item.key])
    dice: float = read_or_make(bench.out / "lung-scores" / f"{key}.json", make)
    return dice


def _summary(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per set: CTs that were held out first, then the test sets."""
    lines = []
    groups: dict[tuple[str, bool], list[float]] = {}
    for record in records:
        groups.setdefault((record["set"], record["networks"] == ALL_FOLDS), []).append(
            record["dice"]
        )
    for (name, tested), dice in groups.items():
        sd = statistics.stdev(dice) if len(dice) > 1 else math.nan
        label = SETS.get(name, name) if tested else f"{name}, held out"
        figures = {"Dice": statistics.fmean(dice), "sd": sd, "lowest": min(dice)}
        lines.append(
            {
                "set": label,
                "CTs": len(dice),
                **{name: number(value, 1) for name, value in figures.items()},
                "paper": PAPER.get(name, "-") if tested else "-",
            }
        )
    return lines
