"""The CTs, prepared lungs and trained networks of all experiments; each is made once and stored.

Below the output folder:

    normals/<key>/<case>.npz      normal CTs on the training grid
    lungs/<key>.npz               lungs of a CT of a test set
    networks/<key>-<iterations>/  a trained network with its checkpoints
    scores/<key>.json             scores of a row, case by case (``scores``)

Every key is a hash of all that the content depends on (for the code: its version number alone), so
nothing is made twice.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from normnet.config import Config
from normnet.datasets.manifest import Case
from normnet.datasets.reading import read_lesions, read_scan
from normnet.datasets.registry import recognise
from normnet.errors import InputError
from normnet.experiments.catalogue import SETS
from normnet.inference.voting import Votes, predict_normal
from normnet.io.atomic import replacing
from normnet.io.fingerprint import digest_of, fingerprint
from normnet.lungs.learned import segment_lungs
from normnet.models import Model, load_lungs, load_model, read_lung_manifest, shipped, with_lungs
from normnet.network.weights import load_members, save_model, split_settings
from normnet.preparation.cache import NormalCase
from normnet.preparation.prepare import Prepared, prepare
from normnet.scan import Scan
from normnet.training.member import train_member
from normnet.training.normals import Preparer
from normnet.version import __version__


class Interrupted(Exception):  # noqa: N818
    """The run shall stop; finished work is stored."""


@dataclass(frozen=True)
class Data:
    """CTs by their use.

    Attributes:
        normals: Normal CTs to train on.
        tests: CTs with lesion masks, by data set.
        found: Name and folder of every data set that was recognised.
        left_out: Names of cases that are not used for anything.
    """

    normals: list[Case]
    tests: dict[str, list[Case]]
    found: list[tuple[str, Path]]
    left_out: frozenset[str] = frozenset()


class Subject(NamedTuple):
    """A CT of a test set, ready to be segmented."""

    case: Case
    scan: Scan
    lung_labels: np.ndarray
    prepared: Prepared
    reference: np.ndarray  # bool, the scan's shape


def find_data(paths: list[Path], leave_out: list[str]) -> Data:
    """Find the CTs in folders and sort them by their use.

    A case of a CSV list is normal if it has no lesion mask and its split is ``train`` or empty.

    Args:
        paths: Folders of public data sets or CSV lists of cases.
        leave_out: Names of cases that must not be used.

    Raises:
        InputError: If a folder holds no data set, or a name in ``leave_out`` does not exist.
    """
    normals: list[Case] = []
    tests: dict[str, list[Case]] = {name: [] for name in SETS}
    found = []
    names = set()
    for path in paths:
        for dataset, root in recognise(path):
            found.append((dataset.name, root))
            for case in dataset.find(root):
                names.add(case.case_id)
                if case.case_id in leave_out or case.left_out or not case.image.exists():
                    continue
                with_lesions = case.lesion_mask is not None and case.lesion_mask.exists()
                if dataset.role == "normal":
                    normals.append(case)
                elif dataset.role == "lesions" and with_lesions:
                    tests[dataset.name].append(case)
                elif dataset.name == "csv" and with_lesions:
                    tests.setdefault(set_of(case.case_id), []).append(case)
                elif (
                    dataset.name == "csv"
                    and case.split in ("", "train")
                    and case.image.suffix != ".npz"
                ):
                    normals.append(case)
    unknown = sorted(set(leave_out) - names)
    if unknown:
        raise InputError(
            "NN-TRN-010", f"no case '{unknown[0]}' to leave out", "--leave-out", "check its name"
        )
    return Data(normals, tests, found, frozenset(leave_out))


def set_of(case_id: str) -> str:
    """The data set of a CT in a CSV list: its name without the number, and without the letter."""
    return re.sub(r"[\W_]*(\d+[a-z]?)?$", "", case_id, flags=re.IGNORECASE)


def patient_of(case_id: str) -> str:
    """The patient of a CT: a letter after the last digit tells the CTs of one patient apart."""
    return re.sub(r"(?<=\d)[a-z]$", "", case_id.lower())


def digest(parts: Any) -> str:
    """Sixteen hexadecimal digits that change with anything in ``parts``."""
    return digest_of(parts)[:16]


@dataclass
class Bench:
    """Makes and stores what experiments need, see the module.

    Args:
        data: The CTs.
        out: Folder for all files.
        lung_model: As ``load_lungs`` takes it; the shipped one if None.
        device: Torch device.
        say: Called with a line of text to show.
        stop: Called after every iteration of a training; True: the run shall stop.
    """

    data: Data
    out: Path
    lung_model: Path | None = None
    device: str = "cpu"
    say: Callable[[str], None] = lambda line: None
    stop: Callable[[], bool] = lambda: False
    _normals: dict[str, list[NormalCase]] = field(default_factory=dict)
    _normals_keys: dict[str, str] = field(default_factory=dict)
    _fingerprints: dict[Path, str] = field(default_factory=dict)
    _lungs: Any = None
    _model: Model | None = None

    def normals(self, config: Config) -> list[NormalCase]:
        """The normal CTs under these settings; those that are missing are prepared.

        Raises:
            InputError: NN-TRN-011 without any.
            Interrupted: If the run shall stop.
        """
        key, preparer = self.normals_key(config), self._preparer(config)
        if key not in self._normals:
            cases = []
            for case in self.data.normals:
                prepared, new = preparer.load(case)
                cases.append(prepared)
                if new:
                    self.say(f"{case.case_id}: prepared")
                if self.stop():
                    raise Interrupted
            self._normals = {key: cases}  # only one: the whole of LUNA16 is large
        return self._normals[key]

    def normals_key(self, config: Config) -> str:
        """Hash of the normal CTs and all that their preparation depends on.

        Raises:
            InputError: NN-TRN-011 without any.
        """
        if not self.data.normals:
            raise InputError(
                "NN-TRN-011", "no normal CT to learn from", "--data", "give LUNA16 or a CSV list"
            )
        preparer = self._preparer(config)
        folder = preparer.cache.name
        if folder not in self._normals_keys:
            self._normals_keys[folder] = digest([preparer.key(case) for case in self.data.normals])
        return self._normals_keys[folder]

    def _preparer(self, config: Config) -> Preparer:
        settings = digest(
            [config.preparation.model_dump(), config.window.model_dump(), config.lungs.model_dump()]
        )
        return Preparer(
            self.out / "normals" / settings, config, self.lung_model, False, self.device
        )

    def training_key(self, config: Config, seed: int) -> str:
        """Hash of all that the weights depend on.

        It is without the number of iterations if the learning rate is constant.
        """
        training = config.training.model_dump(exclude={"members", "seed", "checkpoint_every"})
        if config.training.schedule == "constant":
            training.pop("iterations")
        sections = (config.window, config.preparation, config.synthesis, config.network)
        return digest(
            [
                training,
                *(section.model_dump() for section in sections),
                self.normals_key(config),
                seed,
            ]
        )

    def vote_key(self, config: Config, seeds: Iterable[int]) -> str:
        """Hash of all that the vote of these networks depends on, except for the CT."""
        trained = [self.training_key(config, seed) for seed in seeds]
        inference = [
            config.inference.model_dump(),
            config.window.model_dump(),
            self.lungs_key(config),
        ]
        return digest([trained, config.training.iterations, inference])

    def shipped_model(self) -> Model:
        """The package as it ships, with this bench's lungs; loaded once."""
        if self._model is None:
            self._model = load_model(lungs=self.lung_model)
        return self._model

    def network(self, config: Config, seed: int, for_training: bool = False) -> torch.nn.Module:
        """The network of these settings and this seed; it is trained if it is missing.

        Args:
            config: Of the training.
            seed: Of the training.
            for_training: Whether its layers shall have MONAI's names, see ``load_members``.

        Raises:
            Interrupted: If the run shall stop; the checkpoint stays.
        """
        key, iterations = self.training_key(config, seed), config.training.iterations
        folder = self.out / "networks" / f"{key}-{iterations}"
        if not (folder / "manifest.json").exists():
            self._train(config, seed, key, folder)
        networks, _ = load_members(folder, "normnet", for_training)
        return networks[0]

    def _train(self, config: Config, seed: int, key: str, folder: Path) -> None:
        iterations, checkpoints = config.training.iterations, folder / "checkpoints"
        constant = config.training.schedule == "constant"
        if constant and not checkpoints.exists():  # continue a shorter training of the same kind
            shorter = [
                path
                for path in folder.parent.glob(f"{key}-*")
                if int(path.name.split("-")[1]) < iterations
            ]
            finished = [path for path in shorter if (path / "manifest.json").exists()]
            if finished:
                last = max(finished, key=lambda path: int(path.name.split("-")[1]))
                shutil.copytree(last / "checkpoints", checkpoints)
        cases = self.normals(config)
        on_step = loss_line(self.say, f"seed {seed}", iterations)
        state = train_member(
            cases,
            config,
            seed=seed,
            device=self.device,
            checkpoints=checkpoints,
            on_step=on_step,
            stop=self.stop,
        )
        if state.step < iterations:
            raise Interrupted
        facts = {"normnet": __version__, **split_settings(config.model_dump()), "seed": seed}
        save_model(folder, {"member-1": state.weights}, "normnet", config.network, facts)
        if not constant:
            shutil.rmtree(checkpoints)

    def subject(self, case: Case, config: Config) -> Subject:
        """A CT with its lungs on the network's grid, and its reference; raises as readers do."""
        scan = read_scan(case)
        lung_labels = self._lung_labels(case, scan, config)
        reference = read_lesions(case, scan)
        if reference is None:
            raise InputError(
                "NN-EXP-004", "no lesion mask", case.case_id, "give one, or leave the case out"
            )
        prepared = prepare(scan, lung_labels, config.preparation, config.window)
        return Subject(case, scan, lung_labels, prepared, reference)

    def case_key(self, case: Case) -> str:
        """Hash of the CT and its reference, and of how both are read."""
        for path in (case.image, case.lesion_mask):
            if path is not None and path not in self._fingerprints:
                self._fingerprints[path] = fingerprint(path)
        files = [
            self._fingerprints.get(path)
            for path in (case.image, case.lesion_mask)
            if path is not None
        ]
        return digest([files, case.reading()])

    def lungs_key(self, config: Config) -> str:
        """Hash of the lung model and its settings, and of the version of the package."""
        manifest = read_lung_manifest(self.lung_model or shipped("lungs"))
        return digest([manifest, with_lungs(config, manifest).lungs.model_dump(), __version__])

    def _lung_labels(self, case: Case, scan: Scan, config: Config) -> np.ndarray:
        path = self.out / "lungs" / f"{digest([self.case_key(case), self.lungs_key(config)])}.npz"
        stored = read_stored(path, "labels")
        if stored is not None:
            return stored[0]
        if self._lungs is None:
            self._lungs = load_lungs(self.lung_model)
        lungs = self._lungs
        labels = segment_lungs(scan, lungs.networks, lungs.config.lungs, self.device)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as handle:
            np.savez_compressed(handle, labels=labels)
        return labels


def read_stored(path: Path, *names: str) -> list[np.ndarray] | None:
    """Arrays of an ``.npz`` file of an earlier run; None if there is none or it is damaged."""
    if not path.exists():
        return None
    try:
        with np.load(path) as file:
            return [file[name] for name in names]
    except Exception:  # zipfile, zlib and numpy raise many kinds for a damaged file
        return None


def spread_cases(bench: Bench, n: int | None) -> list[Case]:
    """The first ``n`` test CTs (None: all), one of each data set in turn."""
    rounds = zip_longest(*bench.data.tests.values())
    return [case for turn in rounds for case in turn if case is not None][:n]


def loss_line(say: Callable[[str], None], name: str, n_steps: int) -> Callable[[int, float], None]:
    """A function for a training to call after every step; every 100 steps it says the mean loss."""
    losses: list[float] = []

    def on_step(step: int, loss: float) -> None:
        losses.append(loss)
        if step % 100 == 0:
            say(f"{name}: iteration {step} of {n_steps}, loss {sum(losses) / len(losses):.4g}")
            losses.clear()

    return on_step


class Opposite(torch.nn.Module):
    """A network with the opposite answer: all that it does not call a lesion is healthy."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits of the opposite."""
        logits: torch.Tensor = -self.network(image)
        return logits


def predict(
    subject: Subject, networks: list[torch.nn.Module], config: Config, device: str
) -> Votes:
    """The vote for healthy, of networks trained to any of the paper's targets."""
    if config.training.target == "lesions":
        networks = [Opposite(network) for network in networks]
    return predict_normal(
        subject.prepared.thorax, networks, config.network.stride, config.inference, device
    )
