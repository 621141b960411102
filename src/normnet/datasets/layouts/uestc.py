"""UESTC-COVID-19: 120 CTs; part1 was labelled by non-experts (70), part2 by experts (50).

The CTs are not in HU: they hold 0 to 1 of the window -1400..100 (width 1500, level -650), which
contains the paper's window of -800..100. The label files lie on the array of their CT, but their
header names another place. The paper uses the volumes with slices less than 5 mm apart (footnote
8).

Sources: the README of HiLab's COPLE-Net for the numbers, and for the window that its network
expects; a public preparation of the set for the COVID-19-20 challenge for the names (part1 and
part2, image and label, equal file names), for the window of the published files and for the wrong
headers. Not verified on the data, which are given on request: the window and the headers.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

from normnet.datasets.dataset import Dataset, image_or_expected, images_of
from normnet.datasets.manifest import Case

LICENCE = "on request, for research"
WINDOW_HU = (-1400.0, 100.0)
THICK_MM = 5.0
PARTS = ("part1", "part2")
_PIXDIM_3 = 88  # byte of the third spacing in a NIfTI-1 header


def find_cases(root: Path) -> list[Case]:
    """All CTs of both parts; those with slices 5 mm or more apart are left out."""
    return [case for part in PARTS for case in _cases_of(root / part)]


def _cases_of(part: Path) -> list[Case]:
    cts, lesions = images_of(part / "image"), images_of(part / "label")
    cases = []
    for name in sorted({*cts, *lesions}):
        image = image_or_expected(cts, name, part / "image")
        step = _slice_step_mm(image)
        too_thick = f"slices {step:g} mm apart (the paper's footnote 8)"
        cases.append(
            Case(
                f"{part.name}_{name}",
                image,
                lesion_mask=lesions.get(name),
                split="test",
                licence=LICENCE,
                window_hu=WINDOW_HU,
                mask_follows_array=True,
                left_out=too_thick if step >= THICK_MM else "",
            )
        )
    return cases


def _slice_step_mm(path: Path) -> float:
    """Distance of the slices from the header alone; NaN if that cannot be read.

    Reading the CT will then fail with the right error.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            header = file.read(348)
        order = "<" if header[:4] == struct.pack("<i", 348) else ">"
        (step,) = struct.unpack_from(f"{order}f", header, _PIXDIM_3)
        return abs(float(step))
    except (OSError, EOFError, zlib.error, struct.error):
        return math.nan


DATASET = Dataset(
    name="uestc",
    label="UESTC",
    title="UESTC-COVID-19",
    role="lesions",
    n_volumes=120,
    table1="120",
    use="test of lesions: those with slices less than 5 mm apart",
    licence=LICENCE,
    source=(
        "HiLab, UESTC, by request (github.com/HiLab-git/COPLE-Net); doi:10.1109/TMI.2020.3000314"
    ),
    layout=(
        "part1/image/<case>.nii.gz, part1/label/<case>.nii.gz (70, non-experts)",
        "part2/image/<case>.nii.gz, part2/label/<case>.nii.gz (50, experts)",
    ),
    markers=("part[12]/image",),
    expects=("lesion_mask",),
    find=find_cases,
    rank=4,
)
