"""Miniature data sets on disk: a chest without any symmetry, stored in each layout."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from normnet.io.formats.nifti import write_image
from normnet.scan import Geometry, Scan
from tests.phantoms import TISSUE_HU, Phantom, thorax_phantom, write_dicom

SHAPE, SPACING_MM = (32, 64, 64), (5.0, 5.0, 5.0)
SERIES = "1.3.6.1.4.1.14519.5.2.1.6279.6001.1"


@cache
def chest() -> Phantom:
    """A heart on the left in front and a high left diaphragm: no mirrored mask fits."""
    phantom = thorax_phantom(SHAPE, SPACING_MM, vessels=False)
    blocked = np.zeros(SHAPE, bool)
    blocked[:14, :, 32:] = True
    blocked[:, :30, 20:48] = True
    volume, blocked = phantom.scan.volume_hu.copy(), blocked & phantom.lung_mask
    volume[blocked] = TISSUE_HU
    lungs, lesions = phantom.lung_mask & ~blocked, phantom.lesion_mask & ~blocked
    return replace(
        phantom, scan=replace(phantom.scan, volume_hu=volume), lung_mask=lungs, lesion_mask=lesions
    )


def store(path: Path, array: np.ndarray, geometry: Geometry | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, array, geometry or chest().scan.geometry)
    return path


def store_ct(path: Path, volume_hu: np.ndarray | None = None) -> Path:
    return store(path, chest().scan.volume_hu if volume_hu is None else volume_hu)


def sides(lungs: np.ndarray) -> np.ndarray:
    """1 and 2, as most sets tell one lung from the other."""
    return (lungs * np.where(np.arange(SHAPE[2]) < SHAPE[2] // 2, 1, 2)).astype(np.uint8)


def coronacases(
    root: Path, names: tuple[str, ...] = ("coronacases_001", "coronacases_002")
) -> Path:
    for name in names:
        store_ct(root / "COVID-19-CT-Seg_20cases" / f"{name}.nii.gz")
        store(root / "Lung_Mask" / f"{name}.nii.gz", sides(chest().lung_mask))
        store(root / "Infection_Mask" / f"{name}.nii.gz", chest().lesion_mask)
    return root


def radiopaedia(root: Path, numbers: tuple[int, ...] = (1, 6)) -> Path:
    kinds = np.where(chest().lesion_mask, 1, 0).astype(np.uint8)
    kinds[:, :, SHAPE[2] // 2 :] *= 2
    kinds[0, 0, 0] = 3
    for n in numbers:
        store_ct(root / "rp_im" / f"{n}.nii.gz")
        store(root / "rp_lung_msk" / f"{n}.nii.gz", chest().lung_mask)
        store(root / "rp_msk" / f"{n}.nii.gz", kinds)
    return root


def uestc(root: Path, step_mm: float = 4.5, hu: bool = False) -> Path:
    geometry = replace(chest().scan.geometry, spacing_mm=(step_mm, 5.0, 5.0))
    values = chest().scan.volume_hu.astype(np.float32)
    values = values if hu else ((values + 1400) / 1500).clip(0, 1)
    store(root / "part1/image/7.nii.gz", values, geometry)
    store(root / "part2/image/7.nii.gz", values, geometry)
    for part in ("part1", "part2"):  # the published label files say another place
        store(root / part / "label/7.nii.gz", chest().lesion_mask, Geometry())
    return root


def mosmed(root: Path) -> Path:
    store_ct(root / "studies/CT-0/study_0001.nii.gz")
    store_ct(root / "studies/CT-1/study_0255.nii.gz")
    store_ct(root / "studies/CT-3/study_1064.nii.gz")
    store(root / "masks/study_0255_mask.nii.gz", chest().lesion_mask)
    return root


def nsclc(root: Path) -> Path:
    for n in (1, 2):
        study = root / f"NSCLC-Radiomics/LUNG1-00{n}/2008-StudyID-1"
        write_dicom(
            replace(chest().scan, volume_hu=chest().scan.volume_hu), study / "0.000000-NA-1"
        )
        (study / "3.000000-contours").mkdir()
        (study / "3.000000-contours/1-1.dcm").write_bytes(bytes(128) + b"DICM")
    folder = root / "Thoracic_Cavities/LUNG1-001"
    store(folder / "LUNG1-001_thor_cav_primary_reviewer.nii.gz", sides(chest().lung_mask))
    store(folder / "LUNG1-001_thor_cav_secondary_reviewer.nii.gz", np.zeros(SHAPE, np.uint8))
    return root


def structseg(root: Path, below: str = "Thoracic_OAR") -> Path:
    organs = sides(chest().lung_mask)
    organs[:, :4, :4] = 3
    for n in (1, 2, 10):
        store_ct(root / below / str(n) / "data.nii.gz")
        store(root / below / str(n) / "label.nii.gz", organs)
    store(root / "Lung_GTV/2/label.nii.gz", chest().lesion_mask)
    return root


def msd_lung(root: Path) -> Path:
    for name in ("lung_001", "lung_003"):
        store_ct(root / f"Task06_Lung/imagesTr/{name}.nii.gz")
        store(root / f"Task06_Lung/labelsTr/{name}.nii.gz", chest().lesion_mask)
        store(root / f"Task06_Lung/Lung_Mask/{name}.nii.gz", sides(chest().lung_mask))
    (root / "Task06_Lung/imagesTr/._lung_001.nii.gz").write_bytes(b"Mac OS X")
    return root


def luna16(root: Path, nodules: str = "", direction: int = 1) -> Path:
    """Two CTs, lungs for the first; ``nodules`` are rows of ``annotations.csv``."""
    for n, subset in enumerate(("subset0", "subset9")):
        store_metaimage(root / subset / f"{SERIES}{n}.mhd", chest().scan, direction)
    labels = (sides(chest().lung_mask) + 2 * chest().lung_mask).astype(np.uint8)
    labels[-1, 32, 32] = 5
    scan = replace(chest().scan, volume_hu=labels)
    store_metaimage(root / f"seg-lungs-LUNA16/{SERIES}0.mhd", scan, direction)
    (root / "annotations.csv").write_text(f"seriesuid,coordX,coordY,coordZ,diameter_mm\n{nodules}")
    return root


def store_metaimage(path: Path, scan: Scan, direction: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".raw").write_bytes(scan.volume_hu.tobytes())
    numbers = {
        "TransformMatrix": f"1 0 0 0 1 0 0 0 {direction}",
        "Offset": " ".join(f"{v:g}" for v in scan.geometry.origin_mm[::-1]),
        "ElementSpacing": " ".join(f"{v:g}" for v in scan.geometry.spacing_mm[::-1]),
        "DimSize": " ".join(str(n) for n in scan.shape[::-1]),
    }
    kind = "MET_SHORT" if scan.volume_hu.dtype == np.int16 else "MET_UCHAR"
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        *(f"{key} = {value}" for key, value in numbers.items()),
    ]
    path.write_text(
        "\n".join([*lines, f"ElementType = {kind}", f"ElementDataFile = {path.stem}.raw\n"])
    )
    return path


def csv(root: Path) -> Path:
    store_ct(root / "one/ct.nii.gz")
    store(root / "one/lungs.nii.gz", chest().lung_mask)
    store(root / "one/lesions.nii.gz", chest().lesion_mask)
    (root / "cases.csv").write_text(
        "case_id,folder,file,lung_mask,lesion_mask\n"
        "a,one,ct.nii.gz,lungs.nii.gz,lesions.nii.gz\n"
        "b,one,ct.nii.gz,,\n"
    )
    return root


TREES = {
    "luna16": luna16,
    "coronacases": coronacases,
    "radiopaedia": radiopaedia,
    "uestc": uestc,
    "mosmed": mosmed,
    "nsclc": nsclc,
    "structseg": structseg,
    "msd-lung": msd_lung,
    "csv": csv,
}
