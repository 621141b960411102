"""Scores of a table's rows, case by case, each kept as soon as it is known."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from normnet.config import Config
from normnet.evaluation.metrics import compute_bright_auc, compute_bright_scores, compute_overlap
from normnet.experiments.bench import Bench, Interrupted, Subject, digest, predict
from normnet.experiments.catalogue import Experiment, Row, Scale, n_seeds, row_config, row_votes
from normnet.findings import Findings, find_lesions, postprocess_votes
from normnet.io.atomic import write_bytes
from normnet.models import Model
from normnet.restoration import restore_anomaly

# Names of the columns; those of lesions are of a row's reading, those of bright voxels are Table
# II's.
SCORES = {
    "dsc": "DSC",
    "precision": "PSC",
    "sensitivity": "SEN",
    "bright_precision": "Precision",
    "bright_sensitivity": "Sensitivity",
    "bright_specificity": "Specificity",
    "auc": "AUC",
}
READINGS = ("lesions", "no growing", "cap")
CaseScores = dict[str, dict[str, float]]  # reading or "bright" to scores


@dataclass(frozen=True)
class Result:
    """One row at one seed.

    Attributes:
        row: What was done.
        seed: The how many-th time, from 0.
        key: Hash of all that the scores depend on but the CTs.
        sets: Data set to case to score, in the columns of the experiment.
    """

    row: Row
    seed: int
    key: str
    sets: dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class _Job:
    row: Row
    seed: int
    config: Config
    votes: tuple[int, ...]
    vote_key: str
    key: str


def run_rows(rows: list[Row], scale: Scale, bench: Bench) -> Iterator[None]:
    """Train what is not trained, score what is not scored; comes back after all that was new of one vote.

    Args:
        rows: Those wanted.
        scale: Size.
        bench: CTs and what is kept.

    Raises:
        Interrupted: If asked to stop; what is finished is kept.
    """
    jobs = _jobs(rows, scale, bench)
    jobs.sort(
        key=lambda job: (job.seed, job.config.training.iterations)
    )  # every row once, then every row again
    groups: dict[str, list[_Job]] = {}
    for job in jobs:
        groups.setdefault(job.vote_key, []).append(job)
    for group in groups.values():
        if _score_group(group, bench):
            yield


def finished_rows(experiment: Experiment, scale: Scale, bench: Bench) -> list[Result]:
    """All rows of the experiment whose scores are there, from this run or an earlier one."""
    results = []
    for job in _jobs(list(experiment.rows), scale, bench):
        kept = _kept(bench, job.key)
        sets = {
            name: {
                case.case_id: kept[key] for case in cases if (key := bench.case_key(case)) in kept
            }
            for name, cases in bench.data.tests.items()
        }
        columns = {
            name: {
                case_id: _columns(scores, job.row, experiment) for case_id, scores in cases.items()
            }
            for name, cases in sets.items()
            if cases
        }
        if columns:
            results.append(Result(job.row, job.seed, job.key, columns))
    return results


def score_subject(
    subject: Subject, networks: list[torch.nn.Module], configs: list[Config], device: str
) -> list[Any]:
    """Scores of one CT under settings that differ after the vote only.

    Args:
        subject: The CT.
        networks: That vote.
        configs: One a result.
        device: Torch device.

    Returns:
        ``CaseScores`` for each of ``configs``.
    """
    votes = predict(subject, networks, configs[0], device)
    findings = [postprocess_votes(subject.prepared, votes, config) for config in configs]
    bright = _score_bright(subject, findings[0], configs[0])
    return [{**_score_masks(subject, found), "bright": bright} for found in findings]


def score_shipped(subject: Subject, model: Model, device: str) -> CaseScores:
    """Scores of one CT with the package as it ships."""
    found = find_lesions(subject.prepared, model, model.config, device)
    bright = _score_bright(subject, found, model.config)
    return {**_score_masks(subject, found), "bright": bright}


def _jobs(rows: list[Row], scale: Scale, bench: Bench) -> list[_Job]:
    return [_job(row, seed, scale, bench) for row in rows for seed in range(n_seeds(row, scale))]


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


def _score_group(group: list[_Job], bench: Bench) -> bool:
    """Fill the files of jobs that share one vote; whether anything was missing."""
    cases = [case for cases in bench.data.tests.values() for case in cases]
    jobs = list({job.key: job for job in group}.values())
    kept = {job.key: _kept(bench, job.key) for job in jobs}
    missing = [
        case for case in cases if any(bench.case_key(case) not in kept[job.key] for job in jobs)
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
            found = [score_shipped(subject, model, bench.device)]
        else:
            found = score_subject(subject, networks, [job.config for job in jobs], bench.device)
        for job, scores in zip(jobs, found, strict=True):
            kept[job.key][bench.case_key(case)] = scores
            content = {
                "config": job.config.model_dump(mode="json"),
                "seeds": job.votes,
                "cases": kept[job.key],
            }
            write_bytes(_path(bench, job.key), (json.dumps(content, indent=1) + "\n").encode())
        bench.say(f"{first.row.label}, seeds {list(first.votes)}: {case.case_id}: {_brief(found)}")
    return True


def _score_masks(subject: Subject, found: Findings) -> CaseScores:
    prepared, steps = subject.prepared, found.steps
    masks = dict(zip(READINGS, (steps.lesions, steps.seeds & steps.cap, steps.cap), strict=True))
    scores = {}
    for reading, mask in masks.items():
        overlap = compute_overlap(
            prepared.restore_mask(mask) & (subject.lung_labels > 0), subject.reference
        )
        scores[reading] = {
            "dsc": overlap.dsc,
            "precision": overlap.precision,
            "sensitivity": overlap.sensitivity,
        }
    return scores


def _score_bright(subject: Subject, found: Findings, config: Config) -> dict[str, float]:
    """Table II on the scan's own grid, in the lungs' box."""
    prepared = subject.prepared
    searched = prepared.cut(subject.lung_labels) > 0
    bright = searched & (prepared.cut(subject.scan.volume_hu) >= config.window.bright_hu)
    reference = prepared.cut(subject.reference)
    scores = compute_bright_scores(
        prepared.regrid(found.normal_mask.astype(np.uint8), nearest=True) > 0, reference, bright
    )
    return {
        "bright_precision": scores.precision,
        "bright_sensitivity": scores.sensitivity,
        "bright_specificity": scores.specificity,
        "auc": compute_bright_auc(
            1 - restore_anomaly(prepared, found, searched, bright), reference, bright
        ),
    }


def _columns(scores: CaseScores, row: Row, experiment: Experiment) -> dict[str, float]:
    everything = {**scores[row.reading], **scores["bright"]}
    return {
        name: math.nan if everything[name] is None else everything[name]
        for name in experiment.scores
    }


def _path(bench: Bench, key: str):
    return bench.out / "scores" / f"{key}.json"


def _kept(bench: Bench, key: str) -> dict[str, CaseScores]:
    """Scores that are there already, by the key of their CT."""
    try:
        return json.loads(_path(bench, key).read_text())["cases"]
    except (OSError, ValueError, KeyError):
        return {}


def _brief(found: list[CaseScores]) -> str:
    return ", ".join(f"DSC {scores['lesions']['dsc']:.3f}" for scores in found)
