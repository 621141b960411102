"""Coronacases in the layout of Zenodo 3757476: ten of its twenty CTs.

The other ten CTs came from Radiopaedia and hold values of 0 to 255 without HU. The paper leaves
them out for this reason (footnote 2), and so do we. The README of the authors says that a window
of -1250 to 250 HU was mapped to 0..255.

Sources: Ma et al., doi:10.1002/mp.14676; the README of their benchmark (COVID-19-CT-Seg-Benchmark)
for the labels and the window. Several public programs that unpack the four archives show the names
of the twenty files. The licence is CC BY-NC-SA in the README of the authors and CC BY 4.0 in copies
of the record: ask before you share anything.
"""

from __future__ import annotations

from pathlib import Path

from normnet.datasets.dataset import Dataset, image_or_expected, images_of
from normnet.datasets.manifest import Case

LICENCE = "CC BY-NC-SA (authors' README; CC BY 4.0 in copies of the record)"
WITHOUT_HU = "clipped to 0..255 without HU (the paper's footnote 2)"
# Labels of Lung_and_Infection_Mask; lesions lie in lungs.
UNION_LUNGS, UNION_LESIONS = frozenset({1, 2, 3}), frozenset({3})


def find_cases(root: Path) -> list[Case]:
    """All twenty CTs.

    Where the mask of the lungs or of the lesions is missing, the mask of both replaces it.
    """
    folder = root / "COVID-19-CT-Seg_20cases"
    cts, union = images_of(folder), images_of(root / "Lung_and_Infection_Mask")
    lungs, lesions = images_of(root / "Lung_Mask"), images_of(root / "Infection_Mask")
    return [
        Case(
            name,
            image_or_expected(cts, name, folder),
            lung_mask=lungs.get(name) or union.get(name),
            lesion_mask=lesions.get(name) or union.get(name),
            split="test",
            licence=LICENCE,
            lung_labels=frozenset() if name in lungs else UNION_LUNGS,
            lesion_labels=frozenset() if name in lesions else UNION_LESIONS,
            left_out=WITHOUT_HU if name.startswith("radiopaedia") else "",
        )
        for name in sorted({*cts, *lungs, *lesions, *union})
    ]


DATASET = Dataset(
    name="coronacases",
    label="Coronacases",
    title="COVID-19 CT Lung and Infection Segmentation Dataset (Coronacases)",
    role="lesions",
    n_volumes=20,
    table1="20",
    use="test of lesions: the 10 from coronacases.org",
    licence=LICENCE,
    source="doi:10.5281/zenodo.3757476",
    layout=(
        "COVID-19-CT-Seg_20cases/coronacases_001.nii.gz",
        "Lung_Mask/coronacases_001.nii.gz (1, 2: lungs)",
        "Infection_Mask/coronacases_001.nii.gz (1: lesion)",
        "Lung_and_Infection_Mask/coronacases_001.nii.gz (3: lesion; instead of either)",
    ),
    markers=("COVID-19-CT-Seg_20cases",),
    expects=("lung_mask", "lesion_mask"),
    find=find_cases,
    rank=2,
)
