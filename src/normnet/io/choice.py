"""Which of the items of a census are worked on, and which CT series is proposed.

The rule: a series of the chest, as long as the longest one (four fifths of it, or 400 mm, are
enough), not computed from other series, of slices of at most 2.5 mm (else 5 mm), of a soft kernel
rather than a sharp one; then the thinnest slices, then the most.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from normnet.errors import GeometryError, InputError, NormNetError, ValueRangeError
from normnet.io.census import LABELS, Census, Item
from normnet.io.dicom.header import shown_uid
from normnet.io.formats import image_formats, one_of

AUTO = "auto"
_NOT_CHEST = ("HEAD", "BRAIN", "SKULL", "NECK", "KNEE", "HIP", "FOOT", "HAND", "LEG", "PELVIS")
_LONG_MM = 400.0
_SHOWN = 8


def choose_scans(census: Census, series_uid: str | None = None) -> list[Item]:
    """The scans to work on, one per place.

    Series in one folder are alternatives: without a choice the folder becomes an item with the
    error that lists them. Series in different folders are different scans.

    Args:
        census: What there is.
        series_uid: SeriesInstanceUID, or ``"auto"``: the proposed series of each study.

    Raises:
        InputError: NN-FILE-008 if nothing can be a CT, or no series is the chosen one.
    """
    items = candidates(census, series_uid)
    places: dict[object, list[Item]] = defaultdict(list)
    for item in items:
        by_study = series_uid == AUTO and item.study
        places[item.study if by_study else item.path].append(item)
    return [choose_one(found, series_uid, found[0].path) for found in places.values()]


def candidates(census: Census, series_uid: str | None = None) -> list[Item]:
    """All items that can be a CT of the chest; arguments and errors as ``choose_scans``."""
    items = [item for item in census.items if not item.why_not]
    studies = {item.study for item in items if not item.weak_why_not}
    items = [item for item in items if not (item.weak_why_not and item.study in studies)]
    if not items:
        # Reading a single image ends in the error that says best what is wrong.
        images = [item for item in census.items if item.n_slices and item.why_not != LABELS]
        items = images if len(images) == 1 else []
    if series_uid is not None and series_uid != AUTO:
        items = [item for item in items if not item.series_uid]
        items += [item for item in census.items if item.series_uid == series_uid]
    if not items:
        raise _nothing(census, series_uid)
    return items


def choose_one(items: Sequence[Item], series_uid: str | None, place: Path) -> Item:
    """The one item of a place; with an error if it is not clear which one.

    Args:
        items: Candidates.
        series_uid: As for ``choose_scans``.
        place: For messages.
    """
    if len(items) == 1:
        return items[0]
    if series_uid == AUTO:
        return proposed(items)
    error: NormNetError
    if len({item.patient for item in items if item.series_uid}) > 1:
        error = ValueRangeError(
            "NN-VAL-004", "slices of several patients", place.name, "give one patient at a time"
        )
    else:
        error = _several(items, place)
    return replace(items[0], path=place, files=(), error=error)


def proposed(items: Sequence[Item]) -> Item:
    """The best of several series, by the rule of this module."""
    longest = max((item.length_mm for item in items if item.length_mm > 0), default=0.0)
    enough_mm = min(0.8 * longest, _LONG_MM)

    def rank(item: Item) -> tuple[object, ...]:
        thickness = item.thickness_mm if item.thickness_mm > 0 else 99.0
        return (
            item.error is not None,
            bool(item.weak_why_not),
            any(part in item.body_part for part in _NOT_CHEST),
            not item.length_mm >= enough_mm,
            item.derived,
            (thickness > 2.5) + (thickness > 5.0),
            is_sharp(item.kernel),
            thickness,
            -item.n_slices,
            item.series_uid,
        )

    return min(items, key=rank)


def reason_for(item: Item) -> str:
    """Why a series is proposed: its length, thickness and kernel."""
    length = f" over {item.length_mm:.0f} mm" if item.length_mm > 0 else ""
    kernel = "sharp" if is_sharp(item.kernel) else "no sharp"
    return f"{_size(item)}{length}, {kernel} kernel"


def is_sharp(kernel: str) -> bool:
    """Whether a convolution kernel sharpens edges, by the names that manufacturers use."""
    name = kernel.upper().strip()
    if re.search(r"LUNG|BONE|EDGE|SHARP|DETAIL|\bY[A-D]\b", name) or name in {"L", "E"}:
        return True
    if fc := re.match(r"FC(\d+)", name):
        return int(fc[1]) // 10 in (3, 5, 8)
    number = re.match(r"[A-Z]{1,2}(\d\d)", name)
    return number is not None and int(number[1]) >= 60


def left_out_notes(census: Census, chosen: Sequence[Item]) -> list[str]:
    """What is not worked on: one line for labels, one for series, and the notes of the census."""
    places = {item.path for item in chosen if item.error is not None and not item.files}
    kept = set(chosen)
    left_out = [item for item in census.items if item not in kept and item.path not in places]
    n_labels = sum(item.why_not == LABELS for item in left_out)
    notes = [f"{n_labels} files hold {LABELS}; left out"] if n_labels else []
    series = [item for item in left_out if item.why_not != LABELS]
    if series:
        kinds = Counter(_kind(item) for item in series)
        listed = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))
        notes.append(f"{len(series)} series left out: {listed}")
    return notes + census.notes


def _kind(item: Item) -> str:
    if item.modality != "CT" and item.kind == "DICOM":
        return item.modality or "without modality"
    reason = item.why_not or item.weak_why_not or "another series is taken"
    return f"{item.modality} ({reason})".strip()


def _size(item: Item) -> str:
    thick = f" of {item.thickness_mm:g} mm" if item.thickness_mm > 0 else ""
    return f"{item.n_slices} slices{thick}"


def _several(items: Sequence[Item], place: Path) -> GeometryError:
    best = proposed(items)
    if not best.series_uid:
        shown = ", ".join(str(item.path.name) for item in items[:_SHOWN])
        more = " ..." if len(items) > _SHOWN else ""
        found = f"{len(items)} scans: {shown}{more}"
        return GeometryError("NN-GEO-001", found, place.name, "give one of them")
    ordered = [best, *(item for item in items if item is not best)]
    shown = ", ".join(_described(item) for item in ordered[:_SHOWN])
    more = " ..." if len(items) > _SHOWN else ""
    if all(item.n_slices == 1 for item in items):
        todo = "export the series again; each slice has a SeriesInstanceUID of its own"
    else:
        todo = (
            f"--series auto takes {shown_uid(best.series_uid)} ({reason_for(best)}); "
            "or choose one with --series UID"
        )
    return GeometryError("NN-GEO-001", f"{len(items)} series: {shown}{more}", place.name, todo)


def _described(item: Item) -> str:
    parts = [f"'{item.description}'" if item.description else "", _size(item)]
    parts.append(f"kernel {item.kernel}" if item.kernel else "")
    return f"{shown_uid(item.series_uid)} ({', '.join(filter(None, parts))})"


def _nothing(census: Census, series_uid: str | None) -> InputError:
    where = census.roots[0].name or str(census.roots[0])
    if series_uid not in (None, AUTO):
        return InputError(
            "NN-FILE-008", "no image of the chosen series", where, "see 'normnet info FOLDER'"
        )
    formats = one_of(["DICOM", *(known.name for known in image_formats())])
    found = "no CT in the folder"
    if census.items:
        found = f"no CT: {'; '.join(left_out_notes(census, ()))}"
    return InputError("NN-FILE-008", found, where, f"give {formats}")
