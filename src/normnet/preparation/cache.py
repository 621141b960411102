"""Normal CTs on the grid of the networks, ready to cut slabs from: one ``.npz`` file per case."""

from __future__ import annotations

import io
import json
import math
import zlib
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from normnet.config import Config
from normnet.errors import InputError
from normnet.io.atomic import check_regular, foreign_file, write_bytes
from normnet.io.case_names import check_case_id
from normnet.io.npz import read_npz
from normnet.preparation.breath import take_fluid
from normnet.preparation.edges import find_erroneous_edges
from normnet.preparation.prepare import LOWEST_HU, prepare
from normnet.preparation.resample import resample
from normnet.scan import Scan

CACHE_VERSION = 3
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
        key: Hash of all that the case depends on; empty for a case that is not from a cache.
        settings: What it was prepared with, as JSON holds it; see ``training.normals``.
    """

    case_id: str
    codes: np.ndarray
    lung_mask: np.ndarray
    edge_mask: np.ndarray
    usable: np.ndarray
    key: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


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

    bad = scan.holds_slices(prepared.orientation.axes[0], excluded)
    if prepared.orientation.flips[0]:
        bad = bad[::-1]
    bad = bad[prepared.box[0]]
    places = prepared.grid.start[0] + prepared.grid.step[0] * np.arange(codes.shape[0])
    below, above = np.floor(places + 1e-6), np.ceil(places - 1e-6)  # it is interpolated from both
    usable = ~np.any([bad[at.astype(int).clip(0, len(bad) - 1)] for at in (below, above)], axis=0)
    return NormalCase(scan.case_id, codes, prepared.lung_mask, edge_mask, usable)


def save_case(path: Path, case: NormalCase) -> None:
    """Write one case; the file is complete or does not exist.

    Args:
        path: Of the ``.npz`` file.
        case: What is written, with its key and settings.

    Raises:
        OutputError: If it cannot be written; NN-OUT-015 if another program's file has that name.
    """
    check_regular(path)
    if path.is_file() and not _is_prepared(path):
        raise foreign_file(path)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        codes=np.frombuffer(zlib.compress(case.codes.tobytes(), 3), np.uint8),
        lung_mask=np.packbits(case.lung_mask),
        edge_mask=np.packbits(case.edge_mask),
        usable=case.usable,
        shape=np.array(case.codes.shape),
        case_id=np.array(case.case_id),
        key=np.array(case.key),
        settings=np.array(json.dumps(case.settings)),
    )
    write_bytes(path, buffer.getvalue())


def load_case(path: Path, key: str | None = None) -> NormalCase | None:
    """A case of the cache; None if its file is missing or damaged, or has another key.

    Raises:
        ResourceError: NN-RES-003 if the file inflates beyond the limits.
    """
    try:
        arrays = read_npz(path)
        own_key, case_id = str(arrays["key"]), str(arrays["case_id"])
        if key is not None and own_key != key:
            return None
        check_case_id(case_id, path.name)
        settings = json.loads(str(arrays["settings"]))
        shape = tuple(int(n) for n in arrays["shape"])
        size = math.prod(shape)
        codes, *masks = (arrays[name] for name in ("codes", "lung_mask", "edge_mask"))
        usable = arrays["usable"]
        fits = (
            len(shape) == 3
            and min(shape) > 0
            and isinstance(settings, dict)
            and all(part.dtype == np.uint8 for part in (codes, *masks))
            # Two bits per voxel: the file cannot claim many more voxels than it has bytes.
            and all(mask.shape == (-(-size // 8),) for mask in masks)
            and usable.dtype == np.bool_
            and usable.shape == shape[:1]
        )
        if not fits:
            return None
        inflate = zlib.decompressobj()
        voxels = inflate.decompress(codes.tobytes(), size + 1)
        if len(voxels) != size or not inflate.eof:
            return None
        lung_mask, edge_mask = (
            np.unpackbits(mask, count=size).astype(bool).reshape(shape) for mask in masks
        )
    except (ValueError, KeyError, TypeError, InputError, zlib.error):
        return None
    return NormalCase(
        case_id,
        np.frombuffer(voxels, np.uint8).reshape(shape),
        lung_mask,
        edge_mask,
        usable.copy(),
        own_key,
        settings,
    )


def _is_prepared(path: Path) -> bool:
    """Whether a file is a prepared case, perhaps a damaged one: ``codes.npy`` is first in it."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(39)
    start, name = head[:4], head[30:]
    return b"PK\x03\x04".startswith(start) and b"codes.npy".startswith(name)
