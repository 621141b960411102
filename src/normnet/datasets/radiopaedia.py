"""Radiopaedia in MedSeg's layout: nine CTs from radiopaedia.org, labelled by a radiologist.

Volume 6 has next to no lesion ("about 70 positive voxels in 42 slices", the paper's footnote 7); the paper leaves it
out. In ``rp_msk`` 1 is ground glass and 2 consolidation; 3, pleural effusion in MedSeg's older set of single slices, is
no lesion here.

Sources: MedSeg's page "COVID-19 CT segmentation dataset" for the nine volumes (829 slices, 373 with lesions); the
three archives, ``<number>.nii.gz`` in each and labels 0, 1, 2 as in the public reader of neuro-ml's ``amid``, which
also names the licence. What label 3 would mean in these nine is not verified.
"""

from __future__ import annotations

from pathlib import Path

from normnet.datasets.dataset import Dataset, image_or_expected, images_of
from normnet.datasets.manifest import Case

LICENCE = "CC0 1.0 (as amid records it)"
LESION_LABELS = frozenset({1, 2})
NEXT_TO_NO_LESION = "about 70 lesion voxels in 42 slices (the paper's footnote 7)"


def find_cases(root: Path) -> list[Case]:
    """All nine, volume 6 among them as left out."""
    folder = root / "rp_im"
    cts, lungs, lesions = (
        images_of(folder),
        images_of(root / "rp_lung_msk"),
        images_of(root / "rp_msk"),
    )
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
    title="MedSeg Covid Dataset 2 (Radiopaedia)",
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
)
