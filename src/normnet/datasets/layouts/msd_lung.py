"""Medical Segmentation Decathlon, task 6: 63 CTs of lung tumours, to train the lung segmenter.

Its own labels are tumours; they become the nodule mask. The lungs are those of Ma et al. (the
paper, Sec. IV-A3). Not verified: in which folder they are published, and that they are published
at all, since the README of Ma et al. names only tumours for this set. Put them beside ``imagesTr``
in a folder with "lung" in its name, under the names of the CTs; every label except 0 is lung.

Sources: medicaldecathlon.com for the licence; many public programs for the names
imagesTr/lung_001.nii.gz and labelsTr/lung_001.nii.gz, and for the hidden ``._lung_001.nii.gz``
between them.
"""

from __future__ import annotations

from pathlib import Path

from normnet.datasets.dataset import Dataset, image_or_expected, images_of
from normnet.datasets.manifest import Case

LICENCE = "CC BY-SA 4.0"


def find_cases(root: Path) -> list[Case]:
    """The 63 CTs with labels; those for testing have no labels and are not listed."""
    task = root / "Task06_Lung" if (root / "Task06_Lung").is_dir() else root
    folder = task / "imagesTr"
    cts, tumours, lungs = images_of(folder), images_of(task / "labelsTr"), _lungs_of(task)
    return [
        Case(
            f"msd_{name}",
            image_or_expected(cts, name, folder),
            lung_mask=lungs.get(name),
            nodule_mask=tumours.get(name),
            split="lungs",
            licence=LICENCE,
        )
        for name in sorted({*cts, *tumours, *lungs})
    ]


def _lungs_of(task: Path) -> dict[str, Path]:
    folders = sorted(
        path for path in task.iterdir() if path.is_dir() and "lung" in path.name.lower()
    )
    return next((found for folder in folders if (found := images_of(folder))), {})


DATASET = Dataset(
    name="msd-lung",
    label="MSD lung",
    title="Medical Segmentation Decathlon, Task06 Lung, with lungs of Ma et al.",
    role="lungs",
    n_volumes=63,
    table1="",
    use="training lungs: 63",
    licence=LICENCE,
    source="medicaldecathlon.com, Task06_Lung; lungs: Ma et al., doi:10.1002/mp.14676",
    layout=(
        "Task06_Lung/imagesTr/lung_001.nii.gz",
        "Task06_Lung/labelsTr/lung_001.nii.gz (1: tumour)",
        "Task06_Lung/<a name with lung>/lung_001.nii.gz (lungs)",
    ),
    markers=("Task06_Lung/imagesTr", "imagesTr/lung_*"),
    expects=("lung_mask",),
    find=find_cases,
    rank=8,
)
