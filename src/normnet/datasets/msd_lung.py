"""Medical Segmentation Decathlon, task 6 (lung): 63 CTs of lung tumours, to train the lung segmenter.

Its own labels are tumours, kept as the nodule mask. The lungs are Ma et al.'s (the paper, Sec. IV-A3). Under which
folder they are published could not be verified, nor that they are: their README names tumours only for this set. Put
them beside ``imagesTr`` in a folder with "lung" in its name, under the names of the CTs, every label but 0 a lung.

Sources: medicaldecathlon.com for the licence; imagesTr/lung_001.nii.gz and labelsTr/lung_001.nii.gz, and the hidden
``._lung_001.nii.gz`` between them, as in many public programs that read them.
"""

from __future__ import annotations

from pathlib import Path

from normnet.datasets.dataset import Dataset, image_or_expected, images_of
from normnet.datasets.manifest import Case

LICENCE = "CC BY-SA 4.0"


def find_cases(root: Path) -> list[Case]:
    """The 63 CTs with labels; those for testing have none and are not listed."""
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
    title="Medical Segmentation Decathlon, Task06 Lung, with lungs of Ma et al.",
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
)
