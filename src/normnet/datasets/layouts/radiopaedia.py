"""Radiopaedia in the layout of MedSeg: nine CTs from radiopaedia.org, labelled by a radiologist.

The paper leaves out volume 6, which has next to no lesion ("about 70 positive voxels in 42
slices", footnote 7). In ``rp_msk`` 1 is ground glass and 2 is consolidation. Label 3 is pleural
effusion in MedSeg's older set of single slices and does not count as lesion here. Not verified:
what label 3 would mean in these nine CTs.

Sources: MedSeg's page "COVID-19 CT segmentation dataset" for the nine volumes (829 slices, 373
with lesions); the public reader in neuro-ml's ``amid`` for the three archives, for
``<number>.nii.gz`` in each of them, for the labels 0, 1 and 2, and for the licence.
"""

from __future__ import annotations

from pathlib import Path

from normnet.datasets.dataset import Dataset, image_or_expected, images_of
from normnet.datasets.manifest import Case

LICENCE = "CC0 1.0 (as amid records it)"
LESION_LABELS = frozenset({1, 2})
NEXT_TO_NO_LESION = "about 70 lesion voxels in 42 slices (the paper's footnote 7)"


def find_cases(root: Path) -> list[Case]:
    """All nine CTs; volume 6 is marked as left out."""
    folder = root / "rp_im"
    cts, lesions = images_of(folder), images_of(root / "rp_msk")
    lungs = images_of(root / "rp_lung_msk")
    return [
        Case(
            f"radiopaedia_{name}",
            image_or_expected(cts, name, folder),
            lung_mask=lungs.get(name),
            lesion_mask=lesions.get(name),
            split="test",
            licence=LICENCE,
            lesion_labels=LESION_LABELS,
            left_out=NEXT_TO_NO_LESION if name == "6" else "",
        )
        for name in sorted({*cts, *lungs, *lesions})
    ]


DATASET = Dataset(
    name="radiopaedia",
    label="Radiopaedia",
    title="MedSeg Covid Dataset 2 (Radiopaedia)",
    role="lesions",
    n_volumes=9,
    table1="9",
    use="test of lesions: 8, without volume 6",
    licence=LICENCE,
    source="medicalsegmentation.com/covid19, dataset nr. 2",
    layout=(
        "rp_im/1.nii.gz ... 9.nii.gz",
        "rp_lung_msk/1.nii.gz (lungs)",
        "rp_msk/1.nii.gz (1 ground glass, 2 consolidation)",
    ),
    markers=("rp_im",),
    expects=("lung_mask", "lesion_mask"),
    find=find_cases,
    rank=3,
)
