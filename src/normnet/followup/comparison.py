"""The numbers of two results side by side, the change with its range, and doubts about it.

Error ids: NN-CMP-001 no result, 002 several results, 003 a result without the numbers.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from normnet.errors import InputError
from normnet.quantification import SIDES, ZONES
from normnet.results.schema import NOTICE, RESULT, Result, read_result
from normnet.version import __version__

REGIONS = ("both", *SIDES, *ZONES)
# Largest change of a volume when one CT was made into those of other protocols (docs/results.md).
PROTOCOL_SHARE = 0.16
CHANGE_RANGE = (
    "below and above the change the square root of the sum of four squares: for each volume its "
    f"distance from its narrower or wider edge, and {100 * PROTOCOL_SHARE:.0f} % of it for the "
    "protocol; 0 for two results of the same scan"
)
# Larger ratios of slice distance, slice thickness or pixel size are told of. Slices of 3 in place
# of 1 mm moved a volume by 5 to 7 %, pixels twice as large by 2 to 16 % (docs/results.md).
MOST_RATIO = 1.5
# Half of what raises the flag of a breath out; and a difference of the lungs' volumes.
MOST_FLUID, MOST_LUNG_RATIO = 0.03, 1.15
COLUMNS = (
    "region",
    "earlier_lung_ml",
    "later_lung_ml",
    "earlier_lesion_ml",
    "later_lesion_ml",
    "change_ml",
    "change_ml_low",
    "change_ml_high",
    "earlier_lesion_percent",
    "later_lesion_percent",
    "change_percent",
    "change_percent_low",
    "change_percent_high",
)


class Exam(NamedTuple):
    """One of the two results: its folder and the content of its ``result.json``."""

    folder: Path
    result: Result

    @property
    def name(self) -> str:
        """Its ``case_id``."""
        return str(self.result.get("case_id", self.folder.name))


class Span(NamedTuple):
    """A number with the ends of its range; the ends are NaN where there is no range."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def change_to(self, later: Span) -> Span:
        """The change with its range, see ``CHANGE_RANGE``."""
        change = later.value - self.value
        protocol = math.hypot(PROTOCOL_SHARE * self.value, PROTOCOL_SHARE * later.value)
        down = math.hypot(later.value - later.low, self.high - self.value, protocol)
        up = math.hypot(later.high - later.value, self.value - self.low, protocol)
        return Span(change, change - down, change + up)


def read_exam(path: Path) -> Exam:
    """The result at a path: a result folder, its ``result.json``, or a folder with one of these.

    Raises:
        InputError: NN-CMP-001 to 003.
    """
    folder = path.parent if path.name == RESULT else path
    if not (folder / RESULT).exists():
        inside = sorted(found.parent for found in folder.glob(f"*/{RESULT}"))
        if len(inside) > 1:
            names = ", ".join(found.name for found in inside[:3])
            todo = f"give one of them, for instance {folder.name}/{inside[0].name}"
            raise InputError("NN-CMP-002", f"{len(inside)} results: {names}", folder.name, todo)
        folder = inside[0] if inside else folder
    result = read_result(folder)
    if result is None:
        todo = "give a result folder of normnet segment"
        raise InputError("NN-CMP-001", "no result.json of normnet", path.name, todo)
    if result.get("status") != "ok" or "zones" not in result.get("quantification", {}):
        found = "the scan has no result" if result.get("status") != "ok" else "no volumes of zones"
        raise InputError("NN-CMP-003", found, folder.name, "run normnet segment on this scan again")
    return Exam(folder, result)


def compare(earlier: Exam, later: Exam) -> dict[str, Any]:
    """What changed between two results; the content of ``comparison.json``.

    Args:
        earlier: The first scan.
        later: The second scan of the same patient.

    Returns:
        ``regions``: for both lungs, each side and each zone a row with the keys of ``COLUMNS``;
        ``protocols``: what is known of both scans; ``warnings``: why the change may not be one of
        the disease.
    """
    same = is_same_scan(earlier, later)
    rows = {region: _row(region, earlier.result, later.result, same) for region in REGIONS}
    return {
        "normnet": __version__,
        "notice": NOTICE,
        "earlier": _about(earlier),
        "later": _about(later),
        "change_range": CHANGE_RANGE,
        "regions": rows,
        "protocols": {"earlier": protocol_of(earlier.result), "later": protocol_of(later.result)},
        "warnings": list(doubt_change(earlier, later)),
    }


def is_same_scan(earlier: Exam, later: Exam) -> bool:
    """Whether both results were made of the same input by the same model and settings."""
    keys = [{**exam.result.get("key", {}), "place": ""} for exam in (earlier, later)]
    return keys[0] == keys[1] and "input" in keys[0]


def protocol_of(result: Result) -> dict[str, Any]:
    """How a scan was taken, as far as its result tells."""
    scan, quality = result.get("scan", {}), result.get("quality", {})
    spacing_mm = [float(v) for v in scan.get("spacing_mm_zyx", [])]
    return {
        "slice_mm": quality.get("slice_mm"),
        "thickness_mm": scan.get("thickness_mm"),
        "pixel_mm": min(spacing_mm, default=None),
        "kernel": scan.get("kernel", ""),
        "tissue_in_air": result.get("certainty", {}).get("tissue_in_air"),
        "lung_ml": result["volumes"]["both"]["lung_ml"],
        "flags": quality.get("flags", []),
    }


def doubt_change(earlier: Exam, later: Exam) -> tuple[str, ...]:
    """Reasons why the numbers may differ for another cause than the disease, one line each."""
    if is_same_scan(earlier, later):
        return ("both results are of the same scan",)
    first, second = protocol_of(earlier.result), protocol_of(later.result)
    found = []
    for name, what in (
        ("slice_mm", "the distance of the slices"),
        ("thickness_mm", "the thickness of the slices"),
        ("pixel_mm", "the size of the pixels"),
    ):
        if _ratio(first[name], second[name]) > MOST_RATIO:
            found.append(f"{what} differs: {first[name]:g} mm earlier, {second[name]:g} mm later")
    if first["kernel"] and second["kernel"] and first["kernel"] != second["kernel"]:
        found.append(f"the kernel differs: {first['kernel']} earlier, {second['kernel']} later")
    fluids = first["tissue_in_air"], second["tissue_in_air"]
    deeper = None not in fluids and abs(fluids[0] - fluids[1]) >= MOST_FLUID
    if deeper or _ratio(first["lung_ml"], second["lung_ml"]) > MOST_LUNG_RATIO:
        found.append(
            f"the depth of breath differs: lungs of {first['lung_ml']:.0f} ml earlier, "
            f"{second['lung_ml']:.0f} ml later"
        )
    for flag in ("contrast_medium", "lungs_cut", "breath_out", "noise"):
        having = [
            when for when, row in (("earlier", first), ("later", second)) if flag in row["flags"]
        ]
        if len(having) == 1:
            found.append(f"only the {having[0]} scan has the flag {flag}")
    keys = [exam.result.get("key", {}) for exam in (earlier, later)]
    if earlier.result.get("normnet") != later.result.get("normnet") or any(
        keys[0].get(part) != keys[1].get(part) for part in ("model", "config")
    ):
        found.append("the results were made by other models, settings or versions of normnet")
    if ("lungs" in keys[0]) != ("lungs" in keys[1]):
        found.append("only one of the results has a given lung mask")
    return tuple(found)


def _about(exam: Exam) -> dict[str, Any]:
    return {"case_id": exam.name, "source": exam.result.get("source", ""),
            "key": exam.result.get("key", {})}  # fmt: skip


def _row(region: str, earlier: Result, later: Result, same: bool) -> dict[str, Any]:
    first, second = (_volumes(region, result) for result in (earlier, later))
    spans = [_ml(region, result) for result in (earlier, later)]
    ml = spans[0].change_to(spans[1])
    percent = _as_percent(spans[0], first).change_to(_as_percent(spans[1], second))
    if same:
        ml, percent = Span(0.0, 0.0, 0.0), Span(0.0, 0.0, 0.0)
    values = (
        region,
        first["lung_ml"],
        second["lung_ml"],
        first["lesion_ml"],
        second["lesion_ml"],
        *(_rounded(value) for value in ml),
        first["lesion_percent"],
        second["lesion_percent"],
        *(_rounded(value) for value in percent),
    )
    return dict(zip(COLUMNS, values, strict=True))


def _volumes(region: str, result: Result) -> dict[str, Any]:
    rows = result["volumes"] | result["quantification"]["zones"]
    row: dict[str, Any] = rows[region]
    return row


def _ml(region: str, result: Result) -> Span:
    value = float(_volumes(region, result)["lesion_ml"])
    told = result.get("uncertainty", {})
    edges = told.get("lesion_ml") if region == "both" else told.get("regions", {}).get(region)
    return Span(value, *map(float, edges)) if edges else Span(value)


def _as_percent(ml: Span, row: dict[str, Any]) -> Span:
    lung_ml = float(row["lung_ml"])
    return Span(*(100 * value / lung_ml for value in ml)) if lung_ml else Span(math.nan)


def _ratio(first: float | None, second: float | None) -> float:
    return max(first, second) / min(first, second) if first and second else 1.0


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 3) + 0.0
