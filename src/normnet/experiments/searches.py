"""The paper's two searches: post-processing settings, and the threshold of a map of scores.

Both use NormNet's vote. They score on the prepared grid, to which the reference is resampled as
the lungs are; the tables score on the scan's own grid. The result for each CT is stored as
``searches/<key>.json``.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from normnet.config import PostprocessingConfig
from normnet.datasets.manifest import Case
from normnet.errors import InputError
from normnet.experiments.bench import Bench, Interrupted, Subject, digest, predict, spread_cases
from normnet.experiments.catalogue import SETS, Experiment, Scale
from normnet.experiments.pages import write_records
from normnet.experiments.thresholds import (
    choose_threshold,
    count_hundredths,
    dice_above,
    reference_on_grid,
)
from normnet.filters import bounding_box, dilate
from normnet.inference.voting import Votes
from normnet.io.json_files import read_or_make
from normnet.postprocessing import mean_filter

N_CASES = 3
K_D = K_F = (5, 7, 9, 11)
T_D = (0.1, 0.15, 0.2, 0.25, 0.3)
T_F = (0.1, 0.15, 0.2, 0.25)
PAPER = (9, 7, 0.2, 0.15)  # k_d, k_f, t_d, t_f (Sec. IV-B3)
N_SHOWN = 10

MAPS = ("1 - probability of normal", "windowed HU")
Found = dict[str, Any]


def search_postprocessing(scale: Scale, bench: Bench) -> list[Found]:
    """DSC of NormNet's vote under every (k_d, k_f, t_d, t_f), on the first three test CTs.

    The CTs are taken from every data set in turn.

    Args:
        scale: Size.
        bench: CTs, and the results of earlier runs.

    Returns:
        One per point of the grid, the best first: ``config``, ``note`` ("best", "paper"), ``k_d``,
        ``k_f``, ``t_d``, ``t_f``, ``mean`` and, by name, every CT's DSC in per cent.

    Raises:
        InputError: NN-EXP-020 if there is no CT with a lesion mask.
        Interrupted: If the run shall stop; finished CTs are stored.
    """
    config = scale.config()
    cases = spread_cases(bench, N_CASES)
    grid = [K_D, K_F, T_D, T_F]
    fixed = config.postprocessing.model_dump(exclude={"k_d", "k_f", "t_d", "t_f"})

    def score(subject: Subject, votes: Votes) -> Any:
        normal_mask = votes.normal_mask(config.inference)
        return dice_on_grid(subject, normal_mask, config.window.tau, config.postprocessing).tolist()

    key, per_case = _each_case(cases, ["postprocessing", grid, fixed], score, scale, bench)
    dice = {case.case_id: 100 * np.array(values) for case, values in per_case}
    found: list[Found] = []
    for place, point in zip(np.ndindex(*map(len, grid)), product(*grid), strict=True):
        scores = {name: float(values[place]) for name, values in dice.items()}
        values = dict(zip(("k_d", "k_f", "t_d", "t_f"), point, strict=True))
        note = "paper" if point == PAPER else ""
        found.append(
            {
                "config": key,
                "note": note,
                **values,
                "mean": statistics.fmean(scores.values()),
                **scores,
            }
        )
    found.sort(key=lambda line: -line["mean"])
    found[0]["note"] = ", ".join(filter(None, ("best", found[0]["note"])))
    return found


def dice_on_grid(
    subject: Subject, normal_mask: np.ndarray, tau: float, config: PostprocessingConfig
) -> np.ndarray:
    """DSC of Eq. 10 at every point of the grid; each filter and each dilation is done once.

    Args:
        subject: The CT.
        normal_mask: (z, y, x) bool on the prepared grid, the vote.
        tau: Bright threshold.
        config: The settings that are not searched.

    Returns:
        (k_d, k_f, t_d, t_f) DSC, 0 to 1; exactly the DSC of ``postprocess(...).core``.
    """
    prepared = subject.prepared
    reference = reference_on_grid(subject)
    # seeds lie no farther from the lungs
    box = bounding_box(prepared.lung_mask, max(*K_D, *K_F) // 2)
    lungs, thorax, normal = prepared.lung_mask[box], prepared.thorax[box], normal_mask[box]
    anomaly = (lungs & (thorax >= tau) & ~normal).astype(np.float32)
    remainder = np.where(normal, np.float32(0), thorax)
    is_lesion = reference[box][lungs]
    # per voxel of the lungs: twice the number of t_f that its mean exceeds, plus 1 in a lesion
    levels = []
    for k_f in K_F:
        mean = mean_filter(remainder, k_f, lungs, config)[lungs]
        levels.append(2 * sum((mean > t_f).astype(np.uint8) for t_f in T_F) + is_lesion)
    dice = np.zeros((len(K_D), len(K_F), len(T_D), len(T_F)))
    for i, k_d in enumerate(K_D):
        mean = mean_filter(anomaly, k_d, lungs, config)
        for j, t_d in enumerate(T_D):
            grown = dilate(mean > t_d, config.dilation_vox)[lungs]
            for k, level in enumerate(levels):
                rest, lesion = (
                    np.bincount(level[grown], minlength=2 * len(T_F) + 2).reshape(-1, 2).T
                )
                dice[i, k, j] = dice_above(lesion, rest, int(np.count_nonzero(reference)))
    return dice


def search_threshold(scale: Scale, bench: Bench) -> list[Found]:
    """Search a threshold, as the paper does for every baseline, for NormNet's anomaly and the HU.

    Args:
        scale: Size.
        bench: CTs, and the results of earlier runs.

    Returns:
        One per set and map: ``config``, ``set``, ``map``, ``threshold``, ``dsc`` (mean, per cent),
        ``n_cases``.

    Raises:
        InputError: NN-EXP-020 if there is no CT with a lesion mask.
        Interrupted: If the run shall stop; finished CTs are stored.
    """
    cases = [case for cases in bench.data.tests.values() for case in cases]

    def score(subject: Subject, votes: Votes) -> Any:
        reference = reference_on_grid(subject)
        thorax = subject.prepared.thorax
        bright = subject.prepared.lung_mask & (thorax >= scale.config().window.tau)
        anomaly = np.where(bright, 1 - votes.prob_normal.astype(np.float32), np.float32(0))
        return [
            [part.tolist() for part in count_hundredths(image, reference)]
            for image in (anomaly, thorax)
        ]

    key, per_case = _each_case(cases, ["threshold", MAPS], score, scale, bench)
    counts = {case.image: values for case, values in per_case}
    found: list[Found] = []
    for name, (place, label) in product(bench.data.tests, enumerate(MAPS)):
        pairs = [counts[case.image][place] for case in bench.data.tests[name]]
        own = [(np.array(lesion), np.array(rest)) for lesion, rest in pairs]
        if own:
            threshold, dice = choose_threshold(own)
            line = {"threshold": threshold.low, "dsc": 100 * dice, "n_cases": len(own)}
            found.append({"config": key, "set": SETS.get(name, name), "map": label, **line})
    return found


def write_search(
    folder: Path, experiment: Experiment, scale: Scale, rows: list[Found]
) -> list[Path]:
    """Write ``<name>.csv`` with all results, ``.md`` and ``.tex`` with the best and the paper's.

    Args:
        folder: Where.
        experiment: One of the two searches.
        scale: Size.
        rows: All that the search returned.

    Raises:
        OutputError: If they cannot be written.
    """
    parts = [f"Scale {scale.name}.", scale.note, experiment.note]
    if experiment.kind == "search-threshold":
        sizes = {row["set"]: row["n_cases"] for row in rows}
        parts.append("; ".join(f"{name}: {n} cases" for name, n in sizes.items()) + ".")
    else:
        cases = [
            name
            for name in rows[0]
            if name not in ("config", "note", "k_d", "k_f", "t_d", "t_f", "mean")
        ]
        parts.append(f"{len(cases)} cases: {', '.join(cases)}.")
        best, paper = rows[0], next(row for row in rows if "paper" in row["note"])
        parts.append(f"Best: {_point(best)}; the paper's: {_point(paper)}.")
    parts.append(f"Config {rows[0]['config'][:8]}.")
    shown = [
        row
        for n, row in enumerate(rows)
        if n < N_SHOWN or row.get("note") or experiment.kind[7:] == "threshold"
    ]
    shown = [{name: value for name, value in row.items() if name != "config"} for row in shown]
    return write_records(folder, experiment, " ".join(part for part in parts if part), shown, rows)


def _point(row: Found) -> str:
    k, t = f"({row['k_d']}, {row['k_f']})", f"({row['t_d']:g}, {row['t_f']:g})"
    return f"(k_d, k_f) = {k}, (t_d, t_f) = {t} with DSC {row['mean']:.1f}"


def _each_case(
    cases: list[Case],
    what: list[Any],
    score: Callable[[Subject, Votes], Any],
    scale: Scale,
    bench: Bench,
) -> tuple[str, list[tuple[Case, Any]]]:
    """The result of ``score`` for every CT, stored, and a key of all that it depends on but the CT.

    Nothing is trained if no result is missing.
    """
    if not cases:
        raise InputError(
            "NN-EXP-020", "no CT with a lesion mask", "--data", "see 'normnet datasets list'"
        )
    config = scale.config()
    key = digest([what, bench.vote_key(config, range(scale.members))])
    networks: list[torch.nn.Module] = []

    def make(case: Case) -> Any:
        if bench.stop():
            raise Interrupted
        if not networks:
            networks.extend(bench.network(config, seed) for seed in range(scale.members))
        subject = bench.subject(case, config)
        found = score(subject, predict(subject, networks, config, bench.device))
        bench.say(f"{case.case_id}: searched")
        return found

    def search() -> Iterator[tuple[Case, Any]]:
        for case in cases:
            path = bench.out / "searches" / f"{digest([key, bench.case_key(case)])}.json"
            yield case, read_or_make(path, lambda case=case: make(case))  # type: ignore[misc]

    return key, list(search())
