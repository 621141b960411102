"""``index.html`` beside ``results.csv``: all results of a folder on one page.

Like the table, it is made anew from all result folders each time, so that scans of earlier runs
are in it, too.

Error ids: NN-OUT-015 an ``index.html`` that normnet did not write, 016 a link.
"""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from normnet.io.atomic import check_regular, foreign_file, remove_temporaries, write_bytes
from normnet.io.lock import locked_folder
from normnet.report import charts, pages
from normnet.report.scan_report import PAGE
from normnet.results.preview import GAP_PX, N_CORONAL, PAPER
from normnet.results.schema import RESULT, Result, is_own, read_result
from normnet.results.table import MAX_WAIT_S

INDEX = "index.html"
MARK = b'<meta name="generator" content="normnet '  # near the head of every page of normnet
HEAD_BYTES = 4096
THUMB_PX = 132
# Name, unit and value of the numbers whose distribution is shown.
SHOWN = (
    ("Lesions, share of the lungs", "%", ("both", "lesion_percent")),
    ("Lesions, volume", "ml", ("both", "lesion_ml")),
    ("Lungs, volume", "ml", ("both", "lung_ml")),
)


def write_index(out: Path) -> None:
    """Write the page of all result folders in ``out``, in the order of their names.

    Another process that writes there at that time is waited for.

    Raises:
        OutputError: If it cannot be written; an older page stays then. NN-OUT-015 or 016 if it is
            not ours.
    """
    with locked_folder(out, MAX_WAIT_S):
        remove_temporaries(out)
        check_index(out)
        write_bytes(out / INDEX, make_index(out))


def check_index(out: Path) -> None:
    """See that an ``index.html`` that lies in ``out`` already was written by normnet.

    Raises:
        OutputError: NN-OUT-015 or 016.
    """
    path = out / INDEX
    check_regular(path)
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except FileNotFoundError:
        return
    except OSError as error:
        raise foreign_file(path) from error
    if MARK not in head:
        raise foreign_file(path)


def make_index(out: Path) -> bytes:
    """The page of all result folders in ``out``."""
    folders = sorted(path.parent for path in out.glob(f"*/{RESULT}"))
    results = [(folder, read_result(folder)) for folder in folders]
    own = [(folder, result) for folder, result in results if result and is_own(result)]
    rows = [_row(folder, result) for folder, result in own if result["status"] == "ok"]
    failures = [
        {"folder": folder.name, **result} for folder, result in own if result["status"] != "ok"
    ]
    plots = [
        (name, unit, charts.draw_distribution(values, "scans", unit))
        for name, unit, keys in SHOWN
        if (values := [v for row in rows if (v := _number(row["volumes"], *keys)) is not None])
    ]
    return pages.render(
        "cohort.html", {"rows": rows, "failures": failures, "plots": plots, "name": out.name}
    )


def draw_thumbnail(preview: Path) -> bytes | None:
    """A coronal slice of a result's picture as a small JPEG; None if there is no such picture.

    The rows of the picture are parted by lines of its background, and its coronal slices are in
    the last row; a picture that has no such lines is shown as a whole.
    """
    try:
        with Image.open(preview) as image:
            sheet = image.convert("RGB")
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
        return None
    empty = (np.asarray(sheet) == PAPER).all(axis=(1, 2))
    edges = np.flatnonzero(np.diff(empty.astype(np.int8)))
    stretches = [
        (int(start) + 1, int(stop) + 1)
        for start, stop in pairwise(edges)
        if not empty[start + 1] and stop - start >= THUMB_PX / 2
    ]
    if stretches:
        width = (sheet.width - (N_CORONAL + 1) * GAP_PX) / N_CORONAL
        left = N_CORONAL // 2 * (width + GAP_PX) + GAP_PX
        top, bottom = stretches[-1]
        sheet = sheet.crop((round(left), top, round(left + width), bottom))
    sheet.thumbnail((2 * THUMB_PX, 2 * THUMB_PX))
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=70)
    return file.getvalue()


def _row(folder: Path, result: Result) -> dict[str, Any]:
    """What the page shows of a result."""
    return {
        **result,
        "folder": folder.name,
        "thumbnail": draw_thumbnail(folder / "preview.png"),
        "report": PAGE if PAGE in result.get("files", {}) else "",
        "volumes": result.get("volumes", {}),
        "flags": (result.get("quality") or {}).get("flags") or [],
    }


def _number(values: Any, *keys: str) -> float | None:
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return float(values) if isinstance(values, int | float) else None
