"""A case of a data set, and lists of cases as CSV files, one row per case.

Columns of a list: ``case_id``, ``folder`` and ``file`` (relative to the CSV file). Optional
columns: ``lung_mask``, ``lesion_mask``, ``nodule_mask`` (files in the same folder),
``nodule_slices`` and ``suspect_slices`` (slice indices and ranges, as in ``3;10-20``), ``split``,
``licence``.

Error ids: NN-DAT-001 unreadable list, 002 columns missing, 006 a case id that cannot name a file,
008 slices that are none.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from normnet.errors import InputError
from normnet.io.case_names import check_case_id

MAX_BYTES = 2**26  # of a list of cases


@dataclass(frozen=True)
class Case:
    """One CT of a data set and what is known of it; ``normnet.datasets.reading`` reads it.

    Attributes:
        case_id: Its name; files are named after it.
        image: The CT.
        lung_mask, lesion_mask, nodule_mask: Reference masks, None if there are none.
        excluded_slices: Slices of the file from which nothing is learned.
        split: Part of the data set, such as ``train``.
        licence: Of the CT.
        lung_labels, lesion_labels: Labels of the mask that count; if empty, all except 0 count.
        window_hu: If not None, the CT is stored as 0 to 1 of this window instead of HU.
        mask_follows_array: The masks lie on the array of the CT, and the place in their header is
            wrong.
        left_out: Why the paper does not use the case; empty if it does.
    """

    case_id: str
    image: Path
    lung_mask: Path | None = None
    lesion_mask: Path | None = None
    nodule_mask: Path | None = None
    excluded_slices: frozenset[int] = field(default=frozenset())
    split: str = ""
    licence: str = ""
    lung_labels: frozenset[int] = field(default=frozenset())
    lesion_labels: frozenset[int] = field(default=frozenset())
    window_hu: tuple[float, float] | None = None
    mask_follows_array: bool = False
    left_out: str = ""

    def __post_init__(self) -> None:
        """Check the name; raises as ``check_case_id``."""
        check_case_id(self.case_id, self.image.name)

    def reading(self) -> list[object]:
        """How its files are read, as JSON holds it; for hashes."""
        labels = (sorted(self.lung_labels), sorted(self.lesion_labels))
        return [*labels, self.window_hu, self.mask_follows_array]


def read_cases(path: Path) -> list[Case]:
    """The cases of a CSV file whose CT exists, with the masks that exist.

    Raises:
        InputError: NN-DAT-001 if the CSV file cannot be read, NN-DAT-002 if it has no column
            ``case_id`` or ``file``, NN-DAT-006 if a ``case_id`` cannot be the name of a file,
            NN-DAT-007 if a row names no file.
    """
    return [_with_masks_there(case) for case in read_rows(path) if case.image.exists()]


def read_rows(path: Path) -> list[Case]:
    """All cases of a CSV file, also those whose files are missing; raises as ``read_cases``."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            raise OSError("no regular file of a list's size")
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            "NN-DAT-001", "cannot read the list of cases", str(path), "give a CSV file"
        ) from error
    if rows and not {"case_id", "file"} <= set(rows[0]):
        raise InputError(
            "NN-DAT-002", "no columns case_id and file", str(path), "see normnet.datasets.manifest"
        )
    return [_case(row, n, path) for n, row in enumerate(rows, 1)]


def _case(row: dict[str, str], n: int, path: Path) -> Case:
    if not row["file"]:
        raise InputError(
            "NN-DAT-007", f"no file in row {n} of the list of cases", path.name, "name the CT there"
        )
    folder = path.parent / (row.get("folder") or "")

    def mask(column: str) -> Path | None:
        name = row.get(column) or ""
        return folder / name if name else None

    slices: set[int] = set()
    for column in ("nodule_slices", "suspect_slices"):
        for part in filter(None, map(str.strip, (row.get(column) or "").split(";"))):
            ends = re.fullmatch(r"(\d{1,6})(?:\s*-\s*(\d{1,6}))?", part)
            if ends is None:
                found = f"'{part}' in {column} of row {n} is no slice"
                todo = "separate numbers and ranges by ';', as in 3;10-20"
                raise InputError("NN-DAT-008", found, path.name, todo)
            slices.update(range(int(ends[1]), int(ends[2] or ends[1]) + 1))
    return Case(
        row["case_id"] or "",
        folder / row["file"],
        mask("lung_mask"),
        mask("lesion_mask"),
        mask("nodule_mask"),
        frozenset(slices),
        row.get("split") or "",
        row.get("licence") or "",
    )


def _with_masks_there(case: Case) -> Case:
    def there(path: Path | None) -> Path | None:
        return path if path is not None and path.is_file() else None

    return replace(
        case,
        lung_mask=there(case.lung_mask),
        lesion_mask=there(case.lesion_mask),
        nodule_mask=there(case.nodule_mask),
    )
