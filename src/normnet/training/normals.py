"""Normal CTs on the training grid, prepared once and stored as ``<case>.npz``."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from normnet.config import Config
from normnet.datasets.manifest import Case
from normnet.datasets.reading import read_lungs, read_scan
from normnet.errors import InputError
from normnet.io.fingerprint import digest_of, fingerprint
from normnet.lungs.external import ExternalLungs
from normnet.lungs.learned import segment_lungs
from normnet.models import load_lungs, read_lung_manifest, shipped, with_lungs
from normnet.preparation.cache import (
    CACHE_VERSION,
    NormalCase,
    load_case,
    prepare_normal,
    save_case,
)
from normnet.scan import Scan
from normnet.training.record import difference
from normnet.version import __version__

if TYPE_CHECKING:
    from torch import nn

REFERENCE = "reference masks"  # in place of the hash of a lung model


class Preparer:
    """Prepares normal CTs into a cache folder; a case that is there and up to date is only loaded.

    Args:
        cache: Folder for the ``.npz`` files.
        config: Settings of lungs, window and preparation.
        lung_model: Path as for ``load_lungs``; None means the shipped model.
        reference_lungs: Whether to use the lung masks of the cases that have one.
        device: Torch device of the lung networks.
    """

    def __init__(
        self,
        cache: Path,
        config: Config,
        lung_model: Path | None,
        reference_lungs: bool,
        device: str,
    ):
        self.cache, self.reference_lungs, self.device = cache, reference_lungs, device
        self.lung_folder = lung_model or shipped("lungs")
        self.lung_manifest = read_lung_manifest(self.lung_folder)
        self.config = with_lungs(config, self.lung_manifest)
        self._networks: list[nn.Module] | ExternalLungs | None = None

    def load(self, case: Case) -> tuple[NormalCase, bool]:
        """A case on the training grid, and whether it was prepared now.

        Raises:
            NormNetError: If the CT or its lungs cannot be read or found.
            OutputError: If the cache cannot be written.
        """
        path, key = self.cache / f"{case.case_id}.npz", self.key(case)
        cached = load_case(path, key)
        if cached is not None:
            return cached, False
        scan = read_scan(case)
        prepared = prepare_normal(
            scan, self._lungs(case, scan), self.config, set(case.excluded_slices)
        )
        prepared = replace(prepared, key=key, settings=self.settings(case))
        save_case(path, prepared)
        return prepared, True

    def check(self, prepared: NormalCase, where: str) -> None:
        """See that a case was prepared as this object would do it.

        Its CT may lie elsewhere, and its lungs may be reference masks.

        Args:
            prepared: From a cache.
            where: Its file, for the message.

        Raises:
            InputError: NN-TRN-014 with the first difference.
        """
        found = difference(prepared.settings, self.settings())
        if found and prepared.settings.get("lung_model") == REFERENCE:
            found = difference(prepared.settings, {**self.settings(), "lung_model": REFERENCE})
        if found:
            raise InputError(
                "NN-TRN-014",
                f"a case that was prepared with other settings: {found}",
                where,
                "run 'normnet prepare' again, or give the --config and --lung-model of that time",
            )

    def settings(self, case: Case | None = None) -> dict[str, Any]:
        """What a case is prepared with, without its CT and its excluded slices.

        Args:
            case: None for any case whose lungs are segmented.

        Returns:
            The version, all settings of preparation and window, and a hash of the lung model or
            ``REFERENCE``, of types that JSON knows.
        """
        given = case is not None and self.reference_lungs and case.lung_mask is not None
        lungs = digest_of([self.lung_manifest, self.config.lungs.model_dump()])
        return {
            "normnet": __version__,
            "preparation": self.config.preparation.model_dump(mode="json"),
            "window": self.config.window.model_dump(mode="json"),
            "lung_model": REFERENCE if given else lungs,
        }

    def key(self, case: Case) -> str:
        """A hash of the CT, its lungs, its excluded slices, the settings and the version."""
        given = case.lung_mask if self.reference_lungs else None
        lungs = (
            _fingerprint(given) if given else [self.lung_manifest, self.config.lungs.model_dump()]
        )
        settings = [self.config.preparation.model_dump(), self.config.window.model_dump()]
        parts = [
            __version__,
            CACHE_VERSION,
            _fingerprint(case.image),
            lungs,
            settings,
            sorted(case.excluded_slices),
            case.reading(),
        ]
        return digest_of(parts, sort_keys=False)

    def _lungs(self, case: Case, scan: Scan) -> np.ndarray:
        given = read_lungs(case, scan) if self.reference_lungs else None
        if given is not None:
            if not given.any():
                where = case.lung_mask.name if case.lung_mask else case.case_id
                raise InputError("NN-TRN-036", "no lung in the lung mask", where, "correct it")
            return given
        if self._networks is None:
            self._networks = load_lungs(self.lung_folder).networks
        return segment_lungs(scan, self._networks, self.config.lungs, self.device)


@cache
def _fingerprint(path: Path) -> str:
    """Hash of a file that does not change while the program runs; CTs are large."""
    return fingerprint(path)
