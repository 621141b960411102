"""What is wrong with a data set on disk, case by case: files, grids, values and place of the masks.

Error ids::

    NN-DAT 010 unknown name          011 unknown layout              012 no CT
           013 CT missing            014 mask missing                015 mask empty
           016 mask mirrored         017 mask not on the lungs       018 lesions not in the lungs
           019 window too narrow     020 nothing that the paper uses
           021, 022 nodules of LUNA16

An error of a reader has the id of that reader (``normnet.io``): NN-GEO-016 another grid,
NN-VAL-007 no HU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy import ndimage

from normnet.datasets.dataset import Dataset
from normnet.datasets.manifest import Case
from normnet.datasets.reading import read_lesions, read_lungs, read_scan
from normnet.errors import GeometryError, InputError, NormNetError, ValueRangeError
from normnet.scan import Scan

NEEDED_HU = (-800.0, 100.0)  # the window of the method, Sec. IV-B2
BONE_HU = 300  # a CT without brighter voxels was clipped
DARK_HU = -400  # aerated lung is darker, the chest wall brighter
COARSE_MM = 3.0  # grid on which positions are compared; much finer than the chest wall
CLOSING_MM = 15.0  # bridges vessels and consolidations
MIN_AIR_SHARE = 0.2  # of the mask's volume; with less air in the body its place cannot be judged
# Eight real lung masks overlap with the dark lungs by 0.94 to 0.97 as stored, and by at most 0.85
# when they are mirrored.
LEAST = {"lung_mask": 0.3, "lesion_mask": 0.5}
GAIN = {"lung_mask": 0.1, "lesion_mask": 0.2}
_NAMES = {"lung_mask": "lung mask", "lesion_mask": "lesion mask"}
_AXES = ("head to foot", "front to back", "left to right")
_FLIPS = [axes for n in (1, 2, 3) for axes in combinations((0, 1, 2), n)]

Score = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Report:
    """What was found in one data set.

    Attributes:
        dataset: The data set.
        root: Its folder.
        cases: All its cases.
        faults: What makes a case unusable, by case; cases without a fault are not in it.
        notes: What is odd but does no harm, one line each.
    """

    dataset: Dataset
    root: Path
    cases: tuple[Case, ...]
    faults: dict[str, list[NormNetError]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def left_out(self) -> list[Case]:
        """Cases that the paper does not use."""
        return [case for case in self.cases if case.left_out]

    @property
    def n_usable(self) -> int:
        """Cases with no fault that the paper uses."""
        return sum(not case.left_out and case.case_id not in self.faults for case in self.cases)

    @property
    def exit_code(self) -> int:
        """0 if all cases that the paper uses are usable, 9 if some are, else that of a fault."""
        if not self.faults:
            return 0
        return 9 if self.n_usable else next(iter(self.faults.values()))[0].exit_code


def check_dataset(
    dataset: Dataset,
    root: Path,
    progress: Callable[[str, int, int], None] = lambda name, n, of: None,
) -> Report:
    """Read every CT and mask that the paper uses and compare them.

    Args:
        dataset: The data set.
        root: Its folder, as ``registry.recognise`` returns it.
        progress: Called before each case with its name, its number and the number of cases.

    Raises:
        InputError: NN-DAT-012 if there is no case at all.
        NormNetError: As ``dataset.find``.
    """
    cases = dataset.find(root)
    if not cases:
        raise InputError(
            "NN-DAT-012",
            f"no CT of {dataset.name}",
            root.name,
            f"expected {'; '.join(dataset.layout)}",
        )
    faults: dict[str, list[NormNetError]] = {}
    notes = list(_notes_on_number(dataset, cases))
    used = [case for case in cases if not case.left_out]
    for n, case in enumerate(used):
        progress(case.case_id, n, len(used))
        found, odd = check_case(case, dataset.expects)
        if found:
            faults.setdefault(case.case_id, []).extend(found)
        notes += [f"{case.case_id}: {line}" for line in odd]
    if not used:
        nothing = ValueRangeError(
            "NN-DAT-020", "no case that the paper uses", root.name, "get the rest of the data set"
        )
        faults[dataset.name] = [nothing]
    return Report(dataset, root, tuple(cases), faults, tuple(notes))


def check_case(case: Case, expects: tuple[str, ...] = ()) -> tuple[list[NormNetError], list[str]]:
    """Faults and notes of one case.

    Args:
        case: The case; its CT and masks are read.
        expects: Masks that it must have: ``lung_mask``, ``lesion_mask``.
    """
    if not case.image.exists():
        error = InputError(
            "NN-DAT-013", "the CT is missing", _where(case, case.image), "download it again"
        )
        return [error], []
    if case.image.suffix == ".npz":
        return [], ["single slices, not checked"]
    faults: list[NormNetError] = list(_missing_masks(case, expects))
    notes: list[str] = []
    try:
        scan = read_scan(case)
    except NormNetError as error:
        return [*faults, _at(error, case)], notes
    try:
        notes += _check_window(scan, case)
    except ValueRangeError as error:
        faults.append(error)
    masks: dict[str, np.ndarray] = {}
    for name, path, read in (
        ("lung_mask", case.lung_mask, read_lungs),
        ("lesion_mask", case.lesion_mask, read_lesions),
    ):
        if path is None or not path.exists():
            continue
        try:
            mask = read(case, scan)
        except NormNetError as error:
            faults.append(_at(error, case))
            continue
        if mask is None or mask.any():
            masks |= {} if mask is None else {name: mask}
        elif name == "lung_mask":
            todo = "download it again, or check its labels"
            faults.append(
                InputError("NN-DAT-015", "the lung mask is empty", _where(case, path), todo)
            )
        else:
            notes.append("no lesion in its lesion mask")
    return faults + list(_misplaced(case, scan, masks)), notes


def _notes_on_number(dataset: Dataset, cases: list[Case]) -> Iterator[str]:
    n = sum(case.image.exists() for case in cases)
    if dataset.n_volumes and n != dataset.n_volumes:
        yield f"{n} CTs of the {dataset.n_volumes} that {dataset.name} has"


def _missing_masks(case: Case, expects: tuple[str, ...]) -> Iterator[NormNetError]:
    for name, title in _NAMES.items():
        path: Path | None = getattr(case, name)
        if path is not None and not path.exists():
            yield InputError(
                "NN-DAT-014", f"no {title}", _where(case, path), "correct the name, or add the file"
            )
        elif path is None and name in expects:
            yield InputError(
                "NN-DAT-014", f"no {title}", _where(case, case.image), "add it as the layout says"
            )


def _check_window(scan: Scan, case: Case) -> list[str]:
    """Notes on clipped values; raises NN-DAT-019 if the values do not cover the method's window."""
    low, high = float(scan.volume_hu.min()), float(scan.volume_hu.max())
    if low > NEEDED_HU[0] or high < NEEDED_HU[1]:
        needed = f"the method needs {NEEDED_HU[0]:g} to {NEEDED_HU[1]:g} HU"
        raise ValueRangeError(
            "NN-DAT-019", f"clipped to {low:g} to {high:g} HU", _where(case, case.image), needed
        )
    return (
        [f"clipped at {high:g} HU, which the window of the method does not notice"]
        if high < BONE_HU
        else []
    )


def _misplaced(case: Case, scan: Scan, masks: dict[str, np.ndarray]) -> Iterator[NormNetError]:
    """Masks that do not lie where the lungs are.

    The masks are compared on a coarse grid whose axes run along those of the patient.
    """
    turn = _coarse_and_turned(scan)
    air = _air_in_body(turn(scan.volume_hu) < DARK_HU)
    lungs = turn(masks["lung_mask"]) if "lung_mask" in masks else None
    lesions = turn(masks["lesion_mask"]) if "lesion_mask" in masks else None
    if lungs is not None and lungs.any() and air.sum() >= MIN_AIR_SHARE * lungs.sum():
        fault = _judge(case, "lung_mask", lungs, lambda mask: _compute_dice(mask, air))
        if fault is not None:
            yield fault
            return  # the place of the lesions cannot be judged without lungs
    if lesions is None or not lesions.any():
        return
    if lungs is None:
        if not air.any():
            return
        n_steps = int(CLOSING_MM / COARSE_MM)
        closed = ndimage.binary_closing(np.pad(air, 8), iterations=n_steps)
        inside = closed[8:-8, 8:-8, 8:-8] | air
    else:
        inside = lungs
    fault = _judge(
        case, "lesion_mask", lesions, lambda mask: float((mask & inside).sum() / mask.sum())
    )
    if fault is not None:
        yield fault


def _judge(case: Case, name: str, mask: np.ndarray, score: Score) -> GeometryError | None:
    """The fault of a mask's place, or None.

    NN-DAT-016 if the mask scores much better when it is mirrored; NN-DAT-017 (lungs) or 018
    (lesions) if it scores badly in both ways.
    """
    where = _where(case, getattr(case, name))
    now = score(mask)
    best, axes = max((score(np.flip(mask, axes)), axes) for axes in _FLIPS)
    words = "overlap with the dark lungs" if name == "lung_mask" else "of it in the lungs"
    if best >= now + GAIN[name] and best >= 0.5:
        found = f"the {_NAMES[name]} is mirrored {' and '.join(_AXES[axis] for axis in axes)}"
        shares = f"{now:.0%} {words} as it is, {best:.0%} mirrored"
        return GeometryError(
            "NN-DAT-016", f"{found}: {shares}", where, "mirror it, or correct its header"
        )
    if now < LEAST[name]:
        code = "NN-DAT-017" if name == "lung_mask" else "NN-DAT-018"
        found = f"the {_NAMES[name]} lies elsewhere: {now:.0%} {words}"
        return GeometryError(code, found, where, "check that it belongs to this CT")
    return None


def _coarse_and_turned(scan: Scan) -> Callable[[np.ndarray], np.ndarray]:
    """A function that returns a coarse view of an array of the scan, its axes along z, y, x.

    The voxels of the view are about ``COARSE_MM`` apart. Its axes may run in both directions.
    """
    # The array axis that runs along world z, y, x.
    axes = np.abs(np.asarray(scan.geometry.direction)).argmax(axis=1)
    picked = tuple(
        slice(None, None, max(1, round(COARSE_MM / scan.geometry.spacing_mm[axis])))
        for axis in axes
    )
    return lambda array: array.transpose(axes)[picked]


def _air_in_body(dark: np.ndarray) -> np.ndarray:
    """(z, y, x) bool: dark voxels that are not connected to a side of the picture.

    Only the four sides within the slices count: lungs may reach the first and the last slice.
    """
    parts, _ = ndimage.label(dark)
    sides = (parts[:, 0], parts[:, -1], parts[:, :, 0], parts[:, :, -1])
    outside = np.unique(np.concatenate([side.ravel() for side in sides]))
    return dark & ~np.isin(parts, outside)


def _compute_dice(mask: np.ndarray, air: np.ndarray) -> float:
    """Dice in the slices where the mask is not empty: some masks cover only slices with lesions."""
    rows = mask.any(axis=(1, 2))
    total = mask.sum() + air[rows].sum()
    return float(2 * (mask & air).sum() / total) if total else 0.0


def _where(case: Case, path: Path) -> str:
    return f"{case.case_id}, {path.parent.name}/{path.name}"


def _at(error: NormNetError, case: Case) -> NormNetError:
    """The same error with the name of the case; several folders hold files of one name."""
    where = error.where
    if case.case_id not in where:
        where = ", ".join(filter(None, (case.case_id, where)))
    return type(error)(error.code, error.found, where, error.todo)
