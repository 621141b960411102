"""NSCLC-Radiomics with the thoracic cavities of PleThora, to train the lung segmenter.

402 of the 422 patients have a mask. The masks are thoracic cavities: effusions and tumours count
as lung. The left and the right lung have labels of their own; every label except 0 is inside.

Sources: Kiser et al., doi:10.1002/mp.14424; the authors' benchmark that the paper follows
(COVID-19-CT-Seg-Benchmark) for the number 402; two public programs for the folders
LUNG1-001/<study>/<series>/ and LUNG1-001/LUNG1-001_thor_cav_primary_reviewer.nii.gz. Masks of
other reviewers are not used.
"""

from __future__ import annotations

from pathlib import Path

from normnet.datasets.dataset import Dataset
from normnet.datasets.manifest import Case

LICENCE = "CC BY-NC 3.0"
NO_MASK = "none of the 402 with a lung mask"


def find_cases(root: Path) -> list[Case]:
    """Every patient; one without a mask is left out."""
    masks = {
        path.parent.name: path
        for path in root.glob("Thoracic_Cavities/LUNG1-*/*_thor_cav_primary_reviewer.nii*")
    }
    patients = {path.name: path for path in root.glob("NSCLC-Radiomics/LUNG1-*") if path.is_dir()}
    return [
        Case(
            name,
            _ct_of(patients.get(name, root / "NSCLC-Radiomics" / name)),
            lung_mask=masks.get(name),
            split="lungs",
            licence=LICENCE,
            left_out="" if name in masks else NO_MASK,
        )
        for name in sorted({*patients, *masks})
    ]


def _ct_of(patient: Path) -> Path:
    """The series with the most files; contours and segmentations are series of one file."""
    n_files: dict[Path, int] = {}
    for path in patient.rglob("*.dcm"):
        n_files[path.parent] = n_files.get(path.parent, 0) + 1
    return max(sorted(n_files), key=n_files.__getitem__, default=patient)


DATASET = Dataset(
    name="nsclc",
    label="NSCLC-Radiomics",
    title="NSCLC-Radiomics with PleThora's thoracic cavities",
    role="lungs",
    n_volumes=422,
    table1="",
    use="training lungs: 402",
    licence=LICENCE,
    source="The Cancer Imaging Archive, NSCLC-Radiomics and PleThora; doi:10.1002/mp.14424",
    layout=(
        "NSCLC-Radiomics/LUNG1-001/<study>/<series>/*.dcm",
        "Thoracic_Cavities/LUNG1-001/LUNG1-001_thor_cav_primary_reviewer.nii.gz",
    ),
    markers=("NSCLC-Radiomics/LUNG1-*", "Thoracic_Cavities/LUNG1-*"),
    expects=("lung_mask",),
    find=find_cases,
    rank=6,
)
