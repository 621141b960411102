"""Scores of a table's rows, case by case; each one is stored as soon as it is known."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from normnet.config import Config
from normnet.evaluation.bright import BrightCounts, count_bright
from normnet.evaluation.scores import SCORES, Comparison, compute_scores
from normnet.experiments.bench import Bench, Interrupted, Subject, digest, predict
from normnet.experiments.catalogue import (
    Experiment,
    Row,
    Scale,
    experiments,
    n_seeds,
    row_config,
    row_votes,
)
from normnet.experiments.thresholds import Threshold
from normnet.findings import Findings, find_lesions, postprocess_votes
from normnet.io.json_files import read_json, write_json
from normnet.models import Model
from normnet.restoration import restore_anomaly

READINGS = ("lesions", "no growing", "cap")
CaseScores = dict[str, dict[str, float]]  # reading or "bright" to scores by name


@dataclass(frozen=True)
class Result:
    """One row at one seed.

    Attributes:
        row: What was done.
        seed: Number of the repetition, from 0.
        key: Hash of all that the scores depend on, except for the CTs.
        sets: Data set to case to score, in the columns of the experiment.
        choice: How the threshold was chosen, for another method that has one.
        thresholds: Data set to case to threshold, likewise.
    """

    row: Row
    seed: int
    key: str
    sets: dict[str, dict[str, dict[str, float]]]
    choice: str = ""
    thresholds: dict[str, dict[str, Threshold]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Job:
    row: Row
    seed: int
    config: Config
    votes: tuple[int, ...]
    vote_key: str
    key: str


def run_rows(experiment: Experiment, rows: list[Row], scale: Scale, bench: Bench) -> Iterator[None]:
    """Train the networks that are missing and score the cases that are missing.

    Yields after all rows that share one vote, if anything in them was new.

    Args:
        experiment: The table.
        rows: Rows of it to run; those that are other methods are passed over.
        scale: Size.
        bench: CTs, and the results of earlier runs.

    Raises:
        Interrupted: If the run shall stop; finished work is stored.
    """
    names = wanted_scores(experiment)
    jobs = _jobs(rows, scale, bench)
    # every row once, then every row again
    jobs.sort(key=lambda job: (job.seed, job.config.training.iterations))
    groups: dict[str, list[_Job]] = {}
    for job in jobs:
        groups.setdefault(job.vote_key, []).append(job)
    for group in groups.values():
        if _score_group(group, names, bench):
            yield


def wanted_scores(experiment: Experiment) -> list[str]:
    """Scores of this table and of all others: what takes the time serves all of them."""
    named = {name for known in (experiment, *experiments().values()) for name in known.scores}
    return [name for name in SCORES if name in named]


def finished_rows(experiment: Experiment, scale: Scale, bench: Bench) -> list[Result]:
    """NormNet's rows whose scores are stored, by this run or an earlier one.

    A row has a data set once all of its CTs are scored: means over other CTs cannot be compared.
    """
    results = []
    rows = [row for row in experiment.rows if row.shipped or bench.data.normals]
    for job in _jobs(rows, scale, bench):
        stored = _read_scores(bench, job.key)
        sets: dict[str, dict[str, dict[str, float]]] = {}
        for name, cases in bench.data.tests.items():
            own = {case.case_id: stored.get(bench.case_key(case), {}) for case in cases}
            if cases and all(_has_all(scores, experiment.scores) for scores in own.values()):
                values = {
                    case_id: {**scores[job.row.reading], **scores["bright"]}
                    for case_id, scores in own.items()
                }
                sets[name] = {
                    case_id: {score: of_case[score] for score in experiment.scores}
                    for case_id, of_case in values.items()
                }
        if sets:
            results.append(Result(job.row, job.seed, job.key, sets))
    return results


def score_subject(
    subject: Subject,
    networks: list[torch.nn.Module],
    configs: list[Config],
    names: Collection[str],
    device: str,
    prob_lesion: np.ndarray | None = None,
) -> list[CaseScores]:
    """Score one CT under settings that differ after the vote only.

    Args:
        subject: The CT.
        networks: They vote.
        configs: One per result.
        names: Scores to compute.
        device: Torch device.
        prob_lesion: (z, y, x) on the prepared grid, of the lesion networks; None without them.

    Returns:
        The scores for each of ``configs``.
    """
    votes = predict(subject, networks, configs[0], device)
    findings = [postprocess_votes(subject.prepared, votes, config) for config in configs]
    bright = _count_bright(subject, findings[0], configs[0])
    return [_score_masks(subject, found, names, bright) for found in findings]


def score_shipped(
    subject: Subject, model: Model, names: Collection[str], device: str
) -> CaseScores:
    """Score one CT with the package as it ships."""
    found = find_lesions(subject.prepared, model, model.config, device)
    bright = _count_bright(subject, found, model.config)
    return _score_masks(subject, found, names, bright)


def _jobs(rows: list[Row], scale: Scale, bench: Bench) -> list[_Job]:
    own = [row for row in rows if not row.method]
    return [_job(row, seed, scale, bench) for row in own for seed in range(n_seeds(row, scale))]


def _job(row: Row, seed: int, scale: Scale, bench: Bench) -> _Job:
    if row.shipped:
        model = bench.shipped_model()
        manifests = [model.ensemble.manifest, model.lesions.manifest]
        key = digest(
            ["shipped", manifests, model.config.model_dump(), bench.lungs_key(model.config)]
        )
        return _Job(row, seed, model.config, (), key, key)
    config, votes = row_config(row, scale), row_votes(row, scale, seed)
    vote_key = bench.vote_key(config, votes)
    return _Job(
        row, seed, config, votes, vote_key, digest([vote_key, config.postprocessing.model_dump()])
    )


def _score_group(group: list[_Job], names: Collection[str], bench: Bench) -> bool:
    """Score what is missing in jobs that share one vote; whether anything was missing."""
    cases = [case for cases in bench.data.tests.values() for case in cases]
    jobs = list({job.key: job for job in group}.values())
    stored = {job.key: _read_scores(bench, job.key) for job in jobs}
    missing = [
        case
        for case in cases
        if not all(_has_all(stored[job.key].get(bench.case_key(case), {}), names) for job in jobs)
    ]
    if not missing:
        return False
    first = jobs[0]
    model = bench.shipped_model() if first.row.shipped else None
    networks = [bench.network(first.config, seed) for seed in first.votes]
    for case in missing:
        if bench.stop():
            raise Interrupted
        subject = bench.subject(case, first.config)
        if model is not None:
            found = [score_shipped(subject, model, names, bench.device)]
        else:
            configs = [job.config for job in jobs]
            found = score_subject(subject, networks, configs, names, bench.device)
        for job, scores in zip(jobs, found, strict=True):
            stored[job.key][bench.case_key(case)] = scores
            content = {
                "config": job.config.model_dump(mode="json"),
                "seeds": job.votes,
                "cases": stored[job.key],
            }
            write_json(_path(bench, job.key), content)
        bench.say(f"{first.row.label}, seeds {list(first.votes)}: {case.case_id}: {_brief(found)}")
    return True


def _score_masks(
    subject: Subject, found: Findings, names: Collection[str], bright: BrightCounts
) -> CaseScores:
    """Scores of the lesions under every reading, on the scan's own grid."""
    prepared, steps = subject.prepared, found.steps
    masks = (steps.lesions, steps.seeds & steps.cap, steps.cap)
    of_masks, of_bright = _split(names)
    scores: CaseScores = {}
    for reading, mask in zip(READINGS, masks, strict=True):
        lesion_mask = prepared.restore_mask(mask) & (subject.lung_labels > 0)
        case = Comparison(lesion_mask, subject.reference, subject.scan.geometry, bright)
        scores[reading] = compute_scores(case, (SCORES[name] for name in of_masks))
    scores["bright"] = compute_scores(case, (SCORES[name] for name in of_bright))
    return scores


def _count_bright(subject: Subject, found: Findings, config: Config) -> BrightCounts:
    """Table II on the scan's own grid, in the lungs' box."""
    prepared = subject.prepared
    searched = prepared.cut(subject.lung_labels) > 0
    bright = searched & (prepared.cut(subject.scan.volume_hu) >= config.window.bright_hu)
    normal_mask = found.normal_mask.astype(np.uint8)
    return count_bright(
        1 - restore_anomaly(prepared, found, searched, bright),
        prepared.cut(subject.reference),
        bright,
        prepared.regrid(normal_mask, nearest=True) > 0,
    )


def _split(names: Collection[str]) -> tuple[list[str], list[str]]:
    """The scores that depend on the lesion mask, and those of the bright voxels."""
    of_bright = [name for name in names if SCORES[name].table == "bright"]
    return [name for name in names if name not in of_bright], of_bright


def _has_all(scores: CaseScores, names: Collection[str]) -> bool:
    """Whether these scores of a case are there, under every reading."""
    of_masks, of_bright = _split(names)
    return all(scores.get(reading, {}).keys() >= set(of_masks) for reading in READINGS) and (
        scores.get("bright", {}).keys() >= set(of_bright)
    )


def _path(bench: Bench, key: str) -> Path:
    return bench.out / "scores" / f"{key}.json"


def _read_scores(bench: Bench, key: str) -> dict[str, CaseScores]:
    """Scores that are stored, by the key of their CT."""
    content = read_json(_path(bench, key))
    return content.get("cases", {}) if isinstance(content, dict) else {}


def _brief(found: list[CaseScores]) -> str:
    return ", ".join(f"DSC {scores['lesions']['dsc']:.3f}" for scores in found)
