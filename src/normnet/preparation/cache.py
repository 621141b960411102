"""Normal CTs on the grid of the networks, ready to cut slabs from: one ``.npz`` file per case."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from normnet.config import Config
from normnet.io.atomic import check_regular, foreign_file, write_bytes
from normnet.preparation.breath import take_fluid
from normnet.preparation.edges import find_erroneous_edges
from normnet.preparation.prepare import LOWEST_HU, prepare
from normnet.preparation.resample import resample
from normnet.scan import Scan

CACHE_VERSION = 2
STEP_HU = 6  # uint8 codes: -1024 ... 506 HU


@dataclass(frozen=True)
class NormalCase:
    """One healthy CT, cropped to its lungs.

    Attributes:
        case_id: Name of the input.
        codes: (z, y, x) uint8, HU = 6 * code - 1024 at the common depth of breath, with the tissue
            around the lungs.
        lung_mask: Same shape, bool, M'.
        edge_mask: Same shape, bool, the erroneous edges E.
        usable: (z,) bool, False for slices that a list excludes: a nodule or a suspect finding.
    """

    case_id: str
    codes: np.ndarray
    lung_mask: np.ndarray
    edge_mask: np.ndarray
    usable: np.ndarray


def prepare_normal(
    scan: Scan, lung_labels: np.ndarray, config: Config, excluded: Set[int] = frozenset()
) -> NormalCase:
    """Bring a healthy CT to the training grid and mark its erroneous edges.

    Args:
        scan: As read.
        lung_labels: Shape of the scan, 0 outside the lungs.
        config: Preparation and window.
        excluded: Slices that are not learned from, as indices along the slice axis of the file.
    """
    prepared = prepare(scan, lung_labels, config.preparation, config.window)
    edge_mask = find_erroneous_edges(
        prepared.thorax, prepared.lung_mask, config.window.tau, config.preparation
    )
    turned = prepared.cut(scan.volume_hu)
    hu = resample(
        np.clip(turned, LOWEST_HU, LOWEST_HU + 255 * STEP_HU).astype(np.float32),
        prepared.grid,
        outside=LOWEST_HU,
    )
    hu = take_fluid(hu, prepared.fluid).clip(LOWEST_HU, LOWEST_HU + 255 * STEP_HU)
    codes = np.rint((hu - LOWEST_HU) / STEP_HU).astype(np.uint8)

    n_slices = scan.shape[prepared.orientation.axes[0]]
    bad = np.isin(np.arange(n_slices), list(excluded))
    if prepared.orientation.flips[0]:
        bad = bad[::-1]
    bad = bad[prepared.box[0]]
    places = prepared.grid.start[0] + prepared.grid.step[0] * np.arange(codes.shape[0])
    usable = ~bad[np.rint(places).astype(int).clip(0, len(bad) - 1)]
    return NormalCase(scan.case_id, codes, prepared.lung_mask, edge_mask, usable)


def save_case(path: Path, case: NormalCase, key: str) -> None:
    """Write one case; the file is complete or does not exist.

    Args:
        path: Of the ``.npz`` file.
        case: What is written.
        key: Changes with all that the case depends on, see ``load_case``.

    Raises:
        OutputError: If it cannot be written; NN-OUT-015 if another program's file has that name.
    """
    check_regular(path)
    if path.is_file() and not _is_own(path):
        raise foreign_file(path)
    shape = np.array(case.codes.shape)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        codes=np.frombuffer(zlib.compress(case.codes.tobytes(), 3), np.uint8),
        lung_mask=np.packbits(case.lung_mask),
        edge_mask=np.packbits(case.edge_mask),
        usable=case.usable,
        shape=shape,
        case_id=np.array(case.case_id),
        key=np.array(key),
    )
    write_bytes(path, buffer.getvalue())


def _is_own(path: Path) -> bool:
    """Whether a file starts as ``save_case`` writes it, damaged or not."""
    with path.open("rb") as handle:
        return b"codes.npy" in handle.read(64)


def load_case(path: Path, key: str | None = None) -> NormalCase | None:
    """A case of the cache; None if its file is missing or damaged, or has another key."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if key is not None and str(file["key"]) != key:
                return None
            shape = tuple(int(n) for n in file["shape"])
            size = int(np.prod(shape))

            def bits(name: str) -> np.ndarray:
                return np.unpackbits(file[name], count=size).astype(bool).reshape(shape)

            codes = np.frombuffer(zlib.decompress(file["codes"].tobytes()), np.uint8).reshape(shape)
            return NormalCase(
                str(file["case_id"]),
                codes,
                bits("lung_mask"),
                bits("edge_mask"),
                file["usable"].astype(bool),
            )
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, zlib.error, zipfile.BadZipFile):
        return None
