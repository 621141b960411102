"""A lung mask that the caller gives: which of its labels are lung, and on which side they lie."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from normnet.errors import ValueRangeError
from normnet.filters import bounding_box, count_values
from normnet.io.acceptance import accept_labels
from normnet.lungs.external import LEFT, RIGHT
from normnet.lungs.organs import LOBES, ORGANS
from normnet.lungs.sides import find_middle, split_left_right
from normnet.preparation.orient import Orientation
from normnet.quantification import LOBES as LOBE_NAMES
from normnet.scan import Scan

THIN_MM = 2.5  # the labels are looked at on a grid of about this
LUNG_HU = -500.0  # the median of a lung lies below
AERATED_HU, AERATED_SHARE = (-950.0, -400.0), 0.2  # of diseased lung, which has a denser median
AIRWAY_HU, AIRWAY_ML, AIRWAY_MM = -930.0, 150.0, 30.0  # median, volume, distance from the middle
ONE_SIDE_SHARE = 0.9  # of a label: the rest may lie across the middle
TWO_LUNGS_MM = 60.0  # between the centres of two labels that are two lungs, not lobes of one
AIRWAYS, AIR_FILLED = (15, 16), (6, 18, 19, 20)  # of TotalSegmentator; the second: bowel
MAX_NAMES, MAX_UNNAMED = 5, 5
_SIDES = {RIGHT: "right", LEFT: "left"}


class Label(NamedTuple):
    """What one label of a mask lies on.

    Attributes:
        n_vox: Number of its voxels.
        median_hu: Of its voxels.
        aerated: Share of its voxels with the HU of diseased or healthy lung.
        column: Its centre along x.
    """

    n_vox: int
    median_hu: float
    aerated: float
    column: float


class _View(NamedTuple):
    """A scan and its mask on a thin grid, turned to head, back, left."""

    volume_hu: np.ndarray
    labels: np.ndarray
    spacing_mm: tuple[float, ...]
    every: tuple[int, ...]


def sort_lungs(given: np.ndarray, scan: Scan) -> tuple[np.ndarray, tuple[str, ...]]:
    """Find the lungs among the labels of a mask; the sides follow from the place in the body.

    Understood are 1 for the right lung and 2 for the left, one value for both lungs, one label per
    lobe (lungmask, TotalSegmentator), and lungs with a label for their disease. A label is lung if
    its HU are. Labels of other organs are left out.

    Args:
        given: (z, y, x) whole numbers from 0 to 255, or bool, on the grid of the scan.
        scan: As read.

    Returns:
        uint8 of the scan's shape, 1 right lung, 2 left lung, 0 elsewhere; and a line for each label
        that was left out or changed its side.

    Raises:
        GeometryError: NN-GEO-031 if the mask has another shape.
        ValueRangeError: NN-VAL-009 if the values are not labels, 021 if the mask is empty, 022 if
            no label lies on lung.
    """
    labels = _checked(given, scan)
    view = _thin(labels, scan)
    counted = count_values(labels)
    found = {
        int(value): _describe(view, int(value))
        for value in np.flatnonzero(counted)
        if value and (view.labels == value).any()
    }
    lungs = _lungs_among(found, view, scan.case_id)
    kept = np.isin(view.labels, sorted(lungs))
    middle = find_middle(view.volume_hu, kept, view.spacing_mm)
    sides = _sides_of(lungs, split_left_right(kept, middle.column), view)
    out = sorted(set(map(int, np.flatnonzero(counted))) - {0} - set(lungs))
    warnings = (*_tell_left_out(out), *_tell_dense(lungs), *_tell_swapped(sides))

    table = np.zeros(256, np.uint8)
    for value in lungs:
        table[value] = sides.get(value, 0)
    sorted_labels: np.ndarray = table[labels]
    if len(sides) < len(lungs):
        orientation = Orientation.of(scan.geometry)
        turned = orientation.apply(_marked(labels, set(lungs)))
        box = bounding_box(turned)
        column = (middle.column + 0.5) * view.every[2] - 0.5 - box[2].start
        placed = split_left_right(turned[box], column)
        both = orientation.apply(_marked(labels, set(lungs) - set(sides)))[box]
        orientation.apply(sorted_labels)[box][both] = placed[both]
    return np.ascontiguousarray(sorted_labels), warnings


def _marked(labels: np.ndarray, values: set[int]) -> np.ndarray:
    """Bool, where a uint8 array has one of the values."""
    table = np.zeros(256, bool)
    table[sorted(values)] = True
    marked: np.ndarray = table[labels]
    return marked


def check_lobes(given: np.ndarray, scan: Scan, lung_labels: np.ndarray) -> np.ndarray:
    """Check a lobe mask, and bring its labels to 1 to 5 in the order of ``quantification.LOBES``.

    Understood are 1 to 5 as lungmask numbers them and 10 to 14 as TotalSegmentator does: left
    upper, left lower, right upper, right middle, right lower lobe.

    Args:
        given: (z, y, x) whole numbers, on the grid of the scan.
        scan: As read.
        lung_labels: The scan's shape, 1 right, 2 left.

    Returns:
        uint8 of the scan's shape, 0 outside the lobes.

    Raises:
        GeometryError: NN-GEO-031 if the mask has another shape.
        ValueRangeError: NN-VAL-009 if the values are not labels, 023 if they are not those of
            lobes, 024 if a lobe lies in the lung of the other side.
    """
    labels = accept_labels(given, scan)
    found = set(map(int, np.flatnonzero(count_values(labels)))) - {0}
    todo = f"number the lobes 1 to 5: {', '.join(name.replace('_', ' ') for name in LOBE_NAMES)}"
    if found and found <= set(LOBES):
        table = np.arange(256).clip(LOBES[0] - 1) - (LOBES[0] - 1)
        labels = table.astype(np.uint8)[labels]
    elif not found or not found <= set(range(1, 6)):
        shown = ", ".join(map(str, sorted(found)[:MAX_NAMES])) or "none"
        raise ValueRangeError("NN-VAL-023", f"the labels of the lobe mask are {shown}",
                              scan.case_id, todo)  # fmt: skip
    in_lung = count_values(labels * np.uint8(3) + lung_labels)[:18]
    for label, (_, n_right, n_left) in enumerate(in_lung.reshape(6, 3)[1:].tolist(), start=1):
        own, other = (n_left, n_right) if label <= 2 else (n_right, n_left)
        if other > own:
            name = LOBE_NAMES[label - 1].replace("_", " ")
            fault = f"label {label} of the lobe mask ({name}) lies in the other lung"
            raise ValueRangeError("NN-VAL-024", fault, scan.case_id, todo)
    return labels


def _checked(given: np.ndarray, scan: Scan) -> np.ndarray:
    labels = accept_labels(given, scan)
    if not labels.any():
        todo = "give the mask of this scan"
        raise ValueRangeError("NN-VAL-021", "the lung mask is empty", scan.case_id, todo)
    return labels


def _thin(labels: np.ndarray, scan: Scan) -> _View:
    orientation = Orientation.of(scan.geometry)
    spacing_mm = orientation.spacing_mm(scan.geometry)
    every = tuple(max(1, round(THIN_MM / own)) for own in spacing_mm)
    thin = tuple(slice(None, None, n) for n in every)
    if not orientation.apply(labels)[thin].any():  # a mask thinner than that
        every, thin = (1, 1, 1), (slice(None),) * 3
    turned_hu, turned = (orientation.apply(array)[thin] for array in (scan.volume_hu, labels))
    thin_mm = tuple(n * own for n, own in zip(every, spacing_mm, strict=True))
    return _View(turned_hu, turned, thin_mm, every)


def _describe(view: _View, value: int) -> Label:
    inside = view.labels == value
    hu = view.volume_hu[inside]
    columns = inside.sum(axis=(0, 1))
    low, high = AERATED_HU
    return Label(
        len(hu),
        float(np.median(hu)),
        float(((hu > low) & (hu < high)).mean()),
        float(np.average(np.arange(len(columns)), weights=columns)),
    )


def _lungs_among(found: dict[int, Label], view: _View, case_id: str) -> dict[int, Label]:
    """The labels that are lung.

    Raises:
        ValueRangeError: NN-VAL-022 if there is none.
    """
    aerated = {value: label for value, label in found.items() if label.aerated >= AERATED_SHARE}
    light = {value: label for value, label in found.items() if label.median_hu < LUNG_HU}
    if _is_totalsegmentator(light, view):
        return {value: label for value, label in found.items() if value in LOBES}
    airways = _airways_among(light, view)
    lungs = {value: label for value, label in found.items()
             if value in {*aerated, *light} - airways}  # fmt: skip
    if lungs:
        return lungs
    value = max(found, key=lambda value: found[value].n_vox)
    fault = f"label {_named(value)} has a median of {found[value].median_hu:.0f} HU"
    todo = "give the mask of the lungs of this scan"
    raise ValueRangeError("NN-VAL-022", f"no label of the mask is lung: {fault}", case_id, todo)


def _is_totalsegmentator(light: dict[int, Label], view: _View) -> bool:
    """Whether lobes have the numbers of TotalSegmentator, and nothing else is as light as lung."""
    others = [value for value in light if value not in LOBES]
    return len(light) >= len(others) + 2 and all(
        value in AIR_FILLED or (value in AIRWAYS and _ml(light[value], view) < AIRWAY_ML)
        for value in others
    )


def _airways_among(light: dict[int, Label], view: _View) -> set[int]:
    """Small labels of nearly pure air in the middle, beside at least one larger light label."""
    if len(light) < 2:
        return set()
    lungs = np.isin(view.labels, sorted(light))
    middle = find_middle(view.volume_hu, lungs, view.spacing_mm).column
    return {
        value
        for value, label in light.items()
        if label.median_hu < AIRWAY_HU
        and _ml(label, view) < AIRWAY_ML
        and abs(label.column - middle) * view.spacing_mm[2] < AIRWAY_MM
    }


def _ml(label: Label, view: _View) -> float:
    return label.n_vox * float(np.prod(view.spacing_mm)) / 1000


def _sides_of(lungs: dict[int, Label], placed: np.ndarray, view: _View) -> dict[int, int]:
    """The side of each label that lies on one side; a single label is not among them."""
    if len(lungs) == 1:
        return {}
    sides = {}
    for value in lungs:
        share_left = float((placed[view.labels == value] == LEFT).mean())
        if max(share_left, 1 - share_left) >= ONE_SIDE_SHARE:
            sides[value] = LEFT if share_left > 0.5 else RIGHT
    if len(lungs) == 2 and len(sides) == 2 and len(set(sides.values())) == 1:
        first, second = sorted(lungs, key=lambda value: lungs[value].column)
        apart_mm = (lungs[second].column - lungs[first].column) * view.spacing_mm[2]
        if apart_mm > TWO_LUNGS_MM:
            return {first: RIGHT, second: LEFT}
    return sides


def _named(value: int) -> str:
    """A label with the organ that it is in TotalSegmentator; small numbers may be anything."""
    organ = ORGANS.get(value) if value > MAX_UNNAMED else None
    return f"{value} ({organ} in TotalSegmentator)" if organ else str(value)


def _tell_left_out(out: list[int]) -> tuple[str, ...]:
    if not out:
        return ()
    names = ", ".join(map(_named, out[:MAX_NAMES]))
    more = f" and {len(out) - MAX_NAMES} more" if len(out) > MAX_NAMES else ""
    if len(out) == 1:
        return (f"label {names} of the lung mask is not lung: it was left out",)
    return (f"labels {names}{more} of the lung mask are not lung: they were left out",)


def _tell_dense(lungs: dict[int, Label]) -> tuple[str, ...]:
    if any(label.median_hu < LUNG_HU for label in lungs.values()):
        return ()
    value = max(lungs, key=lambda value: lungs[value].n_vox)
    return (
        f"label {value} of the lung mask has a median of {lungs[value].median_hu:.0f} HU: it may "
        "hold more than lung",
    )


def _tell_swapped(sides: dict[int, int]) -> tuple[str, ...]:
    if sides.get(1) == LEFT and sides.get(2) == RIGHT:
        return (
            "label 1 of the lung mask lies on the left of the patient and label 2 on the right: "
            "they were taken for the left and the right lung",
        )
    wrong = [
        value
        for value, side in sides.items()
        if value in LOBES and set(sides) <= set(LOBES) and _SIDES[side] not in ORGANS[value]
    ]
    if len(wrong) < len(sides) or not wrong:
        return ()
    return (
        f"label {_named(wrong[0])} lies on the {_SIDES[sides[wrong[0]]]} of the patient: the mask "
        "or the image may be mirrored",
    )
