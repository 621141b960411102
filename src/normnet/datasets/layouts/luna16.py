"""LUNA16: 888 thin screening CTs of LIDC-IDRI; the paper learns normal lungs from some of them.

The paper takes 453 volumes, "half of the images", and removes the slices with nodules (Sec.
IV-A1). It does not say by which rule the 453 were chosen, so ``find`` returns all CTs; write your
own choice as a CSV list of cases.

Sources: the page "Data" of the challenge for subset0 to subset9, for the licence and for
``annotations.csv`` (nodules of 3 mm and more that three of four radiologists marked, in world mm).
Several public programs show that lung masks lie in ``seg-lungs-LUNA16`` under the name of the CT.
Not verified: 3 and 4 in them are lungs and 5 is the trachea; this is widely known, but does not
stand on that page.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from pathlib import Path

from normnet.datasets.dataset import Dataset, images_of
from normnet.datasets.manifest import Case
from normnet.errors import GeometryError, InputError

ANNOTATIONS = ("annotations.csv", "CSVFILES/annotations.csv")
LUNGS = ("seg-lungs-LUNA16", "seg-lungs-LUNA16/seg-lungs-LUNA16")
LUNG_LABELS = frozenset({3, 4})
LICENCE = "CC BY 4.0 (LIDC-IDRI: CC BY 3.0)"
_MAX_HEADER_BYTES = 16_384

Nodule = tuple[float, float]  # world z of the centre, diameter, both mm


def find_cases(root: Path) -> list[Case]:
    """Every CT of the subsets; the slices that a nodule reaches are excluded.

    Raises:
        InputError: NN-DAT-021 if ``annotations.csv`` cannot be read: no slice could be excluded.
        GeometryError: NN-DAT-022 if a CT with nodules is not axial.
    """
    nodules = _read_nodules(root)
    lungs = {name: path for folder in LUNGS for name, path in images_of(root / folder).items()}
    headers = sorted(
        (p for p in root.glob("subset*/**/*.mhd") if not p.name.startswith(".")),
        key=lambda p: p.name,
    )
    return [
        Case(
            header.stem,
            header,
            lung_mask=lungs.get(header.stem),
            excluded_slices=_slices_of(nodules.get(header.stem, ()), header),
            split="train",
            licence=LICENCE,
            lung_labels=LUNG_LABELS,
        )
        for header in headers
    ]


def _read_nodules(root: Path) -> dict[str, list[Nodule]]:
    path = next(
        (root / name for name in ANNOTATIONS if (root / name).is_file()), root / ANNOTATIONS[0]
    )
    nodules: dict[str, list[Nodule]] = defaultdict(list)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                nodules[row["seriesuid"]].append((float(row["coordZ"]), float(row["diameter_mm"])))
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError) as error:
        raise InputError(
            "NN-DAT-021",
            "no list of nodules",
            path.name,
            "put LUNA16's annotations.csv beside the subsets",
        ) from error
    return nodules


def _slices_of(nodules: list[Nodule] | tuple[()], header: Path) -> frozenset[int]:
    """Slices of the file that a nodule reaches."""
    if not nodules:
        return frozenset()
    origin, step, n = _slice_axis(header)
    found: set[int] = set()
    for centre, diameter in nodules:
        middle, reach = (centre - origin) / step, diameter / 2 / abs(step)
        found.update(
            range(max(0, math.ceil(middle - reach)), min(n - 1, math.floor(middle + reach)) + 1)
        )
        # A nodule may lie between two slices and reach neither.
        if 0 <= round(middle) < n:
            found.add(round(middle))
    return frozenset(found)


def _slice_axis(header: Path) -> tuple[float, float, int]:
    """World z of the first slice, step to the next in mm and number of slices.

    Only the header is read.
    """
    with header.open("rb") as file:
        lines = file.read(_MAX_HEADER_BYTES).decode("latin-1").splitlines()
    fields = {
        name.strip(): value.split() for name, _, value in (line.partition("=") for line in lines)
    }
    try:
        matrix = [
            float(v)
            for v in fields.get("TransformMatrix", ("1", "0", "0", "0", "1", "0", "0", "0", "1"))
        ]
        origin, spacing = float(fields["Offset"][2]), float(fields["ElementSpacing"][2])
        n, direction = int(fields["DimSize"][2]), matrix[8]
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(
            "NN-FILE-004", "not LUNA16's kind of header", header.name, "download it again"
        ) from error
    if abs(direction) < 0.99 or not spacing > 0:
        raise GeometryError(
            "NN-DAT-022", "a CT that is not axial", header.name, "leave it out of the folder"
        )
    return origin, spacing * direction, n


DATASET = Dataset(
    name="luna16",
    label="LUNA16",
    title="LUNA16 (LIDC-IDRI)",
    role="normal",
    n_volumes=888,
    table1="",
    use="learning normal lungs: 453 volumes, slices with nodules removed",
    licence=LICENCE,
    source="luna16.grand-challenge.org; doi:10.5281/zenodo.3723295 and zenodo.4121926",
    layout=(
        "annotations.csv",
        "subset0 ... subset9/<series>.mhd and .raw",
        "seg-lungs-LUNA16/<series>.mhd and .zraw (lungs, optional)",
    ),
    markers=("subset*/*.mhd", "subset*/subset*/*.mhd"),
    expects=(),
    find=find_cases,
    rank=1,
)
