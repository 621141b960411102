"""The paper's two searches: of the post-processing's values, and of the threshold of a map of scores.

Both use the baseline's vote and score on the prepared grid, to which the reference is brought as the lungs are; the
tables score on the scan's own. What is found for a CT is kept as ``searches/<key>.json``.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
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
from normnet.experiments.plain import write_plain
from normnet.inference.voting import Votes
from normnet.io.json_files import read_or_make
from normnet.postprocessing import dilate, mean_filter
from normnet.preparation.prepare import bounding_box
from normnet.preparation.resample import resample_mask

N_CASES = 3
K_D = K_F = (5, 7, 9, 11)
T_D = (0.1, 0.15, 0.2, 0.25, 0.3)
T_F = (0.1, 0.15, 0.2, 0.25)
PAPER = (9, 7, 0.2, 0.15)  # k_d, k_f, t_d, t_f (Sec. IV-B3)
N_SHOWN = 10

HUNDREDTHS = np.arange(101) / 100
Counts = tuple[
    np.ndarray, np.ndarray
]  # voxels of the lesions and of the rest, (102,) by how many hundredths they pass
MAPS = ("1 - probability of normal", "windowed HU")
Found = dict[str, Any]


def search_postprocessing(scale: Scale, bench: Bench) -> list[Found]:
    """DSC of the baseline's vote under every (k_d, k_f, t_d, t_f), on the first three test CTs, sets in turn.

    Args:
        scale: Size.
        bench: CTs and what is kept.

    Returns:
        One for each point of the grid, the best first: ``config``, ``note`` ("best", "paper"),
            ``k_d``, ``k_f``,
        ``t_d``, ``t_f``, ``mean`` and, by name, every CT's DSC in per cent.

    Raises:
        InputError: NN-EXP-020 if there is no CT with a lesion mask.
        Interrupted: If asked to stop; finished CTs are kept.
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
    """Eq. 10 at every point of the grid, each filter and each dilation done once.

    Args:
        subject: The CT.
        normal_mask: (z, y, x) bool on the prepared grid, the vote.
        tau: Bright threshold.
        config: All that is not searched.

    Returns:
        (k_d, k_f, t_d, t_f) DSC, 0 to 1; exactly that of ``postprocess(...).core``.
    """
    prepared = subject.prepared
    reference = reference_on_grid(subject)
    box = bounding_box(
        prepared.lung_mask, max(*K_D, *K_F) // 2
    )  # seeds lie no farther from the lungs
    lungs, thorax, normal = prepared.lung_mask[box], prepared.thorax[box], normal_mask[box]
    anomaly = (lungs & (thorax >= tau) & ~normal).astype(np.float32)
    remainder = np.where(normal, np.float32(0), thorax)
    is_lesion = reference[box][lungs]
    # of every voxel of the lungs: twice the t_f that its mean exceeds, one more in the lesions
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
                dice[i, k, j] = _dice_above(lesion, rest, int(np.count_nonzero(reference)))
    return dice


def search_threshold(scale: Scale, bench: Bench) -> list[Found]:
    """The threshold that the paper gives every baseline, for the NormNet's own map of anomaly and for the HU.

    Args:
        scale: Size.
        bench: CTs and what is kept.

    Returns:
        One for each set and map: ``config``, ``set``, ``map``, ``threshold``, ``dsc`` (mean, per
            cent), ``n_cases``.

    Raises:
        InputError: NN-EXP-020 if there is no CT with a lesion mask.
        Interrupted: If asked to stop; finished CTs are kept.
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
            threshold, dice = find_threshold_of_counts(own)
            line = {"threshold": threshold, "dsc": 100 * dice, "n_cases": len(own)}
            found.append({"config": key, "set": SETS.get(name, name), "map": label, **line})
    return found


def find_threshold(
    score_maps: Iterable[np.ndarray], references: Iterable[np.ndarray]
) -> tuple[float, float]:
    """The greedy search of the paper's baselines (Sec. IV-C): the best first decimal, then hundredths around it.

    Args:
        score_maps: Of one data set, 0 to 1, of any float type; asked for one at a time.
        references: bool, the same shapes.

    Returns:
        The threshold of ``score_map > threshold`` with the best mean DSC, the lowest of equals;
        that mean, 0 to 1.

    Raises:
        ValueError: If there is no map, or not as many of both.
    """
    return find_threshold_of_counts(
        count_hundredths(*pair) for pair in zip(score_maps, references, strict=True)
    )


def count_hundredths(score_map: np.ndarray, reference: np.ndarray) -> Counts:
    """All that a threshold of two decimals needs to know of a map.

    Args:
        score_map: Any shape, float.
        reference: The same shape, bool.

    Returns:
        Voxels of the reference and voxels of the rest, each (102,) int64 by how many of 0.00, 0.01
        … 1.00 they exceed.
    """
    positive = score_map > 0  # most voxels are outside the lungs
    level = np.searchsorted(HUNDREDTHS.astype(score_map.dtype), score_map[positive], side="left")
    is_lesion = reference[positive]
    n_lesion = int(np.count_nonzero(reference))
    counts = []
    for part, total in (
        (level[is_lesion], n_lesion),
        (level[~is_lesion], reference.size - n_lesion),
    ):
        counts.append(np.bincount(part, minlength=len(HUNDREDTHS) + 1))
        counts[-1][0] = total - part.size
    return counts[0], counts[1]


def find_threshold_of_counts(counts: Iterable[Counts]) -> tuple[float, float]:
    """As ``find_threshold``, from the counts of every map.

    Raises:
        ValueError: If there are none.
    """
    per_map = [_dice_above(lesion, rest, int(lesion.sum())) for lesion, rest in counts]
    if not per_map:
        raise ValueError("no map of scores")
    dice = np.mean(per_map, axis=0)
    tenth = max(range(0, 100, 10), key=dice.__getitem__)
    best = max(range(max(0, tenth - 9), min(100, tenth + 9) + 1), key=dice.__getitem__)
    return best / 100, float(dice[best])


def reference_on_grid(subject: Subject) -> np.ndarray:
    """(z, y, x) bool: the reference on the prepared grid, within the lungs' box."""
    prepared = subject.prepared
    return resample_mask(prepared.cut(subject.reference), prepared.grid)


def write_search(
    folder: Path, experiment: Experiment, scale: Scale, rows: list[Found]
) -> list[Path]:
    """Write ``<name>.csv`` with all that was found, ``.md`` and ``.tex`` with the best and what the paper has.

    Args:
        folder: Where.
        experiment: One of the two searches.
        scale: Size.
        rows: What the search returned.

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
    return write_plain(folder, experiment, " ".join(part for part in parts if part), shown, rows)


def _point(row: Found) -> str:
    k, t = f"({row['k_d']}, {row['k_f']})", f"({row['t_d']:g}, {row['t_f']:g})"
    return f"(k_d, k_f) = {k}, (t_d, t_f) = {t} with DSC {row['mean']:.1f}"


def _dice_above(lesion: np.ndarray, rest: np.ndarray, n_reference: int) -> np.ndarray:
    """DSC of the voxels that exceed at least n thresholds, for n from 1; 1 where both masks are empty."""
    n_true, n_false = (np.cumsum(part[::-1])[::-1][1:] for part in (lesion, rest))
    whole = n_true + n_false + n_reference
    return np.where(whole > 0, 2 * n_true / np.maximum(whole, 1), 1.0)


def _each_case(
    cases: list[Case],
    what: list[Any],
    score: Callable[[Subject, Votes], Any],
    scale: Scale,
    bench: Bench,
) -> tuple[str, list[tuple[Case, Any]]]:
    """A key of all but the CTs, and what ``score`` says of every CT, kept; nothing is trained if nothing is missing."""
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
