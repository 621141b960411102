"""nnU-Net v2 trained on lesion masks, by its own programs (doi:10.1038/s41592-020-01008-z).

Its results are supervised ones: its networks have seen lesion masks of other patients. They are
made to be compared with; nothing of them ships. The programs of ``nnunetv2`` 2.8.1 are run as
processes, in an environment of its own; its commands must be on the PATH.

nnU-Net gets the CTs on the prepared grid and plans on all of them, as it does for its own
cross-validation; it trains one network per fold and predicts the CTs that the fold has left out.
It draws its random numbers without a seed: a second training gives another network.

Below the output folder:

    supervised/<key>/masks/<key>.npz   lesions of a CT that its network has not seen
    supervised/<key>/trainings.json    how the network of each fold was trained
    supervised/<key>/nnunet/           nnU-Net's folders: raw, preprocessed, results
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from normnet.datasets.manifest import Case
from normnet.errors import ModelError, NormNetError
from normnet.experiments.bench import Bench, Interrupted, Subject, digest
from normnet.experiments.catalogue import Scale
from normnet.experiments.supervised import load_mask, store_mask
from normnet.io.formats.nifti import write_image
from normnet.io.json_files import read_json, write_json
from normnet.io.masks import read_mask
from normnet.lungs.processes import find_command, run_program
from normnet.preparation.prepare import Prepared
from normnet.preparation.resample import resample_mask
from normnet.scan import Geometry, Scan

VERSION = 1  # of the data that nnU-Net gets, and of the masks
CONFIGURATIONS = {"nnunet-2d": "2d", "nnunet-3d": "3d_fullres", "nnunet-unseen": "2d"}
PLAN, TRAIN = "nnUNetv2_plan_and_preprocess", "nnUNetv2_train"
DATA_SET_ID = 1
DATA_SET = f"Dataset{DATA_SET_ID:03d}_lesions"
_LOSS = re.compile(r"\b(train|val)_loss (-?[\d.]+|nan)")

Fold = tuple[str, list[Case], list[Case]]  # its name, the CTs to learn from, the CTs left out


@dataclass(frozen=True)
class Run:
    """All networks of one configuration of nnU-Net, one per fold.

    Attributes:
        name: Of the method.
        configuration: nnU-Net's name of it.
        trainer: nnU-Net's name of it.
        folds: A CT is left out of one fold only.
        folder: Its name is a hash of all that the networks depend on.
    """

    name: str
    configuration: str
    trainer: str
    folds: Sequence[Fold]
    folder: Path

    @property
    def work(self) -> Path:
        """The folder of nnU-Net's folders."""
        return self.folder / "nnunet"

    def cases(self) -> list[Case]:
        """The CTs of all folds, by their ids."""
        found = {case.case_id: case for _, *parts in self.folds for own in parts for case in own}
        return [found[case_id] for case_id in sorted(found)]

    def names(self) -> dict[str, str]:
        """Case id to the CT's name in nnU-Net's files."""
        return {case.case_id: f"ct_{n:04d}" for n, case in enumerate(self.cases())}

    def splits(self) -> list[dict[str, list[str]]]:
        """The content of nnU-Net's ``splits_final.json``."""
        names = self.names()
        return [
            {
                "train": [names[case.case_id] for case in trained_on],
                "val": [names[case.case_id] for case in left_out],
            }
            for _, trained_on, left_out in self.folds
        ]

    def plan_call(self) -> list[str]:
        """Arguments of the program that plans and preprocesses."""
        processes = ["-np", "1", "-npfp", "1"]
        return ["-d", str(DATA_SET_ID), "-c", self.configuration, *processes]

    def train_call(self, fold: int, device: str) -> list[str]:
        """Arguments of the program that trains a fold and then predicts what it has left out.

        With ``--c`` a training that was stopped goes on from its last checkpoint.
        """
        kind = device.partition(":")[0]
        what = [str(DATA_SET_ID), self.configuration, str(fold)]
        return [*what, "-tr", self.trainer, "-device", kind, "--c"]

    def result_folder(self, fold: int) -> Path:
        """Where nnU-Net writes the network of a fold."""
        model = f"{self.trainer}__nnUNetPlans__{self.configuration}"
        return self.work / "results" / DATA_SET / model / f"fold_{fold}"


def predict_left_out_nnunet(
    name: str, scale: Scale, bench: Bench, folds: Sequence[Fold], seed: int = 0
) -> Iterator[tuple[Subject, np.ndarray]]:
    """Lesions of every CT by nnU-Net's network of the fold that has left it out.

    Networks and masks that are missing are made.

    Args:
        name: A key of ``CONFIGURATIONS``; ``nnunet-unseen`` differs by its folds, which are data
            sets.
        scale: Its preparation and its ``nnunet_trainer``.
        bench: CTs, and the results of earlier runs.
        folds: One network is trained per fold.
        seed: Counts repeated trainings; nnU-Net takes no seed.

    Yields:
        The CT, and (z, y, x) bool on its prepared grid, inside the lungs.

    Raises:
        ModelError: NN-EXT-003 if nnU-Net is not installed, 004 if it failed, 006 if it left no
            mask, or one that does not fit.
        Interrupted: If the run shall stop; finished masks and nnU-Net's checkpoints stay.
    """
    run, config = find_run(name, scale, bench, folds, seed), scale.config()
    for fold, (_, _, left_out) in enumerate(folds):
        paths = [mask_path(run, case, scale, bench) for case in left_out]
        if any(load_mask(path) is None for path in paths):
            _make_masks(run, fold, scale, bench)
        for case, path in zip(left_out, paths, strict=True):
            lesion_mask = load_mask(path)
            assert lesion_mask is not None
            yield bench.subject(case, config), lesion_mask


def find_run(name: str, scale: Scale, bench: Bench, folds: Sequence[Fold], seed: int = 0) -> Run:
    """The networks of these folds, whether they are trained or not."""
    config, configuration = scale.config(), CONFIGURATIONS[name]
    parts = [
        VERSION,
        configuration,
        scale.nnunet_trainer,
        config.preparation.model_dump(),
        config.window.model_dump(),
        bench.lungs_key(config),
        [[[bench.case_key(case) for case in own] for own in parts] for _, *parts in folds],
        seed,
    ]
    folder = bench.out / "supervised" / digest(parts)
    return Run(name, configuration, scale.nnunet_trainer, folds, folder)


def mask_path(run: Run, case: Case, scale: Scale, bench: Bench) -> Path:
    """Where the lesions of a CT are stored."""
    key = digest([bench.case_key(case), bench.lungs_key(scale.config())])
    return run.folder / "masks" / f"{key}.npz"


def as_scan(prepared: Prepared) -> Scan:
    """The prepared thorax with the tissue around it, as a scan with axes along the patient's."""
    volume_hu = np.rint(prepared.volume_hu).astype(np.int16)
    return Scan(volume_hu, Geometry(spacing_mm=prepared.spacing_mm))


def write_data_set(run: Run, subjects: Iterable[Subject]) -> None:
    """Write CTs and their reference masks in nnU-Net's layout.

    Raises:
        OutputError: If a file cannot be written whole.
    """
    folder, names = run.work / "raw" / DATA_SET, run.names()
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for subject in subjects:
        name, prepared = names[subject.case.case_id], subject.prepared
        scan = as_scan(prepared)
        lesions = resample_mask(prepared.cut(subject.reference), prepared.grid)
        write_image(folder / "imagesTr" / f"{name}_0000.nii.gz", scan.volume_hu, scan.geometry)
        label = lesions.astype(np.uint8)
        write_image(folder / "labelsTr" / f"{name}.nii.gz", label, scan.geometry)
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": len(names),
        "file_ending": ".nii.gz",
    }
    write_json(folder / "dataset.json", description)


def read_losses(log: str) -> dict[str, list[float]]:
    """Losses of every epoch in the text of nnU-Net's log: ``train_loss`` and ``val_loss``."""
    losses: dict[str, list[float]] = {"train_loss": [], "val_loss": []}
    for kind, value in _LOSS.findall(log):
        losses[f"{kind}_loss"].append(float(value))
    return losses


def _make_masks(run: Run, fold: int, scale: Scale, bench: Bench) -> None:
    """Train a fold, and store the masks of the CTs that it has left out."""
    plan, train = (find_command(command, "nnunetv2", run.name) for command in (PLAN, TRAIN))
    config, (label, trained_on, left_out) = scale.config(), run.folds[fold]
    splits = run.work / "preprocessed" / DATA_SET / "splits_final.json"
    if not splits.exists():
        shutil.rmtree(run.work, ignore_errors=True)
        write_data_set(run, _read_subjects(run, scale, bench))
        bench.say(f"{run.name}: nnU-Net plans and preprocesses")
        _call([plan, *run.plan_call()], run, bench)
        write_json(splits, run.splits())
    bench.say(f"{run.name}, {label}: {run.trainer} on {len(trained_on)} CTs")
    _call([train, *run.train_call(fold, bench.device)], run, bench)
    about = {
        "trainer": run.trainer,
        "configuration": run.configuration,
        "device": bench.device,
        "trained_on": [case.case_id for case in trained_on],
        **_losses_of(run, fold),
    }
    trainings = read_json(run.folder / "trainings.json") or {}
    write_json(run.folder / "trainings.json", {**trainings, label: about})
    for case in left_out:
        prepared = bench.subject(case, config).prepared
        result = run.result_folder(fold) / "validation" / f"{run.names()[case.case_id]}.nii.gz"
        try:
            found_mask = read_mask(result, as_scan(prepared))
        except NormNetError as error:
            found = f"{TRAIN} left no mask that fits the CT ({error.found})"
            raise ModelError(
                "NN-EXT-006", found, case.case_id, "run it by hand to see why"
            ) from error
        store_mask(mask_path(run, case, scale, bench), found_mask & prepared.lung_mask)
        bench.say(f"{run.name}: {case.case_id} segmented")


def _read_subjects(run: Run, scale: Scale, bench: Bench) -> Iterator[Subject]:
    for case in run.cases():
        if bench.stop():
            raise Interrupted
        yield bench.subject(case, scale.config())


def _call(call: list[str], run: Run, bench: Bench) -> None:
    folders = {part: run.work / part for part in ("raw", "preprocessed", "results")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    variables = {f"nnUNet_{part}": str(folder.absolute()) for part, folder in folders.items()}
    # Its own default is 8 processes.
    variables["nnUNet_def_n_proc"] = os.environ.get("nnUNet_def_n_proc", "2")  # noqa: SIM112
    # In a folder with a long path its processes could not talk to each other: the address of a
    # socket has 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="normnet-", ignore_cleanup_errors=True) as short:
        variables["TMPDIR"] = short
        if not run_program(call, run.work.absolute(), bench.device, variables, bench.stop):
            raise Interrupted


def _losses_of(run: Run, fold: int) -> dict[str, Any]:
    """Losses of all epochs; a training that was stopped has several logs."""
    logs = sorted(run.result_folder(fold).glob("training_log_*.txt"))
    losses = read_losses("\n".join(log.read_text(errors="replace") for log in logs))
    return {"epochs": len(losses["val_loss"]), **losses}
