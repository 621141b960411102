"""What a comparison reads and writes: masks and CTs of two results, and the files of the change.

Error ids: NN-CMP-004 a mask of a result is missing or was changed, 005 a CT is not that of the
result, NN-OUT-015 a file that normnet did not write.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from normnet.errors import InputError, NormNetError
from normnet.followup.comparison import COLUMNS, Exam
from normnet.followup.registration import View
from normnet.io.atomic import write_bytes
from normnet.io.csv_text import csv_text
from normnet.io.fingerprint import fingerprint, sha256_of
from normnet.io.formats.nifti import write_image
from normnet.io.json_files import read_json, write_json
from normnet.io.lock import locked_folder
from normnet.io.output_folder import make_folder
from normnet.io.read import find_item, read_item, read_stored
from normnet.io.values import labels_of
from normnet.preparation.orient import Orientation
from normnet.results.staging import Bundle, staged
from normnet.scan import Geometry, Joined

COMPARISON, TABLE, PICTURE, CHANGE = (
    "comparison.json",
    "comparison.csv",
    "comparison.png",
    "change.nii.gz",
)


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON file that lists others; None for any other file, and for none."""
    content = read_json(path)
    lists = isinstance(content, dict) and isinstance(content.get("files"), dict)
    return content if lists else None


def _is_own(content: dict[str, Any] | None) -> bool:
    return content is not None and {"normnet", "regions", "files"} <= set(content)


BUNDLE = Bundle(COMPARISON, (TABLE, PICTURE, CHANGE), _read, _is_own)


class MaskGrid(NamedTuple):
    """Where the masks of a result lie, in the order of their file.

    Attributes:
        geometry: Of the arrays that were read.
        joined: Which slices of the file they stand for, where those of the CT were averaged.
    """

    geometry: Geometry
    joined: Joined | None


def read_view(exam: Exam) -> tuple[View, MaskGrid]:
    """The masks of a result, turned; and their grid, which is that of the CT as it is read.

    Raises:
        InputError: NN-CMP-004.
    """
    arrays = []
    size = exam.result.get("scan", {}).get("averaged_slices", 1)
    for name in ("lungs.nii.gz", "lesions.nii.gz"):
        path = exam.folder / name
        try:
            sum_256 = sha256_of(path)
        except OSError:
            sum_256 = ""
        if sum_256 != exam.result.get("files", {}).get(name):
            todo = "run normnet segment on this scan again"
            where = f"{exam.folder.name}/{name}"
            raise InputError("NN-CMP-004", "a mask is missing or was changed", where, todo)
        stored = read_stored(path)
        grid = MaskGrid(stored.geometry, None)
        if isinstance(size, int) and size > 1:
            axis = stored.geometry.body_axis
            joined = Joined(axis, size, stored.voxels.shape[axis])
            grid = MaskGrid(joined.averaged_geometry(stored.geometry), joined)
            stored = replace(stored, voxels=joined.thinned(stored.voxels))
        orientation = Orientation.of(grid.geometry)
        arrays.append(orientation.apply(labels_of(stored, name)))
    return View(arrays[0], arrays[1] > 0, orientation.spacing_mm(grid.geometry)), grid


def read_volume(exam: Exam, given: Path | None) -> np.ndarray | None:
    """The HU of the CT of a result, turned.

    Args:
        exam: The result. Its ``source`` is looked for from the current folder on.
        given: Where the CT lies, if the user said so.

    Returns:
        None where ``source`` is not there, or is not the CT of the result any more.

    Raises:
        InputError: NN-CMP-005 if ``given`` is not the CT of the result.
        NormNetError: As the readers, if ``given`` cannot be read.
    """
    source = str(exam.result.get("source", ""))
    path = given or Path(source)
    if given is None and not (source and path.exists()):
        return None
    try:
        item = find_item(path)
        fits = fingerprint(item.path, item.files) == exam.result.get("key", {}).get("input")
        if fits:
            scan = read_item(item)
            return Orientation.of(scan.geometry).apply(scan.volume_hu)
    except NormNetError:
        if given is not None:
            raise
    if given is None:
        return None
    found = f"not the CT of the result {exam.name}"
    raise InputError("NN-CMP-005", found, given.name, "give the CT that was segmented")


def write_comparison(
    out: Path,
    comparison: dict[str, Any],
    picture: Image.Image,
    change: tuple[np.ndarray, MaskGrid] | None = None,
) -> None:
    """Write the files of a comparison as a whole, see ``results.staging``.

    Args:
        out: Made where it is missing. The files of an older comparison are replaced.
        comparison: As made by ``compare``.
        picture: As made by ``draw_comparison``.
        change: (z, y, x) uint8 turned, and the grid on which it is written.

    Raises:
        OutputError: If a file cannot be written; NN-OUT-015 or 016 if one is in the way that
            normnet did not write.
    """
    make_folder(out)
    png = io.BytesIO()
    picture.save(png, "PNG", optimize=False)
    rows = [[row[name] for name in COLUMNS] for row in comparison["regions"].values()]
    with locked_folder(out), staged(out, BUNDLE) as stage:
        write_bytes(stage / TABLE, csv_text([COLUMNS, *rows]).encode())
        write_bytes(stage / PICTURE, png.getvalue())
        names = [TABLE, PICTURE]
        if change is not None:
            labels, grid = change
            stored = np.ascontiguousarray(Orientation.of(grid.geometry).undo(labels))
            write_image(stage / CHANGE, stored, grid.geometry, joined=grid.joined)
            names.append(CHANGE)
        files = {name: sha256_of(stage / name) for name in names}
        write_json(stage / COMPARISON, comparison | {"files": files})
