"""Other methods on the test CTs: trained, searched for their thresholds and scored; all is stored.

The maps of unsupervised and simple methods need a threshold (see ``thresholds``). Of a supervised
method, every case is predicted by the network of the fold that did not see its patient.

Below the output folder:

    rivals/<key>.json   counts of a map (for the search), or scores of a case
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from normnet.baselines.score import segment_anomalies
from normnet.config import Config
from normnet.datasets.manifest import Case
from normnet.errors import InputError, NormNetError
from normnet.evaluation.scores import SCORES, Comparison, compute_scores
from normnet.experiments import nnunet, supervised
from normnet.experiments.baselines import Baseline, baseline_folder, score_or_load, train_or_load
from normnet.experiments.bench import Bench, Interrupted, Subject, digest, patient_of
from normnet.experiments.catalogue import Experiment, Row, Scale
from normnet.experiments.rivals import KINDS, Rival, find_rival
from normnet.experiments.scores import Result, wanted_scores
from normnet.experiments.thresholds import (
    CHOICES,
    IN_SAMPLE,
    LEFT_OUT,
    Counts,
    Threshold,
    choose_threshold,
    choose_without_own,
    count_hundredths,
    reference_on_grid,
)
from normnet.io.json_files import read_json, write_json

VERSION = 1  # of the simple methods, of the searches and of the scores


@dataclass
class RivalRun:
    """One method on the test CTs: what is stored of it, and what is made if it is missing.

    Args:
        rival: The method.
        scale: Size.
        bench: CTs, and the results of earlier runs.
        seed: Of its training.
    """

    rival: Rival
    scale: Scale
    bench: Bench
    seed: int = 0
    config: Config = field(init=False)
    key: str = field(init=False)  # hash of all that the scores depend on, except for the CT
    _trained: Baseline | None = None

    def __post_init__(self) -> None:
        """Raises ``InputError`` NN-TRN-011 if the method needs normal CTs and there are none."""
        self.config = self.scale.config()
        lungs_key = self.bench.lungs_key(self.config)
        self.key = digest([VERSION, self.rival.name, lungs_key, self.seed, *self._parts()])

    def _parts(self) -> list[object]:
        scale, bench = self.scale, self.bench
        if self.rival.network is not None:
            folder = baseline_folder(self.rival.network, scale, bench, self.seed)
            return [folder.name, scale.baselines.restore_steps]
        if self.rival.simple is not None:
            config = self.config
            parts = (config.preparation, config.window, config.postprocessing)
            return [part.model_dump() for part in parts]
        sizes = scale.model_dump(exclude={"note", "cost", "members", "seeds", "baselines"})
        try:
            split = self._folds()
        except InputError:  # too few CTs: nothing can be stored, and scoring says why
            split = []
        cases = [[[bench.case_key(case) for case in own] for own in fold[1:]] for fold in split]
        return [sizes, supervised.VERSION, nnunet.VERSION, cases]

    def train(self) -> Baseline:
        """The trained network of an unsupervised method; it is trained if it is missing."""
        assert self.rival.network is not None
        if self._trained is None:
            self._trained = train_or_load(self.rival.network, self.scale, self.bench, self.seed)
        return self._trained

    def score_map(self, subject: Subject) -> np.ndarray:
        """The map of an unsupervised or a simple method, (z, y, x) float32, prepared grid."""
        if self.rival.simple is not None:
            return self.rival.simple.score(subject.prepared, self.config)
        assert self.rival.network is not None
        return score_or_load(
            self.rival.network, subject, self.scale, self.bench, self.train, self.seed
        )

    def counts(self, case: Case) -> Counts | None:
        """The stored counts of a case's map, if there are any."""
        stored = read_json(self._path(case, "counts"))
        return (np.array(stored[0]), np.array(stored[1])) if stored else None

    def scores(self, case: Case, threshold: Threshold | None = None) -> dict[str, float]:
        """The stored scores of a case, by name; with the threshold unless it is supervised."""
        return read_json(self._path(case, *(threshold or ()))) or {}

    def choose(self, cases: list[Case]) -> tuple[Threshold, list[Threshold]] | None:
        """The thresholds for the cases of a data set.

        Returns:
            The best one for all, and for each case the best one for the other patients (none at all
            if there is only one patient); None if a map was not counted yet.
        """
        counts = [found for case in cases if (found := self.counts(case)) is not None]
        if len(counts) < len(cases) or not cases:
            return None
        band = self.rival.band
        patients = [patient_of(case.case_id) for case in cases]
        return choose_threshold(counts, band)[0], choose_without_own(counts, patients, band)

    def best(self, cases: list[Case]) -> tuple[Threshold, float]:
        """The best threshold for all of these cases, and its mean DSC on the prepared grid.

        Raises:
            Interrupted: If the run shall stop; finished work is stored.
        """
        self.count_missing(cases)
        counts = [found for case in cases if (found := self.counts(case)) is not None]
        return choose_threshold(counts, self.rival.band)

    def count_missing(self, cases: list[Case]) -> bool:
        """Count the maps that were not counted yet; whether there were any.

        Raises:
            Interrupted: If the run shall stop; finished work is stored.
        """
        missing = [case for case in cases if self.counts(case) is None]
        for case in missing:
            if self.bench.stop():
                raise Interrupted
            subject = self.bench.subject(case, self.config)
            counts = count_hundredths(self.score_map(subject), reference_on_grid(subject))
            write_json(self._path(case, "counts"), [part.tolist() for part in counts])
        return bool(missing)

    def score_missing(self, names: Collection[str]) -> bool:
        """Score what was not scored yet; whether there was anything.

        Args:
            names: Scores of the lesion mask to compute.

        Raises:
            Interrupted: If the run shall stop; finished work is stored.
        """
        if self.rival.kind == "supervised":
            return self._score_supervised(names)
        new = False
        for cases in self.bench.data.tests.values():
            new |= self.count_missing(cases)
            chosen = self.choose(cases)
            if chosen is not None:
                best, without = chosen
                for place, case in enumerate(cases):
                    new |= self._score_case(case, {best, *without[place : place + 1]}, names)
        return new

    def results(self, row: Row, names: Collection[str]) -> list[Result]:
        """All that is stored of the method, as results of a row of a table.

        Args:
            row: The row.
            names: Scores that a case must have.
        """
        if self.rival.kind == "supervised":
            every = [case for own in self.bench.data.tests.values() for case in own]
            return self._result(row, "", [(case, None) for case in every], names)
        chosen: dict[str, list[tuple[Case, Threshold | None]]] = {name: [] for name in CHOICES}
        for cases in self.bench.data.tests.values():
            thresholds = self.choose(cases)
            if thresholds is not None:
                best, without = thresholds
                chosen[IN_SAMPLE] += [(case, best) for case in cases]
                chosen[LEFT_OUT] += list(zip(cases, without, strict=False))
        return [
            result
            for choice, own in chosen.items()
            for result in self._result(row, choice, own, names)
        ]

    def _result(
        self,
        row: Row,
        choice: str,
        cases: list[tuple[Case, Threshold | None]],
        names: Collection[str],
    ) -> list[Result]:
        set_of = {case.case_id: name for name, own in self.bench.data.tests.items() for case in own}
        result = Result(row, self.seed, self.key, {}, choice)
        for case, threshold in cases:
            scores = self.scores(case, threshold)
            if scores.keys() >= set(names):
                name = set_of[case.case_id]
                result.sets.setdefault(name, {})[case.case_id] = scores
                if threshold is not None:
                    shown = self.rival.shown(threshold, self.config)
                    result.thresholds.setdefault(name, {})[case.case_id] = shown
        for name, own in self.bench.data.tests.items():
            if len(result.sets.get(name, {})) < len(own):
                result.sets.pop(name, None)
        return [result] if result.sets else []

    def _score_case(self, case: Case, thresholds: set[Threshold], names: Collection[str]) -> bool:
        missing = [
            threshold
            for threshold in sorted(thresholds)
            if not self.scores(case, threshold).keys() >= set(names)
        ]
        if not missing:
            return False
        if self.bench.stop():
            raise Interrupted
        subject = self.bench.subject(case, self.config)
        score_map = self.score_map(subject)
        for threshold in missing:
            found_mask = segment_anomalies(threshold.cut(score_map), threshold.low)
            scores = _score_mask(subject, found_mask & subject.prepared.lung_mask, names)
            write_json(self._path(case, *threshold), scores)
            self._tell(case, scores)
        return True

    def _score_supervised(self, names: Collection[str]) -> bool:
        cases = [case for own in self.bench.data.tests.values() for case in own]
        missing = {case.case_id for case in cases if not self.scores(case).keys() >= set(names)}
        if not missing:
            return False
        for subject, found_mask in self._predict_left_out():
            if subject.case.case_id in missing:
                scores = _score_mask(subject, found_mask, names)
                write_json(self._path(subject.case), scores)
                self._tell(subject.case, scores)
        return True

    def _predict_left_out(self) -> Iterator[tuple[Subject, np.ndarray]]:
        of_nnunet = self.rival.name in nnunet.CONFIGURATIONS
        predict = nnunet.predict_left_out_nnunet if of_nnunet else supervised.predict_left_out
        return predict(self.rival.name, self.scale, self.bench, self._folds(), self.seed)

    def _folds(self) -> list[supervised.Fold]:
        """The networks of a supervised method: what each learns from and is tested on.

        Raises:
            InputError: NN-EXP-022 if nothing would be left to learn from.
        """
        scheme: supervised.Scheme = "sets" if self.rival.name == "nnunet-unseen" else "patients"
        return supervised.folds(self.bench.data.tests, scheme, self.scale.supervised.folds)

    def _tell(self, case: Case, scores: dict[str, float]) -> None:
        self.bench.say(f"{self.rival.name}: {case.case_id}: DSC {scores['dsc']:.3f}")

    def _path(self, case: Case, *what: object) -> Path:
        key = digest([self.key, self.bench.case_key(case), *what])
        return self.bench.out / "rivals" / f"{key}.json"


def run_rivals(
    experiment: Experiment, rows: list[Row], scale: Scale, bench: Bench
) -> Iterator[None]:
    """Train and score the rows that are other methods.

    Yields after every row in which anything was new. A supervised method that cannot run here does
    not keep the others from it; its error comes at the end.

    Args:
        experiment: The table.
        rows: Rows of it to run; NormNet's are passed over.
        scale: Size.
        bench: CTs, and the results of earlier runs.

    Raises:
        NormNetError: That of the first supervised method that could not run.
        Interrupted: If the run shall stop; finished work is stored.
    """
    names = mask_scores(wanted_scores(experiment))
    wanted = [find_rival(row.method) for row in rows if row.method]
    failures = []
    for rival in sorted(wanted, key=lambda rival: KINDS.index(rival.kind)):
        try:
            if RivalRun(rival, scale, bench).score_missing(names):
                yield
        except NormNetError as error:
            if rival.kind != "supervised":
                raise
            bench.say(f"{rival.name}: not done: {error}")
            failures.append(error)
    if failures:
        raise failures[0]


def finished_rivals(experiment: Experiment, scale: Scale, bench: Bench) -> list[Result]:
    """All that is stored of the rows that are other methods."""
    names = mask_scores(experiment.scores)
    return [
        result
        for row in experiment.rows
        if row.method and (bench.data.normals or find_rival(row.method).network is None)
        for result in RivalRun(find_rival(row.method), scale, bench).results(row, names)
    ]


def mask_scores(names: Collection[str]) -> list[str]:
    """Those of the scores that a lesion mask alone has."""
    return [name for name in names if SCORES[name].table != "bright"]


def _score_mask(
    subject: Subject, found_mask: np.ndarray, names: Collection[str]
) -> dict[str, float]:
    """Scores of a mask of the prepared grid, computed on the scan's own grid."""
    lesion_mask = subject.prepared.restore_mask(found_mask) & (subject.lung_labels > 0)
    case = Comparison(lesion_mask, subject.reference, subject.scan.geometry)
    return compute_scores(case, (SCORES[name] for name in names))
