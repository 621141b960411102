"""MosMedData: 1110 CTs of grade CT-0 (no pneumonia) to CT-4; fifty of CT-1 have lesion masks.

The paper lists it in Table I and does not use it. The 254 CTs of CT-0 show no signs of pneumonia,
so normal lungs could be learned from them as from LUNA16.

Sources: Morozov et al., doi:10.1101/2020.05.20.20100362, for the grades, the masks and the
licence; the public reader of neuro-ml's COVID-19-Triage for the names ``studies/CT-0`` to ``CT-4``,
study_0001 to study_1110, and ``masks/study_0255_mask.nii.gz`` to 0304.
"""

from __future__ import annotations

from pathlib import Path

from normnet.datasets.dataset import Dataset, images_of
from normnet.datasets.manifest import Case

LICENCE = "CC BY-NC-ND 3.0"


def find_cases(root: Path) -> list[Case]:
    """All studies.

    The split is ``test`` for a study with a lesion mask, ``train`` for one of CT-0, else the grade.
    """
    grades = sorted(path for path in (root / "studies").glob("CT-[0-4]") if path.is_dir())
    masks = {name.removesuffix("_mask"): path for name, path in images_of(root / "masks").items()}
    studies = {name: path for grade in grades for name, path in images_of(grade).items()}
    cases = []
    for name in sorted({*studies, *masks}):
        image = studies.get(name, root / "studies" / "CT-1" / f"{name}.nii.gz")
        grade = image.parent.name
        split = "test" if name in masks else "train" if grade == "CT-0" else grade
        cases.append(Case(name, image, lesion_mask=masks.get(name), split=split, licence=LICENCE))
    return cases


DATASET = Dataset(
    name="mosmed",
    label="Mosmed",
    title="MosMedData: Chest CT Scans with COVID-19 Related Findings",
    role=None,
    n_volumes=1110,
    table1="50",
    use="listed, not used",
    licence=LICENCE,
    source="mosmed.ai, datasets, covid19_1110; doi:10.1101/2020.05.20.20100362",
    layout=(
        "studies/CT-0 ... CT-4/study_0001.nii.gz",
        "masks/study_0255_mask.nii.gz (1: lesion; 50 of CT-1)",
    ),
    markers=("studies/CT-[0-4]",),
    expects=(),
    find=find_cases,
    rank=5,
)
