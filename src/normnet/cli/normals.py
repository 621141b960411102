"""Normal CTs for training, from files, folders or CSV lists, prepared once and kept as ``<case>.npz``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from normnet.errors import ConfigError, InputError, NormNetError

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from normnet.cli.texts import Bar
    from normnet.config import Config
    from normnet.datasets.manifest import Case
    from normnet.lungs.external import ExternalLungs
    from normnet.preparation.cache import NormalCase
    from normnet.scan import Scan


def find_cases(inputs: list[Path], split: str | None, leave_out: Iterable[str]) -> list[Case]:
    """The normal CTs among the inputs.

    Args:
        inputs: CTs, folders of them, or CSV lists of cases.
        split: Of the cases in a list; None takes those marked ``train`` and those without a mark.
        leave_out: Names of cases to leave out.

    Raises:
        InputError: If an input is missing, nothing is left, two cases have one name, or none has a name to leave out.
    """
    from normnet.datasets.manifest import Case, read_manifest
    from normnet.io.read import case_id_of, find_scans

    cases: list[Case] = []
    for path in inputs:
        if path.suffix.lower() == ".csv":
            wanted = {"", "train"} if split is None else {split}
            listed = [case for case in read_manifest(path) if case.split in wanted]
            cases += [case for case in listed if case.image.suffix != ".npz"]
        else:
            cases += [Case(case_id_of(scan), scan) for scan in find_scans([path])]
    names = [case.case_id for case in cases]
    for name in leave_out:
        if name not in names:
            raise InputError("NN-TRN-010", f"no case '{name}' to leave out", "--leave-out", "check its name")
    kept = [case for case in cases if case.case_id not in set(leave_out)]
    if not kept:
        raise InputError("NN-TRN-011", "no normal CT to learn from", "the inputs", "give CTs, a folder or a CSV list")
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise InputError("NN-TRN-012", f"two CTs are called '{sorted(twice)[0]}'", "the inputs", "rename one of them")
    return kept


def without_slices(cases: list[Case], ranges: list[str]) -> list[Case]:
    """The cases with more slices excluded.

    Args:
        cases: As found.
        ranges: ``CASE:FIRST-LAST``, slices counted from 0 as the file stores them, both ends excluded.

    Raises:
        ConfigError: If a range is not of that form or names no case.
    """
    names = {case.case_id for case in cases}
    more: dict[str, set[int]] = {}
    for text in ranges:
        name, _, span = text.rpartition(":")
        first, _, last = span.partition("-")
        numbers = first.isdecimal() and last.isdecimal() and int(first) <= int(last)
        if name not in names or not numbers:
            raise ConfigError("NN-CFG-013", f"'{text}' is not CASE:FIRST-LAST of a given case", "--exclude", "mend it")
        more.setdefault(name, set()).update(range(int(first), int(last) + 1))
    return [replace(case, excluded_slices=case.excluded_slices | more.get(case.case_id, set())) for case in cases]


class Preparer:
    """Brings normal CTs into a cache folder; what is there and up to date is only loaded.

    Args:
        cache: Folder for the ``.npz`` files.
        config: Settings of lungs, window and preparation.
        lung_model: As ``load_lungs`` takes it; the shipped one where None.
        reference_lungs: Use the lung masks that a list of cases names, where there are any.
        device: Torch device of the lung networks.
    """

    def __init__(self, cache: Path, config: Config, lung_model: Path | None, reference_lungs: bool, device: str):
        from normnet.models import read_lung_manifest, shipped

        self.cache, self.config, self.reference_lungs, self.device = cache, config, reference_lungs, device
        self.lung_folder = lung_model or shipped("lungs")
        self.lung_manifest = read_lung_manifest(self.lung_folder)
        self._networks: list[nn.Module] | ExternalLungs | None = None

    def load(self, case: Case) -> tuple[NormalCase, bool]:
        """A case on the training grid, and whether it had to be prepared."""
        from normnet.io.read import read_ct
        from normnet.preparation.cache import load_case, prepare_normal, save_case

        path, key = self.cache / f"{case.case_id}.npz", self.key(case)
        cached = load_case(path, key)
        if cached is not None:
            return cached, False
        scan = read_ct(case.image)
        prepared = prepare_normal(scan, self._lungs(case, scan), self.config, set(case.excluded_slices))
        save_case(path, prepared, key)
        return prepared, True

    def key(self, case: Case) -> str:
        """Changes with the CT, its lungs, its excluded slices, the settings and the version."""
        from normnet import __version__
        from normnet.io.outputs import fingerprint
        from normnet.preparation.cache import CACHE_VERSION

        given = case.lung_mask if self.reference_lungs else None
        lungs = fingerprint(given) if given else [self.lung_manifest, self.config.lungs.model_dump()]
        settings = [self.config.preparation.model_dump(), self.config.window.model_dump()]
        parts = [__version__, CACHE_VERSION, fingerprint(case.image), lungs, settings, sorted(case.excluded_slices)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _lungs(self, case: Case, scan: Scan) -> np.ndarray:
        if self.reference_lungs and case.lung_mask is not None:
            from normnet.io.masks import read_labels

            return read_labels(case.lung_mask, scan)
        from normnet.lungs.learned import segment_lungs
        from normnet.models import load_lungs

        if self._networks is None:
            self._networks = load_lungs(self.lung_folder)[0]
        return segment_lungs(scan, self._networks, self.config.lungs, self.device)


def prepare_all(cases: list[Case], preparer: Preparer, bar: Bar) -> tuple[list[NormalCase], list[NormNetError]]:
    """Prepare every case, a line each; a case that fails is told and left out."""
    from normnet.cli.failures import as_named_error
    from normnet.cli.texts import say, warn

    done, errors = [], []
    for n, case in enumerate(cases):
        bar(f"{case.case_id}: preparing", n, len(cases))
        try:
            prepared, new = preparer.load(case)
        except Exception as caught:
            errors.append(as_named_error(caught, case.image.name))
            warn(f"{case.case_id}: {errors[-1]}")
            continue
        done.append(prepared)
        usable = f"{int(prepared.usable.sum())} of {len(prepared.usable)} slices usable"
        say(f"{case.case_id}: {'prepared' if new else 'up to date'}; {usable}")
    return done, errors
