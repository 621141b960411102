"""From single DICOM files to series, wherever their files lie."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from normnet.io.dicom.summary import Summary

_MIN_JOINED = 3
_SAME_PLACE_MM = 0.005


class Series(NamedTuple):
    """The files of one series, and the folder that holds them."""

    folder: Path
    files: list[Summary]


def series_of(summaries: Iterable[Summary]) -> list[Series]:
    """Sort files into series.

    Files of one SeriesInstanceUID in one folder are a series. So are files of several folders,
    where they are different slices of one volume; copies of a series stay apart. Slices of one
    folder that have a SeriesInstanceUID each, one grid and different places are one series, too.
    """
    found: dict[tuple[Path, str], Series] = {}
    for summary in summaries:
        key = (summary.path.parent, summary.series_uid)
        found.setdefault(key, Series(key[0], [])).files.append(summary)
    return _join_uids(_join_folders(list(found.values())))


def _join_folders(series: list[Series]) -> list[Series]:
    joined: dict[tuple[str, ...], list[Series]] = defaultdict(list)
    for part in series:
        first = part.files[0]
        others = joined[first.series_uid, first.patient, first.grid]
        for n, other in enumerate(others):
            if first.series_uid and _are_parts(other.files, part.files):
                above = Path(os.path.commonpath([other.folder, part.folder]))
                others[n] = Series(above, other.files + part.files)
                break
        else:
            others.append(part)
    return [part for parts in joined.values() for part in parts]


def _are_parts(one: list[Summary], other: list[Summary]) -> bool:
    """Whether two lists hold different slices of one volume."""
    both = (*one, *other)
    return (
        all(math.isfinite(summary.offset_mm) for summary in both)
        and not {summary.uid for summary in one} & {summary.uid for summary in other}
        and not {_place(summary) for summary in one} & {_place(summary) for summary in other}
    )


def _join_uids(series: list[Series]) -> list[Series]:
    single: dict[tuple[object, ...], list[Series]] = defaultdict(list)
    for part in series:
        first = part.files[0]
        if len(part.files) == 1 and not first.flaw and math.isfinite(first.offset_mm):
            looks = (first.description, first.kernel, str(first.thickness_mm))
            single[part.folder, first.study, first.grid, looks].append(part)
    joined = []
    for parts in single.values():
        slices = [part.files[0] for part in parts]
        if len(slices) >= _MIN_JOINED and len({_place(one) for one in slices}) == len(slices):
            joined.append(Series(parts[0].folder, slices))
    in_joined = {id(one) for part in joined for one in part.files}
    return [part for part in series if id(part.files[0]) not in in_joined] + joined


def _place(summary: Summary) -> int:
    return round(summary.offset_mm / _SAME_PLACE_MM)
