"""StructSeg 2019, task 3: organs at risk in 50 planning CTs, to train the lung segmenter.

Labels 1 and 2 are the lungs; heart, oesophagus, trachea and spinal cord follow. Public programs
disagree on which of the two is the left lung, so only their union is used. Task 4 marks the tumour
in the same patients; it becomes the nodule mask.

Sources: the page "StructSeg 2019" of the challenge; the reader in ``torch_em``, which copies the
README of the release, for the labels, the numbers 1 to 50 and the names
Thoracic_OAR/<number>/data.nii.gz, Thoracic_OAR/<number>/label.nii.gz and
Lung_GTV/<number>/label.nii.gz. Not verified on the data: only participants of the challenge get
them.
"""

from __future__ import annotations

from pathlib import Path

from normnet.datasets.dataset import Dataset, images_of
from normnet.datasets.manifest import Case

LICENCE = "participants of the challenge only; no redistribution"
LUNG_LABELS = frozenset({1, 2})


def find_cases(root: Path) -> list[Case]:
    """All patients with their lungs, and with the tumour if task 4 is there too."""
    folder = _task_folder(root, "Thoracic_OAR", "Task3_Thoracic_OAR")
    tumours = _task_folder(root, "Lung_GTV", "Task4_Lung_GTV")
    cases = []
    for patient in sorted(path for path in folder.glob("*") if images_of(path)):
        files = images_of(patient)
        cases.append(
            Case(
                f"structseg_{int(patient.name):02d}" if patient.name.isdecimal() else patient.name,
                files.get("data", patient / "data.nii.gz"),
                lung_mask=files.get("label"),
                nodule_mask=images_of(tumours / patient.name).get("label"),
                split="lungs",
                licence=LICENCE,
                lung_labels=LUNG_LABELS,
            )
        )
    return sorted(cases, key=lambda case: case.case_id)


def _task_folder(root: Path, name: str, archive: str) -> Path:
    """The folder of a task; the folder of its archive may lie around it."""
    places = (root / name, root / archive / name, root / archive)
    return next((place for place in places if place.is_dir()), places[0])


DATASET = Dataset(
    name="structseg",
    label="StructSeg",
    title="StructSeg 2019, task 3 (thoracic organs at risk)",
    role="lungs",
    n_volumes=50,
    table1="",
    use="training lungs: 50",
    licence=LICENCE,
    source="structseg2019.grand-challenge.org, after registration",
    layout=(
        "Thoracic_OAR/1 ... 50/data.nii.gz",
        "Thoracic_OAR/1 ... 50/label.nii.gz (1, 2: lungs)",
        "Lung_GTV/1 ... 50/label.nii.gz (tumour, optional)",
    ),
    markers=("Thoracic_OAR", "Task3_Thoracic_OAR"),
    expects=("lung_mask",),
    find=find_cases,
    rank=7,
)
